"""Starts one user's gateway: look, plan, make, wait, record; what fails leaves a reason and nothing else."""

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from hashlib import sha256

from mosaic_fleet.db.database import take_turns
from mosaic_fleet.db.tables import now
from mosaic_fleet.errors import ConfigurationError, Denied, MosaicError, NotFound, RuntimeFailure
from mosaic_fleet.fleet import bridges, containers, delivery, endings, leases, personal, preflight, stopping, walls
from mosaic_fleet.fleet.hosting import Running, Work, says_ok, url
from mosaic_fleet.fleet.openclaw import STATE_DIR
from mosaic_fleet.fleet.personal import Personal
from mosaic_fleet.identity import audit
from mosaic_fleet.names import format_size
from mosaic_fleet.runtimes.base import INSTALL_LABEL
from mosaic_fleet.runtimes.gateway_base import (
    CONFIG_LABEL,
    KIND_LABEL,
    OWNER_LABEL,
    USER_GATEWAY,
    Container,
    Limits,
    Memory,
    Wanted,
)

_POLL_SECONDS = 0.05
_PROBE_SECONDS = 5.0
# A gateway that never started has no turn to finish.
_UNDO_SECONDS = 10.0
_PLACING_SECONDS = 30.0
_OWNER_SECONDS = 1.0


def start(work: Work, *, insist: bool) -> Running:
    """Start a user's gateway, or take over the one that a killed command left alive; see lifecycle.ensure_running."""
    with work.hosting.db.transaction(owner=work.user) as session:
        personal.person(session, work.user)
        containers.claim(session, work.hosting.box, work.user)
    with _told(work, counted=False):
        wish = _load(work)
    _check_patience(work, wish, insist=insist)
    with _told(work, counted=False):
        _check_place(work)
        left = _leftover(work, wish)
    try:
        seen = (left and _adopted(work, wish, left)) or _made(work, wish)
        return _note_running(work, wish, seen)
    except (Denied, NotFound):
        stopping.stop(work, stopping.LAST_SECONDS, force=True)
        raise


def check(work: Work, wish: Personal) -> None:
    """Raise what would keep a gateway from starting here, but for the memory; changes no gateway."""
    _check_place(work)
    _image(work, wish)


def _load(work: Work) -> Personal:
    with work.hosting.db.transaction(owner=work.user) as session:
        return personal.load(session, work.hosting.box, work.user)


def _check_patience(work: Work, wish: Personal, *, insist: bool) -> None:
    with work.row() as row:
        if not insist and row and containers.is_held_back(row, wish.digest, now()):
            raise RuntimeFailure(
                f'gateway of "{wish.name}" failed {row.failures} times in a row: {row.reason}',
                hint=f"mosaic gateway start {wish.name}   (tries at once)",
            )


def _check_place(work: Work) -> None:
    """Make sure that this is the place: a Docker of this machine, nothing foreign of these names, and walls up."""
    if not work.runtime.is_local:
        raise ConfigurationError(
            "users' gateways need the Docker of this machine, not one elsewhere", hint="unset DOCKER_HOST"
        )
    network = next((one for one in work.runtime.bridges() if one.name == work.name), None)
    volume = containers.volume(work.user)
    stopping.check_ours(work)
    _check_labels(work, "network", work.name, network.labels if network else None)
    _check_labels(work, "volume", volume, work.runtime.volume_labels(volume))
    walls.stand(work.hosting)


def _check_labels(work: Work, kind: str, name: str, labels: Mapping[str, str] | None) -> None:
    if labels is not None and labels.get(INSTALL_LABEL) != work.install:
        raise stopping.foreign(kind, name)


def _image(work: Work, wish: Personal) -> str:
    """Find the image and return its id."""
    ref = str(wish.settings["fleet.image"])
    image = work.runtime.image(ref)
    if image is None:
        raise RuntimeFailure(f"the image {ref} is not here", hint=f"docker pull {ref}")
    preflight.check_version(ref, image.version)
    _check_release(work, wish, image.version)
    return image.id


def _check_release(work: Work, wish: Personal, version: str) -> None:
    """Refuse an older OpenClaw than the gateway was last started with, as far as that image is here to tell."""
    with work.row() as row:
        last = row.image_id if row else None
    before = work.runtime.image(last) if last else None
    if before and preflight.is_older(version, before.version):
        raise ConfigurationError(
            f'the image is OpenClaw {version}, gateway of "{wish.name}" has run {before.version}: '
            "its state may have been migrated",
            hint=f"mosaic config set fleet.image …   (to {before.version} or later)",
        )


def _begin(work: Work, wish: Personal, image: str) -> None:
    """Have the row say that it is being started; raises RuntimeFailure when the host has no room for it.

    One user at a time, so that nobody is given the memory that another one's start is about to take.
    """
    memory, at = work.runtime.host_memory(), now()
    since = at - timedelta(seconds=float(wish.settings["gateways.start_timeout"]))
    with work.hosting.db.transaction(system=True) as session:
        take_turns(session, "memory of gateways")
        _check_memory(wish, memory, containers.starting_beside(session, work.user, since))
        row = containers.find(session, work.user)
        assert row  # noqa: S101  # for mypy: loading the wish made it
        containers.begin(row, wish.digest, image, now=at)


def _check_memory(wish: Personal, memory: Memory, others: int) -> None:
    """Refuse to start what the host has no room for: a clear answer now instead of a killed gateway later."""
    needed = int(wish.settings["gateways.memory"]) * (1 + others)
    if memory.available < needed:
        beside = f" ({others} others are starting)" if others else ""
        raise RuntimeFailure(
            f"not enough memory for a gateway: {format_size(needed)} needed{beside}, "
            f"{format_size(memory.available)} of {format_size(memory.total)} available",
            hint="mosaic gateway stop NAME, or mosaic config set gateways.memory …",
        )


def _leftover(work: Work, wish: Personal) -> Container | None:
    """Return the container that a command which was killed, or a restarted host, left alive; clear one that ended.

    One that was asked to end, or is stopped as far as its row knows (which may have another token by now), ends first.
    """
    found = work.runtime.container(work.name)
    with work.row() as row:
        is_stopping = row is not None and row.status in ("stopping", "stopped")
    if found and found.lives and is_stopping:
        work.change().terminate(found.id)
        if not stopping.ended(work, found.id, float(wish.settings["gateways.start_timeout"])):
            raise stopping.StillStopping(f'gateway of "{wish.name}" is still stopping', hint="try again in a minute")
        found = work.runtime.container(work.name)
    if found is None or not found.lives:
        stopping.take_away(work)
        return None
    if found.state == "paused" or found.is_squeezed:
        work.change().unpause(found.id)
    return found


def _adopted(work: Work, wish: Personal, left: Container) -> Container | None:
    """Wait for a gateway that runs already; None when it ended instead, and then it is gone.

    A nap or a wake that broke off may have left it fenced.
    """
    with _told(work, counted=True):
        try:
            seen = _await(work, wish, left.id)
        except endings.Ended:
            stopping.take_away(work)
            return None
    with suppress(RuntimeFailure):
        leases.lift(work.runtime, seen, wish.token)
    return seen


def _made(work: Work, wish: Personal) -> Container:
    """Make network, volume and container when there is a seat and room, start it and wait.

    Nothing of it stays when that fails, but the volume.
    """
    with work.hosting.flights.seat(lambda: _check_owner(work), every=_OWNER_SECONDS):
        with _told(work, counted=False):
            image = _image(work, wish)
            _begin(work, wish, image)
        with _told(work, counted=True):
            return _make(work, wish, image)


def _make(work: Work, wish: Personal, image: str) -> Container:
    try:
        _make_network(work, wish)
        work.change().create_volume(containers.volume(work.user), labels=_labels(wish))
        made = work.change().create(_wanted(work, wish, image))
        work.change().start(made, stdin=wish.package.tar())
        return _await(work, wish, made)
    except BaseException as error:
        with suppress(MosaicError):
            stopping.end(work, stopping.LAST_SECONDS if isinstance(error, Denied) else _UNDO_SECONDS, force=True)
            stopping.take_away(work)
        raise


def _make_network(work: Work, wish: Personal) -> None:
    """Make the user's bridge at a free place of the pool."""
    work.change().remove_bridge(work.name)
    bridges.make(
        work.change(),
        work.name,
        wish.settings["gateways.subnet_pool"],
        labels=_labels(wish),
        choose=lambda refused: _place(work, wish, refused),
    )


def _place(work: Work, wish: Personal, refused: Collection[int]) -> int:
    """Choose and record a place, one user at a time."""
    there = work.runtime.bridges()
    db = work.hosting.db
    with db.lock("place", "gateways' pool", wait=_PLACING_SECONDS), db.transaction(system=True) as session:
        row = containers.find(session, work.user)
        assert row  # noqa: S101  # for mypy
        return containers.place_in(session, row, wish.settings["gateways.subnet_pool"], refused, there)


def _wanted(work: Work, wish: Personal, image: str) -> Wanted:
    memory = int(wish.settings["gateways.memory"])
    return Wanted(
        name=work.name,
        image=image,
        bridge=work.name,
        volume=containers.volume(work.user),
        state_dir=STATE_DIR,
        run_dir=delivery.RUN_DIR,
        command=delivery.command(),
        environment=delivery.environment(memory),
        limits=Limits(memory, float(wish.settings["gateways.cpus"])),
        labels=_labels(wish) | {CONFIG_LABEL: wish.digest},
    )


def _labels(wish: Personal) -> dict[str, str]:
    owner = sha256(f"{wish.install}|{wish.user}".encode()).hexdigest()[:16]
    return {INSTALL_LABEL: wish.install, KIND_LABEL: USER_GATEWAY, OWNER_LABEL: owner}


def _await(work: Work, wish: Personal, container_id: str) -> Container:
    """Wait until a gateway says that it has started; raises Ended or RuntimeFailure with the reason.

    Raises Denied or NotFound when its owner may have none any more.
    """
    timeout = float(wish.settings["gateways.start_timeout"])
    end, look_again = time.monotonic() + timeout, 0.0
    while True:
        if time.monotonic() > look_again:
            _check_owner(work)
            look_again = time.monotonic() + _OWNER_SECONDS
        seen = work.runtime.container(container_id)
        if seen is None or not seen.lives:
            seen = endings.settled(lambda: work.runtime.container(container_id))
            words = work.runtime.logs(container_id, tail=5) if seen else ""
            raise endings.ended(wish.name, seen, wish.clean(words))
        if says_ok(work.runtime, seen, "/startupz", timeout=_PROBE_SECONDS):
            return seen
        if time.monotonic() > end:
            words = wish.clean(work.runtime.logs(container_id, tail=5))
            raise endings.never_started(wish.name, timeout, words)
        time.sleep(_POLL_SECONDS)


def _check_owner(work: Work) -> None:
    with work.hosting.db.transaction(system=True) as session:
        personal.person(session, work.user)


def _note_running(work: Work, wish: Personal, seen: Container) -> Running:
    """Record it, and whether its owner wants something else by now: a change since it was loaded marked nothing.

    Raises Denied or NotFound when they may have none any more.
    """
    given = seen.labels.get(CONFIG_LABEL)
    with work.hosting.db.transaction(owner=work.user) as session:
        row = containers.find(session, work.user, lock=True)  # a mark that is made meanwhile comes after this look
        assert row  # noqa: S101  # for mypy
        row.is_stale = personal.digest(session, work.hosting.box, work.user) != given
        row.config_hash = given
        containers.run(row, seen, config=wish.package.config if given == wish.digest else None, now=now())
        audit.record(session, "gateway.start", wish.name)
    return Running(url(seen), wish.token, woken=True)


@contextmanager
def _told(work: Work, *, counted: bool) -> Iterator[None]:
    """Keep the reason of a failure in the row."""
    try:
        yield
    except stopping.StillStopping:
        raise  # it is what the row says already
    except BaseException as error:
        reason = error.message if isinstance(error, MosaicError) else "the start was interrupted"
        with suppress(MosaicError), work.hosting.db.transaction(system=True) as session:
            if row := containers.find(session, work.user):
                containers.fail(row, reason, counted=counted and isinstance(error, MosaicError), now=now())
                name = containers.owner(session, work.user)
                audit.record(session, "gateway.start", name, outcome="failed", reason=reason)
        raise

"""Proves the walls by trying them: probes placed exactly like users' gateways, and what became of each attempt.

An attempt counts as walled off only when it was refused at once by the packet filter. That nobody answers, or that
there is no route, is luck and no wall.
"""

import json
import secrets
import socket
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from mosaic_fleet import configuration, egress
from mosaic_fleet.errors import MosaicError, RuntimeFailure
from mosaic_fleet.fleet import bridges, containers, delivery
from mosaic_fleet.fleet.hosting import Hosting
from mosaic_fleet.fleet.openclaw import PORT, STATE_DIR
from mosaic_fleet.names import bridge_prefix
from mosaic_fleet.resources import directory
from mosaic_fleet.runtimes import host
from mosaic_fleet.runtimes.base import INSTALL_LABEL
from mosaic_fleet.runtimes.gateway_base import KIND_LABEL, Container, Limits, Wanted
from mosaic_fleet.settings import INTERNAL_PORT

_KIND = "probe"
_WAIT_SECONDS = 120.0
_POLL_SECONDS = 0.1
_LOG_LINES = 5
# What icmp-admin-prohibited becomes for whoever connects; quicker than an address that nobody has, which takes three
# seconds, and no slower than the second attempt of a connection.
_REFUSED, _AT_ONCE_MS = "EHOSTUNREACH", 2000
# An address of each range that is not the internet; nobody needs to be there.
_RANGES = {
    "private 10.0.0.0/8": "10.255.255.254",
    "private 172.16.0.0/12": "172.31.255.254",
    "private 192.168.0.0/16": "192.168.255.254",
    "shared 100.64.0.0/10": "100.127.255.254",
    "link-local metadata": "169.254.169.254",
}
_DATABASE_PORT, _DOCKER_PORT = 5432, 2375


@dataclass(frozen=True)
class Target:
    """What a probe tries to reach, and the wall that should stand before it."""

    wall: str
    address: str
    port: int

    @property
    def shown(self) -> str:
        """Return how the evidence names it."""
        return f"{self.address}:{self.port}"


@dataclass(frozen=True)
class Evidence:
    """What became of an attempt; the wall `holds` or there is a hole."""

    wall: str
    target: str
    seen: str
    holds: bool


@dataclass(frozen=True)
class Ground:
    """What probes are made with."""

    hosting: Hosting
    install: str
    settings: Mapping[str, Any]
    postgres: tuple[str, int] | None
    nonce: str

    @property
    def marks(self) -> dict[str, str]:
        """Return the labels of all that is made here."""
        return {INSTALL_LABEL: self.install, KIND_LABEL: _KIND}

    def name(self, who: str) -> str:
        """Name a probe's container, network and volume."""
        return f"mosaic-probe-{self.install}-{who}"


def examine(hosting: Hosting, extra: Sequence[Target] = ()) -> list[Evidence]:
    """Try every wall and return the evidence, holes too; nothing of the probes stays.

    Raises RuntimeFailure when the probes themselves cannot be made, or the neighbour does not even answer Mosaic.
    """
    with hosting.db.lock("examine", "isolation") as lock:
        with hosting.db.transaction(system=True) as session:
            install, settings = configuration.install_id(session), configuration.values(session)
        ground = Ground(hosting, install, settings, lock.server, secrets.token_hex(8))
        _clear(ground)
        try:
            return _examined(ground, extra)
        finally:
            with suppress(MosaicError):
                _clear(ground)


def _examined(ground: Ground, extra: Sequence[Target]) -> list[Evidence]:
    neighbour = _place(ground, "neighbour", ground.name("neighbour"))
    outsider = _place(ground, "outsider", "bridge")
    with _listener() as port:
        _make_bridge(ground, "prober")
        targets = list(_targets(ground, neighbour, outsider, port))
        untried = [one for target in targets for one in _untried(ground, target)]
        left_out = {one.wall for one in untried}
        tried = [*(one for one in targets if one.wall not in left_out), *extra]
        seen = _seen(ground, tried)
    control = _control(ground, neighbour)
    attempts = [_judge(target, one) for target, one in zip(tried, seen["seen"], strict=True)]
    return [control, *attempts, *untried, *_of_itself(seen["self"])]


def _targets(ground: Ground, neighbour: Container, outsider: Container, port: int) -> Iterator[Target]:
    yield Target("another user's gateway", neighbour.address, PORT)
    yield Target("another container", outsider.address, PORT)
    for interface, address in sorted(host.addresses().items()):
        if interface.startswith(("veth", bridge_prefix(ground.install))) and address != _own_side(ground):
            continue
        yield Target(f"the host, {interface}", address, port)
    own = _own_side(ground)
    yield Target("postgres on the host", own, _DATABASE_PORT)
    yield Target("docker on the host", own, _DOCKER_PORT)
    yield Target("config endpoint on the host", own, INTERNAL_PORT)
    yield from _elsewhere(ground.postgres)
    for wall, address in _RANGES.items():
        yield Target(wall, address, 80)
    for router in host.default_gateways():
        yield Target("the router", router, 80)


def _elsewhere(postgres: tuple[str, int] | None) -> Iterator[Target]:
    """Yield where Mosaic reaches its Postgres over TCP; loopback is each probe's own, and probes have no IPv6."""
    if postgres and (address := ip_address(postgres[0])).version == 4 and not address.is_loopback:
        yield Target("mosaic's postgres", *postgres)


def _untried(ground: Ground, target: Target) -> Iterator[Evidence]:
    """Say why a target is not tried, if it is not: it is opened on purpose, or there is no way to it."""
    if _is_opened(ground.settings, target, host.addresses().values()):
        yield Evidence(target.wall, target.shown, "opened by egress.allow", holds=True)
    elif not host.has_route(target.address):
        yield Evidence(target.wall, target.shown, "not tried: this host has no route there", holds=True)


def _is_opened(settings: Mapping[str, Any], target: Target, own: Collection[str]) -> bool:
    """Tell whether egress.allow opens it, as the packet filter's rules do: `own` are the host's addresses."""
    address = ip_address(target.address)
    openings = [one for one in settings["egress.allow"] if one.covers(address, target.port)]
    if target.address in own:
        return any(one.network.num_addresses == 1 for one in openings)
    closed = address in settings["gateways.subnet_pool"] or egress.judge(target.address, target.port, ()) == "never"
    return bool(openings) and not closed


def _own_side(ground: Ground) -> str:
    """Return the host's address on the prober's own bridge."""
    name = ground.name("prober")
    bridge = next(one for one in ground.hosting.runtime.bridges() if one.name == name)
    return host.addresses().get(bridge.interface, str(ip_network(bridge.subnets[0])[1]))


def _seen(ground: Ground, targets: Sequence[Target]) -> Mapping[str, Any]:
    """Have the prober try all targets; return what it wrote."""
    tries = [{"address": target.address, "port": target.port} for target in targets]
    prober = _start(ground, "prober", ground.name("prober"), tries)
    end = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < end:
        written = ground.hosting.runtime.logs(prober.id, tail=1)
        if written.endswith("}\n"):
            return dict(json.loads(written))
        time.sleep(_POLL_SECONDS)
    raise RuntimeFailure(f"the probe said nothing within {_WAIT_SECONDS:g} s: {written[-200:]}")


def _judge(target: Target, one: Mapping[str, Any]) -> Evidence:
    refused = one["seen"] == _REFUSED and one["ms"] <= _AT_ONCE_MS
    seen = "refused at once" if refused else f"{_WORDS.get(one['seen'], one['seen'])} after {one['ms']} ms"
    return Evidence(target.wall, target.shown, seen, refused)


_WORDS = {
    "connected": "REACHED",
    "timeout": "no answer, but no wall",
    "ECONNREFUSED": "reached, nobody listens",
    "ENETUNREACH": "no route, but no wall",
    "EHOSTUNREACH": "nobody there, but no wall",
}


def _of_itself(own: Mapping[str, Any]) -> Iterator[Evidence]:
    """Judge what the kernel says of the probe's own process (4.7)."""
    yield Evidence("user", "uid", str(own["uid"]), own["uid"] == 1000)
    yield Evidence("capabilities", "CapBnd", own["capabilities"], int(own["capabilities"], 16) == 0)
    yield Evidence("no new privileges", "NoNewPrivs", own["noNewPrivileges"], own["noNewPrivileges"] == "1")
    yield Evidence("read-only root", "/", "writable" if own["rootWritable"] else "read-only", not own["rootWritable"])
    yield Evidence("own processes only", "/proc", f"{own['processes']} processes", own["processes"] <= 5)
    yield Evidence("docker's socket", "docker.sock", ", ".join(own["sockets"]) or "not there", not own["sockets"])
    yield Evidence("no IPv6 beside", "fe80::/10", "an address" if own["ipv6"] else "none", not own["ipv6"])


def _control(ground: Ground, neighbour: Container) -> Evidence:
    """Make sure that the neighbour answers Mosaic: a wall before nothing proves nothing."""
    end = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < end:
        answer = ground.hosting.runtime.get(neighbour.address, "/", port=PORT, timeout=5)
        if answer and answer.body == ground.nonce.encode():
            return Evidence("mosaic itself", f"{neighbour.address}:{PORT}", "reaches it, as it must", holds=True)
        time.sleep(_POLL_SECONDS)
    raise RuntimeFailure(f"the neighbour's probe does not answer this host{_last_words(ground, neighbour.id)}")


def _last_words(ground: Ground, container_id: str) -> str:
    """Tell what a probe wrote last, for it is removed with the failure; none of it is secret."""
    with suppress(RuntimeFailure):
        if lines := ground.hosting.runtime.logs(container_id, tail=_LOG_LINES).splitlines():
            return f" (last lines: {' | '.join(lines)[-500:]})"
    return ""


@contextmanager
def _listener() -> Iterator[int]:
    """Listen on every address of this host, so that an attempt to reach it would succeed."""
    with socket.create_server(("0.0.0.0", 0), backlog=16) as listening:  # noqa: S104  # on purpose, for a moment
        yield int(listening.getsockname()[1])


def _place(ground: Ground, who: str, network: str) -> Container:
    if network != "bridge":
        _make_bridge(ground, who)
    return _start(ground, who, network, [])


def _start(ground: Ground, who: str, network: str, targets: Sequence[Mapping[str, Any]]) -> Container:
    """Start a probe as a user's gateway is started: same image, user, walls and limits."""
    runtime, name = ground.hosting.runtime, ground.name(who)
    ref = str(ground.settings["fleet.image"])
    image = runtime.image(ref)
    if image is None:
        raise RuntimeFailure(f"the image {ref} is not here", hint=f"docker pull {ref}")
    script = (directory("templates") / "agent" / "probe.js").read_text("utf-8")
    runtime.create_volume(name, labels=ground.marks)
    wanted = Wanted(
        name=name,
        image=image.id,
        bridge=network,
        volume=name,
        state_dir=STATE_DIR,
        run_dir=delivery.RUN_DIR,
        command=("node", "-e", script),
        environment={},
        limits=Limits(256 << 20, 1.0),
        labels=ground.marks,
    )
    made = runtime.create(wanted)
    runtime.start(made, stdin=json.dumps({"nonce": ground.nonce, "targets": targets}).encode())
    found = runtime.container(made)
    if found is None or not found.lives:
        raise RuntimeFailure(f"the probe {who} ended at once{_last_words(ground, made)}")
    return found


def _make_bridge(ground: Ground, who: str) -> None:
    runtime, pool = ground.hosting.runtime, ground.settings["gateways.subnet_pool"]
    with ground.hosting.db.transaction(system=True) as session:
        taken = containers.places(session)
    bridges.make(
        runtime,
        ground.name(who),
        pool,
        labels=ground.marks,
        choose=lambda refused: bridges.free(pool, [*taken, *refused], runtime.bridges()),
    )


def _clear(ground: Ground) -> None:
    """Remove the probes of this run, or of one that was killed."""
    runtime = ground.hosting.runtime
    for one in runtime.containers(ground.marks):
        runtime.kill(one.id)
        _await_end(ground, one.id)
        runtime.remove(one.id)
        runtime.remove_volume(one.name)
    for bridge in runtime.bridges():
        if ground.marks.items() <= bridge.labels.items():
            runtime.remove_bridge(bridge.name)


def _await_end(ground: Ground, container_id: str) -> None:
    end = time.monotonic() + _WAIT_SECONDS
    while (seen := ground.hosting.runtime.container(container_id)) and seen.lives and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)

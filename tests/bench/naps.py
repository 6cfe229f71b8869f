"""First token of a user's real gateway after a nap, beside one from stopped, and of one that idled awake as long.

Three gateways sleep at the same time, each in its own way, so that a long nap is waited for once in a round. The stub
LLM sits in a gateway's own network, in a container of its own: a gateway reaches nothing else of this host.
"""

import json
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from uuid import UUID, uuid4

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.fleet import lifecycle
from mosaic_fleet.fleet.hosting import Running
from mosaic_fleet.names import format_size
from mosaic_fleet.resources import directory
from mosaic_fleet.runtimes import endpoint
from mosaic_fleet.runtimes.engine import EngineRuntime
from mosaic_fleet.settings import Settings
from tests import napping
from tests.bench import site
from tests.bench.measuring import Line, shown
from tests.docker.installation import Installation
from tests.docker_run import wait_until

ROUNDS = 3
_STUB = directory("stacks") / "quickstart" / "stub-llm.mjs"
_ZRAM = Path("/sys/block/zram0/mm_stat")
_WARM = 3
# By default a gateway naps when it has idled for so many seconds, and OpenClaw has gone to rest by then.
_NAP_AFTER = 120
_PATIENCE_SECONDS = 300


class _Untouched(EngineRuntime):
    """Pauses, and leaves the memory where it is."""

    def reclaim(self, container_id: str) -> bool:
        """Leave the memory of any container."""
        return not container_id


@dataclass(frozen=True)
class Guest:
    """A user with a real gateway."""

    made: Installation
    mosaic: Mosaic
    user: UUID
    image: str

    @property
    def container(self) -> str:
        """Return the id of the container."""
        found = self.mosaic.hosting.runtime.container(f"mosaic-user-{self.user}")
        assert found
        return found.id

    def wake(self) -> tuple[Running, float]:
        """Have it run; return where it is and the seconds that took."""
        start = time.perf_counter()
        found = lifecycle.ensure_running(self.mosaic.hosting, self.user)
        return found, time.perf_counter() - start

    def nap(self, *, reclaim: bool) -> tuple[int, int, int]:
        """Have it nap; return the bytes it held before and holds then, and what zram holds for it."""
        runtime, hosting = self.mosaic.hosting.runtime, self.mosaic.hosting
        packed, before = _packed(), runtime.memory([self.container])[self.container]
        untouched = _Untouched(endpoint.find(self.mosaic.settings))
        napping.nap(hosting if reclaim else replace(hosting, runtime=untouched), self.user)
        untouched.close()
        after = runtime.memory([self.container])[self.container]
        return before, after, _packed() - packed

    def stub(self) -> None:
        """Put a stub LLM beside the gateway, as long as that runs."""
        name, network = f"mosaic-bench-stub-{uuid4().hex[:6]}", f"container:{self.container}"
        run = ["run", "-d", "--rm", "-i", "--name", name, "--label", self.made.docker.label, "--network", network]
        mount = f"{_STUB}:/stub-llm.mjs:ro"
        self.made.docker(*run, "-v", mount, "--entrypoint", "node", self.image, "/stub-llm.mjs")
        wait_until(lambda: "listens" in self.made.docker("logs", name))


@contextmanager
def guests(made: Installation, image: str) -> Iterator[list[Guest]]:
    """Make three users whose gateways are real; they are stopped at the end."""
    mosaic = Mosaic(Settings.from_env(made.env))
    where = {"base_url": "http://127.0.0.1:11434/v1", "model": "stub"}
    with mosaic.db.transaction(system=True) as session:
        users = [site.user(session, mosaic, f"napper-{number}", **where) for number in range(3)]
    try:
        yield [Guest(made, mosaic, user, image) for user in users]
    finally:
        for user in users:
            lifecycle.stop(mosaic.hosting, user, grace=30, force=True)
        mosaic.hosting.runtime.close()


def first_tokens(guests: Sequence[Guest], slept: float) -> Iterator[Line]:
    """Time first tokens: from stopped, then of one that idled awake for so many seconds and of two that napped."""
    cold, idle, frozen, swapped = [], [], [], []
    sizes: list[tuple[int, int, int]] = []
    awake, untouched, squeezed = guests
    room = awake.mosaic.hosting.runtime.swap()
    for _ in range(ROUNDS):
        cold += [_from_stopped(one) for one in guests]
        time.sleep(_NAP_AFTER)
        untouched.nap(reclaim=False)
        if room.obstacle is None:
            sizes.append(squeezed.nap(reclaim=True))
        time.sleep(slept)
        idle.append(_first_token(awake))
        frozen.append(_first_token(untouched))
        if room.obstacle is None:
            swapped.append(_first_token(squeezed))
    after, base = f"first token after {slept:g} s of nap", ("from stopped", median(cold))
    ratio = f"{median(idle) / median(cold):.2f} ×"
    what = f"first token after {slept + _NAP_AFTER:g} s awake"
    yield Line(what, shown(median(idle)), f"from stopped: {shown(median(cold))}", ratio, "", "")
    yield _line(f"{after}, memory untouched", median(frozen), base, 1.7)
    if room.obstacle:
        yield Line(f"{after}, memory given back", "–", room.obstacle, "", "≤ 3 s", "not taken")
        return
    yield _line(f"{after}, memory given back", median(swapped), base, 3)
    before, rest, packed = sorted(sizes, key=lambda one: one[1] / one[0])[len(sizes) // 2]
    share, beside = (
        f"{rest / before:.1%}",
        f"running: {format_size(before)}; zram holds {format_size(packed)} beside it",
    )
    what = "resident memory of a gateway that naps"
    yield Line(what, format_size(rest), beside, share, "≤ 5 %", "within" if rest <= before * 0.05 else "over")


def _from_stopped(guest: Guest) -> float:
    lifecycle.stop(guest.mosaic.hosting, guest.user, grace=60)
    found, took = guest.wake()
    guest.stub()
    first = took + _ask(found)
    for _ in range(_WARM):
        _ask(found)
    return first


def _first_token(guest: Guest) -> float:
    found, took = guest.wake()
    return took + _ask(found)


def _ask(found: Running) -> float:
    """Ask the stub something; return the seconds until the first piece of its answer."""
    body = {"model": "openclaw", "user": "bench", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
    headers = {"authorization": f"Bearer {found.token.get_secret_value()}", "content-type": "application/json"}
    request = urllib.request.Request(f"{found.url}/v1/chat/completions", json.dumps(body).encode(), headers)
    start, first = time.perf_counter(), 0.0
    with urllib.request.urlopen(request, timeout=_PATIENCE_SECONDS) as response:
        for line in response:
            if not first and b'"content"' in line:
                first = time.perf_counter() - start
    assert first, "an answer without text"
    return first


def _line(what: str, measured: float, base: tuple[str, float], limit: float) -> Line:
    title, reference = base
    verdict = "within" if measured <= limit else "over"
    ratio = f"{measured / reference:.2f} ×"
    return Line(what, shown(measured), f"{title}: {shown(reference)}", ratio, f"≤ {limit:g} s", verdict)


def _packed() -> int:
    """Return the bytes of memory that zram takes, 0 without it."""
    with suppress(OSError):
        return int(_ZRAM.read_text("ascii").split()[2])
    return 0

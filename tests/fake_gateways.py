"""`FakeGateways`: an engine in memory, honest because tests/docker/test_gateway_runtime_contract.py runs on it too.

A container that got its files on standard input behaves as the stand-in for OpenClaw does: the model chooses a fault.
Time is counted in looks (`container()`, `get()`): a gateway has started after `looks_to_start` of them.
"""

import ipaddress
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from itertools import count
from threading import RLock
from typing import Any

from mosaic_fleet.errors import Conflict, RuntimeFailure
from mosaic_fleet.runtimes.base import Engine, Image
from mosaic_fleet.runtimes.gateway_base import Answer, Bridge, Container, Memory, Sent, Swap, Wanted
from tests.fake_openclaw import FakeOpenClaw
from tests.fakes import FAKE_IMAGE

_AWAKE, _ASLEEP = 800 << 20, 29 << 20


@dataclass(frozen=True)
class Behaviour:
    """What a container does: `ends` at once with a code, or lives and ends some looks after SIGTERM (None: never).

    One that `echoes` answers whatever it is sent with it, as tests/docker/echo_server.mjs does.
    """

    ends: int | None = None
    oom_killed: bool = False
    stderr: str = ""
    healthy: bool = True
    looks_to_end: int | None = 0
    echoes: bool = False


@dataclass
class _Container:
    """A container, what it was made from, and how far it has come."""

    wanted: Wanted
    seen: Container
    behaviour: Behaviour = field(default_factory=Behaviour)
    stdin: bytes | None = None
    looks: int = 0
    ending: int | None = None
    openclaw: FakeOpenClaw = field(default_factory=FakeOpenClaw)
    execs: list[str] = field(default_factory=list)


class FakeGateways:
    """Implements GatewayRuntime in memory; may be shared by threads.

    To be set by a test: `images`, `host` (its memory), `room` (its swap), `looks_to_start`, `behave` (wanted, stdin →
    Behaviour), `make_openclaw` (token → gateway), `in_the_making` (subnets of networks that others are making: taken
    and not listed yet), `when_squeezed` (called before a reclaim restores the limit), and `break_at` (the so manieth
    change fails, counted from 1). To be looked at: `changes`, `files` of a container, the `openclaw` in it, and
    `swapped` (names).
    """

    is_local = True

    def __init__(self) -> None:
        self.images = {FAKE_IMAGE: Image("sha256:" + "fa" * 32, "2026.9.6", None)}
        self.host = Memory(24 << 30, 20 << 30)
        self.room = Swap(8 << 30, 8 << 30, is_compressed=True)
        self.swapped: set[str] = set()
        self.when_squeezed: Callable[[], None] = lambda: None
        self.looks_to_start = 2
        self.behave: Callable[[Wanted, bytes], Behaviour] = as_the_stand_in
        self.make_openclaw: Callable[[str], FakeOpenClaw] = FakeOpenClaw
        self.break_at: int | None = None
        self.changes: list[str] = []
        self.in_the_making: list[str] = []
        self._bridges: dict[str, Bridge] = {}
        self._volumes: dict[str, Mapping[str, str]] = {}
        self._containers: dict[str, _Container] = {}
        self._numbers = count(1)
        self._lock = RLock()

    def engine(self) -> Engine:
        """Describe the engine."""
        return Engine("20.10.24", "inactive", "", False, self.host.total, False)

    def host_memory(self) -> Memory:
        """Look at the host's memory."""
        return self.host

    def swap(self) -> Swap:
        """Look where memory can go."""
        return self.room

    def image(self, ref: str) -> Image | None:
        """Find an image by its name or id."""
        return next((image for name, image in self.images.items() if ref in (name, image.id)), None)

    def bridges(self) -> list[Bridge]:
        """List the networks."""
        with self._lock:
            return list(self._bridges.values())

    def create_bridge(self, name: str, *, interface: str, subnet: str, labels: Mapping[str, str]) -> None:
        """Create a bridge network."""
        with self._lock:
            self._change(f"create network {name}")
            pool = ipaddress.ip_network(subnet)
            if any(name == one.name or interface == one.interface for one in self._bridges.values()):
                raise Conflict(f"docker has a network {name} or {interface} already")
            taken = [*self.in_the_making, *(each for one in self._bridges.values() for each in one.subnets)]
            if any(pool.overlaps(ipaddress.ip_network(each)) for each in taken):
                raise Conflict("docker refused: Pool overlaps with other one on this address space")
            self._bridges[name] = Bridge(f"n{next(self._numbers)}", name, interface, (subnet,), dict(labels))

    def remove_bridge(self, name: str) -> None:
        """Remove a network that no container is on."""
        with self._lock:
            self._change(f"remove network {name}")
            if any(one.wanted.bridge == name and one.seen.lives for one in self._containers.values()):
                raise RuntimeFailure(f"docker refused: error while removing network: {name} has active endpoints")
            self._bridges.pop(name, None)

    def volume_labels(self, name: str) -> Mapping[str, str] | None:
        """Return a volume's labels."""
        return self._volumes.get(name)

    def create_volume(self, name: str, *, labels: Mapping[str, str]) -> None:
        """Create a volume; one that is there already stays as it is."""
        with self._lock:
            self._change(f"create volume {name}")
            self._volumes.setdefault(name, dict(labels))

    def remove_volume(self, name: str) -> bool:
        """Remove a volume; False when a container uses it."""
        with self._lock:
            self._change(f"remove volume {name}")
            if any(one.wanted.volume == name for one in self._containers.values()):
                return False
            self._volumes.pop(name, None)
            return True

    def containers(self, labels: Mapping[str, str]) -> list[Container]:
        """List the containers that carry all these labels, without their exit codes."""
        with self._lock:
            found = [self._look(one) for one in self._containers.values()]
        bare = [replace(one, exit_code=0, memory_limit=0, swap_limit=0) for one in found]
        return [one for one in bare if labels.items() <= one.labels.items()]

    def container(self, name: str) -> Container | None:
        """Find a container by its name or id."""
        with self._lock:
            one = self._find(name)
            return self._look(one) if one else None

    def memory(self, container_ids: Sequence[str]) -> dict[str, int]:
        """Tell what living containers use: as much as OpenClaw, less when it is in swap."""
        with self._lock:
            alive = [one for one in self._containers.values() if one.seen.lives and one.seen.id in container_ids]
            return {one.seen.id: _ASLEEP if one.wanted.name in self.swapped else _AWAKE for one in alive}

    def create(self, wanted: Wanted) -> str:
        """Create a container."""
        with self._lock:
            self._change(f"create container {wanted.name}")
            if wanted.name in self._containers:
                raise Conflict(f"docker has a container named {wanted.name!r} already")
            if self.image(wanted.image) is None:
                raise RuntimeFailure(f"docker refused: No such image: {wanted.image}")
            number = f"c{next(self._numbers)}"
            limit = wanted.limits.memory
            seen = Container(number, wanted.name, "created", dict(wanted.labels), memory_limit=limit, swap_limit=limit)
            self._containers[wanted.name] = _Container(wanted, seen)
            return number

    def start(self, container_id: str, *, stdin: bytes) -> None:
        """Start a container with what it reads."""
        with self._lock:
            self._change(f"start container {self._name(container_id)}")
            one = self._found(container_id)
            if one.wanted.bridge not in self._bridges:
                raise RuntimeFailure(f"docker refused: network {one.wanted.bridge} not found")
            one.stdin, one.behaviour = stdin, self.behave(one.wanted, stdin)
            one.openclaw = self.make_openclaw(unpacked(stdin).get("gateway_token", ""))
            address = self.address(self._bridges[one.wanted.bridge].subnets[0])
            one.seen = replace(one.seen, state="running", address=address, started="2026-11-24T10:00:00Z")
            alive = [other for other in self._containers.values() if other.seen.lives]
            volumes = [other.wanted.volume for other in alive]
            assert len(set(volumes)) == len(volumes), "two containers on one volume"
            if one.behaviour.ends is None:
                self.started(one.seen, one.openclaw)
            else:
                self._end(one, one.behaviour.ends)

    def terminate(self, container_id: str) -> None:
        """Ask a container to end."""
        with self._lock:
            self._change(f"terminate container {self._name(container_id)}")
            one = self._find(container_id)
            if one and one.seen.lives and one.ending is None:
                one.seen = replace(one.seen, state="running")
                one.ending = one.behaviour.looks_to_end
                one.openclaw.closed = True
                if one.ending == 0 and not one.openclaw.turns:
                    self._end(one, 0)

    def kill(self, container_id: str) -> None:
        """End a container."""
        with self._lock:
            self._change(f"kill container {self._name(container_id)}")
            one = self._find(container_id)
            if one and one.seen.lives:
                self._end(one, 137)

    def pause(self, container_id: str) -> None:
        """Freeze a container."""
        with self._lock:
            self._change(f"pause container {self._name(container_id)}")
            one = self._found(container_id)
            if not one.seen.lives:
                raise RuntimeFailure(f"docker refused: Container {one.seen.id} is not running")
            one.seen = replace(one.seen, state="paused")

    def unpause(self, container_id: str) -> None:
        """Let a paused container go on with its own limit."""
        with self._lock:
            self._change(f"unpause container {self._name(container_id)}")
            one = self._find(container_id)
            if one and one.seen.state in ("paused", "running"):
                one.seen = replace(one.seen, state="running", memory_limit=one.seen.swap_limit)
                self.swapped.discard(one.wanted.name)

    def reclaim(self, container_id: str) -> bool:
        """Push a paused container's memory out to swap."""
        with self._lock:
            one = self._find(container_id)
            if one is None or one.seen.state != "paused" or self.room.obstacle:
                return False
            self._change(f"reclaim container {one.wanted.name}")
            if self.room.free < one.seen.swap_limit:
                return False
            one.seen = replace(one.seen, memory_limit=64 << 20)
            self.swapped.add(one.wanted.name)
            self.when_squeezed()
            one.seen = replace(one.seen, memory_limit=one.seen.swap_limit)
            return True

    def remove(self, container_id: str) -> None:
        """Remove a container that has ended."""
        with self._lock:
            self._change(f"remove container {self._name(container_id)}")
            one = self._find(container_id)
            if one and one.seen.lives:
                raise RuntimeFailure(f"docker refused: You cannot remove a running container {one.seen.id}")
            if one:
                del self._containers[one.wanted.name]

    def logs(self, container_id: str, *, tail: int) -> str:
        """Return the last lines of standard error."""
        lines = self._found(container_id).behaviour.stderr.splitlines(keepends=True)
        return "".join(lines[-tail:])

    def execs(self, container_id: str) -> list[str]:
        """Name the commands that run in a container beside its own."""
        with self._lock:
            one = self._find(container_id)
            return list(one.execs) if one and one.seen.lives else []

    def get(self, address: str, path: str, *, port: int, timeout: float) -> Answer | None:
        """Answer as a gateway does."""
        assert (port, timeout > 0) == (18789, True)
        with self._lock:
            one = self._listening(address)
            if one is None:
                return None
            one.looks += 1
            started = one.looks > self.looks_to_start and one.behaviour.healthy
        if path == "/startupz" and (one.ending is not None or not started):
            return Answer(503, b'{"ok":false,"status":"starting"}')
        return Answer(200, json.dumps({"ok": one.behaviour.healthy, "status": path.strip("/")}).encode())

    def post(self, address: str, path: str, sent: Sent, *, port: int, timeout: float) -> Answer | None:
        """Answer as a gateway does."""
        assert (port, timeout > 0) == (18789, True)
        with self._lock:
            one = self._listening(address)
        if one is None:
            return None
        if one.behaviour.echoes:
            return Answer(
                200, json.dumps({"ok": True, "body": sent.body.decode(), "mark": sent.headers.get("X-Mark")}).encode()
            )
        return one.openclaw.post(path, sent)

    # What only tests ask ---------------------------------------------------------------------------------------------

    def openclaw(self, name: str) -> FakeOpenClaw:
        """Return the gateway in a container."""
        return self._found(name).openclaw

    def replace_openclaw(self, name: str, openclaw: FakeOpenClaw) -> None:
        """Put another gateway into a container."""
        self._found(name).openclaw = openclaw

    def attach(self, name: str, program: str) -> None:
        """Have somebody run a program in a container."""
        self._found(name).execs.append(program)

    def detach(self, name: str) -> None:
        """Have what was run in a container end."""
        self._found(name).execs.clear()

    def vanish(self, name: str) -> None:
        """Take a container away behind Mosaic's back."""
        with self._lock:
            del self._containers[name]

    def end(self, name: str, code: int, *, oom_killed: bool = False) -> None:
        """Have a container end by itself."""
        with self._lock:
            one = self._found(name)
            one.behaviour = replace(one.behaviour, oom_killed=oom_killed)
            self._end(one, code)

    def wanted(self, name: str) -> Wanted:
        """Return what a container was made from."""
        return self._found(name).wanted

    def files(self, name: str) -> dict[str, str]:
        """Return the files that a container got."""
        return unpacked(self._found(name).stdin or b"")

    def running(self) -> list[str]:
        """Name the containers that live."""
        with self._lock:
            return sorted(one.wanted.name for one in self._containers.values() if one.seen.lives)

    def everything(self) -> dict[str, list[str]]:
        """Name all there is, by kind."""
        with self._lock:
            return {
                "containers": sorted(self._containers),
                "networks": sorted(self._bridges),
                "volumes": sorted(self._volumes),
            }

    def _change(self, what: str) -> None:
        self.changes.append(what)
        if self.break_at == len(self.changes):
            raise RuntimeFailure("docker does not answer: broken on purpose")

    def _look(self, one: _Container) -> Container:
        if one.ending is not None and one.seen.lives:
            one.ending -= 1
            if one.ending <= 0 and not one.openclaw.turns:
                self._end(one, 0)
        return one.seen

    def address(self, subnet: str) -> str:
        """Give the first container of a subnet its address."""
        return str(ipaddress.ip_network(subnet)[2])

    def started(self, container: Container, openclaw: FakeOpenClaw) -> None:
        """Take note that a gateway began to run, in a subclass."""

    def ended(self, container: Container) -> None:
        """Take note that one ended, in a subclass."""

    def _end(self, one: _Container, code: int) -> None:
        self.ended(one.seen)
        one.seen = replace(one.seen, state="exited", address="", exit_code=code, oom_killed=one.behaviour.oom_killed)

    def _listening(self, address: str) -> _Container | None:
        found = [one for one in self._containers.values() if one.seen.state == "running" and one.stdin is not None]
        return next((one for one in found if one.seen.address == address), None)

    def _find(self, name: str) -> _Container | None:
        with self._lock:
            return next((one for one in self._containers.values() if name in (one.wanted.name, one.seen.id)), None)

    def _found(self, name: str) -> _Container:
        one = self._find(name)
        if one is None:
            raise RuntimeFailure(f"docker refused: No such container: {name}")
        return one

    def _name(self, name: str) -> str:
        one = self._find(name)
        return one.wanted.name if one else name


def as_the_stand_in(wanted: Wanted, stdin: bytes) -> Behaviour:
    """Behave as the model of the delivered openclaw.json says, as tests/docker/stand_in/openclaw does."""
    files = unpacked(stdin)
    if "openclaw.json" not in files:
        return Behaviour(82, stderr="mosaic: standard input brought no openclaw.json\n")
    config: dict[str, Any] = json.loads(files["openclaw.json"])
    fault = str(config["agents"]["defaults"]["model"]["primary"]).rpartition("/")[2]
    return {
        "crash": Behaviour(1, stderr="stand-in crashes as its model says\n"),
        "hog": Behaviour(137, oom_killed=True),
        "never-healthy": Behaviour(healthy=False),
        "slow-stop": Behaviour(looks_to_end=20),
        "never-stops": Behaviour(looks_to_end=None),
    }.get(fault, Behaviour())


def unpacked(packed: bytes) -> dict[str, str]:
    """Read the files of a tar; none when it is not whole."""
    try:
        with tarfile.open(fileobj=BytesIO(packed)) as archive:
            members = [(one.name, archive.extractfile(one)) for one in archive.getmembers()]
            return {name: file.read().decode() for name, file in members if file}
    except tarfile.TarError:
        return {}

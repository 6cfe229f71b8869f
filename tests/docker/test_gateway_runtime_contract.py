"""What every GatewayRuntime does: the same tests on FakeGateways and on EngineRuntime with a real engine."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from mosaic_fleet.errors import Conflict, RuntimeFailure
from mosaic_fleet.runtimes.endpoint import Endpoint
from mosaic_fleet.runtimes.engine import EngineRuntime
from mosaic_fleet.runtimes.gateway_base import Answer, Container, GatewayRuntime, Limits, Sent, Wanted
from tests.docker_run import DockerRun, wait_until
from tests.fake_gateways import Behaviour, FakeGateways
from tests.fakes import FAKE_IMAGE

ECHO = Path(__file__).parent / "echo_server.mjs"
KEEP = ("sh", "-c", "cat > /run/mosaic/got; exec sleep 600")
FAIL = ("sh", "-c", "cat > /dev/null; echo said; echo wrong >&2; exit 3")
STUBBORN = ("sh", "-c", "trap '' TERM; cat > /run/mosaic/got; while :; do sleep 0.1; done")
HOG = ("node", "-e", "const held = []; for (;;) held.push(Buffer.alloc(1 << 25, 1))")
# Answers with a hash of 50 MB that it holds, of a size that cannot stay within a reclaim's limit.
_HASH = "require('node:crypto').createHash('sha256').update(held).digest('hex')"
REMEMBER = (
    "node",
    "-e",
    "const held = require('node:crypto').randomBytes(50 << 20);"
    f"require('node:http').createServer((_, answer) => answer.end({_HASH})).listen(18789)",
)
SERVE = ("node", "--input-type=module", "-e", ECHO.read_text("utf-8"))
_BEHAVIOURS = {
    KEEP: Behaviour(),
    SERVE: Behaviour(echoes=True),
    FAIL: Behaviour(3, stderr="wrong\n"),
    STUBBORN: Behaviour(looks_to_end=None),
    HOG: Behaviour(137, oom_killed=True),
}


_numbers = count()


@dataclass(frozen=True)
class Bench:
    """A GatewayRuntime, an image it has, and names, labels and subnets for what a test makes."""

    runtime: GatewayRuntime
    image: str
    labels: dict[str, str]
    docker: DockerRun | None = None
    name: str = field(default_factory=lambda: f"mg{uuid4().hex[:8]}")
    number: int = field(default_factory=lambda: next(_numbers))

    @property
    def subnet(self) -> str:
        """Return a subnet that no other test of this run has."""
        return f"10.219.{self.number // 16}.{self.number % 16 * 16}/28"

    def wanted(self, command: Sequence[str] = KEEP) -> Wanted:
        """Return a container to be made of this test."""
        found = self.runtime.image(self.image)
        assert found
        return Wanted(
            name=self.name,
            image=found.id,
            bridge=self.name,
            volume=f"{self.name}-state",
            state_dir="/home/node/.openclaw",
            run_dir="/run/mosaic",
            command=command,
            environment={"GREETING": "hello"},
            limits=Limits(128 << 20, 0.5, 64, 1024),
            labels=self.labels | {"com.mosaic.one": self.name},
        )

    def make(self, command: Sequence[str] = KEEP) -> str:
        """Make network, volume and container."""
        self.bridge()
        self.runtime.create_volume(f"{self.name}-state", labels=self.labels)
        return self.runtime.create(self.wanted(command))

    def bridge(self) -> None:
        """Make the network."""
        self.runtime.create_bridge(
            self.name, interface=f"t{self.name}", subnet=self.subnet, labels=self.labels | {"com.mosaic.one": self.name}
        )

    def start(self, command: Sequence[str] = KEEP, stdin: bytes = b"one\0two") -> Container:
        """Make and start it all."""
        made = self.make(command)
        self.runtime.start(made, stdin=stdin)
        return self.seen()

    def seen(self) -> Container:
        """Look at the container."""
        found = self.runtime.container(self.name)
        assert found
        return found

    def has_read(self) -> None:
        """Wait until the container's command has read what was sent: before that it may be deaf to signals."""
        if docker := self.docker:
            count = ("exec", self.name, "wc", "-c", "/run/mosaic/got")
            wait_until(lambda: docker(*count, check=False).startswith("7 "))

    def ended(self) -> Container:
        """Wait until the container has ended."""
        return wait_until(lambda: found if not (found := self.seen()).lives else None)

    def pause(self) -> None:
        """Freeze the container."""
        if isinstance(self.runtime, FakeGateways):
            self.runtime.pause(self.name)
        elif self.docker:
            self.docker("pause", self.name)

    def exec_detached(self, *words: str) -> None:
        """Start a command in the container and let it run, on a real engine only."""
        assert self.docker
        self.docker("exec", "-d", self.name, *words)

    def exec(self, *words: str) -> str:
        """Run a command in the container, on a real engine only."""
        assert self.docker
        return self.docker("exec", self.name, *words)


@pytest.fixture(params=["fake_engine", "real_engine"])
def bench(request: pytest.FixtureRequest) -> Bench:
    """Return a bench in memory, then one on the real engine."""
    bench: Bench = request.getfixturevalue(request.param)
    return bench


@pytest.fixture
def fake_engine() -> Bench:
    """Return a bench in memory."""
    fake = FakeGateways()
    fake.behave = lambda wanted, _: _BEHAVIOURS[tuple(wanted.command)]
    return Bench(fake, FAKE_IMAGE, {"com.mosaic.test": "fake"})


@pytest.fixture
def real_engine(
    docker: DockerRun, endpoint: Endpoint, stand_in_image: str, run_label: dict[str, str]
) -> Iterator[Bench]:
    """Return a bench on the real engine; what it made is removed."""
    bench = Bench(EngineRuntime(endpoint), stand_in_image, run_label, docker)
    yield bench
    docker("rm", "-f", bench.name, check=False)
    docker("network", "rm", bench.name, check=False)
    docker("volume", "rm", f"{bench.name}-state", check=False)


def test_the_host_has_memory(bench: Bench) -> None:
    """The engine is this machine's, and some of its memory is available."""
    memory = bench.runtime.host_memory()
    assert bench.runtime.is_local
    assert 0 < memory.available <= memory.total


def test_a_bridge_has_its_interface_subnet_and_labels(bench: Bench) -> None:
    """A created bridge is listed with what it was made with, and is gone once removed, also when removed twice."""
    bench.bridge()
    [found] = [one for one in bench.runtime.bridges() if one.name == bench.name]
    assert (found.interface, tuple(found.subnets)) == (f"t{bench.name}", (bench.subnet,))
    assert found.labels["com.mosaic.one"] == bench.name
    bench.runtime.remove_bridge(bench.name)
    bench.runtime.remove_bridge(bench.name)
    assert bench.name not in [one.name for one in bench.runtime.bridges()]


@pytest.mark.parametrize("same", ["name", "interface", "subnet"])
def test_a_taken_name_interface_or_subnet_is_a_conflict(bench: Bench, same: str) -> None:
    """A second bridge with the first one's name, interface or subnet raises Conflict and makes nothing."""
    bench.bridge()
    other = {"name": f"{bench.name}b", "interface": f"u{bench.name}", "subnet": "10.218.255.0/28"}
    first = {"name": bench.name, "interface": f"t{bench.name}", "subnet": bench.subnet}
    values = other | {same: first[same]}
    with pytest.raises(Conflict):
        bench.runtime.create_bridge(
            values["name"], interface=values["interface"], subnet=values["subnet"], labels=bench.labels
        )
    assert f"{bench.name}b" not in [one.name for one in bench.runtime.bridges()]


def test_a_container_gets_its_standard_input_and_an_address(bench: Bench) -> None:
    """A started container runs, has an address in its subnet, and reads exactly what was sent."""
    seen = bench.start()
    assert (seen.state, seen.lives) == ("running", True)
    assert seen.address.rpartition(".")[0] == bench.subnet.rpartition(".")[0]
    assert seen.labels["com.mosaic.one"] == bench.name
    assert bench.runtime.container(seen.id) == seen
    bench.has_read()


def test_containers_are_listed_by_their_labels(bench: Bench) -> None:
    """Created and running containers are found by all their labels, with their state."""
    assert bench.runtime.container(bench.name) is None
    bench.make()
    mine = bench.labels | {"com.mosaic.one": bench.name}
    assert [one.state for one in bench.runtime.containers(mine)] == ["created"]
    bench.runtime.start(bench.seen().id, stdin=b"")
    assert [(one.name, one.state) for one in bench.runtime.containers(mine)] == [(bench.name, "running")]
    assert bench.runtime.containers(mine | {"com.mosaic.two": "x"}) == []


def test_a_second_container_of_a_name_is_a_conflict(bench: Bench) -> None:
    """Creating a container twice raises Conflict and keeps the first."""
    first = bench.make()
    with pytest.raises(Conflict, match=bench.name):
        bench.runtime.create(bench.wanted())
    assert bench.seen().id == first


def test_a_missing_image_is_refused(bench: Bench) -> None:
    """A container of an image that is not there is refused, and none is left."""
    bench.bridge()
    with pytest.raises(RuntimeFailure, match="No such image"):
        bench.runtime.create(replace(bench.wanted(), image="sha256:" + "0" * 64))
    assert bench.runtime.container(bench.name) is None


def test_a_container_that_fails_keeps_its_code_and_its_complaint(bench: Bench) -> None:
    """One that ended shows its exit code, and its standard error without its standard output."""
    bench.start(FAIL)
    ended = bench.ended()
    assert (ended.state, ended.exit_code, ended.oom_killed, ended.address) == ("exited", 3, False, "")
    assert bench.runtime.logs(ended.id, tail=5) == "wrong\n"


def test_running_out_of_memory_shows_as_that(bench: Bench) -> None:
    """A container that needs more memory than its limit is killed, and Docker says why."""
    bench.start(HOG)
    assert bench.ended().exit_code == 137
    wait_until(lambda: bench.seen().oom_killed)


def test_a_container_ends_when_asked_and_can_then_be_removed(bench: Bench) -> None:
    """SIGTERM ends it; asked or removed again, nothing happens; its volume stays until it is removed."""
    seen = bench.start()
    bench.has_read()
    bench.runtime.terminate(seen.id)
    bench.ended()
    bench.runtime.terminate(seen.id)
    assert bench.runtime.remove_volume(f"{bench.name}-state") is False
    bench.runtime.remove(seen.id)
    bench.runtime.remove(seen.id)
    bench.runtime.terminate(seen.id)
    assert bench.runtime.container(bench.name) is None
    assert bench.runtime.volume_labels(f"{bench.name}-state") == bench.labels
    assert bench.runtime.remove_volume(f"{bench.name}-state") is True


def test_a_stubborn_container_ends_when_killed(bench: Bench) -> None:
    """One that ignores SIGTERM lives on and cannot be removed, until it is killed."""
    seen = bench.start(STUBBORN)
    bench.has_read()
    bench.runtime.terminate(seen.id)
    assert bench.seen().lives
    with pytest.raises(RuntimeFailure):
        bench.runtime.remove(seen.id)
    bench.runtime.kill(seen.id)
    assert bench.ended().exit_code == 137
    bench.runtime.kill(seen.id)


def test_a_paused_container_lives_and_goes_on(bench: Bench) -> None:
    """Pausing and unpausing, each twice, changes the state alone; a paused one hears that it is to end."""
    seen = bench.start()
    bench.has_read()
    bench.runtime.pause(seen.id)
    bench.runtime.pause(seen.id)
    assert bench.seen() == replace(seen, state="paused")
    assert bench.seen().lives
    bench.runtime.unpause(seen.id)
    assert bench.seen() == seen
    bench.runtime.pause(seen.id)
    bench.runtime.terminate(seen.id)
    bench.ended()
    with pytest.raises(RuntimeFailure):
        bench.runtime.pause(seen.id)


def test_memory_is_told_of_what_lives(bench: Bench) -> None:
    """A container that runs or is paused has its bytes, one that ended has none."""
    seen = bench.start()
    bench.has_read()
    assert 0 < bench.runtime.memory([seen.id])[seen.id] <= 1 << 30
    bench.runtime.pause(seen.id)
    assert set(bench.runtime.memory([seen.id])) == {seen.id}
    bench.runtime.kill(seen.id)
    bench.ended()
    assert bench.runtime.memory([seen.id]) == {}
    assert bench.runtime.memory([]) == {}


def test_reclaiming_leaves_the_limits_as_they_were(bench: Bench) -> None:
    """A paused container's memory goes to swap where there is some, and its limit comes back; a running one is left."""
    seen = bench.start()
    assert (seen.memory_limit, seen.swap_limit, seen.is_squeezed) == (128 << 20, 128 << 20, False)
    bench.has_read()
    assert bench.runtime.reclaim(seen.id) is False
    bench.runtime.pause(seen.id)
    assert bench.runtime.reclaim(seen.id) is (bench.runtime.swap().obstacle is None)
    assert bench.seen() == replace(seen, state="paused")
    bench.runtime.unpause(seen.id)
    assert bench.seen() == seen


def test_a_limit_that_a_broken_reclaim_left_is_restored(bench: Bench) -> None:
    """One whose memory limit is still low goes on with the one it was made with, paused or not; gone is no error."""
    seen = bench.start()
    bench.has_read()
    bench.runtime.pause(seen.id)
    squeeze(bench, seen.id)
    assert bench.seen() == replace(seen, state="paused", memory_limit=64 << 20)
    assert bench.seen().is_squeezed
    bench.runtime.unpause(seen.id)
    assert bench.seen() == seen
    bench.runtime.kill(seen.id)
    bench.ended()
    bench.runtime.unpause(seen.id)
    bench.runtime.remove(seen.id)
    bench.runtime.unpause(seen.id)
    assert bench.runtime.reclaim(seen.id) is False


class Interrupted(BaseException):
    """Ends a reclaim as SIGKILL does."""


def squeeze(bench: Bench, container_id: str) -> None:
    """Lower a container's limit as a reclaim does that is killed before its end."""
    if isinstance(fake := bench.runtime, FakeGateways):

        def interrupt() -> None:
            raise Interrupted

        fake.when_squeezed = interrupt
        with pytest.raises(Interrupted):
            fake.reclaim(container_id)
    else:
        assert bench.docker
        bench.docker("update", "--memory", "64m", "--memory-swap", "128m", container_id)


def test_memory_comes_back_as_it_was(real_engine: Bench) -> None:
    """What a container had in memory before it was reclaimed is there when it goes on (4.9)."""
    bench = real_engine
    bench.start(REMEMBER)
    before = wait_until(lambda: bench.runtime.get(bench.seen().address, "/", port=18789, timeout=5))
    bench.runtime.pause(bench.seen().id)
    bench.runtime.reclaim(bench.seen().id)
    bench.runtime.unpause(bench.seen().id)
    after = wait_until(lambda: bench.runtime.get(bench.seen().address, "/", port=18789, timeout=5))
    assert (after.status, after.body) == (before.status, before.body)
    assert not bench.seen().oom_killed


def test_unpausing_what_is_not_paused_does_nothing(bench: Bench) -> None:
    """A running container is left as it is."""
    seen = bench.start()
    bench.runtime.unpause(seen.id)
    assert bench.seen().state == "running"


def test_a_gateway_answers_over_http_and_others_are_none(bench: Bench) -> None:
    """A port that answers gives status and body; an ended container gives None."""
    if isinstance(bench.runtime, FakeGateways):
        bench.runtime.looks_to_start = 0
    seen = bench.start(SERVE)
    answer = wait_until(lambda: bench.runtime.get(seen.address, "/startupz", port=18789, timeout=30))
    assert (answer.status, json.loads(answer.body)["ok"]) == (200, True)
    bench.runtime.kill(seen.id)
    bench.ended()
    assert bench.runtime.get(seen.address, "/startupz", port=18789, timeout=0.5) is None


def test_what_is_sent_to_a_gateway_arrives(bench: Bench) -> None:
    """Body and headers arrive, status and body come back; a paused or ended container gives None."""
    if isinstance(bench.runtime, FakeGateways):
        bench.runtime.looks_to_start = 0
    seen = bench.start(SERVE)
    wait_until(lambda: bench.runtime.get(seen.address, "/startupz", port=18789, timeout=5))

    def send(timeout: float = 30) -> Answer | None:
        sent = Sent(b'{"a":1}', {"X-Mark": "one"})
        return bench.runtime.post(seen.address, "/any", sent, port=18789, timeout=timeout)

    answer = send()
    assert answer
    said = json.loads(answer.body)
    assert (answer.status, said["body"], said["mark"]) == (200, '{"a":1}', "one")
    bench.pause()
    assert send(0.5) is None
    bench.runtime.kill(seen.id)
    bench.ended()
    assert send(0.5) is None


def test_commands_in_a_container_are_seen_while_they_run(bench: Bench) -> None:
    """A command that Docker started beside the container's own is named while it runs, its own never."""
    seen = bench.start()
    bench.has_read()
    assert bench.runtime.execs(seen.id) == []
    if isinstance(bench.runtime, FakeGateways):
        bench.runtime.attach(bench.name, "sleep")
    else:
        bench.exec("true")
        bench.exec_detached("sleep", "600")
    assert wait_until(lambda: bench.runtime.execs(seen.id)) == ["sleep"]
    bench.runtime.kill(seen.id)
    bench.ended()
    assert bench.runtime.execs(seen.id) == []
    assert bench.runtime.execs("no-such-container") == []


def test_a_container_is_hardened(real_engine: Bench) -> None:
    """Docker keeps every wall that was asked for, and the container sees them (4.7)."""
    bench = real_engine
    bench.start()
    assert bench.docker
    facts: dict[str, Any] = json.loads(bench.docker("inspect", bench.name))[0]
    host, config = facts["HostConfig"], facts["Config"]
    assert (config["User"], host["ReadonlyRootfs"], host["Init"], host["Privileged"]) == (
        "1000:1000",
        True,
        True,
        False,
    )
    assert (host["CapDrop"], host["CapAdd"], host["SecurityOpt"]) == (["ALL"], None, ["no-new-privileges"])
    assert host["Memory"] == host["MemorySwap"] == 128 << 20
    assert (host["NanoCpus"], host["PidsLimit"]) == (500_000_000, 64)
    assert host["Ulimits"] == [{"Name": "nofile", "Hard": 1024, "Soft": 1024}]
    assert host["RestartPolicy"]["Name"] == "no"
    assert set(host["LogConfig"]["Config"]) == {"max-size", "max-file"}
    assert (host["PortBindings"] or {}, host["PidMode"], host["IpcMode"], host["NetworkMode"]) == (
        {},
        "",
        "private",
        bench.name,
    )
    assert not any("docker.sock" in mount["Source"] for mount in facts["Mounts"])
    status = bench.exec("cat", "/proc/self/status")
    assert "NoNewPrivs:\t1" in status
    assert "CapBnd:\t0000000000000000" in status
    wait_until(lambda: bench.exec("stat", "-c", "%a %u", "/run/mosaic") == "700 1000")
    assert bench.exec("stat", "-c", "%a %u", "/home/node/.openclaw") == "700 1000"
    assert bench.exec("sh", "-c", "touch /x 2>/dev/null || echo refused") == "refused"

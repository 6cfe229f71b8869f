"""How a gateway is suspended: the same tests in memory, on the stand-in and on real OpenClaw; and real ones reaped."""

import json
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from mosaic_fleet.errors import RuntimeFailure
from mosaic_fleet.fleet import admin_rpc, containers, idleness, leases, reaping, schedules, turns
from mosaic_fleet.fleet.hosting import is_ok, url
from mosaic_fleet.fleet.leases import Busy, Lease
from mosaic_fleet.fleet.openclaw import PORT, Gateway
from mosaic_fleet.fleet.sleeping import Row
from mosaic_fleet.runtimes.endpoint import Endpoint
from mosaic_fleet.runtimes.engine import EngineRuntime
from mosaic_fleet.runtimes.gateway_base import Answer, Container, GatewayRuntime, Sent
from tests.docker_run import DockerRun, wait_until
from tests.fake_gateways import FakeGateways
from tests.gateways import TOKEN, Turn, one_gateway
from tests.openclaw.guests import Guests, hosted

HELLO = b'{"model": "openclaw", "messages": [{"role": "user", "content": "hello"}]}'
_TRIES = 100
# OpenClaw takes 30 requests a minute.
_EVERY_SECONDS = 3


@dataclass
class Peer:
    """A gateway that runs, with schedules on, and what can be done to it; `docker` is None for the one in memory."""

    runtime: GatewayRuntime
    found: Container
    token: SecretStr
    docker: DockerRun | None = None

    def prepare(self) -> Lease | Busy:
        """Ask for a lease once."""
        return leases.prepare(self.runtime, self.found, self.token)

    def lease(self) -> Lease:
        """Ask for a lease until there is one: the work of earlier tests comes to its end."""
        for _ in range(_TRIES):
            if isinstance(got := self.prepare(), Lease):
                return got
            time.sleep(_EVERY_SECONDS)
        raise AssertionError(got)

    def release(self, lease: Lease) -> None:
        """Give a lease back."""
        leases.release(self.runtime, self.found, self.token, lease)

    def chat(self) -> Answer:
        """Ask something."""
        headers = {"Authorization": f"Bearer {self.token.get_secret_value()}", "Content-Type": "application/json"}
        answer = self.runtime.post(
            self.found.address, "/v1/chat/completions", Sent(HELLO, headers), port=PORT, timeout=120
        )
        assert answer
        return answer

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Have a turn under way inside the block; it comes to its end."""
        if isinstance(self.runtime, FakeGateways):
            assert self.runtime.openclaw(self.found.name).begin()
            yield
            self.runtime.openclaw(self.found.name).end()
            return
        turn = Turn(url(self.found), self.token, "sleep:20 hello")
        yield
        assert turn.whole().rstrip().endswith("data: [DONE]")

    @contextmanager
    def command(self) -> Iterator[None]:
        """Have somebody run a command in the container inside the block."""
        if isinstance(self.runtime, FakeGateways):
            self.runtime.attach(self.found.name, "cat")
            yield
            self.runtime.detach(self.found.name)
            return
        assert self.docker
        words = ["docker", "--host", self.docker.host, "exec", "-i", self.found.name, "cat"]
        with subprocess.Popen(words, stdin=subprocess.PIPE) as held:
            wait_until(lambda: self.runtime.execs(self.found.id))
            yield
            assert held.stdin
            held.stdin.close()
        wait_until(lambda: not self.runtime.execs(self.found.id))

    def due(self, at: datetime) -> None:
        """Have a job of the gateway's own be due."""
        if isinstance(self.runtime, FakeGateways):
            openclaw = self.runtime.openclaw(self.found.name)
            openclaw.schedules, openclaw.next_wake = True, at.timestamp()
            return
        job = {"name": "one", "schedule": {"kind": "at", "at": at.isoformat()}, "sessionTarget": "main"}
        job |= {"wakeMode": "next-heartbeat", "payload": {"kind": "systemEvent", "text": "hello"}}
        admin_rpc.call(self.runtime, self.found, self.token, "cron.add", job)


@pytest.fixture(scope="module", params=["in_memory", "stand_in", "real"])
def peer(request: pytest.FixtureRequest) -> Peer:
    """Return a gateway in memory, then the stand-in, then the real one."""
    peer: Peer = request.getfixturevalue(request.param)
    return peer


@pytest.fixture(scope="module")
def in_memory() -> Peer:
    """Return a gateway in memory."""
    runtime = FakeGateways()
    runtime.looks_to_start = 0
    return Peer(runtime, one_gateway(runtime), TOKEN)


@pytest.fixture(scope="module")
def stand_in(docker: DockerRun, endpoint: Endpoint, stand_in_image: str, run_label: dict[str, str]) -> Iterator[Peer]:
    """Start a stand-in; what was made for it is removed."""
    runtime, name = EngineRuntime(endpoint), "mosaic-lease"
    gateway = Gateway("llm/m1", schedules=True)
    found = one_gateway(runtime, gateway, image=stand_in_image, name=name, labels=run_label)
    wait_until(lambda: is_ok(runtime.get(found.address, "/startupz", port=PORT, timeout=5)))
    yield Peer(runtime, found, TOKEN, docker)
    docker("rm", "-f", name, check=False)
    docker("network", "rm", name, check=False)
    docker("volume", "rm", f"{name}-state", check=False)


@pytest.fixture(scope="module")
def guests(docker: DockerRun, openclaw_image: str) -> Iterator[Guests]:
    """Make an installation with one user, whose gateway is real and has schedules on."""
    with hosted(docker, openclaw_image, "ann", world=2) as guests:
        guests.installation.mosaic("user", "set", "ann", "--schedules")
        yield guests


@pytest.fixture(scope="module")
def real(guests: Guests) -> Peer:
    """Wake the gateway of ann."""
    running = guests.wake("ann")
    runtime = guests.mosaic.hosting.runtime
    found = runtime.container(containers.name(guests.users["ann"]))
    assert found
    return Peer(runtime, found, running.token, guests.installation.docker)


def test_a_lease_fences_new_work_and_its_release_lets_it_in(peer: Peer) -> None:
    """While it holds a chat is refused as unavailable and the gateway stays live; asked again, it is the same lease."""
    lease = peer.lease()
    assert timedelta(seconds=90) < lease.until - datetime.now(UTC) <= timedelta(seconds=121)
    refused = peer.chat()
    assert refused.status == 503
    assert b'"gateway_unavailable"' in refused.body
    assert is_ok(peer.runtime.get(peer.found.address, "/healthz", port=PORT, timeout=30))
    again = peer.prepare()
    assert isinstance(again, Lease)
    assert again.id == lease.id
    assert again.until >= lease.until
    peer.release(lease)
    assert peer.chat().status == 200


def test_a_turn_keeps_the_gateway_and_is_not_disturbed(peer: Peer) -> None:
    """During a turn it says that it is busy, and takes another one; the turn ends as if nobody had asked."""
    peer.release(peer.lease())
    with peer.turn():
        busy = peer.prepare()
        assert isinstance(busy, Busy)
        assert busy.blockers
        assert peer.chat().status == 200
    peer.release(peer.lease())


def test_a_command_in_the_container_keeps_the_gateway(peer: Peer) -> None:
    """While somebody works in the container there is no lease, and the gateway takes new work."""
    peer.release(peer.lease())
    with peer.command():
        for _ in range(_TRIES):
            if (got := peer.prepare()) == Busy(("a command in the container: cat",)):
                break  # and nothing of OpenClaw's own
            assert isinstance(got, Busy)
            time.sleep(_EVERY_SECONDS)
        assert got == Busy(("a command in the container: cat",))
        assert peer.chat().status == 200


def test_a_wrong_token_and_a_wrong_lease_are_refused(peer: Peer) -> None:
    """Neither changes anything: the lease that is held goes on."""
    lease = peer.lease()
    with pytest.raises(RuntimeFailure, match="Unauthorized"):
        leases.prepare(peer.runtime, peer.found, SecretStr("wrong"))
    with pytest.raises(RuntimeFailure, match="does not match"):
        peer.release(Lease("11111111-1111-4111-8111-111111111111", lease.until))
    assert peer.chat().status == 503
    peer.release(lease)
    peer.release(lease)
    assert peer.chat().status == 200


def test_the_next_job_of_its_schedules_is_told(peer: Peer) -> None:
    """It says when its next job is due, but not while it is suspended."""
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=2)
    own = schedules.next_due(peer.runtime, peer.found, peer.token)
    peer.due(at)
    # OpenClaw has a weekly job of its own, at a time that hangs on the gateway's identity: it may come first.
    assert schedules.next_due(peer.runtime, peer.found, peer.token) == min(own or at, at)
    lease = peer.lease()
    with pytest.raises(RuntimeFailure, match="unavailable during gateway suspension"):
        schedules.next_due(peer.runtime, peer.found, peer.token)
    peer.release(lease)


def test_its_latest_turn_is_told(peer: Peer) -> None:
    """It says when something last changed in a conversation: at the end of the turn that has just been."""
    peer.release(peer.lease())
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    assert peer.chat().status == 200
    latest = turns.latest(peer.runtime, peer.found, peer.token)
    assert latest
    assert before <= latest <= datetime.now(UTC)


# Real gateways, reaped -----------------------------------------------------------------------------------------------


@pytest.fixture
def idle(guests: Guests, monkeypatch: pytest.MonkeyPatch) -> Guests:
    """Return the installation, whose user's gateway is awake; no job of OpenClaw's own keeps it so."""
    monkeypatch.setattr(idleness, "DUE_SOON", timedelta(0))
    monkeypatch.setattr(idleness, "OVERDUE", timedelta(0))
    guests.wake("ann")
    return guests


def reap(guests: Guests) -> Row:
    """Reap as of tomorrow, so that time alone never keeps the gateway, whose latest turn was today."""
    long_ago = datetime.now(UTC) - timedelta(days=1)
    with guests.mosaic.db.transaction(system=True) as session:
        row = containers.find(session, guests.users["ann"])
        assert row
        row.started_at = row.last_active_at = long_ago
    rows = reaping.reap(guests.mosaic.hosting, datetime.now(UTC) + timedelta(days=1)) or []
    return rows[0] if rows else Row("ann", "stopped", "")


def settled(guests: Guests) -> Row:
    """Reap until the gateway is not kept: work of a moment ago comes to its end."""
    for _ in range(_TRIES):
        if (row := reap(guests)).outcome != "kept":
            return row
        time.sleep(_EVERY_SECONDS)
    raise AssertionError(row)


def test_a_streamed_answer_is_not_cut(idle: Guests) -> None:
    """Reaped during an answer of 25 seconds it is kept as busy; the answer ends whole, and then it is stopped."""
    running = idle.wake("ann")
    turn = Turn(running.url, running.token, "sleep:25 long")
    row = reap(idle)
    assert (row.outcome, "but busy: " in row.reason) == ("kept", True), row
    assert "stub nonce" in answer(turn)
    row = settled(idle)
    assert row.outcome == "stopped", row
    assert idle.installation.document("gateway", "show", "ann")["gateway"]["why"] == row.reason


def test_background_work_is_not_cut(idle: Guests) -> None:
    """A command that the agent started in the background keeps its gateway until it has ended."""
    running = idle.wake("ann")
    go, mark = "/home/node/.openclaw/workspace/go", "/home/node/.openclaw/workspace/done"
    script = f"until [ -e {go} ]; do sleep 1; done; echo whole > {mark}"
    command = json.dumps({"command": script, "background": True})
    assert "stub nonce" in answer(Turn(running.url, running.token, f"tool:exec{command}"))
    row = reap(idle)
    assert (row.outcome, "background-exec" in row.reason) == ("kept", True), row
    idle.exec("ann", "touch", go)
    assert wait_until(lambda: idle.exec("ann", "sh", "-c", f"cat {mark} 2>/dev/null || true")) == "whole"
    assert settled(idle).outcome == "stopped"


def test_an_open_terminal_is_not_cut(idle: Guests) -> None:
    """A shell in the container keeps its gateway until it is closed."""
    container = containers.name(idle.users["ann"])
    words = ["docker", "--host", idle.installation.docker.host, "exec", "-i", container, "sh"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdin
        assert shell.stdout
        shell.stdin.write("echo here\n")
        shell.stdin.flush()
        assert shell.stdout.readline() == "here\n"
        wait_until(lambda: "a command in the container: sh" in reap_slowly(idle).reason)
        shell.stdin.write("echo still here\n")
        shell.stdin.flush()
        assert shell.stdout.readline() == "still here\n"
        shell.stdin.close()
    assert settled(idle).outcome == "stopped"


def answer(turn: Turn) -> str:
    """Return the text of a turn that came to its end."""
    said = turn.whole()
    assert said.rstrip().endswith("data: [DONE]"), said
    return text_of(said)


def text_of(said: str) -> str:
    """Put the pieces of a streamed answer together."""
    events = [json.loads(line[6:]) for line in said.splitlines() if line.startswith("data: {")]
    return "".join(one["choices"][0]["delta"].get("content") or "" for one in events if one.get("choices"))


def reap_slowly(guests: Guests) -> Row:
    """Reap, and leave OpenClaw some of the requests that it takes in a minute."""
    time.sleep(_EVERY_SECONDS)
    return reap(guests)


@pytest.mark.timeout(7200)  # twenty starts of OpenClaw
def test_twenty_races_of_message_and_reaper_cut_no_turn(idle: Guests) -> None:
    """Each message that is sent at the moment of a reap is answered whole, and each turn the stub began has ended."""
    outcomes = []
    for number in range(20):
        with ThreadPoolExecutor(2) as pool:
            message = pool.submit(_message, idle, f"race-{number}-", number % 5 / 10)
            outcomes.append(pool.submit(reap_slowly, idle).result().outcome)
            assert "stub nonce" in message.result()
    assert set(outcomes) <= {"kept", "stopped", "still stopping"}
    asked = [one for one in idle.asked() if "race-" in one["message"]]
    assert [one for one in asked if not one["done"]] == []
    assert all(any(f"race-{number}-" in one["message"] for one in asked) for number in range(20))


def _message(guests: Guests, text: str, wait: float) -> str:
    """Send a message as a chat does: to a gateway that runs, and again when it takes nothing new."""
    time.sleep(_EVERY_SECONDS + wait)
    for _ in range(100):
        running = guests.wake("ann")
        said = Turn(running.url, running.token, text).whole()
        if "[DONE]" in said:
            return text_of(said)
        assert said.startswith("broken off: "), said  # nothing had come: it was not begun
        time.sleep(1)
    raise AssertionError(said)

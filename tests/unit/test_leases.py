"""Leases on a gateway in memory: what is asked, what the answers mean, and what a refusal leaves."""

import json
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from mosaic_fleet.errors import RuntimeFailure
from mosaic_fleet.fleet import leases, schedules, turns
from mosaic_fleet.fleet.leases import Busy, Lease
from mosaic_fleet.runtimes.gateway_base import Answer, Container
from tests.fake_gateways import FakeGateways
from tests.fake_openclaw import LEASE_SECONDS, PREPARES, FakeOpenClaw
from tests.gateways import TOKEN, one_gateway

DEEP = b'{"a":' * 20_000
NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


class Clock:
    """A clock that a test sets."""

    seconds = NOW.timestamp()

    def __call__(self) -> float:
        """Return the seconds since 1970."""
        return self.seconds


class Bench:
    """A gateway in memory with a clock of its own."""

    def __init__(self) -> None:
        self.runtime = FakeGateways()
        self.clock = Clock()
        self.runtime.make_openclaw = lambda token: FakeOpenClaw(token, self.clock)
        self.found: Container = one_gateway(self.runtime)
        self.openclaw = self.runtime.openclaw(self.found.name)

    def prepare(self) -> Lease | Busy:
        """Ask for a lease."""
        return leases.prepare(self.runtime, self.found, TOKEN)

    def release(self, lease: Lease) -> None:
        """Give a lease back."""
        leases.release(self.runtime, self.found, TOKEN, lease)

    def answered(self, status: int, body: Any) -> None:
        """Have every call answered with this."""
        self.openclaw.broken = Answer(status, body if isinstance(body, bytes) else json.dumps(body).encode())


@pytest.fixture
def bench() -> Bench:
    """Return a gateway that has nothing to do."""
    return Bench()


def test_an_idle_gateway_gives_a_lease_and_takes_nothing_new(bench: Bench) -> None:
    """New turns are refused while the lease holds, which is two minutes, and taken after its release."""
    lease = bench.prepare()
    assert isinstance(lease, Lease)
    assert (lease.until - NOW).total_seconds() == LEASE_SECONDS
    assert not bench.openclaw.begin()
    bench.release(lease)
    assert bench.openclaw.begin()


def test_a_lease_runs_out_by_itself(bench: Bench) -> None:
    """After two minutes turns are taken again, and releasing it then is no error."""
    lease = bench.prepare()
    assert isinstance(lease, Lease)
    bench.clock.seconds += LEASE_SECONDS
    assert bench.openclaw.begin()
    bench.release(lease)
    assert bench.openclaw.begin()


def test_asking_again_renews_the_same_lease(bench: Bench) -> None:
    """Whoever comes after a killed command gets the lease that it left, for another two minutes."""
    first = bench.prepare()
    bench.clock.seconds += 60
    second = bench.prepare()
    assert isinstance(first, Lease)
    assert isinstance(second, Lease)
    assert (second.id, (second.until - first.until).total_seconds()) == (first.id, 60)


def test_work_is_named_by_kind_and_count(bench: Bench) -> None:
    """A gateway that works says what at, and goes on taking new work."""
    bench.openclaw.begin()
    bench.openclaw.work = Counter({"background-exec": 2})
    assert bench.prepare() == Busy(("embedded-run", "root-request", "background-exec (2)"))
    assert bench.openclaw.begin()


def test_a_command_in_the_container_is_work_too(bench: Bench) -> None:
    """With a terminal open there is no lease, and the gateway takes new work."""
    bench.runtime.attach(bench.found.name, "bash")
    assert bench.prepare() == Busy(("a command in the container: bash",))
    assert bench.openclaw.begin()


def test_a_lease_is_given_back_when_docker_is_lost(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker failing between the lease and the look for commands leaves the gateway open, also when it is deaf now."""

    def lost(_: str) -> list[str]:
        raise RuntimeFailure("docker does not answer")

    monkeypatch.setattr(bench.runtime, "execs", lost)
    with pytest.raises(RuntimeFailure, match="docker does not answer"):
        bench.prepare()
    assert bench.openclaw.begin()
    bench.openclaw.end()
    monkeypatch.setattr(bench.runtime, "execs", lambda _: bench.answered(500, {}) or lost(""))
    with pytest.raises(RuntimeFailure, match="docker does not answer"):
        bench.prepare()


@pytest.mark.parametrize(
    ("said", "blockers"),
    [
        ({"blockers": [{"kind": "task", "count": 1, "message": "ann's secret plan"}]}, ("task",)),
        ({"blockers": [{"kind": "task", "count": 1}, {"kind": "task", "count": 3}]}, ("task (4)",)),
        ({"blockers": [{"kind": " a\nb", "count": None}, "odd", {}]}, ("a b",)),
        ({"blockers": [], "reason": "gateway-draining"}, ("gateway-draining",)),
        ({"blockers": None}, ("something",)),
        ({"blockers": [{"kind": "a\x00\ud800"}]}, ("a\\x00\\ud800",)),
        ({"blockers": 7}, ("something",)),
        ({"blockers": [{"kind": "task", "count": 10**4299}] * 20}, ("task (20)",)),
    ],
    ids=[
        "its words are the owner's",
        "counted by kind",
        "odd ones",
        "draining",
        "nothing said",
        "no text",
        "no list",
        "no count",
    ],
)
def test_blockers_are_told_without_the_owner_s_words(bench: Bench, said: Any, blockers: tuple[str, ...]) -> None:
    """Only the kinds of work are told, however they are answered."""
    bench.answered(200, {"ok": True, "payload": {"status": "busy", **said}})
    assert bench.prepare() == Busy(blockers, draining=said.get("reason") == "gateway-draining")


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (404, b"Not Found", "HTTP 404"),
        (503, {"ok": False, "error": {"code": "UNAVAILABLE", "message": "gateway starting"}}, "gateway starting"),
        (503, {"error": {"message": "a\x00\n" + "b" * 999}}, r"a\\x00 b{194}$"),
        (500, {"error": "odd"}, "HTTP 500"),
        (200, b"\xff<html>", "HTTP 200"),
        (200, [], "HTTP 200"),
        (200, {"ok": True, "payload": {"status": "draining"}}, "something else than ready or busy"),
        (200, {"ok": True, "payload": {"status": "ready", "suspensionId": "x"}}, "something else"),
        (200, {"payload": {"status": "ready", "suspensionId": "", "expiresAtMs": 1}}, "something else"),
        (200, {"payload": {"status": "ready", "suspensionId": "x", "expiresAtMs": 1e99}}, "something else"),
        (200, {"payload": {"status": "ready", "suspensionId": "x", "expiresAtMs": 1e20}}, "something else"),
        (200, DEEP, "HTTP 200"),
    ],
    ids=[
        "no rpc",
        "starting",
        "garbled",
        "odd error",
        "no json",
        "no object",
        "draining",
        "no end",
        "no id",
        "endless",
        "far",
        "deep",
    ],
)
def test_another_answer_is_a_failure_with_its_words(bench: Bench, status: int, body: Any, words: str) -> None:
    """A gateway that cannot be asked gives no lease."""
    bench.answered(status, body)
    with pytest.raises(RuntimeFailure, match=words):
        bench.prepare()


def test_a_gateway_that_does_not_answer_or_has_another_token_is_a_failure(bench: Bench) -> None:
    """The token is never in the message."""
    with pytest.raises(RuntimeFailure, match=r"refuses gateway\.suspend\.prepare: Unauthorized") as raised:
        leases.prepare(bench.runtime, bench.found, SecretStr("planted-wrong-token"))
    assert "planted" not in raised.value.message
    bench.runtime.pause(bench.found.name)
    with pytest.raises(RuntimeFailure, match=r"does not answer gateway\.suspend\.prepare"):
        bench.prepare()


def test_the_limit_of_openclaw_is_a_failure_with_its_words(bench: Bench) -> None:
    """The thirty-first request of a minute is refused, the first of the next is not."""
    for _ in range(PREPARES):
        bench.prepare()
    with pytest.raises(RuntimeFailure, match="rate limit exceeded"):
        bench.prepare()
    bench.clock.seconds += 60
    assert isinstance(bench.prepare(), Lease)


@pytest.mark.parametrize(
    ("said", "due"),
    [
        ({"enabled": True, "nextWakeAtMs": NOW.timestamp() * 1000}, NOW),
        ({"enabled": True, "nextWakeAtMs": None}, None),
        ({"enabled": False, "nextWakeAtMs": 1}, None),
        ({}, None),
    ],
    ids=["a job", "no job", "off", "nothing said"],
)
def test_the_next_job_is_read_from_the_answer(bench: Bench, said: Any, due: datetime | None) -> None:
    """It is the time of the next job, none without jobs and with schedules off."""
    bench.answered(200, {"ok": True, "payload": said})
    assert schedules.next_due(bench.runtime, bench.found, TOKEN) == due


@pytest.mark.parametrize("due", ["soon", 1e99, [1]], ids=["text", "endless", "list"])
def test_a_time_that_is_none_is_a_failure(bench: Bench, due: Any) -> None:
    """An answer that is no time is not taken for none."""
    bench.answered(200, {"ok": True, "payload": {"enabled": True, "nextWakeAtMs": due}})
    with pytest.raises(RuntimeFailure, match="a time that is none"):
        schedules.next_due(bench.runtime, bench.found, TOKEN)


def test_the_latest_turn_is_read_from_the_answer(bench: Bench) -> None:
    """It is the last change of any conversation, none where there is no conversation."""
    at = NOW.timestamp() * 1000
    sessions = [{"key": "one", "updatedAt": at - 5000}, {"key": "two", "updatedAt": at}]
    bench.answered(200, {"ok": True, "payload": {"sessions": {"recent": sessions}}})
    assert turns.latest(bench.runtime, bench.found, TOKEN) == NOW
    bench.answered(200, {"ok": True, "payload": {"sessions": {"recent": []}}})
    assert turns.latest(bench.runtime, bench.found, TOKEN) is None


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"sessions": []},
        {"sessions": {"recent": 1}},
        *({"sessions": {"recent": [{"updatedAt": at}]}} for at in ("x", 1e99)),
    ],
)
def test_an_answer_without_its_turns_is_a_failure(bench: Bench, said: Any) -> None:
    """What cannot be read is not taken for a gateway that has had none."""
    bench.answered(200, {"ok": True, "payload": said})
    with pytest.raises(RuntimeFailure, match="does not say when its latest turn was"):
        turns.latest(bench.runtime, bench.found, TOKEN)


def test_another_s_lease_is_not_released(bench: Bench) -> None:
    """A lease that is not the one held is refused, and the one held goes on."""
    bench.prepare()
    with pytest.raises(RuntimeFailure, match="does not match"):
        bench.release(Lease("another", NOW))
    assert not bench.openclaw.begin()


@pytest.mark.parametrize("seconds", [0, LEASE_SECONDS - 1, LEASE_SECONDS])
def test_a_fence_is_lifted_without_its_lease(bench: Bench, seconds: int) -> None:
    """Whoever finds a gateway fenced by a process that is gone opens it, whether the lease still holds or not."""
    bench.prepare()
    bench.clock.seconds += seconds
    leases.lift(bench.runtime, bench.found, TOKEN)
    assert bench.openclaw.begin()


def test_a_lease_lapses_by_the_machine_s_own_clock(bench: Bench) -> None:
    """A second later than OpenClaw says, so surely; by the clock that OpenClaw goes by, which no sleep sets forward."""
    lease, before = bench.prepare(), time.monotonic()
    assert isinstance(lease, Lease)
    at = leases.lapses_at(bench.runtime, lease, NOW)
    assert at
    assert before + LEASE_SECONDS + 1 <= at <= time.monotonic() + LEASE_SECONDS + 1
    assert [leases.has_lapsed(bench.runtime, one) for one in (before, at, None)] == [True, False, False]


def test_a_wall_clock_that_is_set_forward_shortens_no_lease(bench: Bench) -> None:
    """What OpenClaw says of its end is by the wall clock, which may have been set since it was said."""
    at = leases.lapses_at(bench.runtime, Lease("one", NOW), NOW + timedelta(hours=1))
    assert at
    assert at > time.monotonic() + LEASE_SECONDS


def test_the_clock_of_another_machine_is_not_known(bench: Bench) -> None:
    """Where Docker is on another machine nobody here can tell when a lease lapses, whoever noted it."""
    bench.runtime.is_local = False
    assert leases.lapses_at(bench.runtime, Lease("one", NOW), NOW) is None
    assert not leases.has_lapsed(bench.runtime, 0.0)


def test_lifting_no_fence_puts_none_up(bench: Bench) -> None:
    """A gateway that takes new work is not asked for a lease, so that no work is refused meanwhile."""
    leases.lift(bench.runtime, bench.found, TOKEN)
    assert bench.openclaw.calls == Counter({"gateway.suspend.resume": 1})


def test_a_gateway_that_is_silent_cannot_be_opened(bench: Bench) -> None:
    """One that does not answer raises RuntimeFailure."""
    bench.runtime.pause(bench.found.id)
    with pytest.raises(RuntimeFailure, match="does not answer"):
        leases.lift(bench.runtime, bench.found, TOKEN)

"""Idle gateways put to sleep: on a real Postgres, and an engine in memory whose gateways speak the real protocol."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import select

from mosaic_fleet.db.database import Database
from mosaic_fleet.db.tables import Audit, now
from mosaic_fleet.errors import MosaicError, PartialFailure
from mosaic_fleet.fleet import activity, lifecycle, reaping, rounds, sleeping, starting, stopping
from mosaic_fleet.fleet.hosting import Hosting, working
from mosaic_fleet.fleet.sleeping import Row
from mosaic_fleet.runtimes.gateway_base import Answer, Sent
from tests.fake_openclaw import FakeOpenClaw
from tests.postgres.guests import Dying, Guests, Killed
from tests.postgres.team import FaultyDatabase


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look more often and give up sooner: the engine in memory needs no time."""
    for module in (starting, stopping):
        monkeypatch.setattr(module, "_POLL_SECONDS", 0.001)
    monkeypatch.setattr(starting, "_UNDO_SECONDS", 0.01)
    monkeypatch.setattr(sleeping, "_GRACE_SECONDS", 0.05)
    monkeypatch.setattr(sleeping, "_AGAIN_SECONDS", 0.01)


@pytest.fixture
def guests(database: Database) -> Guests:
    """Return an installation with a user whose gateway runs and was active last 43 minutes ago."""
    guests = Guests.at(database)
    guests.configure("nap.after", "0")
    guests.add("ann")
    guests.wake("ann")
    guests.age("ann", 43)
    return guests


def reap(guests: Guests, **options: Any) -> list[Row]:
    """Reap once."""
    rows = reaping.reap(guests.hosting(**options), now())
    assert rows is not None
    return rows


def outcome(guests: Guests, **options: Any) -> tuple[str, str]:
    """Reap once; return what became of the only gateway."""
    [row] = reap(guests, **options)
    return row.outcome, row.reason


def asleep(guests: Guests) -> bool:
    """Tell whether nothing of ann's gateway is left but its volume."""
    volume = f"{guests.container('ann')}-state"
    return guests.runtime.everything() == {"containers": [], "networks": [], "volumes": [volume]}


# What is stopped and what is kept ------------------------------------------------------------------------------------


def test_an_idle_gateway_is_put_to_sleep(guests: Guests) -> None:
    """It is stopped, the row and the audit say why, and the next request wakes it."""
    assert outcome(guests) == ("stopped", "idle 43 min (last: chat)")
    assert asleep(guests)
    row = guests.row("ann")
    assert (row.status, row.reason) == ("stopped", "idle 43 min (last: chat)")
    assert row.status_at
    assert now() - row.status_at < timedelta(minutes=1)
    with guests.db.transaction(system=True) as session:
        [told] = [one.details for one in session.exec(select(Audit)) if one.verb == "gateway.stop"]
    assert told == {"forced": False, "reason": "idle 43 min (last: chat)"}
    assert reap(guests) == []
    assert guests.wake("ann").woken
    assert guests.state("ann") == ("running", None)


def test_without_a_candidate_nobody_is_asked(guests: Guests) -> None:
    """A gateway that was active a moment ago is kept, with its reason, and neither Docker nor it hears of that."""
    guests.age("ann", 12)
    assert outcome(guests, runtime=Dying(guests.runtime, 1, late=False)) == ("kept", "idle 12 of 30 min (last: chat)")


def test_a_dry_run_asks_nobody(guests: Guests) -> None:
    """It tells which idle, although another reaper is at work, and changes nothing."""
    hosting = guests.hosting(runtime=Dying(guests.runtime, 1, late=False))
    with guests.db.lock("reap", "idle gateways"):
        rows = reaping.reap(hosting, now(), dry_run=True)
    assert rows == [Row("ann", "would stop", "idle 43 min (last: chat)")]
    assert guests.state("ann") == ("running", None)


def test_a_gateway_that_works_is_kept_and_that_is_activity(guests: Guests) -> None:
    """Busy, it goes on as if nobody had asked, and is not asked again for as long as it may idle."""
    assert guests.openclaw("ann").begin()
    guests.age("ann", 43)
    assert outcome(guests) == ("kept", "idle 43 min (last: chat), but busy: embedded-run, root-request")
    assert guests.openclaw("ann").begin()
    assert outcome(guests) == ("kept", "idle 0 of 30 min (last: work)")
    assert guests.openclaw("ann").calls["gateway.suspend.prepare"] == 1


@pytest.mark.parametrize("kind", ["background-exec", "cron-run", "terminal-session", "task", "queued-turn"])
def test_every_kind_of_work_keeps_a_gateway(guests: Guests, kind: str) -> None:
    """Whatever it says that it is at, it is not stopped."""
    guests.openclaw("ann").work = Counter({kind: 1})
    assert outcome(guests) == ("kept", f"idle 43 min (last: chat), but busy: {kind}")
    assert guests.runtime.running() == [guests.container("ann")]


def test_a_turn_that_mosaic_did_not_carry_is_activity(guests: Guests) -> None:
    """The gateway tells when its latest one was; from then on it idles, and is not fenced before."""
    openclaw = guests.openclaw("ann")
    openclaw.latest_turn = (now() - timedelta(minutes=10)).timestamp()
    assert outcome(guests) == ("kept", "idle 10 of 30 min (last: chat)")
    assert openclaw.calls["gateway.suspend.prepare"] == 0
    openclaw.latest_turn = None
    guests.age_row("ann", 31)
    assert outcome(guests) == ("stopped", "idle 31 min (last: chat)")


def test_a_turn_in_the_future_keeps_nothing_awake_for_longer(guests: Guests) -> None:
    """A gateway whose clock is ahead, or who says so, was active now at the latest."""
    guests.openclaw("ann").latest_turn = (now() + timedelta(days=9)).timestamp()
    assert outcome(guests) == ("kept", "idle 0 of 30 min (last: chat)")
    last = guests.row("ann").last_active_at
    assert last
    assert last <= now()


def test_a_command_in_the_container_keeps_it(guests: Guests) -> None:
    """With a terminal open in its container it is kept, and takes new work."""
    guests.runtime.attach(guests.container("ann"), "bash")
    assert outcome(guests) == ("kept", "idle 43 min (last: chat), but busy: a command in the container: bash")
    assert guests.openclaw("ann").begin()


@pytest.mark.parametrize(
    ("minutes", "kept"), [(6, True), (10, True), (11, False), (-1, True), (-59, True), (-61, False)], ids=str
)
def test_a_gateway_with_a_job_soon_is_not_put_to_sleep(guests: Guests, minutes: int, kept: bool) -> None:
    """Within ten minutes of a job of its own schedules it stays awake, and for an hour after; the row tells when.

    A job that a running gateway has not begun an hour later is broken, and does not keep it awake for ever.
    """
    due = (now() + timedelta(minutes=minutes, seconds=-1)).replace(microsecond=0)
    openclaw = guests.openclaw("ann")
    openclaw.schedules, openclaw.next_wake = True, due.timestamp()
    [row] = reap(guests)
    assert row.outcome == ("kept" if kept else "stopped")
    assert ("a job of its schedules is due" in row.reason) is kept
    assert row.next_due_at == guests.row("ann").next_due_at == due


@pytest.mark.parametrize(("own", "setting", "result"), [(None, "60", "kept"), (10, "0", "stopped"), (0, "1", "kept")])
def test_a_user_s_own_timeout_goes_before_the_setting_s(
    guests: Guests, own: int | None, setting: str, result: str
) -> None:
    """Without one of their own the setting counts; 0 is never, in both."""
    guests.configure("gateways.idle_timeout", setting)
    guests.age("ann", 43, idle_timeout_min=own)
    assert outcome(guests)[0] == result


def test_a_gateway_is_not_stopped_right_after_its_start(guests: Guests) -> None:
    """It runs for the minimum uptime, however short its timeout is."""
    guests.age("ann", 3, idle_timeout_min=1)
    assert outcome(guests) == ("kept", "started 3 of at least 5 min ago")
    guests.configure("gateways.minimum_uptime", "0")
    assert outcome(guests)[0] == "stopped"


def test_a_deactivated_user_s_gateway_does_not_wait(guests: Guests) -> None:
    """What `user disable` could not stop is stopped by the next round, busy work excepted."""
    guests.age("ann", 0)
    guests.deactivate("ann")
    assert outcome(guests) == ("stopped", "its user is deactivated")


def test_times_in_the_future_count_from_now_on(guests: Guests) -> None:
    """A clock that was put back keeps a gateway awake for its idle timeout, not until then."""
    ahead = now() + timedelta(days=300)
    guests.age("ann", 0, started_at=ahead, last_active_at=ahead)
    assert outcome(guests) == ("kept", "idle 0 of 30 min (last: start)")
    row = guests.row("ann")
    assert row.started_at
    assert row.last_active_at
    assert max(row.started_at, row.last_active_at) <= now()
    [later] = reaping.reap(guests.hosting(), now() + timedelta(minutes=31)) or []
    assert later.outcome == "stopped"


def start_elsewhere(guests: Guests) -> None:
    """Have it be starting."""
    guests.age("ann", 43, status="starting")


def made_by_another(guests: Guests) -> None:
    """Have another container run than the one that was started."""
    guests.age("ann", 43, container_id="another")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (start_elsewhere, "it is starting"),
        (made_by_another, "its container is an unknown one"),
    ],
)
def test_what_is_starting_or_unknown_is_left_alone(
    guests: Guests, spoil: Callable[[Guests], None], reason: str
) -> None:
    """Nothing is asked of it and nothing done to it."""
    spoil(guests)
    guests.runtime.changes.clear()
    assert outcome(guests) == ("kept", reason)
    assert guests.runtime.changes == []
    assert guests.openclaw("ann").calls == {}


def test_what_another_installation_made_is_left_alone(guests: Guests, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container of that name without this installation's mark is named and kept."""
    seen = guests.runtime.container(guests.container("ann"))
    assert seen
    seen.labels.clear()
    result, reason = outcome(guests)
    assert (result, "is not this Mosaic's" in reason) == ("kept", True)


def test_who_is_worked_on_is_left_to_that(guests: Guests) -> None:
    """While somebody holds the gateway's lock it is kept, and the reason names them."""
    with working(guests.hosting(), "restart", guests.users["ann"]):
        result, reason = outcome(guests)
    assert (result, reason.startswith("mosaic restart gateway")) == ("kept", True)


def test_a_container_that_ended_is_cleared_with_its_reason(guests: Guests) -> None:
    """What crashed or was gone is no longer said to run."""
    guests.runtime.end(guests.container("ann"), 137, oom_killed=True)
    assert outcome(guests) == ("stopped", "killed for using more memory than its limit (OOM)")
    assert asleep(guests)


# Given up and gone on with -------------------------------------------------------------------------------------------


class Chatted(FakeOpenClaw):
    """A gateway whose user has a short chat just before it is asked for its lease."""

    chat: Callable[[], None]

    def post(self, path: str, sent: Sent) -> Answer:
        """Chat first."""
        if b"prepare" in sent.body:
            self.chat()
        return super().post(path, sent)


def test_a_message_meanwhile_keeps_the_gateway(guests: Guests) -> None:
    """A chat between the look and the lease is seen in the look after it: the lease is given back."""
    guests.runtime.make_openclaw = Chatted
    lifecycle.restart(guests.hosting(), guests.users["ann"])
    guests.age("ann", 43)

    def chat() -> None:
        with guests.db.transaction(system=True) as session:
            activity.note(session, guests.users["ann"], "chat", now=now())

    openclaw = guests.openclaw("ann")
    openclaw.chat = chat
    assert outcome(guests) == ("kept", "idle 0 of 30 min (last: chat)")
    leased = {"gateway.suspend.prepare": 1, "gateway.suspend.resume": 1}
    assert openclaw.calls == {"cron.status": 1, "status": 1} | leased
    assert openclaw.begin()


def test_a_gateway_that_takes_its_time_is_finished_later(guests: Guests) -> None:
    """It is still stopping, the next round says so again, and the one after its end records the first reason."""
    guests.prefer("ann", primary_model="llm/never-stops")
    lifecycle.restart(guests.hosting(), guests.users["ann"])
    guests.age("ann", 43)
    for _ in range(2):
        assert outcome(guests) == ("still stopping", "it is finishing its work")
        assert guests.state("ann") == ("stopping", "idle 43 min (last: chat)")
    guests.runtime.end(guests.container("ann"), 0)
    assert outcome(guests)[0] == "stopped"
    assert guests.state("ann") == ("stopped", "idle 43 min (last: chat)")
    assert asleep(guests)


def test_a_stop_whose_signal_never_came_is_given_up_when_there_is_work(guests: Guests) -> None:
    """Docker lost at the signal: the gateway is open again, and the next round lets it run when it works by then."""
    guests.runtime.break_at = len(guests.runtime.changes) + 1
    assert outcome(guests)[0] == "failed"
    guests.runtime.break_at = None
    assert guests.state("ann")[0] == "stopping"
    openclaw = guests.openclaw("ann")
    assert openclaw.begin()
    assert outcome(guests) == ("kept", "its stop was given up, but busy: embedded-run, root-request")
    assert guests.state("ann") == ("running", None)
    openclaw.end()
    guests.age("ann", 43)
    assert outcome(guests)[0] == "stopped"


def test_a_lease_that_ran_out_stops_nothing(guests: Guests, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reaper that was held up for longer than its lease does not stop what may work again."""
    monkeypatch.setattr(stopping, "now", lambda: now() + timedelta(minutes=3))
    assert outcome(guests) == ("failed", "the gateway takes new work again: its lease has run out")
    assert guests.runtime.running() == [guests.container("ann")]


def broken(status: int, body: bytes) -> Callable[[Guests], None]:
    """Return what has the gateway answer everything with this."""

    def spoil(guests: Guests) -> None:
        guests.openclaw("ann").broken = Answer(status, body)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (broken(404, b"Not Found"), "refuses gateway.suspend.prepare: HTTP 404"),
        (broken(200, b'{"payload": {}}'), "does not say when its latest turn was"),
        (broken(200, b'{"payload": {"sessions": {"recent": []}}}'), "something else than ready or busy"),
    ],
    ids=["no rpc", "no turn", "no lease"],
)
def test_one_that_cannot_be_asked_is_not_stopped(guests: Guests, spoil: Callable[[Guests], None], words: str) -> None:
    """It fails with the reason and runs on; the others' turn comes all the same."""
    guests.add("ben")
    guests.wake("ben")
    guests.age("ben", 43)
    spoil(guests)
    rows = reap(guests)
    assert [(row.user, row.outcome) for row in rows] == [("ann", "failed"), ("ben", "stopped")]
    assert words in rows[0].reason
    assert guests.state("ann") == ("running", None)
    with pytest.raises(PartialFailure, match="1 gateways could not be put to sleep or restarted: ann: "):
        reaping.check(rows)


# Breaking it ---------------------------------------------------------------------------------------------------------


def settle(guests: Guests) -> None:
    """Reap until nothing is under way, and see that it ends asleep, with everything put away."""
    for _ in range(3):
        if guests.state("ann")[0] == "running":
            guests.age("ann", 43)
        if reap(guests) == []:
            break
    assert guests.state("ann")[0] == "stopped"
    assert asleep(guests)


@pytest.mark.parametrize("at", range(1, 4))
def test_docker_lost_at_any_change_is_made_good_by_the_next_round(guests: Guests, at: int) -> None:
    """The round fails, and the next one does what it was to do."""
    guests.runtime.break_at = len(guests.runtime.changes) + at
    assert outcome(guests)[0] == "failed"
    guests.runtime.break_at = None
    settle(guests)


@pytest.mark.parametrize("when", ["begin", "commit", "answer", "down"])
@pytest.mark.parametrize("at", range(1, 15))
def test_the_database_lost_at_any_step_is_made_good_by_the_next_round(guests: Guests, at: int, when: str) -> None:
    """Postgres failing at the so manieth transaction leaves what a request or the next round puts right."""
    with suppress(MosaicError):
        reap(guests, db=FaultyDatabase(guests.db.url, at, when))
    settle(guests)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("at", range(1, 13))
def test_a_reaper_that_is_killed_at_any_step_blocks_nobody(guests: Guests, at: int, late: bool) -> None:
    """After it died before or after the so manieth call, the next reaper puts the gateway to sleep."""
    with suppress(Killed):
        reap(guests, runtime=Dying(guests.runtime, at, late=late))
    settle(guests)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("at", range(1, 13))
def test_after_a_killed_reaper_the_next_request_has_a_gateway(guests: Guests, at: int, late: bool) -> None:
    """Whatever it left, the next request finds one gateway."""
    with suppress(Killed):
        reap(guests, runtime=Dying(guests.runtime, at, late=late))
    guests.wake("ann")
    assert guests.runtime.running() == [guests.container("ann")]
    assert guests.state("ann") == ("running", None)


def test_two_reapers_never_both_act(guests: Guests) -> None:
    """While one is at it, another one comes back with nothing at once, and does not wait."""
    seen: list[object] = []
    behind = guests.openclaw("ann")

    class Nested(FakeOpenClaw):
        """Has a second reaper come while the first one asks."""

        def post(self, path: str, sent: Sent) -> Answer:
            seen.append(reaping.reap(guests.hosting(), now()))
            return behind.post(path, sent)

    guests.runtime.replace_openclaw(guests.container("ann"), Nested())
    assert outcome(guests)[0] == "stopped"
    assert set(seen) == {None}


# What `mosaic serve` does --------------------------------------------------------------------------------------------


def test_serve_reaps_where_the_setting_says_so(guests: Guests) -> None:
    """With `never` nothing is done; else each gateway that was put to sleep is a line."""
    guests.configure("reap.every", "never")
    assert list(reaping.reap_idle(guests.hosting())) == []
    guests.configure("reap.every", "minute")
    assert list(reaping.reap_idle(guests.hosting())) == ["ann stopped: idle 43 min (last: chat), freed 800M"]
    assert list(reaping.reap_idle(guests.hosting())) == []


def test_serve_tells_what_could_not_be_put_to_sleep(guests: Guests) -> None:
    """A gateway that cannot be asked is a line and a failure."""
    guests.openclaw("ann").broken = Answer(500, b"")
    lines = reaping.reap_idle(guests.hosting())
    assert "ann failed" in next(lines)
    with pytest.raises(PartialFailure):
        next(lines)


# Activity ------------------------------------------------------------------------------------------------------------


def test_activity_is_noted_twice_a_minute(guests: Guests) -> None:
    """Within half a minute of the last one a note is not written, a later one is; one in the future is overwritten."""
    at = now()

    def noted(minutes: float) -> float:
        moment = at + timedelta(minutes=minutes)
        with guests.db.transaction(system=True) as session:
            activity.note(session, guests.users["ann"], "chat", now=moment)
        row = guests.row("ann")
        assert row.last_active_at
        return (row.last_active_at - at) / timedelta(minutes=1)

    assert [noted(minutes) for minutes in (0, 0.4, 0.5, 0.9, 5, 0.4)] == [0, 0, 0.5, 0.5, 5, 0.4]


def test_looks_and_probes_are_no_activity(guests: Guests) -> None:
    """Neither a request for where it is, nor a probe, nor a look by an operator keeps a gateway awake."""
    before = guests.row("ann").last_active_at
    hosting: Hosting = guests.hosting()
    lifecycle.running(hosting, guests.users["ann"])
    lifecycle.ensure_running(hosting, guests.users["ann"])
    rounds.health_check_all(hosting)
    rounds.reconcile(hosting)
    assert guests.row("ann").last_active_at == before
    assert outcome(guests)[0] == "stopped"


def test_a_start_is_activity(guests: Guests) -> None:
    """A gateway that was woken or restarted a moment ago is not put to sleep."""
    lifecycle.restart(guests.hosting(), guests.users["ann"])
    assert outcome(guests) == ("kept", "idle 0 of 30 min (last: start)")

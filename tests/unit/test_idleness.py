"""Which gateways may sleep, against a literal table of cases."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from mosaic_fleet.fleet import idleness
from mosaic_fleet.fleet.idleness import Gateway, Rules, Verdict

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
RULES = Rules(timedelta(minutes=30), timedelta(minutes=5))


def ago(minutes: float) -> datetime:
    """Return the time so many minutes before now; after it when negative."""
    return NOW - timedelta(minutes=minutes)


# status, active user?, started, last active, by, changed (minutes ago), own timeout → action, reason, may stop (ago)
CASES = {
    "idle for long": ("running", True, 90, 43, "chat", 43, None, "stop", "idle 43 min (last: chat)", 13),
    "idle to the second": ("running", True, 90, 30, "chat", 30, None, "stop", "idle 30 min (last: chat)", 0),
    "a second less": ("running", True, 90, 29.99, "chat", 1, None, "keep", "idle 29 of 30 min (last: chat)", -0.01),
    "just active": ("running", True, 90, 0, "work", 0, None, "keep", "idle 0 of 30 min (last: work)", -30),
    "never active": ("running", True, 45, None, None, 45, None, "stop", "idle 45 min (last: start)", 15),
    "never active, young": ("running", True, 12, None, None, 12, None, "keep", "idle 12 of 30 min (last: start)", -18),
    "active before its start": ("running", True, 31, 600, "chat", 31, None, "stop", "idle 31 min (last: start)", 1),
    "by nobody knows what": ("running", True, 90, 40, None, 40, None, "stop", "idle 40 min (last: activity)", 10),
    "start unknown": ("running", True, None, 40, "chat", 50, None, "stop", "idle 40 min (last: chat)", 10),
    "nothing known": ("running", True, None, None, None, 31, None, "stop", "idle 31 min (last: start)", 1),
    "nothing known, young": ("running", True, None, None, None, 3, None, "keep", "idle 3 of 30 min (last: start)", -27),
    "active in the future": ("running", True, 90, -60, "chat", 1, None, "keep", "idle 0 of 30 min (last: chat)", -30),
    "started in the future": ("running", True, -60, 90, "chat", 1, None, "keep", "idle 0 of 30 min (last: start)", -30),
    "all in the future": ("running", True, -60, -50, "chat", -60, None, "keep", "idle 0 of 30 min (last: start)", -30),
    "own timeout, shorter": ("running", True, 90, 10, "chat", 10, 10, "stop", "idle 10 min (last: chat)", 0),
    "own timeout, longer": ("running", True, 900, 43, "chat", 43, 45, "keep", "idle 43 of 45 min (last: chat)", -2),
    "own timeout, days": (
        "running",
        True,
        9000,
        43,
        "chat",
        43,
        2880,
        "keep",
        "idle 43 of 2880 min (last: chat)",
        -2837,
    ),
    "own timeout 0": (
        "running",
        True,
        9000,
        9000,
        "chat",
        1,
        0,
        "keep",
        "its idle timeout is 0: it never sleeps",
        None,
    ),
    "uptime": ("running", True, 3, 2, "chat", 2, 1, "keep", "started 3 of at least 5 min ago", -2),
    "uptime over": ("running", True, 5, 2, "chat", 2, 1, "stop", "idle 2 min (last: chat)", 0),
    "user deactivated": ("running", False, 1, 0, "chat", 0, None, "stop", "its user is deactivated", 0),
    "deactivated, never sleeps": ("running", False, 1, 0, "chat", 0, 0, "stop", "its user is deactivated", 0),
    "starting": ("starting", True, 900, 900, "chat", 900, None, "keep", "it is starting", None),
    "starting, deactivated": ("starting", False, 900, 900, "chat", 900, None, "keep", "it is starting", None),
    "naps for long": ("paused", True, 900, 90, "chat", 90, None, "stop", "idle 90 min (last: chat)", 60),
    "naps": ("paused", True, 90, 12, "chat", 12, None, "keep", "naps, idle 12 of 30 min (last: chat)", -18),
    "naps, never sleeps": (
        "paused",
        True,
        9,
        9,
        "chat",
        9,
        0,
        "keep",
        "naps, its idle timeout is 0: it never sleeps",
        None,
    ),
    "naps, user deactivated": ("paused", False, 1, 0, "chat", 0, None, "stop", "its user is deactivated", 0),
    "left dozing": ("dozing", True, 90, 43, "chat", 43, None, "stop", "idle 43 min (last: chat)", 13),
    "stopping": ("stopping", True, 900, 0, "chat", 0, 0, "finish", "its stop was begun", None),
    "stopping, deactivated": ("stopping", False, 1, 0, "chat", 0, None, "finish", "its stop was begun", None),
    "failed": ("error", True, 900, 900, "chat", 900, None, "keep", "it is error", None),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_table_of_decisions(case: tuple[object, ...]) -> None:
    """Each row's gateway is stopped, kept or finished, for the reason and at the time that stand beside it."""
    status, active, started, last, by, changed, timeout, action, reason, at = case
    times = [None if one is None else ago(one) for one in (started, last, changed, at)]
    gateway = Gateway("ann", active, status, times[2], times[0], times[1], by, timeout)
    assert idleness.judge(gateway, RULES, NOW) == Verdict(action, reason, times[3])


def test_a_setting_of_0_keeps_all_that_have_no_timeout_of_their_own() -> None:
    """With the setting at 0 only a user's own timeout puts a gateway to sleep."""
    never = Rules(timedelta(0), timedelta(0))
    gateway = Gateway("ann", True, "running", ago(900), ago(900))
    own = Gateway("ben", True, "running", ago(900), ago(900), timeout_min=20)
    assert idleness.judge(gateway, never, NOW).action == "keep"
    assert idleness.judge(own, never, NOW).action == "stop"


@pytest.mark.parametrize(
    ("minutes", "said"),
    [
        (None, None),
        (10.01, None),
        (10, "in 10 min"),
        (1.5, "in 1 min"),
        (0.5, "now"),
        (0, "now"),
        (-60, "now"),
        (-60.01, None),
        (-9000, None),
    ],
    ids=str,
)
def test_a_job_within_ten_minutes_is_due_soon(minutes: float | None, said: str | None) -> None:
    """A job due within ten minutes, or late, keeps a gateway awake; a later one, none, or a long overdue one do not."""
    due = None if minutes is None else ago(-minutes)
    assert idleness.due_soon(due, NOW) == (said and f"a job of its schedules is due {said}")


@pytest.mark.parametrize(
    ("at", "due", "expected"),
    [(-5, None, -5), (-5, -10, -10), (-5, -15, -15), (-5, -15.1, -5), (-5, -5, -5), (-5, -4, -5), (-5, 3, -5)],
    ids=str,
)
def test_the_time_of_a_stop_is_not_right_before_a_job(at: float, due: float | None, expected: float) -> None:
    """A stop that would fall into the ten minutes before a job comes with the job's time at the earliest."""
    assert idleness.after_job(ago(at), None if due is None else ago(due)) == ago(expected)


@pytest.mark.parametrize(
    ("started", "active", "ahead"), [(1, 1, False), (0, 0, False), (1, -1, True), (-1, 1, True), (1, None, False)]
)
def test_times_ahead_of_the_clock_are_told(started: float, active: float | None, ahead: bool) -> None:
    """A start or an activity after now is found, so that it can be set to now."""
    gateway = Gateway("ann", True, "running", NOW, ago(started), None if active is None else ago(active))
    assert idleness.is_ahead(gateway, NOW) is ahead


# status, last active, next job (minutes ago, or ahead when negative), own timeout → action, reason
NAPS = {
    "active a moment ago": ("running", 0, None, None, "keep", "idle 0 of 30 min (last: chat)"),
    "a second less": ("running", 1.99, None, None, "keep", "idle 1 of 30 min (last: chat)"),
    "to the second": ("running", 2, None, None, "nap", "idle 2 min (last: chat)"),
    "for longer": ("running", 29.99, None, None, "nap", "idle 29 min (last: chat)"),
    "at its timeout": ("running", 30, None, None, "stop", "idle 30 min (last: chat)"),
    "own timeout 0": ("running", 9000, None, 0, "nap", "idle 9000 min (last: chat)"),
    "own timeout, days": ("running", 43, None, 4320, "nap", "idle 43 min (last: chat)"),
    "left dozing": ("dozing", 3, None, None, "nap", "idle 3 min (last: chat)"),
    "naps already": ("paused", 3, None, None, "keep", "naps, idle 3 of 30 min (last: chat)"),
    "naps, job far": ("paused", 3, -10.01, None, "keep", "naps, idle 3 of 30 min (last: chat)"),
    "naps, job soon": ("paused", 3, -10, None, "wake", "a job of its schedules is due in 10 min"),
    "naps, job late": ("paused", 3, 1, None, "wake", "a job of its schedules is due now"),
    "naps, job missed for long": ("paused", 3, 900, None, "wake", "a job of its schedules is due now"),
    "naps, at its timeout, job soon": ("paused", 30, -5, None, "wake", "a job of its schedules is due in 5 min"),
    "naps, at its timeout, job missed": ("paused", 30, 900, None, "wake", "a job of its schedules is due now"),
    "naps, at its timeout, job far": ("paused", 30, -11, None, "stop", "idle 30 min (last: chat)"),
    "starting": ("starting", 3, None, None, "keep", "it is starting"),
}


@pytest.mark.parametrize("case", NAPS.values(), ids=NAPS)
def test_the_table_of_naps(case: tuple[str, float, float | None, int | None, str, str]) -> None:
    """Each row's gateway, started long ago, naps, goes on or is kept; its idle timeout goes before."""
    status, last, job, timeout, action, reason = case
    due = None if job is None else ago(job)
    gateway = Gateway("ann", True, status, ago(last), ago(9999), ago(last), "chat", timeout, due)
    verdict = idleness.judge(gateway, replace(RULES, nap_after=timedelta(minutes=2)), NOW)
    assert (verdict.action, verdict.reason) == (action, reason)


def test_one_that_naps_knows_when_it_is_stopped() -> None:
    """A gateway that naps or is to nap says when it may be stopped."""
    gateway = Gateway("ann", True, "running", ago(12), ago(90), ago(12), "chat")
    rules = replace(RULES, nap_after=timedelta(minutes=2))
    assert idleness.judge(gateway, rules, NOW).at == ago(-18)
    assert idleness.judge(replace(gateway, status="paused"), rules, NOW).at == ago(-18)

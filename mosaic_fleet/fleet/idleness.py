"""Which gateways may sleep: decided from what the database knows, without asking Docker or anybody else. Pure.

A decision to stop is a proposal: whether the gateway has nothing to do it says itself (see leases). Activity is what
`activity` lists, and a start; see docs/how-to/sleep.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from mosaic_fleet.db.gateway_reads import STARTED

# A job that is due so soon is waited for: asleep, its gateway would miss it.
DUE_SOON = timedelta(minutes=10)
# One that is overdue for longer was not started although its gateway runs: it keeps nothing awake any more.
OVERDUE = timedelta(hours=1)

Action = Literal["keep", "nap", "wake", "stop", "finish"]


@dataclass(frozen=True)
class Gateway:
    """What is known of one user's gateway; times may be missing or lie in the future.

    `timeout_min` is the user's own idle timeout in minutes, 0 for never, None for the setting's; `changed_at` is when
    anything of it was last written down; `next_due_at` is what one that naps said of its schedules before.
    """

    user: str
    is_active: bool
    status: str
    changed_at: datetime
    started_at: datetime | None = None
    last_active_at: datetime | None = None
    last_active_by: str | None = None
    timeout_min: int | None = None
    next_due_at: datetime | None = None


@dataclass(frozen=True)
class Rules:
    """The settings that decide: how long a gateway idles (0 for ever) and how long it runs at least.

    After `nap_after` of idleness it naps, never when that is 0.
    """

    idle_timeout: timedelta
    minimum_uptime: timedelta
    nap_after: timedelta = timedelta(0)


@dataclass(frozen=True)
class Verdict:
    """What may be done with a gateway and why, in words; `at` is when it may be stopped if nothing happens till then.

    `finish` is a stop that was begun; `at` is None when that is never, or up to somebody else.
    """

    action: Action
    reason: str
    at: datetime | None = None


def rules(settings: Mapping[str, Any]) -> Rules:
    """Read the rules from the settings."""
    return Rules(
        timedelta(minutes=settings["gateways.idle_timeout"]),
        timedelta(seconds=settings["gateways.minimum_uptime"]),
        timedelta(minutes=settings["nap.after"]),
    )


def judge(gateway: Gateway, rules: Rules, now: datetime) -> Verdict:
    """Decide what may be done with a gateway that is meant to be there; one that naps goes on idling."""
    if gateway.status == "stopping":
        return Verdict("finish", "its stop was begun")
    if gateway.status not in STARTED:
        return Verdict("keep", f"it is {gateway.status}")
    if not gateway.is_active:
        return Verdict("stop", "its user is deactivated", now)
    timeout = rules.idle_timeout if gateway.timeout_min is None else timedelta(minutes=gateway.timeout_min)
    verdict = Verdict("keep", "its idle timeout is 0: it never sleeps")
    if timeout:
        verdict = _by_time(gateway, timeout, rules.minimum_uptime, now)
    if gateway.status == "paused":
        return _napping(gateway, verdict, now)
    return verdict if verdict.action == "stop" else _awake(gateway, verdict, rules, now)


def due_soon(due: datetime | None, now: datetime) -> str | None:
    """Say that a job of the gateway's own schedules is due soon, or late; None when it is not, or long overdue."""
    if due is None or not -OVERDUE <= due - now <= DUE_SOON:
        return None
    minutes = _minutes(due - now)
    return f"a job of its schedules is due {f'in {minutes} min' if minutes > 0 else 'now'}"


def after_job(at: datetime, due: datetime | None) -> datetime:
    """Return when a gateway may be stopped at the earliest, whose next job is due then: not right before it."""
    return due if due is not None and at < due <= at + DUE_SOON else at


def last_active(gateway: Gateway, now: datetime) -> tuple[datetime, str]:
    """Return when a gateway was last active, and what that was; its start counts, and no time is after now."""
    started = min(gateway.started_at or gateway.changed_at, now)
    active = min(gateway.last_active_at or started, now)
    return (active, gateway.last_active_by or "activity") if active > started else (started, "start")


def is_ahead(gateway: Gateway, now: datetime) -> bool:
    """Tell whether its last activity lies in the future, as a clock that was put back leaves it."""
    return any(at is not None and at > now for at in (gateway.last_active_at, gateway.started_at))


def _by_time(gateway: Gateway, timeout: timedelta, minimum_uptime: timedelta, now: datetime) -> Verdict:
    started = min(gateway.started_at or gateway.changed_at, now)
    active, by = last_active(gateway, now)
    at = max(active + timeout, started + minimum_uptime)
    idle = f"idle {_minutes(now - active)}"
    if now - active < timeout:
        return Verdict("keep", f"{idle} of {_minutes(timeout)} min (last: {by})", at)
    if now - started < minimum_uptime:
        return Verdict("keep", f"started {_minutes(now - started)} of at least {_minutes(minimum_uptime)} min ago", at)
    return Verdict("stop", f"{idle} min (last: {by})", at)


def _napping(gateway: Gateway, verdict: Verdict, now: datetime) -> Verdict:
    """Have one go on whose job comes; it was due later when the nap began, so however late it is, the nap is why."""
    soon = due_soon(gateway.next_due_at and max(gateway.next_due_at, now), now)
    if soon:
        return Verdict("wake", soon, verdict.at)
    return verdict if verdict.action == "stop" else Verdict("keep", f"naps, {verdict.reason}", verdict.at)


def _awake(gateway: Gateway, verdict: Verdict, rules: Rules, now: datetime) -> Verdict:
    active, by = last_active(gateway, now)
    if not rules.nap_after or now - active < rules.nap_after:
        return verdict
    return Verdict("nap", f"idle {_minutes(now - active)} min (last: {by})", verdict.at)


def _minutes(span: timedelta) -> int:
    return int(span.total_seconds() // 60)

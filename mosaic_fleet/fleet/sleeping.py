"""Puts one gateway to sleep under its lock: look again, ask it, look once more, stop or pause it, record why."""

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from pydantic import SecretStr

from mosaic_fleet.errors import NotFound, RuntimeFailure
from mosaic_fleet.fleet import activity, containers, endings, idleness, leases, naps, schedules, stopping, turns
from mosaic_fleet.fleet.hosting import Work
from mosaic_fleet.fleet.idleness import Action, Gateway, Rules, Verdict
from mosaic_fleet.fleet.leases import Busy, Lease
from mosaic_fleet.names import format_size
from mosaic_fleet.runtimes.gateway_base import Container

# An idle gateway ends within 10 s of SIGTERM; one that takes longer ends by itself, and the next round finds it ended.
_GRACE_SECONDS = 30.0
_AGAIN_SECONDS = 1.0
_WORTH_TELLING = 1 << 20

Outcome = Literal[
    "napped",
    "woken",
    "restarted",
    "stopped",
    "would nap",
    "would wake",
    "would stop",
    "still stopping",
    "kept",
    "failed",
]
_DONE: dict[Action, Outcome] = {"nap": "napped", "stop": "stopped"}


@dataclass(frozen=True)
class Row:
    """What became of a gateway and why; `next_due_at` is when a job of its own schedules is due, if it was asked.

    `freed` are the bytes of memory that its nap or stop gave back, as far as that was measured.
    """

    user: str
    outcome: Outcome
    reason: str
    next_due_at: datetime | None = None
    freed: int = 0

    @property
    def is_changed(self) -> bool:
        """Tell whether the gateway is not as it was before."""
        return self.outcome in ("napped", "woken", "restarted", "stopped", "still stopping")

    @property
    def told(self) -> str:
        """Say why, and what it gave back."""
        return f"{self.reason}, freed {format_size(self.freed)}" if self.freed >= _WORTH_TELLING else self.reason


@dataclass(frozen=True)
class Case:
    """A gateway that may be put to sleep, by the rules and the time of this round; its lock is held."""

    work: Work
    user: str
    rules: Rules
    now: datetime


def put_to_sleep(case: Case) -> Row:
    """Stop a gateway that idles and has nothing to do, or have it nap; say why, or why not.

    Raises StillStopping when it takes its time to end, RuntimeFailure when it cannot be asked, paused or stopped: it
    takes new work then as before, or the next round goes on with the stop.
    """
    gateway, verdict = _look(case)
    if verdict.action == "keep":
        return Row(case.user, "kept", verdict.reason)
    found = stopping.check_ours(case.work)
    with case.work.row() as row:
        begun_for = stopping.cause(row) if row else None
    if found is None or not found.lives:
        return _stopped(case, begun_for if verdict.action == "finish" else endings.why(found, ""))
    token, known = _token(case)
    if verdict.action == "finish":
        return _finish(case, found, token, begun_for)
    if found.state not in ("running", "paused") or found.id != known:
        return Row(case.user, "kept", f"its container is {found.state if found.id == known else 'an unknown one'}")
    if found.state == "paused" or gateway.status != "running":
        naps.go_on(case.work, found, token)  # asleep it can neither be asked nor end by itself
    if verdict.action == "wake":
        return Row(case.user, "woken", verdict.reason, gateway.next_due_at)
    due = _due(case, found, token)
    if _had_turn(case, found, token, gateway):
        gateway, verdict = _look(case)
    done = _proposed(case, verdict, due)
    if done.outcome != "kept":
        done = _ask(case, found, token, done, gateway.last_active_at)
    return replace(done, outcome="woken") if done.outcome == "kept" and found.state == "paused" else done


def _proposed(case: Case, verdict: Verdict, due: datetime | None) -> Row:
    """Say what time proposes to do; nothing where it was active after all, or its schedules are against it."""
    if verdict.action not in _DONE:
        return Row(case.user, "kept", verdict.reason, due)
    if soon := _obligation(case, verdict, due):
        return Row(case.user, "kept", f"{verdict.reason}, but {soon}", due)
    return Row(case.user, _DONE[verdict.action], verdict.reason, due)


def _ask(case: Case, found: Container, token: SecretStr, done: Row, active: datetime | None) -> Row:
    """Do what is to be done while the gateway promises to take no new work; what was active since `active` is kept."""
    if not naps.announce(case.work, active):
        return _kept(case, done)
    with naps.called_off(case.work, found, token):
        lease = leases.prepare(case.work.runtime, found, token)
        if isinstance(lease, Busy):
            naps.retract(case.work)
            return _busy(case, lease, done)
        if _look(case)[0].last_active_at != active:
            leases.release(case.work.runtime, found, token, lease)
            naps.retract(case.work)
            return _kept(case, done)
        held = _held(case, found)
        if done.outcome == "stopped":
            return replace(_stopped(case, done.reason, done.next_due_at, lease=lease), freed=held)
        given_back = naps.nap(case.work, found, lease, reason=done.reason)
    rest = _held(case, found) if given_back else 0
    return replace(done, freed=max(held - rest, 0) if rest else 0)


def _held(case: Case, found: Container) -> int:
    """Tell how many bytes of memory it holds, 0 when that cannot be told: nobody is kept awake for a figure."""
    with suppress(RuntimeFailure):
        return case.work.runtime.memory([found.id]).get(found.id, 0)
    return 0


def _obligation(case: Case, verdict: Verdict, due: datetime | None) -> str | None:
    """Say what its schedules have against it; a nap must not make a gateway miss what it does not tell of."""
    if soon := idleness.due_soon(due, case.now):
        return soon
    if verdict.action != "nap" or (due and due > case.now):
        return None
    with case.work.row() as row:
        has_schedules = row is not None and (row.config.get("cron") or {}).get("enabled")
    return "its schedules do not say when their next job is due" if due or has_schedules else None


def _kept(case: Case, done: Row) -> Row:
    """Say what became of a gateway that was active a moment ago."""
    return replace(done, outcome="kept", reason=_look(case)[1].reason)


def _finish(case: Case, found: Container, token: SecretStr, reason: str | None) -> Row:
    """Go on with a stop that was begun; one whose signal never came may have work again, and is let be."""
    try:
        asked = leases.prepare(case.work.runtime, found, token)
    except RuntimeFailure:
        asked = Busy((), draining=True)  # one that ends does not answer
    if isinstance(asked, Lease):
        with naps.called_off(case.work, found, token):
            return _stopped(case, reason, lease=asked)
    if asked.draining:
        return _stopped(case, reason, grace=_AGAIN_SECONDS)
    with case.work.row() as row:
        if row:
            row.status, row.reason = "running", None
    return _busy(case, asked, Row(case.user, "kept", "its stop was given up"))


def _stopped(
    case: Case,
    reason: str | None,
    due: datetime | None = None,
    *,
    lease: Lease | None = None,
    grace: float | None = None,
) -> Row:
    stopping.stop(case.work, _GRACE_SECONDS if grace is None else grace, force=False, reason=reason, lease=lease)
    return Row(case.user, "stopped", reason or "its stop was begun before", due)


def _busy(case: Case, busy: Busy, kept: Row) -> Row:
    """Note that it works: that is activity, so it is not asked again for as long as it may idle."""
    with case.work.hosting.db.transaction(system=True) as session:
        activity.note(session, case.work.user, "work", now=case.now)
    return replace(kept, outcome="kept", reason=f"{kept.reason}, but busy: {', '.join(busy.blockers)}")


def _look(case: Case) -> tuple[Gateway, Verdict]:
    """Judge it by what the database says now."""
    with case.work.hosting.db.transaction(system=True) as session:
        gateway = activity.awake(session, case.work.user).get(case.work.user)
    if gateway is None:
        return Gateway(case.user, False, "stopped", case.now), Verdict("keep", "it sleeps already")
    return gateway, idleness.judge(gateway, case.rules, case.now)


def _token(case: Case) -> tuple[SecretStr, str | None]:
    """Open the gateway's token, and return which container was started."""
    with case.work.row() as row:
        if row is None:
            raise NotFound(f'user "{case.user}" has no gateway any more')
        return containers.token(row, case.work.hosting.box), row.container_id


def _had_turn(case: Case, found: Container, token: SecretStr, gateway: Gateway) -> bool:
    """Ask when its latest turn was, and note it where Mosaic knew of none since; tell whether it did."""
    at = turns.latest(case.work.runtime, found, token)
    if at is None or at <= idleness.last_active(gateway, case.now)[0]:
        return False
    with case.work.hosting.db.transaction(system=True) as session:
        activity.note(session, case.work.user, "chat", now=min(at, case.now))
    return True


def _due(case: Case, found: Container, token: SecretStr) -> datetime | None:
    """Ask when the next job of its schedules is due, and keep it for when it sleeps."""
    runtime = case.work.runtime
    try:
        due = schedules.next_due(runtime, found, token)
    except RuntimeFailure:  # suspended, it does not say: a killed reaper may have left it so
        if isinstance(left := leases.prepare(runtime, found, token), Lease):
            leases.release(runtime, found, token, left)
        due = schedules.next_due(runtime, found, token)
    with case.work.row() as row:
        if row:
            row.next_due_at = due
    return due

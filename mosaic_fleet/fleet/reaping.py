"""Puts idle gateways to sleep: time proposes, the gateway itself proves that it has nothing to do, then it is stopped.

Between its proof and its end a gateway takes nothing new (see leases), so no turn, job or terminal is cut off.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from mosaic_fleet import configuration
from mosaic_fleet.db import tables
from mosaic_fleet.errors import Conflict, MosaicError, PartialFailure
from mosaic_fleet.fleet import activity, idleness, refreshing, sleeping, stopping
from mosaic_fleet.fleet.hosting import Hosting, working
from mosaic_fleet.fleet.idleness import Action, Gateway, Rules, Verdict
from mosaic_fleet.fleet.refreshing import Outcome as Refreshed
from mosaic_fleet.fleet.sleeping import Case, Outcome, Row

_AT_ONCE = 8
_TAKING_SECONDS = 0.1
_OLD = "it runs with something that was changed"
_PROPOSED: dict[Action, Outcome] = {"keep": "kept", "nap": "would nap", "wake": "would wake"}


@dataclass(frozen=True)
class _Looked:
    """A gateway as the database has it, and what may be done with it."""

    id: UUID
    gateway: Gateway
    verdict: Verdict


def reap(hosting: Hosting, now: datetime, *, dry_run: bool = False, follow: bool = True) -> list[Row] | None:
    """Stop the gateways that idle; return what became of every one that is awake, None when another is at it.

    With `follow` those that are marked as stale and have nothing to do are restarted before. Without a candidate
    neither Docker nor a gateway is asked, and in a dry run never.
    """
    if dry_run:
        _, looked = _look(hosting, now)
        return [_untouched(one, _proposed(one.verdict)) for one in looked]
    with ExitStack() as held:
        try:
            held.enter_context(hosting.db.lock("reap", "idle gateways"))
        except Conflict:
            return None
        followed = [_followed(one) for one in refreshing.refresh_all(hosting, marked=True)] if follow else []
        # Restarts take their time, and what was started then does not lie in the future.
        return _together(_round(hosting, max(now, tables.now()) if followed else now), followed)


def reap_idle(hosting: Hosting) -> Iterator[str]:
    """Reap where the setting `reap.every` says so; yield a line for each gateway that was stopped or could not be.

    For a server, which has stale gateways follow in a duty of its own.
    """
    with hosting.db.transaction(system=True) as session:
        if configuration.values(session)["reap.every"] == "never":
            return
    rows = reap(hosting, tables.now(), follow=False) or []
    yield from (f"{row.user} {row.outcome}: {row.told}" for row in rows if row.outcome != "kept")
    check(rows)


def check(rows: Sequence[Row]) -> None:
    """Raise PartialFailure when a gateway could not be put to sleep or restarted."""
    failed = [row for row in rows if row.outcome == "failed"]
    if failed:
        told = "; ".join(f"{row.user}: {row.reason}" for row in failed)
        raise PartialFailure(f"{len(failed)} gateways could not be put to sleep or restarted: {told}", rows=rows)


def _followed(done: Refreshed) -> Row:
    """Say what became of a stale gateway; a busy one goes on with what it has."""
    if done.result == "busy":
        return Row(done.user, "kept", f"{_OLD}, but busy: {done.reason}")
    outcomes: dict[str, Outcome] = {"restarted": "restarted", "stopped": "stopped"}
    return Row(done.user, outcomes.get(done.result, "failed"), done.reason or _OLD)


def _together(rows: Sequence[Row], followed: Sequence[Row]) -> list[Row]:
    """Say one thing of each gateway: a failure before all, and what was done to it last before what was not done."""
    told = {row.user: row for row in rows}
    for row in followed:
        if row.outcome == "failed" or row.user not in told or not told[row.user].is_changed:
            told[row.user] = row
    return list(told.values())


def _proposed(verdict: Verdict) -> Outcome:
    return _PROPOSED.get(verdict.action, "would stop")


def _round(hosting: Hosting, now: datetime) -> list[Row]:
    rules, looked = _look(hosting, now)
    if any(idleness.is_ahead(one.gateway, now) for one in looked):
        with hosting.db.transaction(system=True) as session:
            activity.hold_back(session, now=now)
    candidates = [one for one in looked if one.verdict.action != "keep"]
    done: dict[UUID, Row] = {}
    if candidates:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            rows = pool.map(lambda one: _one(hosting, one, rules, now), candidates)
            done = dict(zip([one.id for one in candidates], rows, strict=True))
    return [done.get(one.id) or _untouched(one, "kept") for one in looked]


def _untouched(one: _Looked, outcome: Outcome) -> Row:
    """Say what becomes of a gateway that was not asked; what one that naps said before still holds."""
    due = one.gateway.next_due_at if one.gateway.status == "paused" else None
    return Row(one.gateway.user, outcome, one.verdict.reason, due)


def _look(hosting: Hosting, now: datetime) -> tuple[Rules, list[_Looked]]:
    """Judge every gateway that is meant to be there."""
    with hosting.db.transaction(system=True) as session:
        rules = idleness.rules(configuration.values(session))
        found = activity.awake(session)
    return rules, [_Looked(user, one, idleness.judge(one, rules, now)) for user, one in found.items()]


def _one(hosting: Hosting, one: _Looked, rules: Rules, now: datetime) -> Row:
    """Put one gateway to sleep under its lock, if it lets itself; whatever goes wrong becomes its row."""
    name = one.gateway.user
    try:
        with working(hosting, "reap", one.id, wait=_TAKING_SECONDS) as work:
            return sleeping.put_to_sleep(Case(work, name, rules, now))
    except Conflict as error:  # somebody works on it, or the container is another installation's
        return Row(name, "kept", error.message)
    except stopping.StillStopping:
        return Row(name, "still stopping", "it is finishing its work")
    except MosaicError as error:
        return Row(name, "failed", error.message)

"""New gateway tokens: whose are meant, and what became of each; what `mosaic secrets rotate-tokens` says."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import TYPE_CHECKING

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.cli.output import document, table
from mosaic_fleet.errors import MosaicError, PartialFailure

if TYPE_CHECKING:
    from mosaic_fleet.fleet.deploying import Fleet, Report
    from mosaic_fleet.fleet.refreshing import Outcome
    from mosaic_fleet.fleet.tokens import Turn

_LEFT = ("failed", "not tried", "busy")


@dataclass(frozen=True)
class Wanted:
    """Whose tokens: agents and users by name, None for all; those made before a time, if one is given."""

    agents: Sequence[str] | None
    users: Sequence[str] | None
    made_before: datetime | None
    drain: bool = False


@dataclass(frozen=True)
class Renewals:
    """What is done, or was, for agents and for users' gateways."""

    agents: "Sequence[Turn]" = ()
    users: "Sequence[Outcome]" = ()


def planned(mosaic: Mosaic, wanted: Wanted) -> Renewals:
    """Say what would be done; changes nothing. Raises NotFound for an unknown name."""
    from mosaic_fleet.fleet import renewing

    with mosaic.db.transaction(system=True) as session:
        people = renewing.chosen(session, wanted.users, made_before=wanted.made_before)
        outcomes = list(renewing.plan(session, list(people)))
    return Renewals(_turns(mosaic, wanted, None, 0), outcomes)


def renewed(mosaic: Mosaic, wanted: Wanted, report: "Report", *, timeout: float) -> Renewals:
    """Renew tokens: agents first, then users; raises NotFound for an unknown name before anything is done.

    Agents that were named raise what keeps them from it.
    """
    from mosaic_fleet.fleet import renewing
    from mosaic_fleet.fleet.refreshing import Outcome

    with mosaic.db.transaction(system=True) as session:
        people = renewing.chosen(session, wanted.users, made_before=wanted.made_before)
    turns = _turns(mosaic, wanted, report, timeout)
    outcomes = []
    for number, (user, name) in enumerate(people.items(), 1):
        report.step(f"gateway of {name}: new token ({number} of {len(people)})")
        try:
            outcomes.append(renewing.renew(mosaic.hosting, user, drain=wanted.drain))
        except MosaicError as error:
            outcomes.append(Outcome(name, "failed", error.message))
    return Renewals(turns, outcomes)


def show(found: Renewals, *, json: bool) -> None:
    """Print whose turn would come."""
    if json:
        document({"agents": found.agents, "users": found.users}, json=True)
        return
    rows = [("agent", one.agent, one.stack, one.action, one.reason) for one in found.agents]
    rows += [("user", one.user, "", one.result, one.reason) for one in found.users]
    titles = ("KIND", "NAME", "STACK", "ACTION", "REASON")
    table("tokens", rows, {title: itemgetter(at) for at, title in enumerate(titles)})


def tell(found: Renewals, *, json: bool, quiet: bool) -> None:
    """Print what became of each; raises PartialFailure naming those whose token is the old one still."""
    left = [one.agent for one in found.agents if one.action in _LEFT]
    left += [one.user for one in found.users if one.result in _LEFT]
    lines = [_line(one.action, one.agent, one.reason) for one in found.agents]
    lines += [_line(one.result, f"gateway of {one.user}", one.reason) for one in found.users]
    text = "\n".join(lines) or "unchanged, there is no token to renew"
    rows = [*found.agents, *found.users]
    values = {"agents": found.agents, "users": found.users, "changed": len(left) < len(rows)}
    document(values, text=text, json=json, quiet=quiet)
    if left:
        raise PartialFailure(
            f"{len(left)} of {len(rows)} tokens were not renewed: {', '.join(left)}",
            rows=rows,
            hint="run it again later, with --drain for users' busy gateways",
        )


def _line(result: str, name: str, reason: str) -> str:
    words = {"store": "stored", "stored": "stored", "busy": "left", "failed": "failed", "not tried": "not tried"}
    if result in ("store", "stored"):
        reason = reason or "it does not run"
    if result == "busy":
        reason = f"busy: {reason}"
    return f"{words.get(result, 'new token'):<9}  {name}" + (f" ({reason})" if reason else "")


def _turns(mosaic: Mosaic, wanted: Wanted, report: "Report | None", timeout: float) -> "list[Turn]":
    """Renew agents' tokens, or plan it where there is nobody to report to."""
    from mosaic_fleet.fleet import deploying, tokens

    if wanted.agents == []:
        return []
    chosen = tokens.Wanted(wanted.agents or (), wanted.made_before)
    fleet: Fleet = deploying.Fleet(mosaic.db, mosaic.box, mosaic.runtime, report or _Nobody())
    if report is None:
        return tokens.turns(fleet, chosen) if wanted.agents else tokens.plan_all(fleet, chosen)
    act = tokens.rotate if wanted.agents else tokens.rotate_all
    return act(fleet, chosen, timeout=timeout)


class _Nobody:
    """Takes reports of what is only planned."""

    def step(self, text: str) -> None:
        """Take a line."""

    def states(self, states: object) -> None:
        """Take how the agents are."""

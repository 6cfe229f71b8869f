"""New gateway tokens for the agents of the roster: one after the other, each healthy before the next one's turn."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from mosaic_fleet.errors import Conflict, MosaicError
from mosaic_fleet.fleet import agents, deploying, deployments, fingerprints, stack
from mosaic_fleet.fleet.deploying import Fleet
from mosaic_fleet.fleet.options import Options


@dataclass(frozen=True)
class Wanted:
    """Whose tokens to renew: the named agents, or all; those set before a time, if one is given."""

    agents: Sequence[str] = ()
    set_before: datetime | None = None


@dataclass(frozen=True)
class Turn:
    """What is done for an agent: `renew`, `finish` what an earlier run began, or `store` where it does not run.

    Of all agents some may be `failed` with a reason, or `not tried` behind one of their stack that was.
    """

    agent: str
    stack: str
    action: str
    reason: str = ""


def turns(fleet: Fleet, wanted: Wanted) -> list[Turn]:
    """List what a rotation does, in its order; changes nothing.

    Raises NotFound for an unknown agent, Conflict where a deploy would carry out more than the new tokens.
    """
    chosen = _choose(fleet, wanted)
    found = []
    for name in sorted(set(chosen.values())):
        actions = _actions(fleet, name)
        found += [Turn(agent, name, actions[agent]) for agent in chosen if chosen[agent] == name]
        found += [
            Turn(agent, name, "finish") for agent, one in actions.items() if one == "finish" and agent not in chosen
        ]
    return sorted(found, key=lambda turn: (turn.stack, turn.action != "finish", turn.agent))


def rotate(fleet: Fleet, wanted: Wanted, *, timeout: float) -> list[Turn]:
    """Renew tokens, waiting up to `timeout` seconds for each agent; return what was done.

    A busy gateway ends its turns before it stops: OpenClaw does so itself within the stop grace. Raises RuntimeFailure
    at the first agent that does not become healthy; it and those behind it are left to the next run.
    """
    planned = turns(fleet, wanted)
    for number, turn in enumerate(planned, 1):
        fleet.report.step(f"{turn.agent}: new token ({number} of {len(planned)})")
        _carry_out(fleet, turn, timeout)
    return planned


def plan_all(fleet: Fleet, wanted: Wanted) -> list[Turn]:
    """List what rotate_all does; a stack that cannot be looked at, or is to be deployed first, is `failed`."""
    return [turn for stack in _stacks(fleet, wanted) for turn in _planned(fleet, stack)]


def rotate_all(fleet: Fleet, wanted: Wanted, *, timeout: float) -> list[Turn]:
    """Renew tokens stack by stack; where one cannot be, the other stacks still have their turn."""
    return [turn for stack in _stacks(fleet, wanted) for turn in _rotated(fleet, stack, timeout)]


def _stacks(fleet: Fleet, wanted: Wanted) -> list[Wanted]:
    """Split what is wanted by stack."""
    chosen = _choose(fleet, wanted)
    named = [[agent for agent in chosen if chosen[agent] == stack] for stack in sorted(set(chosen.values()))]
    return [Wanted(agents, wanted.set_before) for agents in named]


def _planned(fleet: Fleet, one: Wanted) -> list[Turn]:
    try:
        return turns(fleet, one)
    except MosaicError as error:
        chosen = _choose(fleet, one)
        reason = error.message + (f" (hint: {error.hint})" if error.hint else "")
        return [Turn(agent, chosen[agent], "failed", reason) for agent in one.agents]


def _rotated(fleet: Fleet, one: Wanted, timeout: float) -> list[Turn]:
    """Renew the tokens of a stack's agents until one fails."""
    planned = _planned(fleet, one)
    for number, turn in enumerate(planned):
        if turn.action == "failed":
            continue
        fleet.report.step(f"{turn.agent}: new token ({number + 1} of {len(planned)} in {turn.stack})")
        try:
            _carry_out(fleet, turn, timeout)
        except MosaicError as error:
            failed = replace(turn, action="failed", reason=error.message)
            behind = [replace(other, action="not tried") for other in planned[number + 1 :]]
            return [*planned[:number], failed, *behind]
    return planned


def _carry_out(fleet: Fleet, turn: Turn, timeout: float) -> None:
    if turn.action != "finish":
        with fleet.db.transaction(system=True) as session:
            agents.renew_token(session, fleet.box, turn.agent)
    if turn.action != "store":
        deploying.deploy(fleet, turn.stack, Options(timeout))


def _choose(fleet: Fleet, wanted: Wanted) -> dict[str, str]:
    """Map the chosen agents to their stacks."""
    with fleet.db.transaction(system=True) as session:
        for name in wanted.agents:
            agents.get(session, name)
        roster = {
            agent.name: name
            for name in agents.stack_names(session)
            for agent in agents.of_stack(session, agents.get_stack(session, name))
            if not wanted.agents or agent.name in wanted.agents
        }
        since = fingerprints.set_at(session)
    limit = wanted.set_before
    return {
        name: stack for name, stack in roster.items() if limit is None or _is_older(since.get(f"token {name}"), limit)
    }


def _is_older(since: datetime | None, limit: datetime) -> bool:
    return since is None or since < limit


def _actions(fleet: Fleet, name: str) -> dict[str, str]:
    """Say what is to be done for each agent of a stack, which must otherwise be as its roster says."""
    with fleet.db.transaction(system=True) as session:
        rows = agents.of_stack(session, agents.get_stack(session, name))
        if not deployments.latest(session, name) and not any(row.node_id for row in rows):
            return {row.name: "store" for row in rows}  # nothing of it was ever on a Swarm: no need to ask
        roster = stack.load(session, fleet.box, name)
    changes = deploying.plan(fleet, roster, Options()).changes
    if all(change.action in ("create", "keep") for change in changes):
        return {agent.name: "store" for agent in roster.agents}
    more = [change for change in changes if change.action == "create" or change.parts not in ((), ("token",))]
    if more:
        raise Conflict(
            f"the roster of stack {name} is ahead of what runs: {', '.join(change.agent for change in more)}",
            hint=f"mosaic fleet deploy --stack {name}",
        )
    return {change.agent: "finish" if change.parts else "renew" for change in changes if change.action != "keep"}

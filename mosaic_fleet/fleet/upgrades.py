"""Moves agents to another image: one first, the rest when that is healthy, and back by itself when one is not."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from mosaic_fleet import configuration
from mosaic_fleet.db.database import Lock
from mosaic_fleet.errors import NotFound, RuntimeFailure
from mosaic_fleet.fleet import agents, amending, containers, deploying, deployments, releases
from mosaic_fleet.fleet.amending import Base, Service
from mosaic_fleet.fleet.deploying import Fleet, Outcome
from mosaic_fleet.fleet.options import Options


@dataclass(frozen=True)
class _Upgrade:
    """What is under way: the stack, the image, and the openclaw.json that it accepted."""

    fleet: Fleet
    lock: Lock
    name: str
    image: str
    options: Options
    accepted: frozenset[str] = frozenset()


def upgrade(fleet: Fleet, stack_name: str | None, agent: str | None, image: str, options: Options) -> Outcome:
    """Run an agent, or a whole stack one agent first, from another image; the roster follows what got healthy.

    The outcome tells of all that moved, and how they are in the end. Other changes of the roster are left to the next
    deploy. Raises ConfigurationError when the image is an older OpenClaw or refuses a config, RuntimeFailure when an
    agent is not healthy with it: it runs the old image again then.
    """
    with fleet.db.transaction(system=True) as session:
        name = stack_name or (agents.stack_of(session, agent) if agent else agents.get_stack(session, None).name)
    with fleet.db.lock("upgrade", f"stack {name}") as lock:
        base = amending.base(fleet, name)
        targets = _targets(fleet, base, name, agent)
        place, rendered = amending.amended(base, _on(image, targets))
        site, whole = amending.prepared(fleet, place, rendered, options)
        version = site.images[image].version if image in site.images else ""
        releases.check(dict.fromkeys(targets, version), releases.ran(fleet.db, name, whole.live))
        if options.dry_run:
            return Outcome(name, whole.changes)
        work = _Upgrade(fleet, lock, name, image, options, frozenset(deploying.accept(fleet, site, whole)))
        outcomes = [_step(work, some) for some in _steps(base, targets, all_at_once=whole.is_empty)]
        if agent is None:
            _become_default(work)
        _catch_up(work)
        return _in_all(outcomes)


def _in_all(steps: list[Outcome]) -> Outcome:
    """Make one of what the steps did: how things are is the last one's, what was done is everyone's."""
    done = {
        change.agent: change for step in steps for change in step.changes if change.action not in ("unchanged", "keep")
    }
    numbers = [step.number for step in steps if step.number]
    changes = [done.get(change.agent, change) for change in steps[-1].changes]
    return replace(steps[-1], changes=changes, number=numbers[-1] if numbers else None)


def _targets(fleet: Fleet, base: Base, name: str, agent: str | None) -> list[str]:
    """Name the agents that are to move: they are in the roster and run."""
    with fleet.db.transaction(system=True) as session:
        known = [row.name for row in agents.of_stack(session, agents.get_stack(session, name))]
    targets = [one for one in known if one in base.rendered.services and agent in (None, one)]
    if not targets:
        what = f'agent "{agent}"' if agent else f'stack "{name}"'
        raise NotFound(f"{what} is not deployed", hint=f"mosaic fleet deploy --stack {name}")
    return targets


def _on(image: str, targets: Collection[str]) -> Callable[[str, Service], Service]:
    return lambda agent, service: {**service, "image": image} if agent in targets else service


def _steps(base: Base, targets: list[str], *, all_at_once: bool) -> list[list[str]]:
    """Put one agent that runs before the rest."""
    running = [agent for agent in targets if base.rendered.services[agent]["deploy"]["replicas"]]
    first = (running or targets)[:1]
    rest = [agent for agent in targets if agent not in first]
    return [targets] if all_at_once or not rest else [first, rest]


def _step(work: _Upgrade, targets: list[str]) -> Outcome:
    fleet, base = work.fleet, amending.base(work.fleet, work.name)
    place, rendered = amending.amended(base, _on(work.image, targets))
    site, intended = amending.prepared(fleet, place, rendered, work.options)
    try:
        accepted = replace(intended, accepted=work.accepted)
        outcome = deploying.carry_out(fleet, work.lock, site, accepted, work.options)
    except RuntimeFailure as error:
        raise _taken_back(work, base, targets, error) from error
    _remember(work, targets)
    return outcome


def _taken_back(work: _Upgrade, base: Base, targets: list[str], error: RuntimeFailure) -> RuntimeFailure:
    """Put those that did not get healthy on their old image again, where Swarm has not; return what to raise."""
    with work.fleet.db.transaction(system=True) as session:
        newest = deployments.latest(session, work.name)
        outcome = newest.outcome if newest else {}
    well = [agent for agent in targets if outcome.get(agent, {}).get("verdict") in ("healthy", "stopped")]
    well = well if newest and newest.stack_text != base.rendered.text else []
    _remember(work, well)
    place, rendered = amending.amended(base, _on(work.image, well))
    try:
        work.fleet.report.step("taking it back")
        amending.apply(work.fleet, work.lock, place, rendered, work.options)
    except RuntimeFailure as again:
        message = f"{error.message}; and it could not be taken back: {again.message}"
        older = " ".join(f"--downgrade {agent}" for agent in targets if agent not in well)
        return RuntimeFailure(message, hint=f"mosaic fleet deploy --stack {work.name} {older}")
    _catch_up(work)
    back = ", ".join(agent for agent in targets if agent not in well)
    return RuntimeFailure(f"{error.message}; taken back: {back}", hint=f"mosaic fleet diff --stack {work.name}")


def _remember(work: _Upgrade, targets: list[str]) -> None:
    """Write down what agents run; one that runs the image of the settings has none of its own."""
    with work.fleet.db.transaction(system=True) as session:
        default = configuration.values(session)["fleet.image"]
        for agent in targets:
            agents.set(session, agent, {"image": None if work.image == default else work.image})


def _become_default(work: _Upgrade) -> None:
    """Make the image that of agents to come, where there is only this stack; no agent has one of its own then."""
    with work.fleet.db.transaction(system=True) as session:
        if len(agents.stack_names(session)) > 1:
            return
        if configuration.set(session, "fleet.image", work.image):
            containers.mark_stale(session)  # users' gateways run it too
        for row in agents.of_stack(session, agents.get_stack(session, work.name)):
            agents.set(session, row.name, {"image": None})


def _catch_up(work: _Upgrade) -> None:
    """Note that nothing is ahead, if the roster says what runs."""
    base = amending.base(work.fleet, work.name)
    if base.ahead:
        deployments.catch_up(work.fleet.db, base.ahead[0], base.ahead[1].text)

"""Stops and starts agents for good: the number is kept in the roster and survives the next deploy."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from mosaic_fleet.errors import ConfigurationError
from mosaic_fleet.fleet import agents, amending, deploying
from mosaic_fleet.fleet.amending import Service
from mosaic_fleet.fleet.deploying import Change, Fleet, Outcome
from mosaic_fleet.fleet.options import Options
from mosaic_fleet.fleet.stack import frame


def scale(fleet: Fleet, targets: Mapping[str, int], options: Options) -> list[Outcome]:
    """Set the number of gateways, 0 or 1, of agents by name, and bring it about where they are deployed.

    Everything else of the roster is left to the next deploy. Raises ConfigurationError for more than one gateway,
    NotFound for an unknown agent, and what a deploy raises.
    """
    for name, replicas in targets.items():
        _check(name, replicas)
    by_stack = _by_stack(fleet, targets)
    return [_scale(fleet, stack, named, options) for stack, named in by_stack.items()]


def _check(name: str, replicas: int) -> None:
    if replicas not in (0, 1):
        raise ConfigurationError(
            f"{name} keeps its state in one volume; a second gateway would refuse it (one gateway per state directory)",
            hint=f"mosaic agent add NAME --like {name}",
        )


def _by_stack(fleet: Fleet, targets: Mapping[str, int]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    with fleet.db.transaction(system=True) as session:
        for name, replicas in targets.items():
            found.setdefault(agents.stack_of(session, name), {})[name] = replicas
    return found


def _scale(fleet: Fleet, stack: str, targets: Mapping[str, int], options: Options) -> Outcome:
    with fleet.db.lock("scale", f"stack {stack}") as lock:
        saved = _save(fleet, targets, options)
        if not _runs(fleet, stack, targets):
            return Outcome(stack, _told((), targets, saved))
        place, rendered = amending.amended(amending.base(fleet, stack), lambda agent, one: _scaled(targets, agent, one))
        outcome = amending.apply(fleet, lock, place, rendered, options)
        return replace(outcome, changes=_told(outcome.changes, targets, saved))


def _save(fleet: Fleet, targets: Mapping[str, int], options: Options) -> list[str]:
    """Write the numbers into the roster, but in a dry run; name the agents for which they are new."""
    with fleet.db.transaction(system=True) as session:
        new = [name for name, replicas in targets.items() if agents.get(session, name).replicas != replicas]
        for name in new if not options.dry_run else ():
            agents.set(session, name, {"replicas": targets[name]})
    return new


def _told(changes: Sequence[Change], targets: Collection[str], saved: Collection[str]) -> list[Change]:
    """Tell also of numbers that only the roster has: of agents that are not deployed, or run so already."""
    told = {change.agent for change in changes}
    everybody = [*changes, *(Change(name, "unchanged") for name in targets if name not in told)]
    return [
        Change(change.agent, "save", ("replicas",))
        if change.action == "unchanged" and change.agent in saved
        else change
        for change in everybody
    ]


def _runs(fleet: Fleet, stack: str, targets: Mapping[str, int]) -> bool:
    with fleet.db.transaction(system=True) as session:
        place = frame(session, stack)
    return bool(targets.keys() & deploying.ours(fleet.runtime, place).keys())


def _scaled(targets: Mapping[str, int], agent: str, service: Service) -> Service:
    return amending.with_replicas(service, targets[agent]) if agent in targets else service

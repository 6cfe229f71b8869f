"""What runs, with something changed: for commands that leave the other changes of the roster to the next deploy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mosaic_fleet.db.database import Lock
from mosaic_fleet.errors import ConfigurationError, RuntimeFailure
from mosaic_fleet.fleet import deploying, deployments, preflight, stack
from mosaic_fleet.fleet.deploying import Fleet, Outcome, Plan
from mosaic_fleet.fleet.options import Options
from mosaic_fleet.fleet.preflight import Site
from mosaic_fleet.fleet.stack import Place, Rendered

Service = Mapping[str, Any]


@dataclass(frozen=True)
class Base:
    """What runs as the record has it; `ahead` is the stack of the roster, None when that cannot be rendered."""

    place: Place
    rendered: Rendered
    ahead: tuple[Place, Rendered] | None


def base(fleet: Fleet, name: str) -> Base:
    """Read what runs of a stack; raises RuntimeFailure when nothing of it does.

    What nobody recorded, because the docker command deployed it, is taken for what the roster says.
    """
    ahead = _ahead(fleet, name)
    with fleet.db.transaction(system=True) as session:
        place = stack.frame(session, name)
    live = deploying.ours(fleet.runtime, place)
    with fleet.db.transaction(system=True) as session:
        rows = deployments.history(session, name)
        past = deployments.recall(session, fleet.box, deployments.trace(session, name, live))
    if past is None and ahead:
        past = _restricted(ahead[1], set(live))
    if past is None:
        raise RuntimeFailure(f"nothing of stack {name} runs", hint=f"mosaic fleet deploy --stack {name}")
    seen = rows[0].seen_at if rows else place.read_at
    return Base(replace(placed(place, past), read_at=seen), past, ahead)


def amended(base: Base, change: Callable[[str, Service], Service]) -> tuple[Place, Rendered]:
    """Change services of what runs; when that makes them what the roster says, the roster counts as seen."""
    services = {agent: change(agent, service) for agent, service in base.rendered.services.items()}
    contents = {**base.rendered.docker_configs, **base.rendered.docker_secrets}
    rendered = stack.assemble(services, base.rendered.network, contents)
    place = placed(base.place, rendered)
    if base.ahead and base.ahead[1].text == rendered.text:
        place = replace(place, read_at=base.ahead[0].read_at)
    return place, rendered


def placed(place: Place, rendered: Rendered) -> Place:
    """Say who is to run where, by a stack file."""
    agents = tuple(stack.placement(agent, service) for agent, service in rendered.services.items())
    return replace(place, network=rendered.network, agents=agents)


def prepared(fleet: Fleet, place: Place, rendered: Rendered, options: Options) -> tuple[Site, Plan]:
    """Look at everything that a stack needs, and plan it; agents that change must be able to start again."""
    site = preflight.check(fleet.runtime, place, fleet.report.step, options)
    intended = deploying.intend(fleet, place, rendered, options, site)
    changing = {one.agent for one in intended.changes if one.action in ("create", "update")}
    deploying.check_starts(fleet, site, intended, options)
    for agent in place.agents:
        if agent.name in changing and agent.replicas and agent.node_id:
            preflight.check_node(agent.name, site.nodes.get(agent.node_id))
    return site, intended


def apply(fleet: Fleet, lock: Lock, place: Place, rendered: Rendered, options: Options) -> Outcome:
    """Deploy a stack that is not the roster's, or say in a dry run what that would do."""
    site, intended = prepared(fleet, place, rendered, options)
    if options.dry_run:
        return Outcome(place.stack, intended.changes)
    return deploying.carry_out(fleet, lock, site, intended, options)


def with_replicas(service: Service, replicas: int) -> Service:
    """Return a service with another number of gateways."""
    return {**service, "deploy": {**service["deploy"], "replicas": replicas}}


def _ahead(fleet: Fleet, name: str) -> tuple[Place, Rendered] | None:
    try:
        roster = deploying.load(fleet, name)
        return roster, stack.render(roster, fleet.box)
    except ConfigurationError:
        return None  # a roster that cannot run as it is keeps nobody from stopping what runs


def _restricted(rendered: Rendered, agents: set[str]) -> Rendered | None:
    services = {agent: service for agent, service in rendered.services.items() if agent in agents}
    contents = {**rendered.docker_configs, **rendered.docker_secrets}
    return stack.assemble(services, rendered.network, contents) if services else None

"""Makes ready what a rendered stack names, so that `docker stack deploy` takes the file as it is."""

from dataclasses import dataclass

from mosaic_fleet.fleet import agents, deploying, docker_objects, memory, preflight, stack
from mosaic_fleet.fleet.deploying import Fleet
from mosaic_fleet.fleet.options import Options
from mosaic_fleet.fleet.stack import Roster, volume_name
from mosaic_fleet.runtimes.base import StackRuntime


@dataclass(frozen=True)
class Pushed:
    """What was made, by name, or in a dry run would be."""

    stack: str
    docker_objects: list[str]
    volumes: list[str]

    @property
    def is_empty(self) -> bool:
        """Tell whether everything was there."""
        return not (self.docker_objects or self.volumes)


def push(fleet: Fleet, stack_name: str | None, options: Options) -> Pushed:
    """Pin the agents to their nodes, then make Docker configs, Docker secrets and volumes; what is there stays.

    Raises what a deploy raises before it changes anything.
    """
    with fleet.db.transaction(system=True) as session:
        name = agents.get_stack(session, stack_name).name
    with fleet.db.lock("push", f"stack {name}") as lock:
        roster = deploying.load(fleet, name)
        site = preflight.check(fleet.runtime, roster, fleet.report.step, options)
        roster = roster if options.dry_run else deploying.pin(fleet, roster, site)
        intended = deploying.intend(fleet, roster, stack.render(roster, fleet.box), options)
        asked = [agent.name for agent in roster.agents if agent.name not in options.fresh]
        without = memory.lost(fleet.runtime, site, intended.rendered, asked)
        memory.check(fleet.db, roster, site, intended.rendered, without)
        fresh = [name for _, name, _ in docker_objects.missing(fleet.runtime, roster, intended.rendered)]
        pushed = Pushed(name, fresh, _absent(fleet.runtime, roster, here=site.engine.node_id))
        if options.dry_run or pushed.is_empty:
            return pushed
        deploying.accept(fleet, site, intended)
        lock.check()
        docker_objects.push(fleet.runtime, roster, intended.rendered)
        lock.check()
        absent = {agent.name: "update" for agent in roster.agents}
        docker_objects.prepare_volumes(fleet.runtime, site, intended.rendered, absent)
        return pushed


def _absent(runtime: StackRuntime, roster: Roster, *, here: str) -> list[str]:
    """Name the volumes of agents of this node that are not there."""
    there = set(runtime.volumes(stack.marks(roster)))
    mine = [agent for agent in roster.agents if agent.node_id in (None, here) and not agent.volume]
    return [name for agent in mine if (name := volume_name(roster.stack, agent.name)) not in there]

"""Takes a running hand-made fleet over: its state set aside first, then its services become the roster's.

A service carries Mosaic's labels only after its state was set aside: so one without them was never run by Mosaic, and
a command that broke off goes on where it was.
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mosaic_fleet import configuration
from mosaic_fleet.db.database import Database
from mosaic_fleet.errors import ConfigurationError, Conflict, NotFound, RuntimeFailure
from mosaic_fleet.fleet import agents, deploying, preflight, stack
from mosaic_fleet.fleet.deploying import Fleet, Outcome
from mosaic_fleet.fleet.handmade.reading import HandMade, Member
from mosaic_fleet.fleet.openclaw import STATE_DIR
from mosaic_fleet.fleet.options import Options
from mosaic_fleet.fleet.stack import Roster, service_name
from mosaic_fleet.identity import audit
from mosaic_fleet.runtimes.base import INSTALL_LABEL, Folder, Service, StackRuntime, Task

_POLL_SECONDS = 0.3
_NAMESPACE = "com.docker.stack.namespace"
_ENDED = ("complete", "failed", "shutdown", "rejected", "orphaned", "remove")
_WAITING = ("new", "pending")
_COMPLETE = "complete"  # a folder that a copy gets last


@dataclass(frozen=True)
class Adoption:
    """What is to be taken over of an agent: its volume, and its service and a container of it where there are.

    `workspace` is a folder of the container that lies outside of the volume, None when there is nothing to bring in.
    """

    agent: str
    volume: str
    service: Service | None = None
    container: str | None = None
    workspace: str | None = None

    @property
    def kept(self) -> str:
        """Name the volume in which what was there is set aside."""
        return f"{self.volume}-before-mosaic"

    def steps(self) -> Iterator[tuple[str, Callable[["_Move"], None]]]:
        """Yield what will be done, in order: a line about it, and the doing."""
        what = f"volume {self.volume}"
        if self.workspace and self.container:
            yield f"{self.agent}: copies {self.workspace} out of its container", _Move.carry_out
        if self.workspace and not self.container:
            lost = f"{self.agent}: has no container any more: what was not copied yet of {self.workspace} is lost"
            yield lost, _Move.carry_out
        if self.service:
            yield f"{self.agent}: stops service {self.service.name}", _Move.stop
        if self.workspace and self.container:
            yield f"{self.agent}: copies what it wrote there until its end", _Move.carry_out
        yield f"{self.agent}: sets a copy of {what} aside as {self.kept}", _Move.set_aside
        if self.workspace:
            yield f"{self.agent}: puts the copy of {self.workspace} into the workspace of {what}", _Move.bring_in
        whose = f"service {self.service.name} with {what}" if self.service else what
        yield f"{self.agent}: takes over {whose}", _Move.hand_over


def plan(runtime: StackRuntime, install: str, made: HandMade, adopted: Collection[str]) -> list[Adoption]:
    """Look for what runs of a hand-made fleet; `adopted` are volumes that were taken over before. Changes nothing.

    Raises NotFound when nothing of it is there, Conflict, ConfigurationError or RuntimeFailure when an agent cannot
    be taken over.
    """
    name = made.roster.stack
    site = _Site(runtime, preflight.swarm(runtime).node_id, install, name, runtime.tasks(name))
    services = {agent: runtime.service(service_name(name, agent)) for agent in made.members}
    found = [_adoption(site, member, services[member.agent], adopted) for member in made.members.values()]
    planned = [one for one in found if one]
    if not planned and not any(services.values()) and not adopted:
        raise NotFound(f'nothing of a stack "{name}" is on this Swarm', hint="docker stack ls   (then --stack NAME)")
    return planned


def look(db: Database, runtime: StackRuntime, made: HandMade) -> list[Adoption]:
    """Say what adopt() would take over; raises what plan() does."""
    name = made.roster.stack
    with db.transaction(system=True) as session:
        install = configuration.install_id(session)
        here = name in agents.stack_names(session)
        adopted = agents.adopted_volumes(session, agents.get_stack(session, name)) if here else []
    return plan(runtime, install, made, adopted)


def adopt(fleet: Fleet, made: HandMade, options: Options) -> Outcome:
    """Take a hand-made fleet over whose agents are in the roster already, and deploy it.

    Raises what plan() and deploy() raise; the same command goes on.
    """
    name = made.roster.stack
    with fleet.db.lock("adopt", f"stack {name}") as lock:
        with fleet.db.transaction(system=True) as session:
            roster = stack.load(session, fleet.box, name)
        planned = look(fleet.db, fleet.runtime, made)
        if planned:
            _check_target(fleet, roster, planned, options)
        for one in planned:
            move = _Move(fleet, roster, one, end=time.monotonic() + options.timeout)
            for text, act in [("", _Move.make_room), *one.steps()]:
                lock.check()
                if text:
                    fleet.report.step(text)
                act(move)
    return deploying.deploy(fleet, name, options)


@dataclass(frozen=True)
class _Site:
    """Where the fleet is looked for."""

    runtime: StackRuntime
    node_id: str
    install: str
    stack: str
    tasks: Sequence[Task]


def _adoption(site: _Site, member: Member, service: Service | None, adopted: Collection[str]) -> Adoption | None:
    """Say what is to be taken over of an agent; None when nothing is, or it is Mosaic's already."""
    if service is None:
        return _left_behind(site, member, adopted)
    owner = service.labels.get(INSTALL_LABEL)
    if owner == site.install:
        return None
    if owner:
        raise Conflict(f'service "{service.name}" is another Mosaic installation\'s ({owner})')
    volume = _volume(site, service)
    task = next((task for task in site.tasks if task.service_id == service.id and task.container_id), None)
    if task and task.node_id != site.node_id:
        raise RuntimeFailure(
            f'agent "{member.agent}" keeps its state on node {task.node_id}, which this docker cannot reach into',
            hint="run the command on that node",
        )
    there = task is not None and site.runtime.container_end(str(task.container_id)) is not None
    outside = not f"{member.workspace}/".startswith(f"{STATE_DIR}/")
    return Adoption(
        agent=member.agent,
        volume=volume,
        service=service,
        container=task.container_id if task and there else None,
        workspace=member.workspace if outside else None,
    )


def _left_behind(site: _Site, member: Member, adopted: Collection[str]) -> Adoption | None:
    """Find the volume of an agent whose service was removed."""
    if member.volume is None or member.volume in adopted:
        return None
    labels = site.runtime.volume_labels(member.volume)
    return None if labels is None or INSTALL_LABEL in labels else Adoption(member.agent, member.volume)


def _volume(site: _Site, service: Service) -> str:
    """Name the volume that holds a live service's state; raises ConfigurationError when it is kept otherwise."""
    if service.labels.get(_NAMESPACE) != site.stack:
        raise ConfigurationError(f'service "{service.name}" was not made by docker stack deploy {site.stack}')
    if "Replicated" not in service.spec["Mode"]:
        raise ConfigurationError(f'service "{service.name}" is not replicated: an agent is one gateway')
    mounts = service.spec["TaskTemplate"]["ContainerSpec"].get("Mounts") or []
    mount: dict[str, Any] = next((one for one in mounts if one["Target"].rstrip("/") == STATE_DIR), {})
    if mount.get("Type") == "volume" and mount.get("Source"):
        return str(mount["Source"])
    where = f"the host's folder {mount.get('Source')}" if mount.get("Type") == "bind" else "its container"
    raise ConfigurationError(
        f'service "{service.name}" keeps its state in {where}, only a volume at {STATE_DIR} can be taken over',
        hint="copy it into a volume, mount that in the compose file and deploy it once more by hand",
    )


def _check_target(fleet: Fleet, roster: Roster, planned: Sequence[Adoption], options: Options) -> None:
    """See that the fleet can run under Mosaic before anything of it is stopped."""
    taken = {one.agent for one in planned}
    site = preflight.check(fleet.runtime, roster, fleet.report.step, options, adopting=taken)
    for agent in roster.agents:
        if agent.name in taken and agent.replicas:
            preflight.check_node(agent.name, site.nodes.get(site.engine.node_id))
    deploying.accept(fleet, site, deploying.plan(fleet, roster, options))


class _Move:
    """Does the steps of one adoption."""

    def __init__(self, fleet: Fleet, roster: Roster, one: Adoption, *, end: float) -> None:
        self._fleet, self._runtime, self._roster = fleet, fleet.runtime, roster
        self._one, self._end = one, end
        self._image = str(roster.settings["fleet.image"])
        self._kept = ""

    def make_room(self) -> None:
        """Make a volume for the copy: a complete one that is there is never touched, half a one is gone on with."""
        number = 1
        while True:
            self._kept = f"{self._one.kept}{f'-{number}' if number > 1 else ''}"
            labels = self._runtime.volume_labels(self._kept)
            if labels is None or not self._has(_COMPLETE):
                break
            number += 1
        marks = stack.labels(self._roster, self._one.agent)
        if labels is not None and labels.get(INSTALL_LABEL) != self._roster.install:
            raise Conflict(f'volume "{self._kept}" is not Mosaic\'s, and the copy is to be called so')
        self._runtime.create_volume(self._kept, labels=marks)

    def carry_out(self) -> None:
        """Copy the workspace out of the container, running or ended, while there is one."""
        if self._one.workspace and self._one.container:
            self._make(self._kept, "workspace")
            source = Folder(self._one.workspace, container=self._one.container)
            self._copy(source, Folder("workspace", volume=self._kept))

    def stop(self) -> None:
        """Stop the service and wait for its end; its container stays, for what it wrote last."""
        assert self._one.service  # noqa: S101  # for mypy: without one this is no step
        service = self._one.service
        self._runtime.halt_service(service.id)
        while left := [task.state for task in self._tasks(service) if task.state not in (*_ENDED, *_WAITING)]:
            if time.monotonic() > self._end:
                raise RuntimeFailure(
                    f'service "{service.name}" does not stop: its task is {left[0]}', hint="run the same command again"
                )
            time.sleep(_POLL_SECONDS)

    def set_aside(self) -> None:
        """Copy the whole state."""
        self._make(self._kept, "state")
        self._copy(Folder("", volume=self._one.volume), Folder("state", volume=self._kept))

    def bring_in(self) -> None:
        """Put the copied workspace where Mosaic's gateways work, in the state volume."""
        self._make(self._one.volume, "workspace")
        self._copy(Folder("workspace", volume=self._kept), Folder("workspace", volume=self._one.volume))

    def hand_over(self) -> None:
        """Remember whose the volume is now and the node that it is on, then mark the service as Mosaic's."""
        self._make(self._one.volume, "workspace")
        self._make(self._kept, _COMPLETE)
        values = {"volume": self._one.volume, "node_id": self._runtime.engine().node_id}
        with self._fleet.db.transaction(system=True) as session:
            agents.set(session, self._one.agent, values)
            audit.record(session, "agent.adopt", self._one.agent, volume=self._one.volume, copy=self._kept)
        if self._one.service:
            marks = stack.labels(self._roster, self._one.agent)
            self._runtime.update_service(self._one.service.id, labels=marks)

    def _tasks(self, service: Service) -> list[Task]:
        return [task for task in self._runtime.tasks(self._roster.stack) if task.service_id == service.id]

    def _has(self, folder: str) -> bool:
        return self._runtime.has_folder(Folder(folder, volume=self._kept), image=self._image)

    def _make(self, volume: str, folder: str) -> None:
        self._runtime.make_folder(volume, folder, image=self._image, at=STATE_DIR)

    def _copy(self, source: Folder, target: Folder) -> None:
        self._runtime.copy_folder(source, target, image=self._image)

"""Takes a stack off the Swarm; the agents' memory stays unless it is asked for by name."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlmodel import select

from mosaic_fleet import configuration
from mosaic_fleet.db.database import Database, Lock
from mosaic_fleet.db.tables import SystemContainer
from mosaic_fleet.errors import RuntimeFailure
from mosaic_fleet.fleet import agents
from mosaic_fleet.fleet.stack import volume_name
from mosaic_fleet.identity import audit
from mosaic_fleet.runtimes.base import INSTALL_LABEL, STACK_LABEL, StackRuntime

_POLL_SECONDS = 0.3


@dataclass(frozen=True)
class Removed:
    """What was taken away, by name."""

    services: list[str]
    docker_objects: list[str]
    volumes: list[str]

    @property
    def is_empty(self) -> bool:
        """Tell whether there is nothing to take away."""
        return not (self.services or self.docker_objects or self.volumes)


@dataclass(frozen=True)
class Options:
    """How to remove; `timeout` is seconds for the gateways to finish their turns."""

    volumes: bool = False
    dry_run: bool = False
    timeout: float = 600


def remove(db: Database, runtime: StackRuntime, stack_name: str | None, options: Options) -> Removed:
    """Remove a stack's services, then its Docker configs and Docker secrets, and its volumes when asked.

    Only what carries this installation's labels. Raises RuntimeFailure when some are still stopping then; the same
    command goes on.
    """
    with db.transaction(system=True) as session:
        row = agents.get_stack(session, stack_name)
        stack, adopted = row.name, agents.adopted_volumes(session, row)
        marks = {INSTALL_LABEL: configuration.install_id(session), STACK_LABEL: stack}
    with db.lock("rm", f"stack {stack}") as lock:
        found = _find(runtime, stack, marks, adopted if options.volumes else None)
        if options.dry_run:
            return found
        if not found.is_empty:
            _record(db, stack, found, outcome="started")
            _take_away(runtime, lock, found, marks=marks, end=time.monotonic() + options.timeout)
            _record(db, stack, found, outcome="done")
        if options.volumes:
            _free(db, runtime, stack)
        return found


def _find(runtime: StackRuntime, stack: str, marks: dict[str, str], adopted: list[str] | None) -> Removed:
    """Find what is Mosaic's by its labels, and volumes that it adopted by their names; no volume when that is None."""
    volumes = [] if adopted is None else runtime.volumes(marks)
    volumes += [name for name in adopted or [] if name not in volumes and runtime.volume_labels(name) is not None]
    install = marks[INSTALL_LABEL]
    return Removed(
        services=[one.name for one in runtime.services(stack) if one.labels.get(INSTALL_LABEL) == install],
        docker_objects=[item.name for item in runtime.docker_objects(marks)],
        volumes=volumes,
    )


def _take_away(runtime: StackRuntime, lock: Lock, found: Removed, *, marks: dict[str, str], end: float) -> None:
    stack = marks[STACK_LABEL]
    services = {one.id: one.name for one in runtime.services(stack) if one.name in found.services}
    for service_id in services:
        lock.check()
        runtime.remove_service(service_id)
    again = f"mosaic fleet rm --stack {stack}{' --volumes' if found.volumes else ''}"
    rounds: list[Callable[[], list[str]]] = [
        lambda: _stopping(runtime, stack, services),
        lambda: _objects_left(runtime, marks),
        lambda: [name for name in found.volumes if not runtime.remove_volume(name)],
    ]
    for left in rounds:
        _until_gone(lock, left, end=end, again=again)


def _stopping(runtime: StackRuntime, stack: str, services: dict[str, str]) -> list[str]:
    """Name removed services whose gateways still run: Swarm lists their tasks until the containers have ended."""
    return sorted({services[task.service_id] for task in runtime.tasks(stack) if task.service_id in services})


def _objects_left(runtime: StackRuntime, marks: dict[str, str]) -> list[str]:
    return [item.name for item in runtime.docker_objects(marks) if not runtime.remove_docker_object(item)]


def _until_gone(lock: Lock, left: Callable[[], list[str]], *, end: float, again: str) -> None:
    """Try again while Docker says "in use": a removed service's gateways still finish their turns."""
    lock.check()
    while names := left():
        if time.monotonic() > end:
            raise RuntimeFailure(f"still in use: {', '.join(names)}", hint=f"{again}   (again, it goes on)")
        time.sleep(_POLL_SECONDS)
        lock.check()


def _record(db: Database, stack: str, found: Removed, *, outcome: str) -> None:
    with db.transaction(system=True) as session:
        audit.record(session, "fleet.rm", stack, outcome=outcome, services=found.services, volumes=found.volumes)


def _free(db: Database, runtime: StackRuntime, stack: str) -> None:
    """Free agents of this engine's node that have no state there, inactive ones too.

    Also those whose volume went when a removal broke.
    """
    here = runtime.engine().node_id
    with db.transaction(system=True) as session:
        query = select(SystemContainer.name, SystemContainer.volume).where(
            SystemContainer.stack_id == agents.get_stack(session, stack).id, SystemContainer.node_id == here
        )
        pinned = session.exec(query).all()
    stateless = [name for name, own in pinned if runtime.volume_labels(volume_name(stack, name, own)) is None]
    if not stateless:
        return
    with db.transaction(system=True) as session:
        for name in stateless:
            agent = agents.get(session, name)
            agent.node_id = agent.volume = None

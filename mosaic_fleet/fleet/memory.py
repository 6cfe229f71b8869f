"""Sees that no agent is started with an empty memory unasked: its volume may be gone from its node."""

from collections.abc import Collection, Iterable
from datetime import datetime

from sqlmodel import Session, col, select

from mosaic_fleet.db.database import Database
from mosaic_fleet.db.tables import Audit
from mosaic_fleet.errors import RuntimeFailure
from mosaic_fleet.fleet import deployments, stack
from mosaic_fleet.fleet.openclaw import STATE_DIR
from mosaic_fleet.fleet.preflight import Site
from mosaic_fleet.fleet.stack import Place, Wanted, placement
from mosaic_fleet.fleet.tracing import GOOD
from mosaic_fleet.runtimes.base import AGENT_LABEL, Service, StackRuntime


def lost(runtime: StackRuntime, site: Site, wanted: Wanted, names: Iterable[str]) -> list[str]:
    """Name those of the agents that are to run on the node that answers and have no volume there."""
    found = []
    for name in names:
        service = wanted.services[name]
        needs = placement(name, service)
        here = needs.replicas and needs.node_id == site.engine.node_id
        if here and runtime.volume_labels(stack.volume(service)["name"]) is None:
            found.append(name)
    return found


def check(db: Database, place: Place, site: Site, wanted: Wanted, without: Collection[str]) -> None:
    """Refuse to start agents `without` a volume that had one on this node before; raises RuntimeFailure.

    Who never ran there, or whose volume `fleet rm --volumes` took away, has none to lose.
    """
    if not without:
        return
    with db.transaction(system=True) as session:
        ran = _ran_here(session, place.stack, site.engine.node_id)
        taken = _taken_away(session, place.stack)
    volumes = {name: str(stack.volume(wanted.services[name])["name"]) for name in without if name in ran}
    gone = {name: volume for name, volume in volumes.items() if volume not in taken or taken[volume] < ran[name]}
    if gone:
        anew = " ".join(f"--fresh {name}" for name in gone)
        again = f"mosaic fleet deploy --stack {place.stack} {anew}"
        raise _gone(gone, site.nodes[site.engine.node_id].hostname, again)


def check_service(runtime: StackRuntime, service: Service) -> None:
    """Refuse to start a service again whose volume is gone from the node that answers; raises RuntimeFailure."""
    task = service.spec["TaskTemplate"]
    engine = runtime.engine()
    constraints = task.get("Placement", {}).get("Constraints") or []
    mounts = {one["Target"]: str(one.get("Source")) for one in task["ContainerSpec"].get("Mounts") or []}
    volume = mounts.get(STATE_DIR)
    if volume is None or f"node.id == {engine.node_id}" not in constraints:
        return
    if runtime.volume_labels(volume) is None:
        hostname = next(node.hostname for node in runtime.nodes() if node.id == engine.node_id)
        name = service.labels[AGENT_LABEL]
        raise _gone({name: volume}, hostname, f"mosaic fleet scale {name}=0, then {name}=1 --fresh {name}")


def _ran_here(session: Session, stack_name: str, node_id: str) -> dict[str, datetime]:
    """Tell when agents were last deployed well on a node."""
    found: dict[str, datetime] = {}
    for row in deployments.history(session, stack_name):
        well = {name for name, one in row.outcome.items() if one["verdict"] in GOOD} - found.keys()
        services = stack.services(row.stack_text) if well else {}
        found |= {name: row.created_at for name in well if placement(name, services[name]).node_id == node_id}
    return found


def _taken_away(session: Session, stack_name: str) -> dict[str, datetime]:
    """Tell when volumes were last taken away by `fleet rm --volumes`."""
    query = select(Audit).where(Audit.verb == "fleet.rm", Audit.object == stack_name).order_by(col(Audit.id))
    return {name: row.at for row in session.exec(query) for name in row.details.get("volumes", [])}


def _gone(volumes: dict[str, str], hostname: str, again: str) -> RuntimeFailure:
    what = "; ".join(f'agent "{name}": its volume {volume} is gone' for name, volume in volumes.items())
    return RuntimeFailure(
        f"{what} from node {hostname}, it would start with an empty memory",
        hint=f"bring the volume back, or start anew: {again}",
    )

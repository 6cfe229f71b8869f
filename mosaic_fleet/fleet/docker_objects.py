"""The Docker objects that a stack file names: made, their volumes prepared, and removed when nobody needs them."""

from collections.abc import Collection, Mapping
from typing import Any

from mosaic_fleet.db.database import Database
from mosaic_fleet.fleet import deployments
from mosaic_fleet.fleet.openclaw import SOUL_FILE, STATE_DIR
from mosaic_fleet.fleet.preflight import Site
from mosaic_fleet.fleet.stack import Place, Rendered, marks, placement, volume
from mosaic_fleet.runtimes.base import Kind, StackRuntime


def missing(runtime: StackRuntime, place: Place, rendered: Rendered) -> list[tuple[Kind, str, str]]:
    """List the Docker configs and Docker secrets that the stack file names and that are not there."""
    here = {item.name for item in runtime.docker_objects(marks(place))}
    kinds: list[tuple[Kind, Mapping[str, str]]] = [
        ("docker_config", rendered.docker_configs),
        ("docker_secret", rendered.docker_secrets),
    ]
    return [(kind, name, text) for kind, named in kinds for name, text in named.items() if name not in here]


def push(runtime: StackRuntime, place: Place, rendered: Rendered) -> list[str]:
    """Make the Docker configs and Docker secrets that are not there; name them."""
    made = missing(runtime, place, rendered)
    for kind, name, content in made:
        runtime.create_docker_object(kind, name, content.encode(), labels=marks(place))
    return [name for _, name, _ in made]


def prepare_volumes(
    runtime: StackRuntime, site: Site, rendered: Rendered, actions: Mapping[str, str], *, souls: Collection[str] = ()
) -> list[str]:
    """Make agents' volumes and what Docker would make as root's: the workspace, and SOUL.md to mount upon.

    Only on the node that answers: for agents that `actions` says to create, for those to update whose volume is gone,
    and for `souls`, whose personality came or went: what is left of SOUL.md is to be theirs. Names those that lost
    their volume.
    """
    lost = []
    for agent in (agent for agent, action in actions.items() if action in ("create", "update")):
        service = rendered.services[agent]
        if placement(agent, service).node_id != site.engine.node_id:
            continue
        state = volume(service)
        if actions[agent] == "update" and runtime.volume_labels(state["name"]) is None:
            lost.append(agent)
        if actions[agent] == "create" or agent in lost or agent in souls:
            file = SOUL_FILE.rpartition("/")[2] if agent in souls or _has_soul(service) else ""
            runtime.create_volume(state["name"], labels=state.get("labels", {}))
            runtime.make_folder(state["name"], "workspace", image=rendered.image(agent), at=STATE_DIR, file=file)
    return lost


def _has_soul(service: Mapping[str, Any]) -> bool:
    return any(one["target"] == SOUL_FILE for one in service["configs"])


def clean(db: Database, runtime: StackRuntime, place: Place) -> None:
    """Remove Docker configs and Docker secrets that neither this deploy nor the last healthy one before it names."""
    kept = deployments.kept_names(db, place.stack)
    for item in runtime.docker_objects(marks(place)):
        if item.name not in kept:
            runtime.remove_docker_object(item)

"""What became of a deployed agent, judged from Swarm's services and tasks: pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from mosaic_fleet.runtimes.base import SPEC_LABEL, Node, Service, Task

# Swarm says "pending" with a reason at once; a reason that stays this long is not the old task making room.
_PATIENCE_SECONDS = 5
_TRIES = 3
# OpenClaw's own exit code for a refused config or state that another gateway holds.
_CONFIG_EXIT = 78
_ON_NODE = "node.id == "
_UNDER_WAY = ("updating", "rollback_started")

Verdict = Literal["healthy", "stopped", "waiting", "failed"]


@dataclass(frozen=True)
class State:
    """How an agent is; `task` is the one that tells why it failed."""

    verdict: Verdict
    reason: str = ""
    task: Task | None = None

    @property
    def settled(self) -> bool:
        """Tell whether waiting longer cannot change it."""
        return self.verdict != "waiting"


def judge(service: Service | None, tasks: Sequence[Task], wanted: Mapping[str, Any], *, now: datetime) -> State:
    """Judge one agent after a deploy: `wanted` has its `spec` digest and `update_before`, the last update's start.

    Healthy means: a task runs the new spec (Swarm calls it running after its first healthy probe) and no update
    is still being watched.
    """
    if service is None:
        return State("failed", "its service is gone")
    mine = [task for task in tasks if task.service_id == service.id]
    if service.labels.get(SPEC_LABEL) != wanted["spec"]:
        return _taken_back(service, mine)
    if service.update_started != wanted["update_before"]:
        if service.update_state in _UNDER_WAY:
            return State("waiting", service.update_state.replace("_", " "))
        if service.update_state in ("paused", "rollback_paused", "rollback_completed"):
            return _failed_update(service, mine)
    state = current(service, mine, now=now)
    if state.verdict == "healthy" and service.update_state in _UNDER_WAY:
        return State("waiting", service.update_state.replace("_", " "))  # begun by a deploy that broke off
    return state


def current(service: Service, tasks: Sequence[Task], *, now: datetime) -> State:
    """Judge an agent by the tasks of its current spec, newest first."""
    if replicas(service) == 0:
        running = [task for task in tasks if task.state == "running"]
        return State("waiting", "stopping") if running else State("stopped")
    tries = [task for task in tasks if runs_spec(service, task)]
    live = next((task for task in tries if task.desired in ("running", "ready")), None)
    if live and live.state == "running":
        return State("healthy", task=live)
    return _unhealthy(tries, live, now)


def replicas(service: Service) -> int:
    """Return how many gateways a service is to run: 0 or 1."""
    return int(service.spec.get("Mode", {}).get("Replicated", {}).get("Replicas", 1))


def runs_spec(service: Service, task: Task) -> bool:
    """Tell whether a task was made from the service's present spec."""
    template = service.spec.get("TaskTemplate", {})
    parts = ("ContainerSpec", "Resources", "Placement", "RestartPolicy", "Networks", "LogDriver")
    restarted = task.spec.get("ForceUpdate", 0) != template.get("ForceUpdate", 0)
    return not restarted and all(task.spec.get(part) == template.get(part) for part in parts)


def ended(tasks: Sequence[Task]) -> list[Task]:
    """List the tasks that ended by themselves; "shutdown" was told to stop, by an update or a restart."""
    return [task for task in tasks if task.state in ("failed", "rejected", "complete", "orphaned")]


def worst(tasks: Sequence[Task]) -> Task | None:
    """Return the task that tells most about why tasks ended, the newest of those; None when there is none."""
    return next((task for task in tasks if task.state in ("failed", "rejected")), tasks[0] if tasks else None)


def _unhealthy(tries: Sequence[Task], live: Task | None, now: datetime) -> State:
    ends = ended(tries)
    culprit = worst(ends)
    if any(task.state == "rejected" for task in ends):
        rejected = next(task for task in ends if task.state == "rejected")
        return State("failed", f"task rejected: {rejected.error}", rejected)
    if live and live.state == "pending" and live.error and _age(live, now) > _PATIENCE_SECONDS:
        return State("failed", live.error, live)
    if culprit and (len(ends) >= _TRIES or culprit.exit_code == 137):
        return State("failed", end_reason(culprit), culprit)
    after = f" after: {end_reason(culprit)}" if culprit else ""
    return State("waiting", f"{live.state}{after}" if live else "no task yet")


def end_reason(task: Task) -> str:
    """Say why a task ended, in the words its exit code has in OpenClaw."""
    if task.exit_code == _CONFIG_EXIT:
        return "OpenClaw refused its config or its state (exit 78)"
    if task.state == "complete":
        return "it was stopped for failing its health checks"
    return task.error or task.message or task.state


def _taken_back(service: Service, tasks: Sequence[Task]) -> State:
    if service.update_state == "rollback_started":
        return State("waiting", "rolling back")
    return _failed_update(service, tasks)


def _failed_update(service: Service, tasks: Sequence[Task]) -> State:
    """Name the task that failed; the service itself only says that the rollback is complete."""
    what = "taken back by Swarm" if service.update_state.startswith("rollback") else "the update was stopped"
    culprit = next((task for task in tasks if task.state in ("failed", "rejected", "complete")), None)
    return State("failed", f"{what}: {end_reason(culprit)}" if culprit else what, culprit)


def stranded(service: Service, nodes: Mapping[str, Node]) -> str:
    """Say that the one node on which a service may run takes none, "" when it does; `nodes` are by id."""
    placement = service.spec.get("TaskTemplate", {}).get("Placement") or {}
    pinned = [one.removeprefix(_ON_NODE) for one in placement.get("Constraints") or [] if one.startswith(_ON_NODE)]
    if not pinned:
        return ""
    node = nodes.get(pinned[0])
    if node is None:
        return f"its node {pinned[0]} has left the swarm; its state lies there"
    words = {"drain": "drained", "pause": "paused"}
    what = node.state if node.state != "ready" else words.get(node.availability, "")
    return f"its node {node.hostname} is {what}; it waits for it, its state lies there" if what else ""


def moment(text: str) -> datetime:
    """Read a time of Docker's, to the second: it writes nanoseconds, which Python does not read."""
    return datetime.fromisoformat(text[:19]).replace(tzinfo=UTC)


def _age(task: Task, now: datetime) -> float:
    return (now - moment(task.since)).total_seconds()

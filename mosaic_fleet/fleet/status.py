"""How a fleet is: the roster beside what Swarm and the agents' containers say."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from mosaic_fleet.db.reads import AgentRow, StackRow
from mosaic_fleet.fleet.health import current, moment, stranded
from mosaic_fleet.fleet.masking import Knowing
from mosaic_fleet.fleet.restarts import Restarts, restarts
from mosaic_fleet.runtimes.base import SPEC_LABEL, Node, Service, StackRuntime, Task, by_agent


@dataclass(frozen=True)
class AgentStatus:
    """An agent as it is: `health` is `ok`, `starting`, `stopped`, `failed` or `not deployed`, `up` is seconds.

    `memory` and `limit` are bytes, `node` is the name of the node that runs it; `restarts` counts the tasks that
    ended by themselves, as far as Swarm remembers them.
    """

    agent: str
    stack: str
    role: str
    model: str | None
    running: int
    desired: int
    health: str
    reason: str
    up: float | None
    config: str
    memory: int | None = None
    limit: int | None = None
    restarts: int = 0
    restart_reason: str = ""
    node: str | None = None


@dataclass(frozen=True)
class Asked:
    """For which installation a status is, as of when, and whether containers are asked too.

    `secrets` tells what may not be read in what agents wrote.
    """

    install: str
    now: datetime
    secrets: Knowing
    containers: bool = True


@dataclass(frozen=True)
class _Seen:
    """What Docker says of an agent."""

    agent: str
    service: Service | None
    tasks: Sequence[Task]
    ends: Restarts
    nodes: Mapping[str, Node]

    @property
    def live(self) -> Task | None:
        """The task that runs."""
        return next((task for task in self.tasks if _runs(task)), None)


def status(runtime: StackRuntime, stack: StackRow, roster: Sequence[AgentRow], asked: Asked) -> list[AgentStatus]:
    """Describe a stack's agents by name, those that run without being in the roster included.

    Docker is asked three things; of containers, when they are asked too, how much memory they use and how those that
    were started again had ended.
    """
    services = by_agent(runtime.services(stack.name), asked.install)
    tasks = _by_service(runtime.tasks(stack.name), services.values())
    nodes = {node.id: node for node in runtime.nodes()}
    memory = _memory(runtime, tasks.values()) if asked.containers else {}
    rows = {agent.name: agent for agent in roster if agent.is_active}
    found = []
    for name in sorted(rows.keys() | services.keys()):
        service = services.get(name)
        mine = tasks[service.id] if service else []
        secrets = partial(_of_agent, asked.secrets, name)
        ends = restarts(runtime if asked.containers else None, service, mine, secrets)
        seen = _Seen(name, service, mine, ends, nodes)
        found.append(_status(stack, rows.get(name), seen, memory, asked.now))
    return found


def _of_agent(secrets: Knowing, agent: str) -> Collection[str]:
    return secrets().get(agent, ())


def _by_service(tasks: Sequence[Task], services: Collection[Service]) -> dict[str, list[Task]]:
    found: dict[str, list[Task]] = {service.id: [] for service in services}
    for task in tasks:
        if task.service_id in found:
            found[task.service_id].append(task)
    return found


def _runs(task: Task) -> bool:
    return task.state == "running" and task.desired == "running"


def _memory(runtime: StackRuntime, tasks: Iterable[Sequence[Task]]) -> dict[str, int]:
    """Tell how much memory the containers on this engine use."""
    return runtime.memory([str(task.container_id) for mine in tasks for task in mine if _runs(task)])


def _status(
    stack: StackRow, row: AgentRow | None, seen: _Seen, memory: Mapping[str, int], now: datetime
) -> AgentStatus:
    service, live = seen.service, seen.live
    health, reason = _health(seen, now)
    return AgentStatus(
        agent=seen.agent,
        stack=stack.name,
        role=row.role if row else "",
        model=row.primary_model if row else None,
        running=service.running if service else 0,
        desired=service.desired if service else (row.replicas if row else 0),
        health=health,
        reason=reason,
        up=(now - moment(live.since)).total_seconds() if live else None,
        config=_config(row, service, stack),
        memory=memory.get(str(live.container_id)) if live else None,
        limit=_limit(service, row),
        restarts=seen.ends.count,
        restart_reason=seen.ends.reason,
        node=seen.nodes[live.node_id].hostname if live and live.node_id in seen.nodes else None,
    )


def _limit(service: Service | None, row: AgentRow | None) -> int | None:
    """Return the limit that holds: the service's own, which a change of the roster reaches with the next deploy."""
    if service is None:
        return row.memory_limit if row else None
    resources = service.spec.get("TaskTemplate", {}).get("Resources") or {}
    return (resources.get("Limits") or {}).get("MemoryBytes")


def _health(seen: _Seen, now: datetime) -> tuple[str, str]:
    if seen.service is None:
        return "not deployed", ""
    state = current(seen.service, seen.tasks, now=now)
    if state.verdict == "healthy":
        return "ok", ""
    if state.verdict == "stopped":
        return "stopped", ""
    if trouble := _node_trouble(seen):
        return "failed", trouble
    if state.verdict == "failed":
        return "failed", seen.ends.reason if state.task == seen.ends.task else state.reason
    after = f" after: {seen.ends.reason}" if seen.ends.reason else ""
    return "starting", state.reason.partition(" after: ")[0] + after


def _node_trouble(seen: _Seen) -> str:
    """Say that the one node on which an agent may run takes none, "" when it does."""
    waits = any(task.state == "pending" for task in seen.tasks)
    return stranded(seen.service, seen.nodes) if waits and seen.service else ""


def _config(row: AgentRow | None, service: Service | None, stack: StackRow) -> str:
    """Say whether what runs is what the roster says: by the digest deployed last and the time of the last change."""
    if row is None:
        return "not in the roster"
    if service is None:
        return "new"
    deployed: Mapping[str, Mapping[str, str]] = stack.outcome or {}
    if deployed.get(row.name, {}).get("spec") != service.labels.get(SPEC_LABEL):
        # Swarm took the agent back, or the deploy broke off or is under way.
        return "changed outside" if stack.status in (None, "healthy") else f"behind deploy {stack.number}"
    return "stale" if stack.seen_at is None or row.changed_at > stack.seen_at else "current"

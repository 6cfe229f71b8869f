"""Restarts agents one by one: each has finished its work before, and is healthy before the next one's turn."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from mosaic_fleet.db.database import Lock
from mosaic_fleet.errors import NotFound, PartialFailure, RuntimeFailure
from mosaic_fleet.fleet import agents, deploying, gateway, memory, preflight
from mosaic_fleet.fleet.deploying import Fleet
from mosaic_fleet.fleet.health import State, judge, replicas
from mosaic_fleet.fleet.stack import Place, frame
from mosaic_fleet.identity import audit
from mosaic_fleet.runtimes.base import AGENT_LABEL, SPEC_LABEL, Service

_POLL_SECONDS = 0.1
# OpenClaw takes 30 requests a minute.
_BUSY_SECONDS = 3.0


@dataclass(frozen=True)
class Options:
    """How to restart: `timeout` is seconds for each agent; with `now` a running answer is not waited for."""

    timeout: float = 600
    now: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class Row:
    """What became of an agent: `restarted`, `stopped` (there is nothing to restart), `failed` or `not tried`."""

    agent: str
    result: str
    reason: str = ""
    seconds: float | None = None


def restart(fleet: Fleet, stack_name: str | None, names: Sequence[str], options: Options) -> list[Row]:
    """Restart agents by name, or all of a stack; stops at the first that does not become healthy.

    Raises NotFound for an agent that is not deployed, RuntimeFailure when the only one fails, else PartialFailure
    with a row for each.
    """
    with fleet.db.transaction(system=True) as session:
        stack = stack_name or (agents.stack_of(session, names[0]) if names else agents.get_stack(session, None).name)
        place = frame(session, stack)
    with fleet.db.lock("restart", f"stack {stack}") as lock:
        live = deploying.ours(fleet.runtime, place)
        for name in names:
            if name not in live:
                raise NotFound(f'agent "{name}" is not deployed in stack "{stack}"', hint="mosaic fleet deploy")
        wanted = {name: live[name] for name in dict.fromkeys(names) or sorted(live)}
        if options.dry_run:
            return [Row(name, "would restart" if replicas(one) else "stopped") for name, one in wanted.items()]
        return _each(fleet, lock, place, wanted, options)


def _each(fleet: Fleet, lock: Lock, place: Place, services: Mapping[str, Service], options: Options) -> list[Row]:
    rows: list[Row] = []
    for name, service in services.items():
        lock.check()
        try:
            rows.append(_restart(fleet, lock, place, service, options) if replicas(service) else Row(name, "stopped"))
        except RuntimeFailure as error:
            if len(services) == 1:
                raise RuntimeFailure(f"{name}: {error.message}", hint=error.hint) from error
            rows.append(Row(name, "failed", error.message))
            rows += [Row(other, "not tried") for other in [*services][len(rows) :]]
            raise PartialFailure(f"{name}: {error.message}", rows=rows, hint=error.hint) from error
    return rows


def _restart(fleet: Fleet, lock: Lock, place: Place, service: Service, options: Options) -> Row:
    agent, start = service.labels[AGENT_LABEL], time.monotonic()
    _check_node(fleet, agent, service)
    memory.check_service(fleet.runtime, service)
    if not options.now:
        _drain(fleet, place, service, options)
    _record(fleet, agent, "started")
    fleet.report.step(f"restarting {agent}")
    lock.check()  # the agent may have worked for minutes since
    fleet.runtime.restart_service(service.id)
    state = _wait(fleet, place, service, end=start + options.timeout)
    _record(fleet, agent, state.verdict)
    if state.verdict != "healthy":
        raise RuntimeFailure(state.reason, hint=f"mosaic fleet status --stack {place.stack}")
    return Row(agent, "restarted", seconds=round(time.monotonic() - start, 1))


def _check_node(fleet: Fleet, agent: str, service: Service) -> None:
    constraints = service.spec["TaskTemplate"].get("Placement", {}).get("Constraints") or []
    for node in fleet.runtime.nodes():
        if f"node.id == {node.id}" in constraints:
            preflight.check_node(agent, node)


def _drain(fleet: Fleet, place: Place, service: Service, options: Options) -> None:
    """Wait until the gateway has nothing to do and takes nothing new; one that does not say so is not waited for."""
    end, told, agent = time.monotonic() + options.timeout, False, service.labels[AGENT_LABEL]
    while task := gateway.running(fleet.runtime, place.stack, service):
        if task.node_id != fleet.runtime.engine().node_id:
            return  # another node's: it drains by itself when it is told to stop
        work = gateway.suspend(fleet.runtime, str(task.container_id))
        if work is None:
            return
        if time.monotonic() > end:
            message = f"it is still busy after {options.timeout:g} s: {', '.join(work) or 'it does not say with what'}"
            raise RuntimeFailure(message, hint=f"mosaic fleet restart {agent} --now   (cuts its answer off)")
        if not told:
            fleet.report.step(f"waiting for {agent}: it is busy ({', '.join(work) or 'it does not say with what'})")
        told = True
        time.sleep(_BUSY_SECONDS)


def _wait(fleet: Fleet, place: Place, before: Service, *, end: float) -> State:
    """Wait until the new task is healthy and Swarm does not watch the update any more."""
    agent = before.labels[AGENT_LABEL]
    wanted = {"spec": before.labels.get(SPEC_LABEL), "update_before": before.update_started}
    past = {task.id for task in fleet.runtime.tasks(place.stack) if task.desired == "shutdown"}
    while True:
        service = deploying.ours(fleet.runtime, place).get(agent)
        tasks = [task for task in fleet.runtime.tasks(place.stack) if task.id not in past]
        state = judge(service, tasks, wanted, now=datetime.now(UTC))
        if service:
            state = deploying.at_their_nodes(fleet.runtime, {agent: service}, {agent: state})[agent]
        fleet.report.states({agent: state})
        if state.settled:
            return state
        if time.monotonic() > end:
            return State("failed", f"not healthy in time: {state.reason}", state.task)
        time.sleep(_POLL_SECONDS)


def _record(fleet: Fleet, agent: str, outcome: str) -> None:
    with fleet.db.transaction(system=True) as session:
        audit.record(session, "fleet.restart", agent, outcome=outcome)

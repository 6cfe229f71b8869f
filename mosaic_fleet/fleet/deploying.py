"""Deploys a roster's stack to a Swarm: plan, then act, then wait, then tell the truth."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from mosaic_fleet.db.database import Database, Lock
from mosaic_fleet.db.reads import read
from mosaic_fleet.errors import MosaicError, RuntimeFailure
from mosaic_fleet.fleet import (
    agents,
    deployments,
    docker_objects,
    drift,
    endings,
    masking,
    memory,
    preflight,
    releases,
    stack,
)
from mosaic_fleet.fleet.deployments import Intent
from mosaic_fleet.fleet.drift import Known
from mosaic_fleet.fleet.health import State, judge, stranded
from mosaic_fleet.fleet.options import Options
from mosaic_fleet.fleet.preflight import Site
from mosaic_fleet.fleet.stack import Place, Rendered, Roster
from mosaic_fleet.fleet.validation import validate
from mosaic_fleet.logs import redact
from mosaic_fleet.runtimes.base import Service, StackRuntime, by_agent
from mosaic_fleet.sealing import Box

_POLL_SECONDS = 0.1
_LOG_LINES = 5


@dataclass(frozen=True)
class Change:
    """What a deploy does with an agent: `create`, `update`, `unchanged`; `remove` or `keep` when not in the roster.

    `save` is of what only the roster is told, for the next deploy. `moved`: its image's name means another image now,
    which `docker stack deploy` does not see.
    """

    agent: str
    action: str
    parts: tuple[str, ...] = ()
    moved: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Outcome:
    """What a deploy did; `number` is None when nothing changed."""

    stack: str
    changes: Sequence[Change]
    number: int | None = None
    states: Mapping[str, State] = field(default_factory=dict)


class Report(Protocol):
    """Receives what a deploy does; the command line has one that prints."""

    def step(self, text: str) -> None:
        """Take a line about what happens next."""

    def states(self, states: Mapping[str, State]) -> None:
        """Take how the agents are, several times a second."""


@dataclass(frozen=True)
class Fleet:
    """What a deploy works with."""

    db: Database
    box: Box
    runtime: StackRuntime
    report: Report


@dataclass(frozen=True)
class Plan:
    """What a deploy is about to do, computed before it does anything.

    `past` are the tasks that ended before it, `applies` is the number of the earlier deploy that it is again,
    `accepted` are openclaw.json that were validated already, as `<name>@<image id>`.
    """

    place: Place
    rendered: Rendered
    live: Mapping[str, Service]
    changes: Sequence[Change]
    past: frozenset[str]
    applies: int | None = None
    accepted: frozenset[str] = frozenset()

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing is to be created, updated or removed."""
        return not any(change.action in ("create", "update", "remove") for change in self.changes)


def deploy(fleet: Fleet, stack_name: str | None, options: Options) -> Outcome:
    """Bring the Swarm to what the roster says.

    Raises Conflict while another deploy runs, ConfigurationError or RuntimeFailure before anything is changed when
    it cannot work, RuntimeFailure when an agent is not healthy within the timeout.
    """
    with fleet.db.transaction(system=True) as session:
        name = agents.get_stack(session, stack_name).name
    if options.dry_run:
        roster = load(fleet, name)
        look = preflight.check(fleet.runtime, roster, fleet.report.step, options)
        intended = plan(fleet, roster, options, look)
        check_starts(fleet, look, intended, options)
        _check_releases(fleet, look, intended, options)
        _check_paused(look, intended)
        return Outcome(name, intended.changes)
    with fleet.db.lock("deploy", f"stack {name}") as lock:
        roster = load(fleet, name)
        site = preflight.check(fleet.runtime, roster, fleet.report.step, options)
        intended = plan(fleet, pin(fleet, roster, site), options, site)
        check_starts(fleet, site, intended, options)
        _check_releases(fleet, site, intended, options)
        _check_paused(site, intended)
        return carry_out(fleet, lock, site, intended, options)


def plan(fleet: Fleet, roster: Roster, options: Options, site: Site | None = None) -> Plan:
    """Compare what the roster wants with what runs; changes nothing."""
    return intend(fleet, roster, stack.render(roster, fleet.box), options, site)


def intend(fleet: Fleet, place: Place, rendered: Rendered, options: Options, site: Site | None = None) -> Plan:
    """Compare a stack with what runs and, where a site is given, with what is recorded of that; changes nothing."""
    live = ours(fleet.runtime, place)
    past = frozenset(task.id for task in fleet.runtime.tasks(place.stack) if task.desired == "shutdown")
    known = _known(fleet, place, rendered, live, site) if site else Known()
    return Plan(place, rendered, live, changes(rendered, live, prune=options.prune, known=known), past)


def changes(
    rendered: Rendered, live: Mapping[str, Service], *, prune: bool, known: Known = drift.NOTHING
) -> list[Change]:
    """List what a deploy does with each agent: pure."""
    differences = drift.compare(rendered, live, known)
    gone = sorted(live.keys() - rendered.services.keys())
    found = [
        _change(agent, differences[agent]) if agent in live else Change(agent, "create") for agent in rendered.services
    ]
    return found + [Change(agent, "remove" if prune else "keep") for agent in gone]


def ours(runtime: StackRuntime, place: Place) -> dict[str, Service]:
    """Return this installation's services of a stack by agent."""
    return by_agent(runtime.services(place.stack), place.install)


def check_starts(fleet: Fleet, site: Site, intended: Plan, options: Options) -> None:
    """Refuse to start agents anew whose volume is gone, unless `options.fresh` names them; raises RuntimeFailure."""
    starting = [one.agent for one in intended.changes if one.action in ("create", "update")]
    asked = [agent for agent in starting if agent not in options.fresh]
    without = memory.lost(fleet.runtime, site, intended.rendered, asked)
    memory.check(fleet.db, intended.place, site, intended.rendered, without)


def _check_releases(fleet: Fleet, site: Site, intended: Plan, options: Options) -> None:
    """Refuse to run an older OpenClaw on a state that is there, unless `options.downgrade` names the agent."""
    starting = {one.agent for one in intended.changes if one.action in ("create", "update")} - options.downgrade
    empty = memory.lost(fleet.runtime, site, intended.rendered, sorted(starting))
    images = {agent: site.images.get(intended.rendered.image(agent)) for agent in sorted(starting.difference(empty))}
    wanted = {agent: image.version for agent, image in images.items() if image}
    releases.check(wanted, releases.ran(fleet.db, intended.place.stack, intended.live), "--downgrade")


def _check_paused(site: Site, intended: Plan) -> None:
    """Refuse to replace what runs on a paused node; on one that is drained or down nothing runs that could be lost."""
    for change in intended.changes:
        if change.action == "update":
            agent = stack.placement(change.agent, intended.rendered.services[change.agent])
            node = site.nodes.get(agent.node_id or "")
            if agent.replicas and node and node.state == "ready" and node.availability == "pause":
                preflight.check_node(agent.name, node)


def carry_out(fleet: Fleet, lock: Lock, site: Site, intended: Plan, options: Options) -> Outcome:
    """Do what a plan says and wait until every agent is healthy; an empty plan only waits and closes the record.

    Raises as deploy() does.
    """
    if intended.is_empty:
        return _settle(fleet, site, intended, options)
    return _act(fleet, lock, site, intended, options)


def load(fleet: Fleet, name: str) -> Roster:
    """Read a stack's roster in a transaction of its own."""
    with fleet.db.transaction(system=True) as session:
        return stack.load(session, fleet.box, name)


def pin(fleet: Fleet, roster: Roster, site: Site) -> Roster:
    """Choose and record a node for agents that have none, so that the first spec has the constraint already."""
    free = [agent.name for agent in roster.agents if agent.node_id is None]
    if not free:
        return roster
    with fleet.db.transaction(system=True) as session:
        for name in free:
            agents.get(session, name).node_id = site.engine.node_id
    return load(fleet, roster.stack)


def _known(fleet: Fleet, place: Place, rendered: Rendered, live: Mapping[str, Service], site: Site) -> Known:
    gone = {name for _, name, _ in docker_objects.missing(fleet.runtime, place, rendered)} if live else ()
    with fleet.db.transaction(system=True) as session:
        traced = deployments.trace(session, place.stack, live)
    images = {ref: image.id for ref, image in site.images.items()}
    return Known(traced.images, images, site.network_id or None, gone=gone)


def _change(agent: str, differences: Sequence[drift.Difference]) -> Change:
    parts = tuple(one.field for one in differences)
    return Change(agent, "update" if parts else "unchanged", parts, any(one.moved for one in differences))


def _intent(site: Site, intended: Plan) -> Intent:
    return Intent(intended.place, intended.rendered, site.images, site.network_id, intended.applies)


def _settle(fleet: Fleet, site: Site, intended: Plan, options: Options) -> Outcome:
    """See that what runs is healthy, and do what a deploy that broke off left undone: its record, the cleaning."""
    states = {} if options.detach else _wait(fleet, intended, options.timeout)
    if states:
        _raise_failures(fleet, intended, states)
        intent = _intent(site, intended)
        deployments.settle(fleet.db, fleet.box, intent, _outcome(intent, states))
        docker_objects.clean(fleet.db, fleet.runtime, intended.place)
    return Outcome(intended.place.stack, intended.changes, states=states)


def _act(fleet: Fleet, lock: Lock, site: Site, intended: Plan, options: Options) -> Outcome:
    """Carry a plan out, recorded from before the first change to what became of it."""
    place, states = intended.place, {}
    intent = _intent(site, intended)
    with deployments.recorded(fleet.db, fleet.box, intent) as deployment:
        deployment.validated = accept(fleet, site, intended)
        _change_docker(fleet, lock, site, intended)
        if not options.detach:
            states = _wait(fleet, intended, options.timeout)
            deployment.outcome = _outcome(intent, states)
            _raise_failures(fleet, intended, states)
    if not options.detach:
        docker_objects.clean(fleet.db, fleet.runtime, place)
    return Outcome(place.stack, intended.changes, deployment.number, states)


def _change_docker(fleet: Fleet, lock: Lock, site: Site, intended: Plan) -> None:
    runtime, place, rendered = fleet.runtime, intended.place, intended.rendered
    lock.check()
    docker_objects.push(runtime, place, rendered)
    lock.check()
    actions = {change.agent: change.action for change in intended.changes}
    souls = [change.agent for change in intended.changes if "personality" in change.parts]
    for agent in docker_objects.prepare_volumes(runtime, site, rendered, actions, souls=souls):
        fleet.report.step(f"the volume of {agent} was gone: it starts with an empty memory")
    lock.check()
    fleet.report.step(f"deploying stack {place.stack}")
    for change in intended.changes:
        if change.moved:
            runtime.restart_service(intended.live[change.agent].id)
    runtime.deploy_stack(place.stack, rendered.text)
    for change in intended.changes:
        if change.action == "remove":
            lock.check()
            runtime.remove_service(intended.live[change.agent].id)


def accept(fleet: Fleet, site: Site, intended: Plan) -> list[str]:
    """Validate the configs that their image has not accepted yet; return all that it has, as `<name>@<image id>`.

    Raises ConfigurationError with OpenClaw's own words about the first one it refuses.
    """
    rendered = intended.rendered
    known = deployments.accepted(fleet.db, intended.place.stack) | intended.accepted
    named: dict[str, list[str]] = {}
    for agent in rendered.services:
        named.setdefault(rendered.image(agent), []).append(rendered.config_name(agent))
    for ref, names in named.items():
        fresh = [name for name in names if f"{name}@{site.images[ref].id}" not in known]
        validate(fleet.runtime, ref, {name: rendered.docker_configs[name] for name in fresh}, fleet.report.step)
    return sorted(
        intended.accepted | {f"{name}@{site.images[ref].id}" for ref, names in named.items() for name in names}
    )


def _wait(fleet: Fleet, intended: Plan, timeout: float) -> dict[str, State]:
    """Wait until every agent is healthy, stopped or failed, or the timeout is over."""
    rendered, name = intended.rendered, intended.place.stack
    wanted = {
        agent: {
            "spec": deployments.intended(rendered, agent)["spec"],
            "update_before": intended.live[agent].update_started if agent in intended.live else "",
        }
        for agent in rendered.services
    }
    end = time.monotonic() + timeout
    while True:
        live = ours(fleet.runtime, intended.place)
        tasks = [task for task in fleet.runtime.tasks(name) if task.id not in intended.past]
        now = datetime.now(UTC)
        states = {agent: judge(live.get(agent), tasks, want, now=now) for agent, want in wanted.items()}
        states = at_their_nodes(fleet.runtime, live, states)
        fleet.report.states(states)
        if all(state.settled for state in states.values()):
            return states
        if time.monotonic() > end:
            return {agent: _timed_out(state, timeout) for agent, state in states.items()}
        time.sleep(_POLL_SECONDS)


def at_their_nodes(runtime: StackRuntime, live: Mapping[str, Service], states: Mapping[str, State]) -> dict[str, State]:
    """Fail agents that are waited for and whose node takes none: that may last for days."""
    if all(state.settled for state in states.values()):
        return dict(states)
    nodes = {node.id: node for node in runtime.nodes()}
    reasons = {agent: stranded(live[agent], nodes) for agent, state in states.items() if not state.settled}
    return {
        agent: State("failed", reasons[agent], state.task) if reasons.get(agent) else state
        for agent, state in states.items()
    }


def _timed_out(state: State, timeout: float) -> State:
    if state.settled:
        return state
    return State("failed", f"not healthy after {timeout:g} s: {state.reason}", state.task)


def _outcome(intent: Intent, states: Mapping[str, State]) -> dict[str, dict[str, str]]:
    return {
        agent: intent.outcome(agent) | {"verdict": state.verdict, "reason": state.reason}
        for agent, state in states.items()
    }


def _raise_failures(fleet: Fleet, intended: Plan, states: Mapping[str, State]) -> None:
    """Say why agents are not healthy, the first one's last words included."""
    failed = {agent: state for agent, state in states.items() if state.verdict == "failed"}
    if not failed:
        return
    secrets = _secrets(fleet, intended.place)
    reasons = "; ".join(
        f"{agent}: {_reason(fleet.runtime, state, secrets and secrets.get(agent, ()))}"
        for agent, state in failed.items()
    )
    well = f"{len(states) - len(failed)} of {len(states)} are healthy"
    raise RuntimeFailure(reasons, hint=f"mosaic fleet status   ({well})")


def _secrets(fleet: Fleet, place: Place) -> masking.Known | None:
    """Tell what may not stand in an error; None when nobody can say: the failure itself is still to be told."""
    try:
        with read(fleet.db.url) as reads:
            return masking.known(reads, fleet.box, [place.stack])
    except MosaicError:
        return None


def _reason(runtime: StackRuntime, state: State, secrets: Collection[str] | None) -> str:
    """Name OOM as OOM and a failed health check as that; add the container's last lines, if secrets can be hidden."""
    container_id = (state.task.container_id if state.task else None) or ""
    end = endings.settled(lambda: runtime.container_end(container_id)) if container_id else None
    if end is None:
        return state.reason
    if end.oom_killed:
        return "killed for using more memory than its limit (OOM); raise it with mosaic agent set NAME --memory"
    if secrets is None:
        return state.reason
    last = redact(" | ".join(runtime.logs(container_id, tail=_LOG_LINES).splitlines()), secrets=secrets)
    return f"{state.reason} (last lines: {last[-500:]})" if last else state.reason

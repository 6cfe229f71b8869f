"""Which secrets the agents have: by Docker, or, where it does not answer, by the record of deploys."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlmodel import Session, col, select

from mosaic_fleet.db.tables import Deployment, Stack, SystemContainer, place
from mosaic_fleet.errors import ConfigurationError, NotFound
from mosaic_fleet.fleet import agents, masking, stack
from mosaic_fleet.fleet.tracing import GOOD
from mosaic_fleet.runtimes.base import StackRuntime, by_agent
from mosaic_fleet.sealing import Box

_ENDED = ("complete", "failed", "shutdown", "rejected", "orphaned", "remove")

Mounted = Mapping[str, Mapping[str, Collection[str]]]
"""The names of the Docker secrets that agents have, by stack and agent."""


@dataclass(frozen=True)
class Holding:
    """A secret that an agent has; its `text` is None when neither a record nor the roster says it."""

    agent: str
    what: str
    text: str | None = field(repr=False)


def look(runtime: StackRuntime, install: str, stacks: Collection[str]) -> Mounted:
    """Ask which Docker secrets agents have: those of their services, and of tasks that have not ended yet.

    Raises RuntimeFailure when Docker does not answer.
    """
    found: dict[str, dict[str, set[str]]] = {}
    for name in stacks:
        services = by_agent(runtime.services(name), install)
        found[name] = {agent: _names(service.spec.get("TaskTemplate", {})) for agent, service in services.items()}
        agent_of = {service.id: agent for agent, service in services.items()}
        for task in runtime.tasks(name) if services else ():
            if task.service_id in agent_of and task.state not in _ENDED:
                found[name][agent_of[task.service_id]] |= _names(task.spec)
    return found


def by_docker(session: Session, box: Box, mounted: Mounted) -> Iterator[Holding]:
    """Say what those Docker secrets are."""
    for name, named in mounted.items():
        contents = _contents(session, box, name, named)
        for agent, secrets in named.items():
            for secret in sorted(secrets):
                yield from _holdings(name, agent, secret, contents.get(secret))


def by_record(session: Session, box: Box, roster: Sequence[SystemContainer]) -> Iterator[Holding]:
    """Say what the roster's agents got in the last deployment in which each became healthy."""
    for agent in roster:
        owner = session.get_one(Stack, agent.stack_id)
        newest = select(Deployment).where(Deployment.stack_id == owner.id).order_by(col(Deployment.number).desc())
        well = (row for row in session.exec(newest) if row.outcome.get(agent.name, {}).get("verdict") in GOOD)
        row = next(well, None)
        secrets = masking.held(owner.name, _opened(box, row)).get(agent.name, {}) if row else {}
        yield from (Holding(agent.name, what, text) for what, text in secrets.items())


def _names(template: Mapping[str, Any]) -> set[str]:
    return {str(one["SecretName"]) for one in template.get("ContainerSpec", {}).get("Secrets") or []}


def _holdings(stack_name: str, agent: str, secret: str, content: str | None) -> Iterator[Holding]:
    """Say what a Docker secret of an agent is, by its name where nothing tells what it says."""
    kind = secret.rpartition("-")[0].removeprefix(f"{stack_name}-{agent}-")
    if kind not in ("token", "keys"):
        return  # somebody else's
    if content is None:
        yield Holding(agent, f"{kind} {agent}", None)
        return
    for secrets in masking.held(stack_name, {secret: content}).values():
        yield from (Holding(agent, what, text) for what, text in secrets.items())


def _contents(session: Session, box: Box, name: str, named: Mapping[str, Collection[str]]) -> dict[str, str]:
    """Find what Docker secrets say: by the record of deploys, else by the roster, because `fleet push` records none."""
    missing = {secret for secrets in named.values() for secret in secrets}
    found: dict[str, str] = {}
    owner = agents.get_stack(session, name)
    rows = select(Deployment.id, Deployment.secret_names).where(Deployment.stack_id == owner.id)
    for row_id, recorded in session.exec(rows.order_by(col(Deployment.number).desc())):
        if missing & {*recorded}:
            found |= _opened(box, session.get_one(Deployment, row_id))
            missing -= found.keys()
        if not missing:
            return found
    try:
        return found | stack.contents(stack.load(session, box, name), box, named)
    except (ConfigurationError, NotFound):
        return found


def _opened(box: Box, row: Deployment) -> dict[str, str]:
    """Open the Docker secrets of a deployment."""
    return dict(json.loads(box.open(place(row, "docker_secrets"), row.docker_secrets).get_secret_value()))

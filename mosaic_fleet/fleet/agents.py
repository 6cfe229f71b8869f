"""The roster: the agents of the fleet and the stacks they belong to."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from pydantic import SecretStr
from sqlmodel import Session, col, select

from mosaic_fleet.db.reads import SYSTEM_OWNER
from mosaic_fleet.db.tables import Audit, Deployment, Stack, SystemContainer, place
from mosaic_fleet.errors import Conflict, Invalid, NotFound
from mosaic_fleet.fleet import members, providers, vendors
from mosaic_fleet.identity import audit
from mosaic_fleet.names import AGENT_LENGTH, STACK_LENGTH, check_name, check_network, check_text, split_ref
from mosaic_fleet.sealing import Box, generate_token

# OpenClaw injects at most 20,000 characters of SOUL.md into a prompt.
PERSONALITY_LENGTH = 20_000
# An OpenClaw below this is killed while starting; the first chat needs more (facts: 2G runs, 1G does not).
_LEAST_MEMORY = 256 << 20
_FIELDS = (
    "role",
    "primary_model",
    "fallback_models",
    "providers",
    "personality",
    "schedules",
    "image",
    "memory_limit",
    "memory_reservation",
    "cpu_limit",
    "replicas",
    "node_id",
    "volume",
    "is_active",
)
_OWN = frozenset({"node_id", "volume", "replicas", "is_active"})


def add(session: Session, box: Box, stack: str, name: str, values: Mapping[str, Any]) -> SystemContainer:
    """Add an agent to a stack, with a gateway token of its own; `values` are its columns.

    Raises Invalid for a bad value, NotFound for an unknown provider or model and Conflict when the name is taken.
    """
    check_name("agent", name, longest=AGENT_LENGTH)
    if find(session, name):
        raise Conflict(f'agent "{name}" already exists', hint=f"mosaic agent set {name} …")
    agent = SystemContainer(name=name, stack_id=get_stack(session, stack).id, gateway_token="")
    agent.gateway_token = box.seal(place(agent, "gateway_token"), generate_token())
    _apply(session, agent, values)
    session.add(agent)
    session.flush()
    audit.record(session, "agent.add", name, stack=stack)
    return agent


def like(session: Session, name: str) -> dict[str, Any]:
    """Return what another agent takes over from one: all but its node, its volume and whether it runs."""
    agent = get(session, name)
    return {field: getattr(agent, field) for field in _FIELDS if field not in _OWN}


def set(session: Session, name: str, values: Mapping[str, Any]) -> list[str]:
    """Change an agent's columns and name those that changed."""
    agent = get(session, name)
    changed = _apply(session, agent, values)
    if changed:
        session.flush()
        audit.record(session, "agent.set", name, changed=changed)
    return changed


def token(box: Box, agent: SystemContainer) -> SecretStr:
    """Open an agent's gateway token."""
    return box.open(place(agent, "gateway_token"), agent.gateway_token)


def put_token(session: Session, box: Box, name: str, given: SecretStr) -> None:
    """Give an agent the gateway token that it had before Mosaic."""
    agent = get(session, name)
    agent.gateway_token = box.seal(place(agent, "gateway_token"), given)
    session.flush()
    audit.record(session, "agent.set", name, changed=["gateway_token"])


def has_made_token(session: Session, name: str) -> bool:
    """Tell whether Mosaic made the gateway token that an agent has: by the audit, what was done last to it."""
    query = select(Audit).where(Audit.object == name, col(Audit.verb).in_(("agent.add", "agent.set", "agent.token")))
    verbs = (row.verb for row in session.exec(query.order_by(col(Audit.id).desc())) if sets_token(row))
    return next(verbs, None) != "agent.set"


def sets_token(row: Audit) -> bool:
    """Tell whether a row of the audit says that an agent got a gateway token."""
    return row.verb in ("agent.add", "agent.token") or (
        row.verb == "agent.set" and "gateway_token" in row.details.get("changed", [])
    )


def renew_token(session: Session, box: Box, name: str) -> None:
    """Give an agent another gateway token; the old one works until a deploy has carried it out."""
    agent = get(session, name)
    agent.gateway_token = box.seal(place(agent, "gateway_token"), generate_token())
    session.flush()
    audit.record(session, "agent.token", name)


def remove(session: Session, name: str) -> None:
    """Remove an agent from the roster; what runs of it is left to `fleet deploy --prune`, its memory stays."""
    agent = get(session, name)
    session.delete(agent)
    session.flush()
    audit.record(session, "agent.remove", name)
    _drop_unused(session, agent.stack_id)


def get(session: Session, name: str) -> SystemContainer:
    """Return an agent; raises NotFound."""
    agent = find(session, name)
    if agent is None:
        raise NotFound(f'no agent "{name}"', hint="mosaic agent list")
    return agent


def stack_of(session: Session, name: str) -> str:
    """Name the stack of an agent; raises NotFound."""
    return session.get_one(Stack, get(session, name).stack_id).name


def of_stack(session: Session, stack: Stack) -> list[SystemContainer]:
    """Return the active agents of a stack by name."""
    query = select(SystemContainer).where(SystemContainer.stack_id == stack.id, SystemContainer.is_active)
    return list(session.exec(query.order_by(col(SystemContainer.name))))


def adopted_volumes(session: Session, stack: Stack) -> list[str]:
    """Name the volumes of a stack's agents that were there before Mosaic."""
    query = select(SystemContainer.volume).where(SystemContainer.stack_id == stack.id)
    return sorted(name for name in session.exec(query) if name)


def put_stack(session: Session, name: str, network: str) -> bool:
    """Make a stack, or change its network; return False when it is so already."""
    check_name("stack", name, longest=STACK_LENGTH)
    check_network(network)
    stack = session.exec(select(Stack).where(Stack.name == name)).first()
    if stack and stack.network == network:
        return False
    verb = "stack.set" if stack else "stack.add"
    stack = stack or Stack(name=name, network=network)
    stack.network = network
    session.add(stack)
    session.flush()
    audit.record(session, verb, name, network=network)
    return True


def stack_names(session: Session) -> list[str]:
    """Name all stacks."""
    return list(session.exec(select(Stack.name).order_by(col(Stack.name))))


def get_stack(session: Session, name: str | None) -> Stack:
    """Return a stack by name, or the only one; raises NotFound, or Invalid when a name is needed."""
    return members.chosen({row.name: row for row in session.exec(select(Stack).order_by(col(Stack.name)))}, name)


def _drop_unused(session: Session, stack_id: UUID) -> None:
    """Drop a stack with its last agent, if it was never deployed: a mistyped name would ask for --stack for ever."""
    used = session.exec(select(SystemContainer.id).where(SystemContainer.stack_id == stack_id)).first()
    deployed = session.exec(select(Deployment.id).where(Deployment.stack_id == stack_id)).first()
    if used is None and deployed is None:
        stack = session.get_one(Stack, stack_id)
        session.delete(stack)
        session.flush()
        audit.record(session, "stack.remove", stack.name)


def find(session: Session, name: str) -> SystemContainer | None:
    """Return an agent, None when there is none of that name."""
    return session.exec(select(SystemContainer).where(SystemContainer.name == name)).first()


def _apply(session: Session, agent: SystemContainer, values: Mapping[str, Any]) -> list[str]:
    """Write checked values into the row and name the columns that changed."""
    changed = [field for field in _FIELDS if field in values and getattr(agent, field) != values[field]]
    for field in changed:
        setattr(agent, field, values[field])
    _check(agent)
    _check_refs(session, agent)
    return changed


def _check(agent: SystemContainer) -> None:
    check_text("role", agent.role, longest=200)
    check_text("personality", agent.personality or "", longest=PERSONALITY_LENGTH)
    if agent.memory_limit < _LEAST_MEMORY:
        raise Invalid(f'agent "{agent.name}": a memory limit below 256M cannot run OpenClaw', hint="--memory 2G")
    if not 0 <= agent.memory_reservation <= agent.memory_limit:
        raise Invalid(f'agent "{agent.name}": the memory reservation must not exceed the limit')
    if agent.cpu_limit is not None and not 0.1 <= agent.cpu_limit <= 1024:
        raise Invalid(f'agent "{agent.name}": a CPU limit is a number of cores from 0.1 on')
    if agent.replicas not in (0, 1):
        raise Invalid(f'agent "{agent.name}" keeps its state in one volume: 0 or 1 gateway, not {agent.replicas}')


def _check_refs(session: Session, agent: SystemContainer) -> None:
    """Check that every provider exists and every model ref names one of its models."""
    shared = providers.all_of(session, SYSTEM_OWNER)
    for name in vendors.used(agent):
        if name not in shared:
            raise NotFound(
                f'agent "{agent.name}" uses provider "{name}", which does not exist', hint="mosaic provider list"
            )
    for ref in [agent.primary_model, *agent.fallback_models]:
        if ref is None:
            continue
        provider, model_id = split_ref(ref)
        if model_id not in [model["id"] for model in shared[provider].models]:
            raise NotFound(
                f'agent "{agent.name}": provider "{provider}" has no model "{model_id}"',
                hint=f"mosaic provider set {provider} --model {model_id}",
            )
    primary = agent.primary_model
    agent.provider_id = shared[split_ref(primary)[0]].id if primary is not None else None

"""Which keys and tokens the agents have, beside those that the roster has now."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlmodel import Session, col, select

from mosaic_fleet.db.reads import SYSTEM_OWNER
from mosaic_fleet.db.tables import Audit, LlmProvider, Stack, SystemContainer, place
from mosaic_fleet.fleet import agents, holdings, vendors
from mosaic_fleet.fleet.holdings import Mounted
from mosaic_fleet.sealing import Box


@dataclass(frozen=True)
class Fingerprint:
    """A secret by a few digits of its keyed hash, and the agents that have it.

    `state` is `current`, `stale` (a deploy replaces it), `unused`, or `unknown` where no record says what agents have.
    `since` is when it was set, known of current ones.
    """

    what: str
    key: str
    since: datetime | None
    state: str
    agents: tuple[str, ...]


def fingerprints(session: Session, box: Box, mounted: Mounted | None) -> list[Fingerprint]:
    """List the shared providers' keys and the agents' tokens: those to be used, and others that agents have.

    `mounted` is what Docker says; None where it does not answer: then the record of deploys counts.
    """
    roster = [agent for stack in _stacks(session) for agent in agents.of_stack(session, stack)]
    wanted, since = _wanted(session, box, roster), set_at(session)
    users: dict[tuple[str, str | None], list[str]] = {one: [] for one in wanted.items()}
    held = holdings.by_record(session, box, roster) if mounted is None else holdings.by_docker(session, box, mounted)
    for one in held:
        users.setdefault((one.what, one.text), []).append(one.agent)
    found = []
    for (what, text), names in sorted(users.items(), key=lambda item: item[0][0]):
        if text is None:
            found.append(Fingerprint(what, "unknown", None, "unknown", tuple(names)))
            continue
        current = text == wanted.get(what)
        state = ("current" if names else "unused") if current else "stale"
        found.append(
            Fingerprint(what, fingerprint(box, text), since.get(what) if current else None, state, tuple(names))
        )
    return found


def fingerprint(box: Box, secret: str) -> str:
    """Write a secret as four digits of a hash that tells nothing without the key for names."""
    return f"#{box.name('fingerprint', secret)[:4]}"


def _wanted(session: Session, box: Box, roster: Sequence[SystemContainer]) -> dict[str, str]:
    found = {}
    for provider in session.exec(select(LlmProvider).where(LlmProvider.user_id == SYSTEM_OWNER)):
        if provider.api_key:
            key = box.open(place(provider, "api_key"), provider.api_key)
            found[f"provider {provider.name}"] = key.get_secret_value()
    for agent in roster:
        found[f"token {agent.name}"] = agents.token(box, agent).get_secret_value()
    return found


def set_at(session: Session) -> dict[str, datetime]:
    """Read from the audit when keys (by `provider <name>`) and tokens (by `token <agent>`) were set."""
    verbs = ("provider.add", "provider.set", "agent.add", "agent.set", "agent.token")
    found = {}
    for row in session.exec(select(Audit).where(col(Audit.verb).in_(verbs)).order_by(col(Audit.id))):
        if _sets_key(row):
            found[f"provider {row.object}"] = row.at
        elif agents.sets_token(row):
            found[f"token {row.object}"] = row.at
    return found


def _sets_key(row: Audit) -> bool:
    """Tell whether a row of the audit says that a shared provider got a key."""
    shared = row.details.get("owner", str(SYSTEM_OWNER)) == str(SYSTEM_OWNER)
    given = row.verb == "provider.add" or "api_key" in row.details.get("changed", [])
    return shared and given and row.verb in ("provider.add", "provider.set")


def users_of(session: Session, provider: str) -> dict[str, list[str]]:
    """Name the agents that use a shared provider, by stack."""
    found = {
        stack.name: [agent.name for agent in agents.of_stack(session, stack) if provider in vendors.used(agent)]
        for stack in _stacks(session)
    }
    return {stack: names for stack, names in found.items() if names}


def _stacks(session: Session) -> list[Stack]:
    return list(session.exec(select(Stack).order_by(col(Stack.name))))

"""A roster file: YAML with a stack, its providers and its agents, checked key by key with line numbers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlmodel import Session, select

from mosaic_fleet import configuration
from mosaic_fleet.db.reads import SYSTEM_OWNER
from mosaic_fleet.db.tables import Stack, SystemContainer
from mosaic_fleet.errors import ConfigurationError, Conflict, Invalid, NotFound
from mosaic_fleet.fleet import agents, entries, providers, vendors
from mosaic_fleet.fleet.entries import Entry, Reader
from mosaic_fleet.sealing import Box

_LONGEST = 1_000_000  # characters: far more than a roster has, far less than memory


@dataclass(frozen=True)
class RosterFile:
    """What a roster file says: columns of providers and agents, by name."""

    stack: str
    network: str | None
    providers: Mapping[str, Mapping[str, Any]]
    agents: Mapping[str, Mapping[str, Any]]
    entries: Mapping[str, Entry] = field(repr=False)


@dataclass
class Loaded:
    """What an import did, by name; a provider that is there already is kept, but for a key that it lacks."""

    stack: str
    stack_changed: bool = False
    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    providers_added: list[str] = field(default_factory=list)
    providers_changed: list[str] = field(default_factory=list)
    providers_kept: list[str] = field(default_factory=list)
    providers_without_key: list[str] = field(default_factory=list)

    @property
    def is_changed(self) -> bool:
        """Tell whether anything is other than before."""
        return bool(self.stack_changed or self.added or self.changed or self.providers_added or self.providers_changed)


def read(path: Path) -> RosterFile:
    """Read a roster file; raises ConfigurationError naming file, line and key."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: {getattr(error, 'strerror', None) or 'this is no UTF-8 text'}") from error
    try:
        return parse(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error.message}", hint="docs/reference/roster.md") from None


def parse(text: str) -> RosterFile:
    """Parse a roster; raises ConfigurationError naming line and key."""
    if len(text) > _LONGEST:
        raise ConfigurationError("a roster file has at most a million characters")
    root = entries.compose(text)
    top = entries.section(
        root, {"stack": entries.text, "network": entries.text, "providers": entries.mapping, "agents": entries.mapping}
    )
    for key in ("stack", "agents"):
        if key not in top:
            raise root.fail(f"the key {key!r} is missing")
    shared: Mapping[str, Entry] = top.get("providers", {})
    named: Mapping[str, Entry] = top["agents"]
    return RosterFile(
        stack=top["stack"],
        network=top.get("network"),
        providers={name: _provider(entry) for name, entry in shared.items()},
        agents={name: _agent(entry) for name, entry in named.items()},
        entries={entry.path: entry for entry in [*shared.values(), *named.values()]},
    )


def load(session: Session, box: Box, file: RosterFile) -> Loaded:
    """Bring the roster to what a file says: agents are added or changed, providers only added.

    Raises ConfigurationError naming line and key; the caller's transaction then writes nothing.
    """
    loaded = Loaded(file.stack)
    new = file.stack not in agents.stack_names(session)
    if new or file.network:
        network = file.network or configuration.values(session)["fleet.network"]
        loaded.stack_changed = agents.put_stack(session, file.stack, network) and not new
    here = providers.all_of(session, SYSTEM_OWNER)
    for name, values in file.providers.items():
        if name in here:
            loaded.providers_kept.append(name)
            continue
        with _placed(file.entries[f"providers.{name}"]):
            providers.add(session, box, SYSTEM_OWNER, name, values)
        loaded.providers_added.append(name)
    for name, values in file.agents.items():
        with _placed(file.entries[f"agents.{name}"]):
            _put_agent(session, box, loaded, name, values)
    loaded.providers_without_key = [
        name
        for name, row in providers.all_of(session, SYSTEM_OWNER).items()
        if name in file.providers and row.api_key is None and vendors.needs_key(row.type, row.auth)
    ]
    return loaded


def _put_agent(session: Session, box: Box, loaded: Loaded, name: str, values: Mapping[str, Any]) -> None:
    stack = session.exec(select(Stack.name).join(SystemContainer).where(SystemContainer.name == name)).first()
    if stack is None:
        agents.add(session, box, loaded.stack, name, values)
        loaded.added.append(name)
        return
    if stack != loaded.stack:
        raise Conflict(f'agent "{name}" belongs to stack "{stack}"')
    target = loaded.changed if agents.set(session, name, values) else loaded.unchanged
    target.append(name)


@contextmanager
def _placed(entry: Entry) -> Iterator[None]:
    """Say where in the file a value stands that a room refused."""
    try:
        yield
    except (Invalid, NotFound, Conflict) as error:
        raise ConfigurationError(entry.fail(error.message).message, hint=error.hint) from error


def _provider(entry: Entry) -> dict[str, Any]:
    readers = {
        "type": entries.text,
        "base_url": entries.text,
        "auth": entries.text,
        "api_type": entries.text,
        "display_name": entries.text,
    }
    values = entries.section(entry, {**readers, "models": _models})
    if "type" not in values:
        raise entry.fail("the key 'type' is missing")
    return values


def _models(entry: Entry) -> list[dict[str, Any]]:
    readers: dict[str, Reader] = {
        "id": entries.text,
        "name": entries.text,
        "context_window": entries.number,
        "max_tokens": entries.number,
    }
    columns = {"context_window": "contextWindow", "max_tokens": "maxTokens"}
    return [_renamed(entries.section(one, readers), columns) for one in entries.items(entry)]


def _agent(entry: Entry) -> dict[str, Any]:
    readers: dict[str, Reader] = {
        "role": entries.text,
        "model": entries.text,
        "fallbacks": entries.texts,
        "providers": entries.texts,
        "memory": _memory,
        "cpus": entries.number,
        "schedules": entries.switch,
        "personality": entries.text,
    }
    section = entries.section(entry, readers)
    columns = {"model": "primary_model", "fallbacks": "fallback_models", "cpus": "cpu_limit"}
    memory: dict[str, int] = section.pop("memory", {})
    return _renamed(section, columns) | memory


def _renamed(section: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    return {columns.get(key, key): value for key, value in section.items()}


def _memory(entry: Entry) -> dict[str, int]:
    section = entries.section(entry, {"limit": entries.size, "reservation": entries.size})
    return {f"memory_{key}": value for key, value in section.items()}

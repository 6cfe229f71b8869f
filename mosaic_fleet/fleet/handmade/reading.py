"""Reads a hand-made fleet from its folder, says what became of everything in it, and brings it into the roster."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import SecretStr
from sqlmodel import Session

from mosaic_fleet import logs
from mosaic_fleet.db.reads import SYSTEM_OWNER
from mosaic_fleet.db.tables import LlmProvider, place
from mosaic_fleet.errors import ConfigurationError, Invalid
from mosaic_fleet.fleet import agents, providers, roster
from mosaic_fleet.fleet.entries import Entry
from mosaic_fleet.fleet.handmade import accounts, configs
from mosaic_fleet.fleet.handmade.accounts import Shared, Use
from mosaic_fleet.fleet.handmade.compose import ComposeFile, Service
from mosaic_fleet.fleet.handmade.configs import Block, Config
from mosaic_fleet.fleet.handmade.folder import Folder
from mosaic_fleet.fleet.openclaw import STATE_DIR
from mosaic_fleet.names import AGENT_LENGTH, PROVIDER_LENGTH, STACK_LENGTH, check_name, format_size
from mosaic_fleet.sealing import Box

_TOKEN = "OPENCLAW_GATEWAY_TOKEN"  # noqa: S105  # a name
_ENOUGH = 2 << 30  # measured: OpenClaw 2026.9 is killed at its first chat in 1G
_RESERVED = 512 << 20
# Variables that Mosaic sets itself, or that only say where things were.
_REPLACED = frozenset(
    {_TOKEN, "OPENCLAW_CONFIG_PATH", "OPENCLAW_STATE_DIR", "OPENCLAW_CONFIG_READONLY", "OPENCLAW_DISABLE_BONJOUR"}
    | {"OPENCLAW_NO_AUTO_UPDATE", "XDG_CACHE_HOME", "NODE_OPTIONS"}
)


@dataclass(frozen=True)
class Member:
    """An agent as it was read: the files it came from, and what was found in them (never the values of secrets).

    `volume` is the one that holds its state, None when it has none; `workspace` is where OpenClaw worked.
    """

    agent: str
    files: tuple[str, ...]
    read: tuple[str, ...]
    volume: str | None
    workspace: str
    token: SecretStr | None = field(repr=False, default=None)


@dataclass(frozen=True)
class HandMade:
    """A fleet as it was read: what goes into the roster, its members by name, and what was not understood."""

    roster: roster.RosterFile
    members: Mapping[str, Member]
    notes: tuple[str, ...]


@dataclass
class _Found:
    """A service that is an agent, with its config."""

    service: Service
    config: Config
    files: tuple[str, ...]
    personality: str | None
    notes: list[str] = field(default_factory=list)


def read(path: Path, stack: str | None = None) -> HandMade:
    """Read a folder; the stack is called `stack`, else as the compose file or the folder.

    Raises ConfigurationError naming file and line or key when an agent cannot be read.
    """
    folder = Folder(path)
    name, root = folder.compose_file()
    try:
        return _read(folder, ComposeFile(folder, name, root, stack))
    except Invalid as error:
        raise ConfigurationError(f"{name}: {error.message}", hint=error.hint) from error


def load(session: Session, box: Box, fleet: HandMade) -> tuple[roster.Loaded, list[str]]:
    """Bring the roster to what the folder says, tokens and keys sealed; return what was done, and notes on it.

    A provider that is there already is kept; only a key that it lacks is added. A token that Mosaic made is kept too:
    the folder's may be the one that leaked.
    """
    loaded = roster.load(session, box, fleet.roster)
    notes = [note for name in [*loaded.providers_kept] for note in _settle_kept(session, box, fleet, loaded, name)]
    notes += [note for member in fleet.members.values() for note in _settle_token(session, box, loaded, member)]
    return loaded, notes


def _settle_kept(session: Session, box: Box, fleet: HandMade, loaded: roster.Loaded, name: str) -> list[str]:
    """Give a provider that was there the key it lacks; say where it differs from what was read."""
    row = providers.get(session, SYSTEM_OWNER, name)
    given = fleet.roster.providers[name]
    key: SecretStr | None = given.get("api_key")
    if key and row.api_key is None and row.auth == "key":
        providers.set(session, box, SYSTEM_OWNER, name, {"api_key": key})
        loaded.providers_kept.remove(name)
        loaded.providers_changed.append(name)
        if name in loaded.providers_without_key:
            loaded.providers_without_key.remove(name)
    differing = [what for what in ("type", "base_url", "api_type") if given.get(what) != getattr(row, what)]
    differing += ["key"] if key and _key(box, row) != key else []
    return [f'provider "{name}" was there and is kept, with another {", ".join(differing)}'] if differing else []


def _settle_token(session: Session, box: Box, loaded: roster.Loaded, member: Member) -> list[str]:
    """Give an agent the token it had before Mosaic; say where it keeps another one, which Mosaic made."""
    name, given = member.agent, member.token
    if given is None or given == agents.token(box, agents.get(session, name)):
        return []
    if name not in loaded.added and agents.has_made_token(session, name):
        return [f'agent "{name}" was there and keeps its own token']
    agents.put_token(session, box, name, given)
    if name in loaded.unchanged:
        loaded.unchanged.remove(name)
        loaded.changed.append(name)
    return []


def _key(box: Box, row: LlmProvider) -> SecretStr | None:
    return box.open(place(row, "api_key"), row.api_key) if row.api_key else None


def _read(folder: Folder, compose: ComposeFile) -> HandMade:
    check_name("stack", compose.stack, longest=STACK_LENGTH)
    services = compose.services()
    found = [one for service in services if (one := _agent(folder, compose, service))]
    if not found:
        raise ConfigurationError(f"{compose.file}: none of its services is an OpenClaw gateway")
    uses = [use for one in found for use in _uses(one)]
    shared = accounts.share(uses)
    for name, at in shared.places.items():
        _check(at, "provider", name, longest=PROVIDER_LENGTH)
    columns = {one.service.name: _columns(one, shared) for one in found}
    file = roster.RosterFile(
        stack=compose.stack,
        network=_network(found),
        providers=shared.providers,
        agents=columns,
        entries=_entries(found, shared),
    )
    members = {one.service.name: _member(one, columns[one.service.name]) for one in found}
    return HandMade(file, members, tuple(_notes(folder, compose, services, found)))


def _agent(folder: Folder, compose: ComposeFile, service: Service) -> _Found | None:
    """Read an agent's config; None when the service is none."""
    name = _config_file(folder, compose, service)
    if name is None and service.is_openclaw:
        raise service.entry.fail(f"its OpenClaw config is not in the folder (as {service.name}.json, or mounted)")
    if name is None:
        service.note(service.entry, "is no OpenClaw gateway and is left out")
        return None
    _check(f"{service.entry.place}: {service.entry.path}", "agent", service.name, longest=AGENT_LENGTH)
    for variable in [key for key in service.variables if key.endswith(("_KEY", "_TOKEN", "_SECRET", "_PASSWORD"))]:
        logs.register(service.variables[variable].value)
    config = configs.read(folder.read(name), name, service.variables)
    soul = next((file for mount in service.mounts.values() if (file := _soul(compose, mount))), None)
    files = (compose.file, *service.env_files, name, *([soul] if soul else []))
    return _Found(service, config, files, folder.read(soul) if soul else None)


def _soul(compose: ComposeFile, mount: Any) -> str | None:
    return compose.host_file(mount) if mount.target.endswith("/SOUL.md") else None


def _config_file(folder: Folder, compose: ComposeFile, service: Service) -> str | None:
    """Find an agent's config: what is mounted where OpenClaw looks, else by the agent's name."""
    mount = service.mounts.get(service.config_path)
    if mount and (file := compose.host_file(mount)):
        return file
    places = dict.fromkeys([*(str(PurePosixPath(one).parent) for one in service.env_files), "."])
    endings = (".json", ".json5", "/openclaw.json", "/openclaw.json5")
    names = [str(PurePosixPath(at) / f"{service.name}{ending}") for at in places for ending in endings]
    return next((name for name in names if folder.has(name)), None)


def _uses(one: _Found) -> Iterator[Use]:
    """Yield the accounts that an agent uses: those its config describes, and those its model refs name."""
    config, service = one.config, one.service
    refs = [ref for ref in [config.primary, *config.fallbacks] if ref]
    named = dict.fromkeys([*config.blocks, *(ref.partition("/")[0] for ref in refs)])
    for name in named:
        at = f"{config.file}: agents.defaults.model"
        block = config.blocks.get(name, Block(at))
        found = accounts.account(name, block, block.key or _key_variable(one, name))
        if found and found.key:
            logs.register(found.key.get_secret_value())
        needed = any(ref.startswith(f"{name}/") for ref in refs)
        if found is None and needed:
            raise ConfigurationError(f'{block.place}: Mosaic does not know how to speak to provider "{name}"')
        if found is None:
            one.notes.append(f"{block.place}: is not taken over: Mosaic does not know how to speak to it")
            continue
        if found.base_url != (block.base_url or "").rstrip("/") and found.type == "ollama":
            one.notes.append(f"{block.place}: Ollama is spoken to in its own way, at {found.base_url}")
        yield Use(service.name, name, found, (*block.models, *_by_ref(name, block, refs)), block.place)


def _key_variable(one: _Found, provider: str) -> SecretStr | None:
    """Return the key of the variable that OpenClaw reads for a provider, such as ZAI_API_KEY."""
    name = f"{provider.upper().replace('-', '_')}_API_KEY"
    one.config.used.add(name)
    value = one.service.variables[name].value if name in one.service.variables else ""
    return SecretStr(value) if value else None


def _by_ref(provider: str, block: Block, refs: list[str]) -> list[dict[str, Any]]:
    """Describe the models that only a ref names: OpenClaw knows the great vendors' by itself."""
    listed = {model.get("id") for model in block.models}
    ids = dict.fromkeys(ref.partition("/")[2] for ref in refs if ref.startswith(f"{provider}/"))
    return [{"id": model_id} for model_id in ids if model_id not in listed]


def _columns(one: _Found, shared: Shared) -> dict[str, Any]:
    """Say an agent in columns of the roster."""
    service, config = one.service, one.config
    values = dict(service.values)
    if "memory_reservation" not in values and values.get("memory_limit", _RESERVED) < _RESERVED:
        values["memory_reservation"] = values["memory_limit"]
    refs = [_renamed(ref, service.name, shared) for ref in [config.primary, *config.fallbacks] if ref]
    by_ref = {ref.partition("/")[0] for ref in refs}
    own = [called for (agent, _), called in shared.names.items() if agent == service.name]
    values["primary_model"] = refs[0] if config.primary else None
    values["fallback_models"] = refs[1:] if config.primary else refs
    values["providers"] = [name for name in own if name not in by_ref]
    if config.schedules is not None:
        values["schedules"] = config.schedules
    return values | ({"personality": one.personality} if one.personality else {})


def _renamed(ref: str, agent: str, shared: Shared) -> str:
    name, slash, model_id = ref.partition("/")
    return f"{shared.names.get((agent, name), name)}{slash}{model_id}"


def _member(one: _Found, columns: Mapping[str, Any]) -> Member:
    token = one.config.token or _variable(one.service, _TOKEN)
    if token:
        _check_token(one, token)
    state = one.service.mounts.get(STATE_DIR)
    found = [*columns, *(["token"] if token else [])]
    return Member(
        agent=one.service.name,
        files=one.files,
        read=tuple(name for name in found if name == "token" or columns[name] or columns[name] == 0),
        volume=state.source if state and state.kind == "volume" else None,
        workspace=one.config.workspace,
        token=token,
    )


def _variable(service: Service, name: str) -> SecretStr | None:
    value = service.variables[name].value if name in service.variables else ""
    return SecretStr(value) if value else None


def _check_token(one: _Found, token: SecretStr) -> None:
    text = token.get_secret_value()
    logs.register(text)
    if len(text) > 4096 or not text.isprintable() or " " in text:
        at = one.service.variables.get(_TOKEN)
        at_place = f"{at.place}: {_TOKEN}" if at and not one.config.token else f"{one.config.file}: gateway.auth.token"
        raise ConfigurationError(f"{at_place}: a gateway token is 1 to 4096 printable characters without spaces")


def _network(found: list[_Found]) -> str | None:
    return next((network for one in found for network in one.service.networks), None)


def _entries(found: list[_Found], shared: Shared) -> dict[str, Entry]:
    """Place agents and providers, for whoever refuses one."""
    placed = {f"agents.{one.service.name}": one.service.entry for one in found}
    for name, at in shared.places.items():
        file, _, path = at.partition(": ")
        placed[f"providers.{name}"] = Entry(None, path, 0, file=file)
    return placed


def _check(at: str, what: str, name: str, *, longest: int) -> None:
    try:
        check_name(what, name, longest=longest)
    except Invalid as error:
        raise ConfigurationError(f"{at}: {error.message}") from error


def _notes(folder: Folder, compose: ComposeFile, services: list[Service], found: list[_Found]) -> Iterator[str]:
    """Name everything that was read and not taken over, and what the operator should know."""
    yield from compose.unset()
    if images := sorted({one.service.image for one in found if one.service.image}):
        yield f"{compose.file}: image {', '.join(images)}: the fleet runs what the setting fleet.image says"
    networks = sorted({network for one in found for network in one.service.networks})
    for network in networks:
        if network != _network(found):
            yield f"{compose.file}: network {network} is not taken over: agents join {_network(found)}"
    for name in ("compose.override.yaml", "compose.override.yml", "docker-compose.override.yml"):
        if folder.has(name):
            yield f"{name}: this file was not read"
    for service in services:
        yield from service.notes
    for one in found:
        yield from one.config.notes
        yield from one.notes
        yield from _advice(one)
    if unsaid := [one.service.name for one in found if one.config.schedules is None]:
        names = ", ".join(unsaid)
        yield f"no config of {names} says cron.enabled: schedules stay as they are, off at first"


def _advice(one: _Found) -> Iterator[str]:
    service = one.service
    at = f"{service.entry.place}: {service.entry.path}"
    for name, variable in service.variables.items():
        if name not in _REPLACED and name not in one.config.used:
            yield f"{variable.place}: {name} is not taken over: {service.name} has no use for it in Mosaic"
    label = service.labels.get("com.mosaic.agent", service.name)
    if label != service.name:
        yield f"{at}: the agent is called {service.name}, as its service, not {label!r}"
    for mount in service.mounts.values():
        if mount.target not in (STATE_DIR, service.config_path, one.config.workspace) and not mount.target.endswith(
            "/SOUL.md"
        ):
            yield f"{mount.place}: what is mounted at {mount.target} is not taken over"
    limit = service.values.get("memory_limit")
    if limit is not None and limit < _ENOUGH:
        yield (
            f"{at}: {format_size(limit)} of memory is less than OpenClaw needs today: "
            f"mosaic agent set {service.name} --memory 2G"
        )
    if one.config.primary is None:
        yield f"{one.config.file}: names no model: mosaic agent set {service.name} --model …"
    if one.config.token is None and _TOKEN not in service.variables:
        yield f"{at}: has no gateway token; Mosaic made one"

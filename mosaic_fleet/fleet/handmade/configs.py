"""An OpenClaw config in JSON5: its models, its accounts and its token, and what else stands in it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyjson5
from pydantic import SecretStr

from mosaic_fleet.errors import ConfigurationError
from mosaic_fleet.fleet.handmade.variables import Variable
from mosaic_fleet.fleet.openclaw import WORKSPACE_DIR

_DEEPEST = 50
# OpenClaw takes upper-case names only, and reads $${NAME} as the text ${NAME}.
_VARIABLE = re.compile(r"(?P<escape>\$)?\$\{(?P<name>[A-Z_][A-Z0-9_]*)\}")
_SHORT = re.compile(r"\$([A-Z_][A-Z0-9_]*)")
# What is read, and what Mosaic sets itself; the rest is named as not taken over.
_KNOWN = frozenset(
    {"$schema", "meta", "wizard", "gateway.mode", "gateway.port", "gateway.bind", "gateway.auth.mode"}
    | {"gateway.auth.token", "gateway.http.endpoints.chatCompletions", "gateway.controlUi", "gateway.terminal"}
    | {"gateway.reload", "agents.defaults.workspace", "agents.defaults.model", "agents.defaults.skipBootstrap"}
    | {"agents.defaults.heartbeat", "agents.defaults.timeoutSeconds", "models.mode", "models.catalogRefresh"}
    | {"models.providers", "discovery.mdns", "update", "logging", "cron.enabled", "secrets"}
    | {"plugins.entries.admin-http-rpc", "plugins.entries.memory-core"}
)
_PROVIDER_KEYS = frozenset({"baseUrl", "api", "apiKey", "models", "agentRuntime"})
_MODEL_KEYS = frozenset({"id", "name", "contextWindow", "maxTokens"})


@dataclass(frozen=True)
class Block:
    """A provider as a config describes it; `place` says where."""

    place: str
    base_url: str | None = None
    api: str | None = None
    key: SecretStr | None = None
    models: tuple[Mapping[str, Any], ...] = ()


@dataclass
class Config:
    """What a config says; `used` are the variables it took a value from, `notes` what was not understood."""

    file: str
    primary: str | None = None
    fallbacks: list[str] = field(default_factory=list)
    blocks: dict[str, Block] = field(default_factory=dict)
    token: SecretStr | None = None
    workspace: str = WORKSPACE_DIR
    schedules: bool | None = None
    used: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def read(text: str, file: str, variables: Mapping[str, Variable]) -> Config:
    """Read a config with the variables of its service; raises ConfigurationError naming file and line or key."""
    reader = _Reader(file, variables)
    return reader.config(_decoded(text, file))


def _decoded(text: str, file: str) -> Any:
    try:
        return pyjson5.decode(text, maxdepth=_DEEPEST)
    except (pyjson5.Json5DecoderException, UnicodeError, ValueError, OverflowError) as error:
        # Neither its words nor the error itself: they hold what was read, keys included.
        place = re.search(r"near (\d+)", str(error.args[0]) if error.args else "")
        line = text.count("\n", 0, int(place[1])) + 1 if place else 1
    raise ConfigurationError(f"{file}:{line}: this is no JSON5")


class _Reader:
    def __init__(self, file: str, variables: Mapping[str, Variable]) -> None:
        self._variables = variables
        self._config = Config(file)

    def config(self, root: Any) -> Config:
        config = self._config
        self._mapping(root, "")
        for path in _unknown(root, ""):
            self._note(path, "is not taken over")
        self._model(self._at(root, "agents.defaults.model"))
        config.workspace = self._text(self._at(root, "agents.defaults.workspace"), "agents.defaults.workspace") or (
            config.workspace
        )
        enabled = self._at(root, "cron.enabled")
        config.schedules = enabled if isinstance(enabled, bool) else None
        config.token = self.secret(self._at(root, "gateway.auth.token"), "gateway.auth.token")
        providers = self._at(root, "models.providers") or {}
        for name, block in self._mapping(providers, "models.providers").items():
            config.blocks[name] = self._block(block, f"models.providers.{name}")
        return config

    def secret(self, value: Any, path: str) -> SecretStr | None:
        """Read a key: plain, `${NAME}`, `$NAME`, or OpenClaw's reference to a variable."""
        if isinstance(value, dict):
            if value.get("source") != "env" or not isinstance(value.get("id"), str):
                self._note(path, "comes from a file or a program, which was not read")
                return None
            value = f"${{{value['id']}}}"
        if isinstance(value, str) and (short := _SHORT.fullmatch(value)):
            value = f"${{{short[1]}}}"
        text = self._text(value, path)
        return SecretStr(text) if text else None

    def _model(self, model: Any) -> None:
        path = "agents.defaults.model"
        if isinstance(model, dict):
            self._config.primary = self._text(model.get("primary"), f"{path}.primary")
            found = self._list(model.get("fallbacks"), f"{path}.fallbacks")
            texts = [self._text(one, f"{path}.fallbacks") for one in found]
            self._config.fallbacks = [one for one in texts if one]
            for key in model.keys() - {"primary", "fallbacks"}:
                self._note(f"{path}.{key}", "is not taken over")
        else:
            self._config.primary = self._text(model, path)

    def _block(self, value: Any, path: str) -> Block:
        block = self._mapping(value, path)
        for key in sorted(block.keys() - _PROVIDER_KEYS):
            self._note(f"{path}.{key}", "is not taken over")
        found = self._list(block.get("models"), f"{path}.models")
        return Block(
            place=f"{self._config.file}: {path}",
            base_url=self._text(block.get("baseUrl"), f"{path}.baseUrl"),
            api=self._text(block.get("api"), f"{path}.api"),
            key=self.secret(block.get("apiKey"), f"{path}.apiKey"),
            models=tuple(self._one_model(one, f"{path}.models[{index}]") for index, one in enumerate(found)),
        )

    def _one_model(self, value: Any, path: str) -> dict[str, Any]:
        given = self._mapping(value, path)
        for key in sorted(given.keys() - _MODEL_KEYS):
            if not _says_nothing(key, given[key]):
                self._note(f"{path}.{key}", "is not taken over")
        model: dict[str, Any] = {key: self._text(given.get(key), f"{path}.{key}") for key in ("id", "name")}
        sizes = {key: _whole(given.get(key)) for key in ("contextWindow", "maxTokens")}
        return {key: one for key, one in (model | sizes).items() if one is not None}

    def _text(self, value: Any, path: str) -> str | None:
        """Read a text with its variables filled in; None when there is none, or a variable of it is not set."""
        if value is None:
            return None
        if not isinstance(value, str):
            raise self._fail(path, "must be text")
        missing = [one["name"] for one in _VARIABLE.finditer(value) if not one["escape"] and not self._set(one["name"])]
        for name in missing:
            self._note(path, f"{name} is not set")
        if missing:
            return None
        return _VARIABLE.sub(lambda one: one[0][1:] if one["escape"] else self._variables[one["name"]].value, value)

    def _set(self, name: str) -> bool:
        self._config.used.add(name)
        return bool(name in self._variables and self._variables[name].value)

    def _mapping(self, value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._fail(path, "must be an object")
        return value

    def _list(self, value: Any, path: str) -> list[Any]:
        if value is not None and not isinstance(value, list):
            raise self._fail(path, "must be a list")
        return value or []

    def _at(self, root: Any, path: str) -> Any:
        """Return what stands at a path, None when nothing does; raises when the way there is no object."""
        value, walked = root, ""
        for key in path.split("."):
            value = self._mapping(value, walked).get(key)
            walked = f"{walked}.{key}".lstrip(".")
            if value is None:
                return None
        return value

    def _note(self, path: str, text: str) -> None:
        self._config.notes.append(f"{self._config.file}: {path}: {text}")

    def _fail(self, path: str, problem: str) -> ConfigurationError:
        return ConfigurationError(f"{self._config.file}: {path or 'the file'}: {problem}")


def _unknown(value: Mapping[str, Any], path: str) -> Iterator[str]:
    """Name what is neither read nor set by Mosaic, at the shortest path that says so."""
    for key, child in value.items():
        here = f"{path}.{key}".lstrip(".")
        if here in _KNOWN:
            continue
        leads_on = any(one.startswith(f"{here}.") for one in _KNOWN)
        if leads_on and isinstance(child, dict):
            yield from _unknown(child, here)
        else:
            yield here


def _says_nothing(key: str, value: Any) -> bool:
    """Tell what every model of Mosaic is: one that reads text, costs nothing and does not reason aloud."""
    if key == "cost" and isinstance(value, dict):
        return not any(value.values())
    return (key, value) in (("reasoning", False), ("input", ["text"]))


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value

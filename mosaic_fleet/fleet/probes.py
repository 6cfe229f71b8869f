"""Asks a provider whether it works: does the key open it, which models has it, and with `deep`, does one answer."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from mosaic_fleet.db.reads import SYSTEM_OWNER
from mosaic_fleet.db.tables import LlmProvider, place
from mosaic_fleet.egress import where
from mosaic_fleet.errors import Invalid, RuntimeFailure
from mosaic_fleet.fleet import foreign, providers, vendors
from mosaic_fleet.fleet.dialects import DIALECTS, VERSIONS, Dialect, at, listed, ollama_context, sizes
from mosaic_fleet.logs import register
from mosaic_fleet.sealing import Box

if TYPE_CHECKING:
    import httpx

_MOST_SHOWN = 20  # models of an Ollama that are asked one by one for their context window
_GO_ON = "or save it untested with --no-test"
_STATUS: Mapping[int, tuple[str, str]] = {
    401: ("", f"check the key, {_GO_ON}"),
    403: ("", f"check the key and what it may do, {_GO_ON}"),
    404: (": nothing is there", f"check --base-url, {_GO_ON}"),
    429: (": too many requests, or no quota is left", f"wait, or look at the account; {_GO_ON}"),
}


@dataclass(frozen=True)
class Target:
    """What is tested: an address, what it speaks, and the key for it, with as much of its end as may be shown."""

    type: str
    api_type: str
    url: str
    login: bool = False
    key: SecretStr | None = None
    key_end: str | None = field(default=None, compare=False)
    models: tuple[str, ...] = field(default=(), compare=False)

    @property
    def testable(self) -> bool:
        """Tell whether there is something to prove: an account with a key, or one that needs none."""
        return not self.login and (self.key is not None or not vendors.needs_key(self.type, "key"))


@dataclass(frozen=True)
class Step:
    """One thing that was tried; `mark` is `ok` or `warn`."""

    name: str
    mark: str
    text: str


@dataclass(frozen=True)
class Report:
    """What a test found; `models` are as a provider stores them, `skipped` counts those whose id cannot be one."""

    url: str
    latency_ms: int
    steps: list[Step]
    models: list[dict[str, Any]]
    skipped: int


def target(row: LlmProvider, box: Box) -> Target:
    """Return what a provider's row says about its account, with the key opened."""
    key = box.open(place(row, "api_key"), row.api_key) if row.api_key and row.auth == "key" else None
    if key:
        register(key.get_secret_value())
    url = row.base_url or vendors.TYPES[row.type].base_url or ""
    # Who acts for a user must not see the end of their key either.
    end = row.key_hint if row.user_id == SYSTEM_OWNER else None
    models = tuple(model["id"] for model in row.models)
    return Target(row.type, row.api_type, url, row.auth == "login", key, end, models)


def probe(http: "httpx.Client", target: Target, *, deep: bool = False, model: str | None = None) -> Report:
    """Test a provider; `deep` costs a few tokens of `model`, or of the first model that there is.

    Raises RuntimeFailure saying what its server did, with the address and without its words.
    """
    asker = _Asker(http, target)
    begun = time.perf_counter()
    entries = asker.models()
    latency = round((time.perf_counter() - begun) * 1000)
    found, skipped = _checked(entries or [], target)
    found = asker.with_contexts(found)
    steps = [] if entries is None else [_authentication(asker)]
    steps.append(_offer(None if entries is None else len(found), skipped))
    if deep or entries is None:
        steps += _turns(asker, _chosen(target, found, model), deep=deep)
    return Report(where(target.url), latency, steps, found, skipped)


class _Asker:
    """Sends requests to one provider."""

    def __init__(self, http: "httpx.Client", target: Target) -> None:
        self._http = http
        self._target = target
        self.dialect: Dialect = DIALECTS[target.api_type]
        self.has_key = target.key is not None

    def models(self) -> list[Any] | None:
        """Return the entries of the list of models, None where a server of one's own has no such list."""
        with self._answer("GET", self.dialect.models) as reply:
            if reply.status_code in (404, 405, 501) and self._target.type == "custom" and self._target.models:
                return None
            self.check(reply)
            value = self._json(reply)
        try:
            return listed(value)
        except ValueError:
            raise self.failure(
                "answered no list of models", hint=f"check --base-url and --api-type, {_GO_ON}"
            ) from None

    def is_public(self) -> bool:
        """Tell whether the list of models is given to anybody: then it proves nothing about the key."""
        with self._answer("GET", self.dialect.models, key=False) as reply:
            return reply.is_success

    def with_contexts(self, models: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Add the context windows that Ollama tells of one model at a time."""
        if self._target.api_type != "ollama":
            return models
        for model in models[:_MOST_SHOWN]:
            with self._answer("POST", "/api/show", body={"model": model["id"]}) as reply:
                model |= ollama_context(self._json(reply)) if reply.is_success else {}
        return models

    def turn(self, body: Mapping[str, Any]) -> Any:
        """Ask for an answer in one piece and return its JSON."""
        with self._answer("POST", self.dialect.turn, body={**body, "stream": False}) as reply:
            self.check(reply)
            return self._json(reply)

    def streams(self, body: Mapping[str, Any]) -> bool:
        """Ask for an answer in pieces; tell whether it came to its proper end."""
        with self._answer("POST", self.dialect.turn, body={**body, "stream": True}) as reply:
            self.check(reply)
            return any(self.dialect.ends(line.strip()) for line in foreign.lines(reply.iter_bytes()))

    def check(self, reply: "httpx.Response") -> None:
        """Raise RuntimeFailure for a status that is no success."""
        if not reply.is_success:
            more, advice = _STATUS.get(reply.status_code, ("", f"try again later, {_GO_ON}"))
            raise self.failure(f"answered {reply.status_code}{more}{self._key_shown()}", hint=advice)

    def failure(self, problem: str, *, hint: str) -> RuntimeFailure:
        """Describe what this provider did."""
        return RuntimeFailure(f"{where(self._target.url)} {problem}", hint=hint)

    @contextmanager
    def _answer(self, method: str, path: str, *, body: object = None, key: bool = True) -> Iterator["httpx.Response"]:
        from mosaic_fleet import outbound

        secret = self._target.key.get_secret_value() if self._target.key and key else None
        headers = {**VERSIONS.get(self._target.api_type, {}), **(self.dialect.headers(secret) if secret else {})}
        with outbound.answer(self._http, method, self._target.url + path, headers=headers, body=body) as reply:
            yield reply

    def _json(self, reply: "httpx.Response") -> Any:
        try:
            return foreign.parsed(reply.read())
        except ValueError:
            raise self.failure("answered something that is no JSON", hint=f"check --base-url, {_GO_ON}") from None

    def _key_shown(self) -> str:
        end = self._target.key_end
        return f" (key ends …{end})" if self._target.key and end else ""


def _authentication(asker: _Asker) -> Step:
    if not asker.has_key:
        return Step("authentication", "ok", "none is needed")
    if asker.is_public():
        return Step("authentication", "warn", "not proved: its list of models is open to anybody; --deep uses the key")
    return Step("authentication", "ok", "the key is accepted")


def _offer(found: int | None, skipped: int) -> Step:
    if found is None:
        return Step("models", "warn", "it has no list of models")
    odd = f", {skipped:,} more cannot be used by their names" if skipped else ""
    return Step("models", "ok" if found else "warn", f"{found:,} offered{odd}")


def _turns(asker: _Asker, model: str, *, deep: bool) -> Iterator[Step]:
    dialect = asker.dialect
    if not dialect.spoke(asker.turn(dialect.body(model, "Say ok.", 16))):
        raise asker.failure(f"answered {model} in no form that is known", hint=f"check --api-type, {_GO_ON}")
    yield Step("completion", "ok", model)
    if not deep:
        return
    if not asker.streams(dialect.body(model, "Say ok.", 16)):
        raise asker.failure(f"broke off a streamed answer of {model}", hint=f"check --api-type, {_GO_ON}")
    yield Step("streaming", "ok", model)
    wanted = dialect.body(model, "Call the tool with the word ok.", 256) | {"tools": [dialect.tool]}
    called = _tried(lambda: dialect.called(asker.turn(wanted)))
    yield Step("tool call", "ok" if called else "warn", model if called else f"{model} made none: agents need it")


def _tried(action: Callable[[], bool]) -> bool:
    try:
        return action()
    except RuntimeFailure:
        return False


def _chosen(target: Target, found: list[dict[str, Any]], model: str | None) -> str:
    offered = [one["id"] for one in found]
    wanted = [model] if model else [one for one in target.models if one in offered] or [*target.models, *offered]
    if not wanted:
        raise Invalid("there is no model to try", hint="add --model ID")
    return wanted[0]


def _checked(entries: list[Any], target: Target) -> tuple[list[dict[str, Any]], int]:
    """Turn a server's entries into models; those with an unusable id, or with the key in it, are counted only."""
    key = target.key.get_secret_value() if target.key else None
    models: dict[str, dict[str, Any]] = {}
    odd = 0
    for entry in entries:
        name = next((at(entry, label) for label in ("id", "name", "model") if isinstance(at(entry, label), str)), None)
        title = next((at(entry, label) for label in ("display_name", "name") if _is_title(at(entry, label))), name)
        try:
            checked = providers.model({"id": name, "name": title, **sizes(entry)})
        except Invalid:
            odd += 1
            continue
        if key and key in f"{name}{title}":
            odd += 1
            continue
        models.setdefault(checked["id"], checked)
    return list(models.values()), odd


def _is_title(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 200 and value.isprintable()

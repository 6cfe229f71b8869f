"""Providers of an owner: accounts at LLM vendors."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import SecretStr
from sqlmodel import Session, col, select, update

from mosaic_fleet.db.reads import SYSTEM_OWNER
from mosaic_fleet.db.tables import LlmProvider, SystemContainer, UserAgentConfig, place
from mosaic_fleet.errors import Conflict, Invalid, NotFound
from mosaic_fleet.fleet import containers
from mosaic_fleet.fleet.vendors import TYPES, used
from mosaic_fleet.identity import audit
from mosaic_fleet.names import PROVIDER_LENGTH, check_model_id, check_name, check_text
from mosaic_fleet.sealing import Box, hint

# OpenClaw's `models.providers.*.api`, as far as Mosaic renders it (facts measured on 2026.9.6).
API_TYPES = ("openai-completions", "openai-responses", "anthropic-messages", "ollama")
AUTHS = ("key", "login")
_TESTED = {"type", "base_url", "auth", "api_key", "api_type"}
_FIELDS = ("type", "base_url", "auth", "api_key", "api_type", "models", "display_name", "is_active")
_UNSYNCHRONISED = {"synchronize_session": False}


def add(session: Session, box: Box, owner: UUID, name: str, values: Mapping[str, Any]) -> LlmProvider:
    """Add a provider; `values` are its columns, `api_key` a SecretStr.

    Raises Invalid for a bad value and Conflict when the name is taken.
    """
    check_name("provider", name, longest=PROVIDER_LENGTH)
    if find(session, owner, name):
        raise Conflict(f'provider "{name}" already exists', hint=f"mosaic provider set {name} …")
    kind = values.get("type") or ""
    vendor = TYPES[_choice("provider type", kind, tuple(TYPES))]
    provider = LlmProvider(user_id=owner, name=name, display_name=name, type=kind, api_type=vendor.api_type)
    _apply(provider, box, values)
    session.add(provider)
    session.flush()
    containers.mark_stale(session, owner)
    audit.record(session, "provider.add", name, owner=str(owner))
    return provider


def set(session: Session, box: Box, owner: UUID, name: str, values: Mapping[str, Any]) -> bool:
    """Change a provider's columns; return False when all have these values already."""
    provider = get(session, owner, name)
    changed = _apply(provider, box, values)
    if "models" in changed:
        _check_models_used(session, provider)
    if changed:
        session.flush()
        containers.mark_stale(session, owner)
        audit.record(session, "provider.set", name, owner=str(owner), changed=changed)
    return bool(changed)


def record_test(session: Session, provider: LlmProvider, at: datetime, *, reason: str | None = None) -> None:
    """Keep the outcome of a test; `reason` says why it failed. The provider itself is no other for it."""
    outcome = {"tested_at": at, "tested_ok": reason is None, "tested_reason": reason}
    row = update(LlmProvider).where(col(LlmProvider.id) == provider.id)
    session.flush()
    session.execute(row.values(**outcome, updated_at=LlmProvider.updated_at), execution_options=_UNSYNCHRONISED)
    details = {"reason": reason} if reason else {}
    outcome_word = "failed" if reason else "done"
    audit.record(session, "provider.test", provider.name, outcome=outcome_word, owner=str(provider.user_id), **details)


def remove(session: Session, owner: UUID, name: str) -> None:
    """Remove a provider; raises Conflict naming the agents that use it, or that its owner prefers it."""
    provider = get(session, owner, name)
    if owner == SYSTEM_OWNER:
        _check_no_agent_uses(session, name)
    else:
        _check_not_preferred(session, provider)
    session.delete(provider)
    session.flush()
    containers.mark_stale(session, owner)
    audit.record(session, "provider.remove", name, owner=str(owner))


def get(session: Session, owner: UUID, name: str) -> LlmProvider:
    """Return an owner's provider; raises NotFound."""
    provider = find(session, owner, name)
    if provider is None:
        raise NotFound(f'no provider "{name}"', hint="mosaic provider list")
    return provider


def find(session: Session, owner: UUID, name: str) -> LlmProvider | None:
    """Return an owner's provider, None when there is none."""
    query = select(LlmProvider).where(LlmProvider.user_id == owner, LlmProvider.name == name)
    return session.exec(query).first()


def all_of(session: Session, owner: UUID) -> dict[str, LlmProvider]:
    """Return an owner's providers by name."""
    query = select(LlmProvider).where(LlmProvider.user_id == owner).order_by(col(LlmProvider.name))
    return {provider.name: provider for provider in session.exec(query)}


def model(given: Mapping[str, Any]) -> dict[str, Any]:
    """Check one model of a provider: id, name, contextWindow, maxTokens; raises Invalid."""
    unknown = sorted(given.keys() - {"id", "name", "contextWindow", "maxTokens"})
    if unknown:
        raise Invalid(f"a model has no {unknown[0]!r}: id, name, contextWindow, maxTokens")
    model_id = check_model_id(str(given.get("id") or ""))
    checked: dict[str, Any] = {
        "id": model_id,
        "name": check_text("model name", given.get("name") or model_id, longest=200),
    }
    for size in ("contextWindow", "maxTokens"):
        if given.get(size) is not None:
            checked[size] = _tokens(model_id, size, given[size])
    return checked


def _check_no_agent_uses(session: Session, name: str) -> None:
    agents = session.exec(select(SystemContainer).order_by(col(SystemContainer.name))).all()
    users = [agent.name for agent in agents if name in used(agent)]
    if users:
        raise Conflict(f'provider "{name}" is used by {", ".join(users)}', hint="mosaic agent set AGENT --model …")


def _check_not_preferred(session: Session, provider: LlmProvider) -> None:
    query = select(UserAgentConfig).where(UserAgentConfig.user_id == provider.user_id)
    for preferences in session.exec(query):
        refs = [preferences.primary_model or "", *preferences.fallback_models]
        if preferences.provider_id == provider.id or any(ref.startswith(f"{provider.name}/") for ref in refs):
            raise Conflict(f'provider "{provider.name}" is preferred by its owner', hint="mosaic user set NAME …")


def _check_models_used(session: Session, provider: LlmProvider) -> None:
    """Refuse to take away a model that an agent's ref names."""
    if provider.user_id != SYSTEM_OWNER:
        return
    offered = {f"{provider.name}/{one['id']}" for one in provider.models}
    for agent in session.exec(select(SystemContainer).order_by(col(SystemContainer.name))):
        for ref in [agent.primary_model, *agent.fallback_models]:
            if ref and ref.startswith(f"{provider.name}/") and ref not in offered:
                raise Conflict(f'agent "{agent.name}" uses {ref}', hint=f"mosaic agent set {agent.name} --model …")


def _apply(provider: LlmProvider, box: Box, values: Mapping[str, Any]) -> list[str]:
    """Write checked values into the row and name the columns that changed."""
    changed = []
    before = _origin(provider)
    for field in _FIELDS:
        if field not in values:
            continue
        if field == "api_key":
            if _put_key(provider, box, values[field]):
                changed.append(field)
            continue
        value = _checked(field, values[field])
        if getattr(provider, field) != value:
            setattr(provider, field, value)
            changed.append(field)
    if provider.auth == "key" and TYPES[provider.type].base_url is None and provider.base_url is None:
        raise Invalid(
            f'provider "{provider.name}" of type {provider.type} needs an address', hint="--base-url http://…"
        )
    if provider.api_key and "api_key" not in values and _origin(provider) != before:
        # Otherwise whoever may change an address could have the key sent to their own.
        raise Invalid(
            f'the key of provider "{provider.name}" is for {before}: another address needs the key again',
            hint="add --api-key-stdin, or --remove-key",
        )
    if _TESTED.intersection(changed):
        provider.tested_at = provider.tested_ok = provider.tested_reason = None
    return changed


def _origin(provider: LlmProvider) -> str:
    """Return scheme, host and port of the address a provider's key is sent to."""
    parts = urlsplit(provider.base_url or TYPES[provider.type].base_url or "")
    return f"{parts.scheme}://{parts.netloc}".lower()


def _put_key(provider: LlmProvider, box: Box, key: SecretStr | None) -> bool:
    if key is not None:
        _check_key(key)
    old = box.open(place(provider, "api_key"), provider.api_key) if provider.api_key else None
    if old == key:
        return False
    provider.api_key = box.seal(place(provider, "api_key"), key) if key else None
    provider.key_hint = hint(key) if key else None
    return True


def _check_key(key: SecretStr) -> None:
    text = key.get_secret_value()
    if not text or len(text) > 4096 or not text.isprintable() or " " in text:
        raise Invalid("an API key is 1 to 4096 printable characters without spaces")


def _checked(field: str, value: Any) -> Any:
    if field == "type":
        return _choice("provider type", value, tuple(TYPES))
    if field == "auth":
        return _choice("auth", value, AUTHS)
    if field == "api_type":
        return _choice("api type", value, API_TYPES)
    if field == "base_url":
        return _address(value) if value else None
    if field == "display_name":
        return check_text("display name", value, longest=200)
    if field == "models":
        return _models(value)
    return value


def _models(given: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    models = [model(one) for one in given]
    counts = Counter(one["id"] for one in models)
    twice = next((model_id for model_id, count in counts.items() if count > 1), None)
    if twice:
        raise Invalid(f"model {twice!r} is listed twice")
    return models


def _choice(what: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise Invalid(f"{what} {value!r}: use one of {', '.join(choices)}")
    return value


def _address(text: str) -> str:
    """Check an http(s) address without credentials, query or fragment."""
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good or not text.isprintable() or " " in text or len(text) > 1000:
        raise Invalid(f"address {text!r}: write http://host:port/path or https://…")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise Invalid("an address has no user, password, query or fragment; keys go in by --api-key-stdin")
    return text.rstrip("/")


def _tokens(model_id: str, what: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 100_000_000:
        raise Invalid(f"model {model_id!r}: {what} must be a number of tokens")
    return value

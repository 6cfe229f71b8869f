"""What a user prefers for their own gateway: model, fallbacks, default provider, personality, schedules."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlmodel import Session, select

from mosaic_fleet.db.tables import LlmProvider, User, UserAgentConfig
from mosaic_fleet.errors import Invalid, NotFound
from mosaic_fleet.fleet import containers, providers
from mosaic_fleet.fleet.agents import PERSONALITY_LENGTH
from mosaic_fleet.identity import audit
from mosaic_fleet.names import check_text, split_ref

_FIELDS = ("primary_model", "fallback_models", "provider_id", "personality", "schedules")
_MOST_FALLBACKS = 10


def get(session: Session, owner: UUID) -> UserAgentConfig:
    """Return a user's preferences; those of who has none yet are the defaults, and not stored."""
    found = session.exec(select(UserAgentConfig).where(UserAgentConfig.user_id == owner)).first()
    return found or UserAgentConfig(user_id=owner)


def set(session: Session, owner: UUID, values: Mapping[str, Any]) -> list[str]:
    """Change a user's preferences and name those that changed; `values` are its columns, `provider` by name.

    Raises NotFound for a provider or a model that is not the user's own, and Invalid for a bad value.
    """
    own = providers.all_of(session, owner)
    preferences = get(session, owner)
    columns = {field: value for field, value in values.items() if field in _FIELDS}
    if "provider" in values:
        columns["provider_id"] = _provider(own, values["provider"]).id if values["provider"] else None
    changed = [field for field, value in columns.items() if getattr(preferences, field) != value]
    for field in changed:
        setattr(preferences, field, columns[field])
    _check(preferences, own, changed)
    if changed:
        session.add(preferences)
        session.flush()
        containers.mark_stale(session, owner)
        told = {field: values[field] for field in changed if field in ("primary_model", "fallback_models", "schedules")}
        audit.record(session, "preferences.set", session.get_one(User, owner).name, changed=changed, **told)
    return changed


def _check(preferences: UserAgentConfig, own: Mapping[str, LlmProvider], changed: list[str]) -> None:
    if "personality" in changed:
        check_text("personality", preferences.personality or "", longest=PERSONALITY_LENGTH)
    if "primary_model" in changed and preferences.primary_model:
        _check_ref(preferences.primary_model, own)
    if "fallback_models" in changed:
        if len(preferences.fallback_models) > _MOST_FALLBACKS:
            raise Invalid(f"{len(preferences.fallback_models)} fallback models, at most {_MOST_FALLBACKS} fit")
        for ref in preferences.fallback_models:
            _check_ref(ref, own)


def _check_ref(ref: str, own: Mapping[str, LlmProvider]) -> None:
    name, model_id = split_ref(ref)
    provider = _provider(own, name)
    if model_id not in [model["id"] for model in provider.models]:
        raise NotFound(
            f'the user\'s provider "{name}" has no model "{model_id}"',
            hint=f"mosaic provider set {name} --user NAME --model {model_id}",
        )


def _provider(own: Mapping[str, LlmProvider], name: str) -> LlmProvider:
    """Return one of the user's own providers; those of the fleet and of others are not there."""
    if name not in own:
        raise NotFound(f'the user has no provider "{name}"', hint=f"mosaic provider add {name} --user NAME --type …")
    return own[name]

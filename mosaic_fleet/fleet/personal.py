"""A user's own gateway, from their rows: providers, preferences, personality and what its container may use."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from pydantic import SecretStr
from sqlmodel import Session

from mosaic_fleet import configuration, logs
from mosaic_fleet.db.reads import SYSTEM_OWNER
from mosaic_fleet.db.tables import LlmProvider, User, UserAgentConfig, place
from mosaic_fleet.errors import ConfigurationError, Denied, KeyFailure, NotFound
from mosaic_fleet.fleet import containers, delivery, openclaw, preferences, providers, vendors
from mosaic_fleet.names import split_ref
from mosaic_fleet.sealing import Box, Secret

# The settings of the installation that every gateway is made from.
SETTINGS = ("fleet.image", "gateways.memory", "gateways.cpus")


@dataclass(frozen=True)
class Personal:
    """A user's gateway as it is to run: who owns it, what it is given, and a keyed hash of all it is made from."""

    user: UUID
    name: str
    install: str
    settings: Mapping[str, Any]
    token: SecretStr
    package: delivery.Package
    digest: str
    secrets: tuple[Secret, ...] = field(repr=False, default=())

    def clean(self, text: str) -> str:
        """Take this gateway's secrets out of a text, and whatever looks like one; spell out control characters."""
        for secret in self.secrets:
            text = text.replace(secret.get_secret_value(), logs.STARS)
        return logs.neutralise(logs.redact(text), keep="\n\t")


def person(session: Session, user: UUID) -> User:
    """Return a user who may have a gateway; raises NotFound, or Denied when they are deactivated."""
    row = session.get(User, user)
    if row is None or user == SYSTEM_OWNER:
        raise NotFound("no such user", hint="mosaic user list")
    if row.deactivated_at is not None:
        raise Denied(f'user "{row.name}" is deactivated', hint=f"mosaic user enable {row.name}")
    return row


def load(session: Session, box: Box, user: UUID) -> Personal:
    """Read all that a user's gateway is made from, and open its secrets.

    Raises NotFound and Denied as person() does, ConfigurationError when it cannot run as it is.
    """
    owner = person(session, user)
    preferred = preferences.get(session, user)
    gateway = _gateway(box, owner.name, providers.all_of(session, user), preferred)
    row = containers.claim(session, box, user)
    token = containers.token(row, box)
    package = delivery.package(gateway, token, preferred.personality)
    settings = configuration.values(session)
    made_from = [str(settings[key]) for key in SETTINGS] + [package.text]
    return Personal(
        user=user,
        name=owner.name,
        install=configuration.install_id(session),
        settings=settings,
        token=token,
        package=package,
        digest=box.name(f"user/{user}", json.dumps(made_from)),
        secrets=(token, *(one.key for one in gateway.providers if one.key)),
    )


def digest(session: Session, box: Box, user: UUID) -> str | None:
    """Hash what a user's gateway would be made from now; None when none can be. Raises Denied, NotFound, KeyFailure."""
    try:
        return load(session, box, user).digest
    except KeyFailure:
        raise
    except ConfigurationError:
        return None


def _gateway(box: Box, name: str, owned: Mapping[str, LlmProvider], preferred: UserAgentConfig) -> openclaw.Gateway:
    """Choose the preferred model, else the first one of the default provider, else the first one there is."""
    primary = preferred.primary_model or _first_model(owned, preferred.provider_id)
    if primary is None:
        raise ConfigurationError(
            f'user "{name}" has no provider with a model', hint=f"mosaic provider add … --user {name} --model …"
        )
    refs = [primary, *preferred.fallback_models]
    for ref in refs:
        _check_usable(name, ref, owned)
    usable = tuple(_provider(box, row) for row in owned.values() if _is_usable(row))
    return openclaw.Gateway(primary, tuple(preferred.fallback_models), preferred.schedules, usable)


def _first_model(owned: Mapping[str, LlmProvider], default: UUID | None) -> str | None:
    rows = sorted(owned.values(), key=lambda row: (row.id != default, row.created_at))
    return next((f"{row.name}/{row.models[0]['id']}" for row in rows if row.models and _is_usable(row)), None)


def _check_usable(name: str, ref: str, owned: Mapping[str, LlmProvider]) -> None:
    """Raise ConfigurationError when a preferred model's provider cannot be used."""
    provider, model = split_ref(ref)
    row = owned.get(provider)
    if row is None or model not in [one["id"] for one in row.models]:
        raise ConfigurationError(
            f'user "{name}" prefers {ref}, which is not there', hint=f"mosaic provider list --user {name}"
        )
    if not _is_usable(row):
        what = "has no key" if row.is_active else "is switched off"
        raise ConfigurationError(
            f'user "{name}" prefers {ref}, whose provider {what}',
            hint=f"mosaic provider set {provider} --user {name} …",
        )


def _is_usable(row: LlmProvider) -> bool:
    return row.is_active and bool(row.api_key or not vendors.needs_key(row.type, row.auth))


def _provider(box: Box, row: LlmProvider) -> openclaw.Provider:
    key = box.open(place(row, "api_key"), row.api_key) if row.api_key and row.auth == "key" else None
    address = row.base_url or vendors.TYPES[row.type].base_url or ""
    return openclaw.Provider(row.name, row.type, row.api_type, address, row.models, key, row.auth == "login")

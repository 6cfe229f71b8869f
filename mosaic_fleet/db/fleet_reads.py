"""The quick reads about a stack: all that it takes to say what should run, and what was deployed before."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from mosaic_fleet.db.rows import Rows

_SHARED = UUID(int=0)
_HISTORY = 20
_SECRETS_HISTORY = 100


@dataclass(frozen=True)
class KeyRow:
    """A row of the keyring."""

    kid: str
    use: str
    environment_kid: str
    wrapped: str
    is_current: bool


@dataclass(frozen=True)
class MemberRow:
    """An agent as its service is made from it; `gateway_token` is sealed for `token_place`."""

    name: str
    role: str
    gateway_token: str
    token_place: str
    primary_model: str | None
    fallback_models: list[str]
    providers: list[str]
    personality: str | None
    schedules: bool
    image: str | None
    memory_limit: int
    memory_reservation: int
    cpu_limit: float | None
    replicas: int
    node_id: str | None
    volume: str | None


@dataclass(frozen=True)
class AccountRow:
    """A shared provider as a gateway needs it; `api_key` is sealed for `key_place`."""

    name: str
    type: str
    base_url: str | None
    auth: str
    api_key: str | None
    key_place: str
    api_type: str
    models: list[dict[str, Any]]
    is_active: bool


@dataclass(frozen=True)
class DeploymentRow:
    """A deployment and what became of it."""

    id: UUID
    number: int
    applies: int | None
    status: str
    outcome: dict[str, Any]
    created_at: datetime


@dataclass(frozen=True)
class RecordRow:
    """What a deployment was made of; `docker_secrets` is sealed for `secrets_place`."""

    id: UUID
    number: int
    stack_text: str
    docker_configs: dict[str, str]
    docker_secrets: str = field(repr=False)
    secrets_place: str


@dataclass(frozen=True)
class SecretsRow:
    """The Docker secrets of a deployment, sealed for `secrets_place`."""

    docker_secrets: str = field(repr=False)
    secrets_place: str


class FleetReads(Rows):
    """Reads about a stack, by its name."""

    def keyring(self) -> list[KeyRow]:
        """List the wrapped keys by age."""
        return self._all(
            KeyRow, "SELECT kid, use, environment_kid, wrapped, is_current FROM keyring ORDER BY created_at"
        )

    def members(self, stack: str, *, switched_off: bool = False) -> list[MemberRow]:
        """List the active agents of a stack by name, or those that are switched off too."""
        return self._all(MemberRow, _MEMBERS, f"|{_SHARED}", stack, switched_off)

    def accounts(self) -> list[AccountRow]:
        """List the shared providers by name."""
        return self._all(AccountRow, _ACCOUNTS, _SHARED)

    def changed_settings(self) -> dict[str, str]:
        """Return the values of the settings that were changed, but of secret ones."""
        rows = self._connection.execute("SELECT key, value FROM system_config WHERE NOT encrypted")
        return {str(key): str(value) for key, value in rows}

    def deployments(self, stack: str) -> list[DeploymentRow]:
        """List the newest deployments of a stack, the newest first."""
        return self._all(DeploymentRow, _DEPLOYMENTS, stack, _HISTORY)

    def records(self, ids: Collection[UUID]) -> list[RecordRow]:
        """Return what deployments were made of, oldest first."""
        return self._all(RecordRow, _RECORDS, f"|{_SHARED}", [*ids])

    def deployed_secrets(self, stack: str) -> list[SecretsRow]:
        """Return the Docker secrets of a stack's deployments, newest first; of those that have the same ones one."""
        return self._all(SecretsRow, _SECRETS, f"|{_SHARED}", stack, _SECRETS_HISTORY)


# The places of sealed values, as the marks of the tables say them: tests/postgres/test_reads.py holds them together.
_MEMBERS = """
SELECT a.name, a.role, a.gateway_token, 'gateway token|' || a.id || %s AS token_place, a.primary_model,
       a.fallback_models, a.providers, a.personality, a.schedules, a.image, a.memory_limit, a.memory_reservation,
       a.cpu_limit, a.replicas, a.node_id, a.volume
FROM system_container a JOIN stack s ON s.id = a.stack_id WHERE s.name = %s AND (a.is_active OR %s)
ORDER BY a.name"""
_ACCOUNTS = """
SELECT name, type, base_url, auth, api_key, 'provider key|' || id || '|' || user_id AS key_place, api_type, models,
       is_active FROM llm_provider WHERE user_id = %s ORDER BY name"""
_DEPLOYMENTS = """
SELECT d.id, d.number, d.applies, d.status, d.outcome, d.created_at FROM deployment d JOIN stack s ON s.id = d.stack_id
WHERE s.name = %s ORDER BY d.number DESC LIMIT %s"""
_RECORDS = """
SELECT id, number, stack_text, docker_configs, docker_secrets, 'deployed secrets|' || id || %s AS secrets_place
FROM deployment WHERE id = ANY(%s) ORDER BY number"""
_SECRETS = """
SELECT docker_secrets, secrets_place FROM (
  SELECT DISTINCT ON (md5(d.secret_names::text)) d.number, d.docker_secrets,
         'deployed secrets|' || d.id || %s AS secrets_place
  FROM deployment d JOIN stack s ON s.id = d.stack_id WHERE s.name = %s
  ORDER BY md5(d.secret_names::text), d.number DESC) one
ORDER BY number DESC LIMIT %s"""

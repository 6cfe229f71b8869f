"""The quick reads of the command line: psycopg and SQL, because importing the ORM costs a third of a second."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from urllib.parse import urlsplit
from uuid import UUID

import psycopg
from psycopg.conninfo import conninfo_to_dict

from mosaic_fleet.db.audit_reads import AuditReads
from mosaic_fleet.db.fleet_reads import FleetReads
from mosaic_fleet.db.gateway_reads import GatewayReads
from mosaic_fleet.db.migrations import HEAD
from mosaic_fleet.db.people_reads import PeopleReads
from mosaic_fleet.db.rows import one
from mosaic_fleet.errors import ConfigurationError, DatabaseFailure, Invalid

# The reserved owner of shared providers: one uniqueness rule and one query shape serve both.
SYSTEM_OWNER = UUID(int=0)
# One round trip: the application's role where the connection may take it, and the owner that policies see.
SCOPE = """
SELECT set_config('role', CASE WHEN to_regrole('mosaic_app') IS NOT NULL
                                AND pg_has_role(current_user, 'mosaic_app', CASE
                                    WHEN current_setting('server_version_num')::int < 160000 THEN 'MEMBER' ELSE 'SET'
                                    END)
                               THEN 'mosaic_app' ELSE current_user END, true),
       set_config('mosaic.owner', %s, true), set_config('mosaic.system', %s, true),
       to_regclass('alembic_version')
"""
# How every connection is made: seconds to wait, and text as text even where the database has no encoding.
CONNECTING: dict[str, Any] = {"connect_timeout": 5, "client_encoding": "utf8"}


@dataclass(frozen=True)
class AdminRow:
    """A breakglass administrator."""

    username: str
    is_active: bool
    created_at: datetime


@dataclass(frozen=True)
class ProviderRow:
    """A provider as far as it may be shown: the key is its last four characters at most."""

    name: str
    display_name: str
    type: str
    base_url: str | None
    auth: str
    has_key: bool
    key_hint: str | None
    api_type: str
    models: list[dict[str, Any]]
    is_active: bool
    tested_at: datetime | None
    tested_ok: bool | None
    tested_reason: str | None
    updated_at: datetime


@dataclass(frozen=True)
class AgentRow:
    """An agent of the roster; sizes are bytes, `changed_at` counts its stack, providers and settings too.

    `image` is its own, None for the one of the settings.
    """

    name: str
    stack: str
    role: str
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
    is_active: bool
    updated_at: datetime
    changed_at: datetime


@dataclass(frozen=True)
class StackRow:
    """A stack and its last deployment, if there was one."""

    name: str
    network: str
    agents: int
    number: int | None
    status: str | None
    deployed_at: datetime | None
    seen_at: datetime | None
    outcome: dict[str, Any] | None


@dataclass(frozen=True)
class SettingRow:
    """A setting that was changed from its default, and by whom; a sealed value is not shown."""

    key: str
    value: str | None
    updated_at: datetime
    updated_by: str | None


class Reads(PeopleReads, GatewayReads, FleetReads, AuditReads):
    """One read-only transaction for an owner or for the system."""

    schema = HEAD

    def admins(self) -> list[AdminRow]:
        """List the breakglass administrators by name."""
        return self._all(AdminRow, "SELECT username, is_active, created_at FROM breakglass_user ORDER BY username")

    def providers(self, owner: UUID) -> list[ProviderRow]:
        """List an owner's providers by name."""
        return self._all(ProviderRow, f"{_PROVIDERS} WHERE user_id = %s ORDER BY name", owner)

    def provider(self, owner: UUID, name: str) -> ProviderRow:
        """Show one provider; raises NotFound."""
        rows = self._all(ProviderRow, f"{_PROVIDERS} WHERE user_id = %s AND name = %s", owner, name)
        return one(rows, f'no provider "{name}"', "mosaic provider list")

    def agents(self, stack: str | None = None) -> list[AgentRow]:
        """List the agents of a stack, or all, by name."""
        return self._all(AgentRow, f"{_AGENTS} WHERE %s::text IS NULL OR s.name = %s ORDER BY a.name", stack, stack)

    def agent(self, name: str) -> AgentRow:
        """Show one agent; raises NotFound."""
        return one(self._all(AgentRow, f"{_AGENTS} WHERE a.name = %s", name), f'no agent "{name}"', "mosaic agent list")

    def stacks(self) -> list[StackRow]:
        """List the stacks by name, each with its last deployment."""
        return self._all(StackRow, _STACKS)

    def names(self, kind: str, prefix: str) -> list[str]:
        """List up to a hundred names of `agents`, `stacks` or shared `providers` that begin so."""
        rows = self._connection.execute(cast(Any, _NAMES[kind]), {"prefix": prefix, "shared": SYSTEM_OWNER})
        return [str(row[0]) for row in rows]

    def settings(self) -> list[SettingRow]:
        """List the settings that were changed."""
        return self._all(SettingRow, _SETTINGS)

    def install_id(self) -> str:
        """Return this installation's id."""
        row = self._connection.execute("SELECT value FROM system_config WHERE key = 'install.id'").fetchone()
        return str(row[0]) if row else ""

    def server_version(self) -> str:
        """Return Postgres' version, for instance `18.4`."""
        row = self._connection.execute("SHOW server_version").fetchone()
        return str(row[0]).partition(" ")[0] if row else ""

    def clock(self) -> datetime:
        """Return the time at the database, now and not when the transaction began."""
        (row,) = self._all(_Clock, "SELECT clock_timestamp() AS at")
        return row.at

    def encoding(self) -> str:
        """Return the database's encoding, for instance `UTF8`."""
        row = self._connection.execute("SHOW server_encoding").fetchone()
        return str(row[0]) if row else ""

    def privileged(self) -> bool:
        """Tell whether the connection's own role is above row-level security."""
        query = "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = session_user"
        row = self._connection.execute(query).fetchone()
        return bool(row and row[0])


@dataclass(frozen=True)
class _Clock:
    at: datetime


_PROVIDERS = """
SELECT name, display_name, type, base_url, auth, api_key IS NOT NULL AS has_key, key_hint, api_type, models,
       is_active, tested_at, tested_ok, tested_reason, updated_at FROM llm_provider"""
_AGENTS = """
SELECT a.name, s.name AS stack, a.role, a.primary_model, a.fallback_models, a.providers, a.personality, a.schedules,
       a.image, a.memory_limit, a.memory_reservation, a.cpu_limit, a.replicas, a.node_id, a.is_active, a.updated_at,
       GREATEST(a.updated_at, s.updated_at,
         (SELECT max(updated_at) FROM system_config WHERE key LIKE 'fleet.%%'),
         (SELECT max(updated_at) FROM llm_provider WHERE user_id = '00000000-0000-0000-0000-000000000000' AND name IN (
            SELECT split_part(ref, '/', 1)
            FROM jsonb_array_elements_text(a.fallback_models || a.providers || jsonb_build_array(a.primary_model)) ref))
       ) AS changed_at
FROM system_container a JOIN stack s ON s.id = a.stack_id"""
_NAMES = {
    "agents": "SELECT name FROM system_container WHERE name ^@ %(prefix)s ORDER BY name LIMIT 100",
    "stacks": "SELECT name FROM stack WHERE name ^@ %(prefix)s ORDER BY name LIMIT 100",
    "providers": "SELECT name FROM llm_provider WHERE user_id = %(shared)s AND name ^@ %(prefix)s "
    "ORDER BY name LIMIT 100",
}
_SETTINGS = """
SELECT key, CASE WHEN encrypted THEN NULL ELSE value END AS value, updated_at,
       (SELECT actor FROM audit WHERE object = key AND verb = 'config.set' ORDER BY id DESC LIMIT 1) AS updated_by
FROM system_config WHERE key <> 'install.id' AND value <> '' ORDER BY key"""
_STACKS = """
SELECT s.name, s.network, (SELECT count(*) FROM system_container a WHERE a.stack_id = s.id AND a.is_active) AS agents,
       d.number, d.status, d.created_at AS deployed_at, d.seen_at, d.outcome
FROM stack s LEFT JOIN LATERAL (
  SELECT * FROM deployment WHERE stack_id = s.id ORDER BY number DESC LIMIT 1) d ON true
ORDER BY s.name"""


@contextmanager
def read(url: str, *, owner: UUID | None = None) -> Iterator[Reads]:
    """Open a read-only transaction for an owner, or without one for the system.

    Raises DatabaseFailure when Postgres does not answer or the schema is not this version's.
    """
    try:
        with psycopg.connect(libpq(url), **CONNECTING) as connection:
            connection.read_only = True
            row = connection.execute(SCOPE, (str(owner or ""), "" if owner else "on")).fetchone()
            check_version(_version(connection) if row and row[3] else None)
            yield Reads(connection)
    except (psycopg.OperationalError, psycopg.errors.InsufficientPrivilege) as error:
        raise unreachable(url, error) from error
    except (psycopg.DataError, UnicodeEncodeError) as error:
        raise unstorable(error) from error


def check_version(version: str | None, *, allow_older: bool = False) -> None:
    """Compare a schema's version with this program's; raises DatabaseFailure when they differ."""
    if version is not None and version > HEAD:
        raise DatabaseFailure(
            f"the database has schema {version}, newer than this mosaic's {HEAD}", hint="install the newer mosaic"
        )
    if allow_older or version == HEAD:
        return
    if version is None:
        raise DatabaseFailure("the database is empty", hint="mosaic init")
    raise DatabaseFailure(f"the database has schema {version}, this mosaic needs {HEAD}", hint="mosaic db upgrade")


def check_encoding(encoding: str) -> None:
    """Refuse a database that cannot hold every text; raises ConfigurationError."""
    if encoding != "UTF8":
        raise ConfigurationError(
            f"the database has encoding {encoding}, Mosaic needs UTF8",
            hint="CREATE DATABASE mosaic OWNER mosaic ENCODING 'UTF8' TEMPLATE template0",
        )


def libpq(url: str) -> str:
    """Spell a database URL as libpq does: `postgres://` and SQLAlchemy's `postgresql+psycopg://` become `postgresql://`.

    Raises ConfigurationError, without repeating it, when it is no address of a Postgres.
    """
    scheme, separator, rest = url.partition("://")
    spelled = f"postgresql://{rest}"
    try:
        if not separator or scheme not in ("postgres", "postgresql", "postgresql+psycopg"):
            raise ValueError("the scheme is not postgresql")
        _ = urlsplit(spelled).port
        conninfo_to_dict(spelled)
    except (ValueError, psycopg.ProgrammingError):
        raise ConfigurationError(
            "DATABASE_URL is no address of a Postgres", hint="write postgresql://USER@HOST:5432/DATABASE"
        ) from None
    place = rest.partition("?")[0].partition("/")[0]
    if rest.count("@") > 1 or "@" in rest.removeprefix(place):  # half a password would be taken for the host, and shown
        raise ConfigurationError("DATABASE_URL has an @ too many", hint="write an @ of the password as %40")
    return spelled


def unreachable(url: str, error: BaseException) -> DatabaseFailure:
    """Describe a failure of Postgres without the URL's password."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    where = url.partition("?")[0].partition("://")[2].rpartition("@")[2]
    local = where.startswith("/")
    hint = "mosaic db start" if local else "is it running, and is DATABASE_URL right?"
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        hint = "name the role that owns Mosaic's tables in DATABASE_URL"
    return DatabaseFailure(f"postgres at {'the local socket' if local else where}: {lines[0]}", hint=hint)


def unstorable(error: Exception) -> Invalid:
    """Describe a text that Postgres cannot store: one with a NUL or half a character."""
    spoken = isinstance(error, psycopg.DataError)
    return Invalid(
        f"postgres cannot store a value: {error}" if spoken else "a text has a character that cannot be stored"
    )


def _version(connection: "psycopg.Connection[Any]") -> str | None:
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(row[0]) if row else None

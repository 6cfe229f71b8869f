"""All tables on one page.

A column that holds sealed text is marked `info={"sealed": "<purpose>"}` (with `"when"` naming a boolean column
where it differs by row); a table whose rows have an owner names its column in the table's `info`.
"""

from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID, uuid4

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    Text,
    UniqueConstraint,
    event,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from mosaic_fleet.db.reads import SYSTEM_OWNER

NAMES: dict[str, str] = {
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
SQLModel.metadata.naming_convention = NAMES


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


def place(row: SQLModel, column: str) -> str:
    """Name the place of a sealed value, `<purpose>|<row id>|<owner>`, from the table's own marks."""
    table = row.__table__  # type: ignore[attr-defined]  # SQLModel does not declare it
    owner = getattr(row, table.info["owner"]) if "owner" in table.info else SYSTEM_OWNER
    return place_of(table.c[column], row.id, owner)  # type: ignore[attr-defined]


def place_of(column: Column[str], row_id: UUID, owner: UUID) -> str:
    """Name the place of a sealed value by its column, row and owner."""
    return f"{column.info['sealed']}|{row_id}|{owner}"


def _text(*, sealed: str | None = None, when: str | None = None, **options: Any) -> Any:
    info = {key: value for key, value in (("sealed", sealed), ("when", when)) if value}
    return Field(default=options.pop("default", None), sa_column=Column(Text, info=info, **options))


def _json(default: str) -> Any:
    factory = list if default == "[]" else dict
    column = Column(JSONB, nullable=False, server_default=text(f"'{default}'::jsonb"))
    return Field(default_factory=factory, sa_column=column)


def _time(*, nullable: bool = False, touched: bool = False) -> Any:
    column = Column(DateTime(timezone=True), nullable=nullable, onupdate=now if touched else None)
    return Field(default=None, sa_column=column) if nullable else Field(default_factory=now, sa_column=column)


def _id() -> Any:
    return Field(default_factory=uuid4, primary_key=True)


class User(SQLModel, table=True):
    """A person, or the reserved owner of what is shared.

    `name` is what commands call them, `email` is in lower case, `role` is `member` or `admin` (`system` for the
    reserved owner); a local one is known to Mosaic alone, for the others an issuer vouches.
    """

    __tablename__ = "mosaic_user"
    __table_args__ = (
        CheckConstraint("role in ('member', 'admin', 'system')", "role"),
        CheckConstraint("email = lower(email)", "email"),
    )
    id: UUID = _id()
    name: str = _text(nullable=False, unique=True)
    display_name: str = _text(nullable=False, default="", server_default="")
    email: str | None = _text(unique=True)
    role: str = Field(default="member", sa_type=Text)
    is_local: bool = Field(default=True, sa_column_kwargs={"server_default": text("true")})
    deactivated_at: datetime | None = _time(nullable=True)
    created_at: datetime = _time()
    updated_at: datetime = _time(touched=True)


class BreakglassUser(SQLModel, table=True):
    """A local administrator who gets in with nothing but the database."""

    __tablename__ = "breakglass_user"
    id: UUID = _id()
    username: str = _text(nullable=False, unique=True)
    password_hash: str = _text(nullable=False)
    is_active: bool = True
    created_at: datetime = _time()
    updated_at: datetime = _time(touched=True)


class SystemConfig(SQLModel, table=True):
    """One setting of the installation that was changed from its default."""

    __tablename__ = "system_config"
    id: UUID = _id()
    key: str = _text(nullable=False, unique=True)
    value: str = _text(nullable=False, sealed="setting", when="encrypted")
    encrypted: bool = False
    updated_at: datetime = _time(touched=True)


class Keyring(SQLModel, table=True):
    """A data key wrapped by one environment key; `use` is `data` or `names`, `created_at` the data key's own age."""

    __tablename__ = "keyring"
    __table_args__ = (UniqueConstraint("kid", "environment_kid"), CheckConstraint("use in ('data', 'names')", "use"))
    id: UUID = _id()
    kid: str = _text(nullable=False)
    use: str = _text(nullable=False)
    environment_kid: str = _text(nullable=False)
    wrapped: str = _text(nullable=False)
    is_current: bool = True
    created_at: datetime = _time()
    wrapped_at: datetime = _time()


class LlmProvider(SQLModel, table=True):
    """An LLM account; `auth` is `key` or `login`, `models` a list of id, name, contextWindow, maxTokens.

    `tested_at` is when what is stored now was last tested, null when it never was.
    """

    __tablename__ = "llm_provider"
    __table_args__ = (UniqueConstraint("user_id", "name"), {"info": {"owner": "user_id"}})
    id: UUID = _id()
    user_id: UUID = Field(foreign_key="mosaic_user.id", index=True)
    name: str = _text(nullable=False)
    display_name: str = _text(nullable=False)
    type: str = _text(nullable=False)
    base_url: str | None = _text()
    auth: str = _text(nullable=False, default="key", server_default="key")
    api_key: str | None = _text(sealed="provider key")
    key_hint: str | None = _text()
    api_type: str = _text(nullable=False, default="openai-completions", server_default="openai-completions")
    models: list[dict[str, Any]] = _json("[]")
    is_active: bool = True
    tested_at: datetime | None = _time(nullable=True)
    tested_ok: bool | None = None
    tested_reason: str | None = _text()
    created_at: datetime = _time()
    updated_at: datetime = _time(touched=True)


class UserContainer(SQLModel, table=True):
    """A user's own gateway; `config` is the last rendered openclaw.json, free of secrets.

    `reason` says why it is in its `status`, and `status_at` since when; `subnet_index` is its place in the pool while
    it runs, `config_hash` a keyed hash of all it was started with, `is_stale` says that its owner wants something else
    by now; after `failures` in a row it is not started again before `retry_at`. `last_active_by` says what the last
    activity was, `idle_timeout_min` is null for the setting's, `next_due_at` is when a job of its own schedules is due,
    as far as it said so; `lease_lapses_at` is when the lease that it fell asleep under has surely run out, in seconds
    of its machine's monotonic clock, null where that is not ours.
    A container that fetches its config shows a token, of which there is a sha256 here and when it was made.
    """

    __tablename__ = "user_container"
    __table_args__: ClassVar[Any] = {"info": {"owner": "user_id"}}
    id: UUID = _id()
    user_id: UUID = Field(foreign_key="mosaic_user.id", unique=True)
    container_id: str | None = _text()
    container_name: str = _text(nullable=False)
    gateway_port: int = 18789
    gateway_token: str = _text(nullable=False, sealed="gateway token")
    gateway_token_at: datetime = _time()
    status: str = _text(nullable=False, default="stopped", server_default="stopped")
    reason: str | None = _text()
    status_at: datetime | None = _time(nullable=True)
    last_active_at: datetime | None = _time(nullable=True)
    last_active_by: str | None = _text()
    started_at: datetime | None = _time(nullable=True)
    idle_timeout_min: int | None = None
    next_due_at: datetime | None = _time(nullable=True)
    lease_lapses_at: float | None = None
    subnet_index: int | None = Field(default=None, unique=True)
    image_id: str | None = _text()
    config: dict[str, Any] = _json("{}")
    config_hash: str | None = _text()
    is_stale: bool = Field(default=False, sa_column_kwargs={"server_default": "false"})
    config_token_hash: str | None = _text()
    config_token_at: datetime | None = _time(nullable=True)
    failures: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    retry_at: datetime | None = _time(nullable=True)
    created_at: datetime = _time()
    updated_at: datetime = _time(touched=True)


@event.listens_for(UserContainer.status, "set")
def _note_change(row: UserContainer, status: str, before: object, _: object) -> None:
    """Keep since when a gateway is what it is, whoever changes that."""
    if status != before:
        row.status_at = now()


class UserAgentConfig(SQLModel, table=True):
    """What a user prefers for their own gateway."""

    __tablename__ = "user_agent_config"
    __table_args__: ClassVar[Any] = {"info": {"owner": "user_id"}}
    id: UUID = _id()
    user_id: UUID = Field(foreign_key="mosaic_user.id", unique=True)
    primary_model: str | None = _text()
    fallback_models: list[str] = _json("[]")
    personality: str | None = _text()
    provider_id: UUID | None = Field(default=None, foreign_key="llm_provider.id")
    schedules: bool = False
    created_at: datetime = _time()
    updated_at: datetime = _time(touched=True)


class Stack(SQLModel, table=True):
    """A roster's stack on the Swarm and the external overlay network its agents join."""

    __tablename__ = "stack"
    id: UUID = _id()
    name: str = _text(nullable=False, unique=True)
    network: str = _text(nullable=False)
    created_at: datetime = _time()
    updated_at: datetime = _time(touched=True)


class SystemContainer(SQLModel, table=True):
    """An agent: a named always-on member of the fleet with one gateway.

    Sizes are bytes, `replicas` is 0 or 1, `image` is its own where that is not the setting `fleet.image`; `volume`
    names an adopted volume that holds its state, None is the one that Mosaic makes for it. A container that fetches its
    config shows a token, of which there is a sha256 here and when it was made.
    """

    __tablename__ = "system_container"
    __table_args__ = (CheckConstraint("replicas in (0, 1)", "replicas"),)
    id: UUID = _id()
    name: str = _text(nullable=False, unique=True)
    stack_id: UUID = Field(foreign_key="stack.id", index=True)
    role: str = _text(nullable=False, default="", server_default="")
    container_id: str | None = _text()
    gateway_port: int = 18789
    gateway_token: str = _text(nullable=False, sealed="gateway token")
    status: str = _text(nullable=False, default="stopped", server_default="stopped")
    provider_id: UUID | None = Field(default=None, foreign_key="llm_provider.id")
    primary_model: str | None = _text()
    fallback_models: list[str] = _json("[]")
    providers: list[str] = _json("[]")
    personality: str | None = _text()
    schedules: bool = False
    image: str | None = _text()
    memory_limit: int = Field(default=2 << 30, sa_type=BigInteger)
    memory_reservation: int = Field(default=512 << 20, sa_type=BigInteger)
    cpu_limit: float | None = None
    replicas: int = 1
    node_id: str | None = _text()
    volume: str | None = _text()
    config_token_hash: str | None = _text()
    config_token_at: datetime | None = _time(nullable=True)
    is_active: bool = True
    created_at: datetime = _time()
    updated_at: datetime = _time(touched=True)


class Deployment(SQLModel, table=True):
    """One deploy of a stack, with all that is needed to apply it again.

    `docker_configs` maps names to contents, `docker_secrets` is the same as sealed JSON (its names are in
    `secret_names`), `validated` lists the Docker configs that the image with `image_id` accepted, `outcome` maps
    agents to what became of them and the image they ran, `seen_at` is when the roster was last read and asked for
    nothing else, `applies` is the number of the earlier deployment that this one is again.
    """

    __tablename__ = "deployment"
    __table_args__ = (UniqueConstraint("stack_id", "number"),)
    id: UUID = _id()
    stack_id: UUID = Field(foreign_key="stack.id", index=True)
    number: int
    applies: int | None = None
    status: str = _text(nullable=False, default="started", server_default="started")
    actor: str = _text(nullable=False)
    image: str = _text(nullable=False)
    image_id: str = _text(nullable=False)
    stack_text: str = _text(nullable=False)
    docker_configs: dict[str, str] = _json("{}")
    secret_names: list[str] = _json("[]")
    docker_secrets: str = _text(nullable=False, sealed="deployed secrets")
    validated: list[str] = _json("[]")
    outcome: dict[str, Any] = _json("{}")
    created_at: datetime = _time()
    seen_at: datetime = _time()
    finished_at: datetime | None = _time(nullable=True)


class Audit(SQLModel, table=True):
    """Who did what; each row's hash covers the row and the hash before it."""

    __tablename__ = "audit"
    __table_args__ = (Index(None, "object", "id"),)
    id: int | None = Field(default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    at: datetime = _time()
    actor: str = _text(nullable=False)
    verb: str = _text(nullable=False)
    object: str = _text(nullable=False)
    outcome: str = _text(nullable=False, default="done", server_default="done")
    details: dict[str, Any] = _json("{}")
    previous: str = _text(nullable=False)
    hash: str = _text(nullable=False)

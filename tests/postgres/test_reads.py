"""The quick reads: what the ORM would answer, and nothing is ever written through them."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlmodel import Session, col, select

from mosaic_fleet import configuration
from mosaic_fleet.db.database import Database
from mosaic_fleet.db.reads import SYSTEM_OWNER, read
from mosaic_fleet.db.tables import (
    BreakglassUser,
    Deployment,
    LlmProvider,
    Stack,
    SystemConfig,
    SystemContainer,
    User,
)
from mosaic_fleet.errors import DatabaseFailure, NotFound
from mosaic_fleet.fleet import providers, vendors

OWNER = UUID(int=7)
START = datetime(2026, 1, 1, tzinfo=UTC)
TEXTS = ["", "plain", "quote ' \" \\", "new\nline", "$x ${y} {{ z }} %s %(a)s", "Ünï ☃", "a\tb", "--", ";"]
MOMENTS = [START + timedelta(seconds=number, microseconds=number) for number in range(500)]


def generate(session: Session, seed: int) -> None:
    """Fill every table that is read with rows that differ in all that may differ."""
    random = Random(seed)
    session.add(User(id=OWNER, name="ann"))
    session.flush()
    for number in range(5):
        session.add(BreakglassUser(username=f"admin-{number}", password_hash="x", is_active=random.random() < 0.5))
    for owner in (SYSTEM_OWNER, OWNER):
        for number in range(6):
            session.add(_provider(random, owner, f"p{number}"))
    for key in ("fleet.image", "fleet.stop_grace"):
        session.add(SystemConfig(key=key, value=random.choice(TEXTS), updated_at=random.choice(MOMENTS)))
    session.add(SystemConfig(key="other", value="enc:v1:x", encrypted=True, updated_at=random.choice(MOMENTS)))
    for number in range(4):
        _add_stack(session, random, f"stack-{number}")


def _provider(random: Random, owner: UUID, name: str) -> LlmProvider:
    return LlmProvider(
        user_id=owner,
        name=name,
        display_name=random.choice(TEXTS),
        type=random.choice(list(vendors.TYPES)),
        base_url=random.choice([None, "http://10.1.1.42:11434"]),
        auth=random.choice(["key", "login"]),
        api_key=random.choice([None, "enc:v1:x"]),
        key_hint=random.choice([None, "9f2c"]),
        models=[{"id": random.choice(TEXTS), "maxTokens": 7} for _ in range(random.randrange(3))],
        is_active=random.random() < 0.5,
        updated_at=random.choice(MOMENTS),
    )


def _add_stack(session: Session, random: Random, name: str) -> None:
    stack = Stack(name=name, network=random.choice(["one", "two"]), updated_at=random.choice(MOMENTS))
    session.add(stack)
    session.flush()
    for number in range(random.randrange(4)):
        session.add(_agent(random, stack, f"{name}-agent-{number}"))
    for number in range(random.randrange(3)):
        session.add(
            Deployment(
                stack_id=stack.id,
                number=number + 1,
                status=random.choice(["healthy", "failed"]),
                actor="x",
                image="x",
                image_id="x",
                stack_text="x",
                docker_secrets="x",
                outcome={"agent": {"verdict": random.choice(TEXTS)}},
                created_at=random.choice(MOMENTS),
            )
        )


def _agent(random: Random, stack: Stack, name: str) -> SystemContainer:
    refs = [f"p{random.randrange(6)}/{random.choice(TEXTS)}" for _ in range(3)]
    return SystemContainer(
        name=name,
        stack_id=stack.id,
        role=random.choice(TEXTS),
        gateway_token="x",
        primary_model=random.choice([None, refs[0]]),
        fallback_models=random.choice([[], refs[1:2]]),
        providers=random.choice([[], [f"p{random.randrange(6)}"]]),
        personality=random.choice([None, *TEXTS]),
        schedules=random.random() < 0.5,
        memory_limit=random.choice([1 << 30, 1 << 40]),
        memory_reservation=256 << 20,
        cpu_limit=random.choice([None, 1.5]),
        replicas=random.choice([0, 1]),
        node_id=random.choice([None, "node"]),
        is_active=random.random() < 0.7,
        updated_at=random.choice(MOMENTS),
    )


def dumped(row: Any, *without: str, **more: Any) -> dict[str, Any]:
    return {key: value for key, value in row.model_dump().items() if key not in without} | more


def same(rows: list[Any], expected: list[dict[str, Any]]) -> None:
    """Compare rows with the ORM's as far as the quick read has their columns."""
    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        assert asdict(row) == {name: other[name] for name in asdict(row)}


def changed_at(session: Session, agent: SystemContainer) -> datetime:
    """Tell when an agent, its stack, one of its providers or a setting of the fleet was last changed."""
    shared = providers.all_of(session, SYSTEM_OWNER)
    moments = [shared[name].updated_at for name in vendors.used(agent)]
    settings = session.exec(select(SystemConfig).where(col(SystemConfig.key).startswith("fleet."))).all()
    stack = session.exec(select(Stack).where(Stack.id == agent.stack_id)).one()
    return max([agent.updated_at, stack.updated_at, *moments, *(setting.updated_at for setting in settings)])


@pytest.fixture(params=range(6))
def filled(database: Database, request: pytest.FixtureRequest) -> Database:
    with database.transaction(system=True) as session:
        generate(session, request.param)
    return database


def test_administrators_and_settings(filled: Database) -> None:
    """Administrators and changed settings come by name; a sealed value is not shown, the install id is no setting."""
    with filled.transaction(system=True) as session, read(filled.url) as reads:
        admins = session.exec(select(BreakglassUser).order_by(BreakglassUser.username)).all()
        same(reads.admins(), [dumped(row) for row in admins])
        rows = session.exec(select(SystemConfig).order_by(SystemConfig.key)).all()
        rows = [row for row in rows if row.value]  # an empty one was taken back
        changed = [row for row in rows if row.key != "install.id"]
        expected = [dumped(row, value=None if row.encrypted else row.value, updated_by=None) for row in changed]
        same(reads.settings(), expected)
        assert [reads.install_id()] == [row.value for row in rows if row.key == "install.id"]


@pytest.mark.parametrize("owner", [SYSTEM_OWNER, OWNER])
def test_providers(filled: Database, owner: UUID) -> None:
    """An owner's providers come by name and without the sealed key; each can be asked for alone."""
    with filled.transaction(system=True) as session, read(filled.url) as reads:
        expected = [dumped(row, has_key=row.api_key is not None) for row in providers.all_of(session, owner).values()]
        same(reads.providers(owner), expected)
        same([reads.provider(owner, row["name"]) for row in expected], expected)


def test_agents(filled: Database) -> None:
    """Agents come by name, all or a stack's, with the time of the last change that concerns them."""
    with filled.transaction(system=True) as session, read(filled.url) as reads:
        joined = select(SystemContainer, Stack.name).join(Stack).order_by(SystemContainer.name)
        expected = [
            dumped(agent, stack=stack, changed_at=changed_at(session, agent)) for agent, stack in session.exec(joined)
        ]
        same(reads.agents(), expected)
        same(reads.agents("stack-1"), [row for row in expected if row["stack"] == "stack-1"])
        same([reads.agent(row["name"]) for row in expected], expected)


def test_stacks(filled: Database) -> None:
    """Stacks come by name, each with its active agents counted and its newest deployment."""
    with filled.transaction(system=True) as session, read(filled.url) as reads:
        expected = []
        for stack in session.exec(select(Stack).order_by(Stack.name)):
            query = select(Deployment).where(Deployment.stack_id == stack.id).order_by(col(Deployment.number).desc())
            last = session.exec(query).first()
            newest = {"number": last and last.number, "status": last and last.status, "outcome": last and last.outcome}
            active = select(SystemContainer).where(SystemContainer.stack_id == stack.id, SystemContainer.is_active)
            newest |= {"deployed_at": last and last.created_at, "seen_at": last and last.seen_at}
            newest |= {"agents": len(session.exec(active).all())}
            expected.append(dumped(stack, **newest))
        same(reads.stacks(), expected)


def test_what_is_not_there(database: Database) -> None:
    """An unknown provider or agent, or somebody else's provider, is not found."""
    with database.transaction(system=True) as session:
        session.add(User(id=OWNER, name="ann"))
        session.flush()
        session.add(_provider(Random(1), OWNER, "hers"))
    with read(database.url) as reads:
        with pytest.raises(NotFound, match='no provider "hers"'):
            reads.provider(SYSTEM_OWNER, "hers")
        with pytest.raises(NotFound, match='no agent "nobody"'):
            reads.agent("nobody")


def test_a_setting_taken_back_is_a_change(database: Database) -> None:
    """`unset` moves the time of an agent's last change, and the setting counts as a default again."""
    with database.transaction(system=True) as session:
        session.add(stack := Stack(name="one", network="net"))
        session.flush()
        session.add(_agent(Random(1), stack, "only"))
        configuration.set(session, "fleet.stop_grace", "60")
    with read(database.url) as reads:
        before = {row.name: row.changed_at for row in reads.agents()}
    with database.transaction(system=True) as session:
        assert configuration.unset(session, "fleet.stop_grace")
        assert not configuration.unset(session, "fleet.stop_grace")
        assert configuration.values(session)["fleet.stop_grace"] == 330
        assert not configuration.set(session, "fleet.stop_grace", "330")
    with read(database.url) as reads:
        after = {row.name: row.changed_at for row in reads.agents()}
        assert reads.settings() == []
    assert before
    assert all(after[name] > before[name] for name in before)


def test_a_role_that_may_not_look_is_told(database_url: str) -> None:
    """A table that the role may not read is a failure of the database that says which role to use."""
    Database(database_url, actor="test").upgrade()
    with psycopg.connect(database_url) as connection:
        connection.execute("REVOKE SELECT ON breakglass_user FROM mosaic_app, mosaic")
    denied = pytest.raises(DatabaseFailure, match="permission denied for table breakglass_user")
    with denied as caught, read(database_url) as reads:
        reads.admins()
    assert caught.value.hint == "name the role that owns Mosaic's tables in DATABASE_URL"


def test_nothing_is_written_through_them(database: Database) -> None:
    """Postgres itself refuses an insert on the connection of the reads."""
    with read(database.url) as reads, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        reads._connection.execute("INSERT INTO breakglass_user SELECT FROM breakglass_user")


def test_the_server_is_described(database: Database) -> None:
    """The version is Postgres' own, and the connection's role is not above row-level security."""
    with read(database.url) as reads:
        assert reads.server_version().partition(".")[0].isdecimal()
        assert not reads.privileged()
    with read(database.url.replace("mosaic@", "mosaic_super@")) as reads:
        assert reads.privileged()

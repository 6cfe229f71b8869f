"""The keyring: made once, opened by the key that made it, and everything secret is sealed under it."""

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlmodel import SQLModel, select

from mosaic_fleet import keyring
from mosaic_fleet.db.database import Database
from mosaic_fleet.db.tables import Keyring, LlmProvider, place
from mosaic_fleet.errors import ConfigurationError
from mosaic_fleet.fleet import deployments, stack
from mosaic_fleet.sealing import Box, EnvironmentKey, generate_key
from tests.postgres.machine import JARVIS, Machine
from tests.processes import fork, until

KEYS = [f"sk-sentinel-{number}-abcdefghijklmnopqrst" for number in range(2)]
SEALED = [
    ("deployment", "docker_secrets", "deployed secrets"),
    ("llm_provider", "api_key", "provider key"),
    ("system_config", "value", "setting"),
    ("system_container", "gateway_token", "gateway token"),
    ("user_container", "gateway_token", "gateway token"),
]
# Columns that sound like a secret and hold none: hashes, references, the last four characters.
HARMLESS = {
    ("breakglass_user", "password_hash"),
    ("deployment", "secret_names"),
    ("llm_provider", "key_hint"),
    ("system_container", "config_token_at"),
    ("system_container", "config_token_hash"),
    ("user_container", "config_token_at"),
    ("user_container", "config_token_hash"),
    ("user_container", "gateway_token_at"),
    ("system_config", "key"),
}


@pytest.fixture
def secret_key(mosaic: Machine) -> str:
    return mosaic.environ["MOSAIC_SECRET_KEY"]


@pytest.fixture
def box(database: Database, secret_key: str) -> Box:
    return Box(lambda: keyring.load(database, secret_key))


def sealed_values(database: Database) -> list[tuple[str, str, str]]:
    """Return column, place and value of everything sealed in the database."""
    models = {mapper.local_table.name: mapper.class_ for mapper in SQLModel._sa_registry.mappers}
    found = []
    with database.transaction(system=True) as session:
        for table, column, _ in SEALED:
            for row in session.exec(select(models[table])):
                value: Any = getattr(row, column)
                if value is not None and getattr(row, models[table].__table__.c[column].info.get("when", ""), True):
                    found.append((f"{table}.{column}", place(row, column), value))
    return found


def dump(database: Database) -> str:
    """Return every row of every table as text."""
    with psycopg.connect(database.url) as connection:
        return "\n".join(
            str(row[0])
            for table in SQLModel.metadata.sorted_tables
            for row in connection.execute(f"SELECT t::text FROM {table.name} t")
        )


def count(database: Database) -> dict[str, int]:
    with psycopg.connect(database.url) as connection:
        return {
            table.name: connection.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0]
            for table in SQLModel.metadata.sorted_tables
        }


def use_everything(mosaic: Machine) -> None:
    """Run the commands that put secrets into the database, and change them."""
    mosaic("provider", "add", "zai", "--type", "zai", "--model", "glm-5", "--api-key-stdin", "--no-test", input=KEYS[0])
    mosaic("provider", "add", "openai", "--type", "openai", "--api-key-stdin", "--no-test", input=KEYS[0])
    assert mosaic("provider", "set", "zai", "--api-key-stdin", "--no-test", input=KEYS[1]).stdout == "changed zai\n"
    assert mosaic("agent", "import", JARVIS).exit_code == 0
    assert mosaic("agent", "add", "one", "--model", "zai/glm-5").exit_code == 0
    assert mosaic("agent", "set", "one", "--role", "other").exit_code == 0


def deploy(database: Database, box: Box) -> None:
    """Write a deployment down, as a deploy does before it turns to Docker."""
    with database.transaction(system=True) as session:
        roster = stack.load(session, box, None)
    with deployments.recorded(database, box, deployments.Intent(roster, stack.render(roster, box), {}, "")):
        pass


def test_sealed_columns_are_known_from_the_tables() -> None:
    """Exactly these columns are marked as sealed, each with its purpose."""
    marked = [
        (table.name, column.name, column.info["sealed"])
        for table in SQLModel.metadata.sorted_tables
        for column in table.columns
        if "sealed" in column.info
    ]
    assert sorted(marked) == SEALED


def test_no_column_that_sounds_secret_is_forgotten() -> None:
    """A column named like a token, key, secret or password is sealed or known to be harmless."""
    sounding = {
        (table.name, column.name)
        for table in SQLModel.metadata.sorted_tables
        for column in table.columns
        if re.search("token|key|secret|password|credential", column.name)
    }
    assert sounding - HARMLESS == {(table, column) for table, column, _ in SEALED if column != "value"}


def test_everything_sealed_opens_and_nothing_else_is_secret(mosaic: Machine, database: Database, box: Box) -> None:
    """After all commands each sealed value has its form and opens at its place, and no key stands in the open."""
    use_everything(mosaic)
    deploy(database, box)
    values = sealed_values(database)
    opened = {where: box.open(where, value).get_secret_value() for _, where, value in values}
    assert {column for column, _, _ in values} == {f"{table}.{column}" for table, column, _ in SEALED} - {
        "system_config.value",
        "user_container.gateway_token",
    }
    assert all(re.fullmatch(r"enc:v1:[0-9a-f]{8}:[\w-]+=*", value) for _, _, value in values)
    text = dump(database)
    secrets = [secret for secret in opened.values() if not secret.startswith("{")]
    assert set(KEYS) <= set(secrets)
    assert not [secret for secret in secrets if secret in text]


def test_a_value_does_not_open_elsewhere(mosaic: Machine, database: Database, box: Box) -> None:
    """A sealed value that is copied to another row opens nowhere but at its own place."""
    use_everything(mosaic)
    values = sealed_values(database)
    for _, where, value in values:
        for _, other, _ in values:
            if other != where:
                with pytest.raises(ConfigurationError, match="does not open under data key"):
                    box.open(other, value)


def test_a_copied_key_is_told_by_the_command(mosaic: Machine, database: Database) -> None:
    """A provider's key that was copied over another's makes the next change fail instead of being used."""
    use_everything(mosaic)
    with database.transaction(system=True) as session:
        rows = {row.name: row for row in session.exec(select(LlmProvider))}
        rows["openai"].api_key = rows["zai"].api_key
    code, message, _ = mosaic("provider", "set", "openai", "--api-key-stdin", "--no-test", input=KEYS[1]).error
    assert code == 3
    assert "does not open under data key" in message


def test_status_counts_what_is_sealed(mosaic: Machine, database: Database, box: Box) -> None:
    """`secrets status` counts the sealed values of each column by data key."""
    use_everything(mosaic)
    document = mosaic("secrets", "status", "--json").document
    assert len(document.pop("all")) == 3 + 2 + 5
    assert document == {
        "current": box.ring.current,
        "keys": [box.ring.current],
        "sealed": [
            {"column": "llm_provider.api_key", "kid": box.ring.current, "values": 2},
            {"column": "system_container.gateway_token", "kid": box.ring.current, "values": 5},
        ],
        "user_tokens": {"count": 0, "running": 0, "oldest": None, "newest": None},
        "by_record": False,
    }


def test_it_is_made_once(database: Database, secret_key: str) -> None:
    """Two processes that both find no keyring end with the same one."""
    with psycopg.connect(database.url) as connection:
        connection.execute("LOCK TABLE keyring IN ROW EXCLUSIVE MODE")
        children = [fork(lambda: keyring.load(database, secret_key).current) for _ in range(2)]
        waiting = "SELECT FROM pg_locks WHERE relation = 'keyring'::regclass AND NOT granted"
        until(lambda: len(connection.execute(waiting).fetchall()) == 2)
        connection.rollback()
    first, second = (child.result() for child in children)
    assert first == second == keyring.load(database, secret_key).current
    with database.transaction(system=True) as session:
        assert sorted(row.use for row in session.exec(select(Keyring))) == ["data", "names"]


@pytest.mark.parametrize(
    "words",
    [
        ["secrets", "status"],
        ["provider", "add", "new", "--type", "zai", "--api-key-stdin", "--no-test"],
        ["provider", "set", "zai", "--api-key-stdin", "--no-test"],
        ["agent", "add", "new"],
        ["agent", "import", JARVIS],
        ["init"],
    ],
)
def test_under_a_wrong_key_nothing_is_written(mosaic: Machine, database: Database, words: list[str]) -> None:
    """With another key whatever seals or opens ends with exit code 3, names both keys and leaves no row."""
    mosaic("provider", "add", "zai", "--type", "zai", "--model", "glm-5", "--api-key-stdin", "--no-test", input=KEYS[0])
    mosaic("agent", "add", "one", "--stack", "office")
    before = dump(database)
    kids = [EnvironmentKey(mosaic.environ["MOSAIC_SECRET_KEY"]).kid, EnvironmentKey(other := generate_key()).kid]
    code, message, _ = mosaic.but(MOSAIC_SECRET_KEY=other)(*words, input=KEYS[1]).error
    assert code == 3
    assert all(kid in message for kid in kids)
    assert dump(database) == before


@pytest.mark.parametrize("words", [["secrets", "status"], ["agent", "add", "new"], ["init"]])
def test_a_missing_key_is_named(mosaic: Machine, database: Database, words: list[str], tmp_path: Path) -> None:
    """Without the key the message names the one that this database needs, and none is made in its place."""
    mosaic("agent", "import", JARVIS)
    before = count(database)
    code, message, _ = mosaic.but(MOSAIC_SECRET_KEY=None)(*words).error
    kid = EnvironmentKey(mosaic.environ["MOSAIC_SECRET_KEY"]).kid
    assert code == 3
    assert message == f"MOSAIC_SECRET_KEY is not set, but this database is sealed under key {kid}"
    assert count(database) == before
    assert not (tmp_path / "config" / "mosaic" / "env").exists()


@pytest.mark.parametrize("key", ["short", "A" * 44, "00" * 32, "not base64 at all, and far longer than it should be!"])
def test_a_weak_key_is_refused(mosaic: Machine, database: Database, key: str) -> None:
    """A key that is not 32 random bytes is refused without being repeated, and seals nothing."""
    code, message, hint = mosaic.but(MOSAIC_SECRET_KEY=key)("agent", "import", JARVIS).error
    assert (code, hint) == (3, "mosaic secrets generate-key")
    assert message == "MOSAIC_SECRET_KEY must be 32 random bytes in base64 or hex"
    assert count(database)["keyring"] == 0


def test_what_needs_no_key_works_without(mosaic: Machine) -> None:
    """Administrators, settings, lists and a provider without a key need no secret key."""
    machine = mosaic.but(MOSAIC_SECRET_KEY=None)
    for words in (
        ["admin", "create-breakglass", "ops", "--generate"],
        ["admin", "list"],
        ["provider", "add", "ollama", "--type", "ollama", "--base-url", "http://10.1.1.42:11434", "--no-test"],
        ["provider", "list"],
        ["provider", "remove", "ollama", "--yes"],
        ["config", "set", "fleet.stop_grace", "60"],
        ["status"],
        ["db", "check"],
        ["secrets", "generate-key"],
    ):
        assert machine(*words).exit_code == 0


def test_a_generated_key_works(mosaic: Machine) -> None:
    """`secrets generate-key` prints a key that seals and opens, another one each time."""
    keys = [
        mosaic("secrets", "generate-key").stdout.strip(),
        mosaic("secrets", "generate-key", "--json").document["key"],
    ]
    assert len(set(keys)) == 2
    for key in keys:
        assert EnvironmentKey(key).kid
    assert mosaic.but(MOSAIC_SECRET_KEY=keys[0])("init").exit_code == 0

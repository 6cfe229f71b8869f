"""The audit: every change leaves one row, chained to the row before it, and only with the change itself."""

import getpass
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from mosaic_fleet import configuration
from mosaic_fleet.db.audit_reads import entry_hash
from mosaic_fleet.db.database import Database
from mosaic_fleet.identity import audit
from tests.postgres.machine import Machine
from tests.processes import fork


def rows(database: Database) -> list[dict[str, Any]]:
    with psycopg.connect(database.url, row_factory=dict_row) as connection:
        return connection.execute("SELECT * FROM audit ORDER BY id").fetchall()


def check_chain(entries: list[dict[str, Any]]) -> None:
    """Recompute every hash from the row as it is read back."""
    previous = ""
    for entry in entries:
        assert entry["previous"] == previous
        assert entry["hash"] == entry_hash(entry)
        previous = entry["hash"]


def change(database: Database, worker: int) -> None:
    for number in range(20):
        with database.transaction(system=True) as session:
            audit.record(session, "test.one", f"{worker}-{number}")
            audit.record(session, "test.two", f"{worker}-{number}", outcome="failed", number=number)


def test_every_change_leaves_a_row(mosaic: Machine, database: Database) -> None:
    """Each changing command leaves who, what and to which thing; one that changes nothing leaves no row."""
    for words in (
        [
            "provider",
            "add",
            "ollama",
            "--type",
            "ollama",
            "--base-url",
            "http://10.1.1.42:11434",
            "--no-test",
            "--model",
            "cogito",
        ],
        ["agent", "add", "one", "--stack", "office"],
        ["agent", "set", "one", "--model", "ollama/cogito"],
        ["agent", "set", "one", "--model", "ollama/cogito"],
        ["config", "set", "fleet.stop_grace", "60"],
        ["config", "unset", "fleet.stop_grace"],
        ["config", "unset", "fleet.stop_grace"],
        ["agent", "remove", "one", "--yes"],
        ["provider", "set", "ollama", "--disable"],
        ["provider", "remove", "ollama", "--yes"],
        ["admin", "create-breakglass", "ops", "--generate", "-q"],
    ):
        assert mosaic(*words).exit_code == 0
    seen = rows(database)
    check_chain(seen)
    assert {entry["actor"] for entry in seen} == {f"cli:{getpass.getuser()}"}
    assert [(entry["verb"], entry["object"]) for entry in seen if entry["verb"] != "keyring.create"] == [
        ("provider.add", "ollama"),
        ("stack.add", "office"),
        ("agent.add", "one"),
        ("agent.set", "one"),
        ("config.set", "fleet.stop_grace"),
        ("config.unset", "fleet.stop_grace"),
        ("agent.remove", "one"),
        ("stack.remove", "office"),
        ("provider.set", "ollama"),
        ("provider.remove", "ollama"),
        ("admin.create", "ops"),
    ]


def test_concurrent_changes_make_one_chain(database: Database) -> None:
    """Eight processes that change at once make one unbroken chain, in which each transaction's rows stand together."""
    for child in [fork(lambda worker=worker: change(database, worker)) for worker in range(8)]:
        child.result()
    seen = rows(database)
    check_chain(seen)
    assert len(seen) == 8 * 20 * 2
    assert [entry["object"] for entry in seen[::2]] == [entry["object"] for entry in seen[1::2]]


def test_a_refused_command_leaves_no_row(mosaic: Machine, database: Database) -> None:
    """What is rolled back is not in the audit."""
    assert mosaic("agent", "add", "one", "--stack", "office", "--model", "nobody/nothing").exit_code == 4
    assert not [entry for entry in rows(database) if entry["verb"] != "keyring.create"]


@pytest.mark.parametrize("text", ['é\n\t"\\', "☃", "\U0001f600", "$${{ x }}", "\x1b[31m"])
def test_any_text_stays_verifiable(database: Database, text: str) -> None:
    """Whatever was written can be read back and gives the same hash."""
    with database.transaction(system=True) as session:
        audit.record(session, "test", text, value=text, number=1.5, many=[text, None, True], large=10**30)
    (entry,) = rows(database)
    assert entry["details"] == {"value": text, "number": 1.5, "many": [text, None, True], "large": 10**30}
    check_chain([entry])


def test_a_changed_row_breaks_the_chain(database: Database) -> None:
    """The hash covers every field that tells something."""
    with database.transaction(system=True) as session:
        configuration.set(session, "fleet.stop_grace", "60")
    (entry,) = rows(database)
    for field in ("at", "actor", "verb", "object", "outcome", "details", "previous"):
        other = entry["at"].replace(year=2001) if field == "at" else "other"
        assert entry_hash({**entry, field: other}) != entry["hash"]

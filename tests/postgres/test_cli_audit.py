"""`mosaic audit`: rows are found, and whatever is done to them behind Mosaic's back is named."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from mosaic_fleet.db.audit_reads import entry_hash
from mosaic_fleet.db.database import Database
from mosaic_fleet.db.reads import read
from mosaic_fleet.errors import Invalid
from mosaic_fleet.identity import audit
from tests.postgres.machine import Machine
from tests.postgres.test_audit import rows

NOW = datetime(2026, 11, 24, 15, tzinfo=UTC)


@pytest.fixture
def ids(database: Database) -> list[int]:
    """Write ten rows and return their ids."""
    with database.transaction(system=True) as session:
        for number in range(10):
            audit.record(session, "test.one" if number % 2 else "testing.two", f"thing-{number}", ü=number, f=0.1)
    return [row["id"] for row in rows(database)]


def execute(database: Database, *statements: str) -> None:
    """Change the audit as only the owner of the table can."""
    with psycopg.connect(database.url) as connection:
        for statement in statements:
            connection.execute(statement)


def faults(mosaic: Machine, *words: str) -> dict[int | None, str]:
    said = mosaic("audit", "verify", "--json", *words)
    assert said.exit_code == 9
    assert json.loads(said.stderr)["error"]["message"].startswith("the audit was changed: ")
    return {fault["row"]: fault["what"] for fault in json.loads(said.stdout)["faults"]}


def swap(first: int, second: int) -> Iterator[str]:
    """Have two rows change places."""
    columns = "at, actor, verb, object, outcome, details, previous, hash"
    yield f"CREATE TEMP TABLE a AS SELECT * FROM audit WHERE id IN ({first}, {second})"
    for to, source in ((first, second), (second, first)):
        yield f"UPDATE audit SET ({columns}) = (SELECT {columns} FROM a WHERE a.id = {source}) WHERE id = {to}"


def test_an_untouched_audit_is_whole(mosaic: Machine, database: Database, ids: list[int]) -> None:
    """Every row counts, the head is the last row's hash, and an earlier head is still there."""
    seen = rows(database)
    assert mosaic("audit", "verify", "--json").document == {"rows": 10, "head": seen[-1]["hash"], "faults": []}
    assert mosaic("audit", "verify", "--head", seen[4]["hash"], "-q").stdout == ""
    assert mosaic("audit", "verify").stdout == f"rows  10\nhead  {seen[-1]['hash']}\n"


def test_an_empty_audit_is_whole(mosaic: Machine) -> None:
    """Where nothing was done there is nothing to find."""
    assert mosaic("audit", "verify", "--json").document == {"rows": 0, "head": "", "faults": []}


@pytest.mark.parametrize(
    "change",
    [
        "actor = 'x'",
        "verb = 'x'",
        "object = 'x'",
        "outcome = 'failed'",
        "details = '{}'",
        "at = at + interval '1 microsecond'",
    ],
)
def test_an_edited_row_is_named(mosaic: Machine, database: Database, ids: list[int], change: str) -> None:
    """The row whose field was changed, and no other, was edited."""
    execute(database, f"UPDATE audit SET {change} WHERE id = {ids[4]}")
    assert faults(mosaic) == {ids[4]: "was edited"}
    assert mosaic("audit", "verify").stdout == f"{ids[4]}\twas edited\n"


def test_a_row_edited_with_its_hash_breaks_the_chain(mosaic: Machine, database: Database, ids: list[int]) -> None:
    """Whoever computes a new hash as well is found by the row behind."""
    entry: dict[str, Any] = {**rows(database)[4], "actor": "x"}
    execute(database, f"UPDATE audit SET actor = 'x', hash = '{entry_hash(entry)}' WHERE id = {ids[4]}")
    assert faults(mosaic) == {ids[5]: "follows a row that is missing or was rewritten"}


@pytest.mark.parametrize("gone", [0, 4])
def test_a_missing_row_is_named(mosaic: Machine, database: Database, ids: list[int], gone: int) -> None:
    """Where a row was taken out, the one behind it says so."""
    execute(database, f"DELETE FROM audit WHERE id = {ids[gone]}")
    assert faults(mosaic) == {ids[gone + 1]: "follows a row that is missing or was rewritten"}


def test_moved_rows_are_named(mosaic: Machine, database: Database, ids: list[int]) -> None:
    """Rows that changed places are told by the row each was written after."""
    execute(database, *swap(ids[3], ids[6]))
    found = faults(mosaic)
    assert list(found) == [ids[3], ids[4], ids[6], ids[7]]
    assert found[ids[4]] == f"is out of order: it was written after row {ids[6]}"
    assert found[ids[7]] == f"is out of order: it was written after row {ids[3]}"


@pytest.mark.parametrize("kept", [0, 9])
def test_a_cut_end_is_seen_by_the_head(mosaic: Machine, database: Database, ids: list[int], kept: int) -> None:
    """Without its last rows the chain is whole, but the head that was printed before is gone."""
    head = mosaic("audit", "verify", "--json").document["head"]
    execute(database, f"DELETE FROM audit WHERE id >= {ids[kept]}")
    assert mosaic("audit", "verify").exit_code == 0
    assert faults(mosaic, "--head", head) == {
        None: "the row with that head is gone: the end was cut off, or all was written anew"
    }


@pytest.mark.parametrize("head", ["", "abc", "A" * 64, "x" * 10_240, "0" * 63 + "\0"])
def test_a_head_that_is_none_is_refused(mosaic: Machine, head: str) -> None:
    """A head is the 64 digits that were printed."""
    assert mosaic("audit", "verify", "--head", head).error[0] == 2


def test_the_last_rows_can_be_walked_alone(database: Database, ids: list[int]) -> None:
    """A walk over the last rows takes the first one's word for what was before, and misses no edit among them."""
    execute(database, f"UPDATE audit SET actor = 'x' WHERE id IN ({ids[2]}, {ids[8]})")
    with read(database.url) as reads:
        verdict = audit.verify(reads, last=5)
    assert (verdict.rows, [fault.row for fault in verdict.faults]) == (5, [ids[8]])


def test_the_application_may_only_add(database: Database, ids: list[int]) -> None:
    """The role of Mosaic's own transactions neither changes nor removes a row."""
    for statement in ("UPDATE audit SET actor = 'x'", "DELETE FROM audit", "TRUNCATE audit"):
        with psycopg.connect(database.url) as connection:
            connection.execute("SET ROLE mosaic_app")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_list_filters_and_pages(mosaic: Machine, database: Database, ids: list[int]) -> None:
    """The newest row is first; time, actor, verb or noun choose; a page behind the last is the last."""
    document = mosaic("audit", "list", "--json").document
    assert [row["id"] for row in document["audit"]] == ids[::-1]
    assert document["audit"][0].keys() == {"id", "at", "actor", "verb", "object", "outcome", "details"}
    for words, count in (
        (["--verb", "test"], 5),
        (["--verb", "test.one"], 5),
        (["--verb", "tes"], 0),
        (["--actor", "test"], 10),
        (["--actor", "cli:nobody"], 0),
        (["--since", "1h"], 10),
        (["--since", "2099-01-01"], 0),
    ):
        assert mosaic("audit", "list", "--json", *words).document["total"] == count
    last = mosaic("audit", "list", "--per-page", "4", "--page", "99")
    assert [line.split("\t")[0] for line in last.stdout.splitlines()] == [str(ids[1]), str(ids[0])]
    assert last.stderr == "page 3 of 3, 10 rows: --page N shows another\n"


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90m", NOW - timedelta(minutes=90)),
        ("24h", NOW - timedelta(days=1)),
        ("7d", NOW - timedelta(days=7)),
        ("2026-11-24T15:00:00Z", NOW),
        ("2026-11-24T16:00:00+01:00", NOW),
    ],
)
def test_a_time_is_read(text: str, moment: datetime) -> None:
    """A moment is a date, a full time, or how long ago."""
    assert audit.moment(text, now=NOW) == moment


@pytest.mark.parametrize("text", ["", "soon", "7", "7w", "-1d", "9" * 400 + "d", "999999d", "2026-13-01", "a\0"])
def test_what_is_no_time_is_refused(text: str) -> None:
    """Anything else is Invalid."""
    with pytest.raises(Invalid):
        audit.moment(text, now=NOW)

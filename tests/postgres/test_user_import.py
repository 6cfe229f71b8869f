"""`mosaic user import`: good rows are taken, bad ones told by line, a second run changes nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from mosaic_fleet.db.database import Database
from tests.postgres.machine import Machine, Said
from tests.postgres.test_audit import check_chain, rows
from tests.postgres.test_users import add, add_breakglass, people

HEADER = "name,email,display_name,role\n"


def load(mosaic: Machine, folder: Path, text: str, *options: str) -> Said:
    path = folder / "people.csv"
    path.write_text(text)
    return mosaic("user", "import", str(path), *options)


def failed(said: Said) -> dict[int, str]:
    """Return the error of each row that failed, by its line, and check the exit code."""
    assert said.exit_code == 9
    found = [line.split("\t") for line in said.stdout.splitlines()]
    return {int(line): error for line, _, outcome, error in found if outcome == "failed"}


def test_users_are_added_and_changed_once(mosaic: Machine, database: Database, tmp_path: Path) -> None:
    """New rows are added, known ones changed in the columns they have, and a second run changes nothing."""
    add(database, "bob")
    text = f"{HEADER}ann,Ann@Example.com,Ann Ö.,admin\nbob,,,admin\n"
    said = load(mosaic, tmp_path, text)
    assert said.stdout == "2\tann\tadded\t\n3\tbob\tchanged\t\n"
    assert said.stderr == "1 added, 1 changed\n"
    assert people(database) == {"ann": ("ann@example.com", "admin", True), "bob": ("bob@example.com", "admin", True)}
    again = load(mosaic, tmp_path, text)
    assert (again.stdout, again.stderr) == ("", "2 unchanged\n")
    assert load(mosaic, tmp_path, text, "--json").document["changed"] is False
    seen = rows(database)
    check_chain(seen)
    assert [(row["verb"], row["object"], row["details"]) for row in seen[1:]] == [
        ("user.add", "ann", {"email": "ann@example.com", "display_name": "Ann Ö.", "role": "admin"}),
        ("user.set", "bob", {"role": "admin"}),
    ]


def test_a_dry_run_writes_nothing(mosaic: Machine, database: Database, tmp_path: Path) -> None:
    """With `--dry-run` the outcome of each row is told, and neither users nor audit change."""
    said = load(mosaic, tmp_path, f"{HEADER}ann,ann@example.com,,\nbob,,,\n", "--dry-run")
    assert said.stdout.startswith("2\tann\tadded\t\n3\tbob\tfailed\t")
    assert people(database) == {}
    assert rows(database) == []


def test_bad_rows_are_told_by_line_and_the_others_taken(mosaic: Machine, database: Database, tmp_path: Path) -> None:
    """Every way a row can be wrong has its line and reason, exit code 9, and the good rows are in."""
    add(database, "old")
    text = (
        f"{HEADER}ann,ann@example.com,,\nann,other@example.com,,\nbob,ANN@example.com,,\ncyd,OLD@example.com,,\n"
        "new,,,\nshared,s@example.com,,\nBig,b@example.com,,\na\0b,c@example.com,,\ndan,dan,,\n"
        "eve,eve@example.com,E\u202ev,\nfay,fay@example.com,,boss\ngil,gil@example.com,,,,\n,x@example.com,,\n"
        f'"x\ny",y@example.com,,\n{"z" * 10_240},z@example.com,,\nend,end@example.com,,\n'
    )
    said = load(mosaic, tmp_path, text)
    assert people(database).keys() == {"old", "ann", "end"}
    errors = failed(said)
    assert [errors[line] for line in range(3, 8)] == [
        '"ann" is in line 2 already',
        'e-mail "ann@example.com" belongs to "ann" of line 2',
        'e-mail "old@example.com" belongs to "old"',
        '"new" is new and has no e-mail',
        '"shared" is reserved',
    ]
    assert list(errors) == [*range(3, 16), 17]
    assert all(len(error) < 300 for error in errors.values())
    assert said.stderr.splitlines()[0] == "2 added, 14 failed"
    assert "error: 14 of 16 rows failed" in said.stderr


def test_json_has_lines_too(mosaic: Machine, database: Database, tmp_path: Path) -> None:
    """A JSON file is taken like CSV, and with --json every row is in the document."""
    path = tmp_path / "people.json"
    path.write_text('[\n{"name": "ann", "email": "ann@example.com", "local": false},\n{"name": "bob"}\n]')
    said = mosaic("user", "import", str(path), "--json")
    assert said.exit_code == 9
    assert json.loads(said.stdout)["rows"] == [
        {"line": 2, "name": "ann", "outcome": "added", "error": None},
        {"line": 3, "name": "bob", "outcome": "failed", "error": '"bob" is new and has no e-mail'},
    ]
    assert json.loads(said.stderr.splitlines()[-1])["error"]["code"] == 9


def test_standard_input_is_a_file(mosaic: Machine, tmp_path: Path) -> None:
    """`-` reads what is piped in."""
    path = tmp_path / "people.csv"
    path.write_text(f"{HEADER}ann,ann@example.com,,\n")
    with path.open("rb") as file:
        assert mosaic.spawn("user", "import", "-", "-q", stdin=file) == Said(0, "", "")
    assert mosaic("user", "list", "-q").stdout == "ann\n"


@pytest.mark.parametrize(
    ("text", "roles", "errors"),
    [
        ("ann,,,member\nbob,,,member\n", ["member", "admin"], {3: '"bob" is the last active administrator'}),
        ("bob,,,member\nann,,,member\n", ["admin", "member"], {3: '"ann" is the last active administrator'}),
        ("ann,,,member\nbob,,,member\ncyd,c@example.com,,admin\n", ["member", "member", "admin"], {}),
    ],
)
def test_an_administrator_stays(
    mosaic: Machine, database: Database, tmp_path: Path, text: str, roles: list[str], errors: dict[int, str]
) -> None:
    """The row that would demote the last administrator fails, unless the same file makes another."""
    add(database, "ann", "bob", role="admin")
    said = load(mosaic, tmp_path, HEADER + text)
    assert (failed(said) if errors else {}) == errors
    assert [role for _, (_, role, _) in sorted(people(database).items())] == roles


def test_a_breakglass_administrator_is_enough(mosaic: Machine, database: Database, tmp_path: Path) -> None:
    """Where one stays who needs only the database, an import may demote all others."""
    add(database, "ann", role="admin")
    add_breakglass(database)
    assert load(mosaic, tmp_path, f"{HEADER}ann,,,member\n").exit_code == 0


@pytest.mark.parametrize("text", ["", "nothing\nx\n", "name\n\xff"])
def test_a_file_that_is_no_list_writes_nothing(mosaic: Machine, database: Database, tmp_path: Path, text: str) -> None:
    """A file that cannot be read as a whole is exit code 2, and nothing is written."""
    path = tmp_path / "people.csv"
    path.write_bytes(text.encode("latin-1"))
    assert mosaic("user", "import", str(path)).error[0] == 2
    assert people(database) == {}


def test_ten_thousand_rows_take_few_statements(mosaic: Machine, database: Database, tmp_path: Path) -> None:
    """An import of 10,000 users is one commit with an unbroken audit; again it changes nothing."""
    text = HEADER + "".join(f"u{number},u{number}@example.com,,\n" for number in range(10_000))
    assert load(mosaic, tmp_path, text, "-q").exit_code == 0
    page: dict[str, Any] = mosaic("user", "list", "--json").document
    assert (page["total"], page["pages"]) == (10_000, 200)
    seen = rows(database)
    check_chain(seen)
    assert [row["object"] for row in seen] == [f"u{number}" for number in range(10_000)]
    assert load(mosaic, tmp_path, text).stderr == "10000 unchanged\n"

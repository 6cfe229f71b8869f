"""`mosaic agent config-token` and `mosaic gateway config-token`: a token shown once, or put into a file."""

from pathlib import Path

import pytest

from mosaic_fleet.db.database import Database
from mosaic_fleet.errors import Denied
from mosaic_fleet.fleet import config_tokens
from tests.postgres.machine import Machine


@pytest.fixture
def people(mosaic: Machine) -> Machine:
    """Add an agent and a user."""
    for words in (
        "provider add ollama --type ollama --base-url http://llm:11434 --model m --no-test",
        "agent add far --stack team --model ollama/m",
        "user add ann --email ann@example.org",
    ):
        assert mosaic(*words.split()).exit_code == 0, mosaic(*words.split())
    return mosaic


def opens(database: Database, kind: str, name: str, token: str) -> bool:
    """Tell whether a token opens a config."""
    try:
        with database.transaction(system=True) as session:
            config_tokens.holder(session, kind, name, token)
    except Denied:
        return False
    return True


@pytest.mark.parametrize(("noun", "kind", "name"), [("agent", "system", "far"), ("gateway", "user", "ann")])
def test_a_token_is_shown_once(people: Machine, database: Database, noun: str, kind: str, name: str) -> None:
    """It stands alone on standard output, to be piped on; a second run shows nothing and fails with a hint."""
    said = people(noun, "config-token", name)
    assert said.exit_code == 0, said
    assert opens(database, kind, name, said.stdout.removesuffix("\n"))
    assert said.stderr == "shown once; stored only as a hash\n"
    code, message, hint = people(noun, "config-token", name).error
    assert (code, hint) == (5, "add --renew to replace it, or --if-not-exists")
    assert message == f"{noun} {name} has a config token already"


def test_an_existing_token_may_stay(people: Machine) -> None:
    """With --if-not-exists a second run is no error and prints nothing that could be taken for a token."""
    assert people("agent", "config-token", "far", "--if-not-exists").exit_code == 0
    said = people("agent", "config-token", "far", "--if-not-exists")
    assert (said.exit_code, said.stdout, said.stderr) == (0, "", "unchanged far\n")
    said = people("agent", "config-token", "far", "--if-not-exists", "--json")
    assert said.document == {"agent": "far", "changed": False}


def test_a_renewed_token_replaces_the_one_before(people: Machine, database: Database) -> None:
    """From then on only the new one opens the config."""
    old, new = (people("agent", "config-token", "far", "--renew", "--json").document["token"] for _ in "ab")
    assert old != new
    assert (opens(database, "system", "far", old), opens(database, "system", "far", new)) == (False, True)


def test_a_token_goes_into_a_file(people: Machine, database: Database, tmp_path: Path) -> None:
    """The file is its owner's only, and takes the place of one that was there; nothing is shown."""
    file = tmp_path / "token"
    file.write_text("before")
    file.chmod(0o644)
    said = people("agent", "config-token", "far", "--token-file", str(file))
    assert (said.exit_code, said.stdout) == (0, f"written to {file}\n")
    assert file.stat().st_mode & 0o777 == 0o600
    assert opens(database, "system", "far", file.read_text().strip())
    assert [path.name for path in tmp_path.iterdir() if "token" in path.name] == ["token"]


def test_a_file_that_cannot_be_written_changes_nothing(people: Machine, database: Database, tmp_path: Path) -> None:
    """The token before it stays in force."""
    old = people("agent", "config-token", "far", "-q").stdout.strip()
    said = people("agent", "config-token", "far", "--renew", "--token-file", str(tmp_path / "nowhere" / "token"))
    assert said.error[0] == 2
    assert "cannot be written: No such file or directory" in said.error[1]
    assert opens(database, "system", "far", old)


def test_who_is_not_there_gets_none(people: Machine) -> None:
    """Neither an unknown agent nor a deactivated user has a config to fetch."""
    assert people("agent", "config-token", "nobody").error[0] == 4
    assert people("gateway", "config-token", "nobody").error[0] == 4
    assert people("user", "disable", "ann").exit_code == 0
    assert people("gateway", "config-token", "ann").error[0] == 6


def test_the_audit_tells_of_a_token_but_not_the_token(people: Machine, database: Database) -> None:
    """Making and renewing are recorded."""
    tokens = [people("agent", "config-token", "far", "--renew", "-q").stdout.strip() for _ in "ab"]
    with database.transaction(system=True) as session:
        rows = session.connection().exec_driver_sql("SELECT verb, object, audit::text FROM audit ORDER BY id").all()
    verbs = [(verb, thing) for verb, thing, _ in rows if verb.startswith("config-token")]
    assert verbs == [("config-token.add", "agent far"), ("config-token.renew", "agent far")]
    assert not [text for _, _, text in rows if tokens[0] in text or tokens[1] in text]

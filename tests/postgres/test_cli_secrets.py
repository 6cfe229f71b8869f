"""`mosaic secrets`: the keys by their ids, never themselves."""

from pathlib import Path

import psycopg
import pytest

from mosaic_fleet.db.database import Database
from mosaic_fleet.fleet import agents
from mosaic_fleet.sealing import EnvironmentKey, generate_key
from tests.postgres.machine import JARVIS, Machine
from tests.postgres.test_keyring import dump


def test_status_is_a_table(mosaic: Machine) -> None:
    """Each key has a line: what it is, its id, since when, how it is, and what uses it."""
    mosaic("agent", "import", JARVIS)
    current = mosaic("secrets", "status", "--json").document["current"]
    lines = [line.split("\t") for line in mosaic("secrets", "status").stdout.splitlines()]
    shown = {(what, state, used) for what, _, _, state, used in lines}
    assert {
        ("environment key", "current", ""),
        ("data key", "current", "4 values"),
        ("names key", "current", "names of Docker objects"),
        ("token jarvis-main", "unused", ""),
    } < shown
    assert current in {key for _, key, *_ in lines}
    assert all(since for _, _, since, *_ in lines)


def test_status_tells_a_change_of_key_that_has_not_ended(mosaic: Machine, tmp_path: Path) -> None:
    """Between the two steps of a rekey there are two environment keys, and the older one is the replaced one."""
    mosaic("init")
    (tmp_path / "key").write_text(new := generate_key())
    mosaic("secrets", "rekey", "--new-key-file", str(tmp_path / "key"))
    rows = mosaic("secrets", "status", "--json").document["all"]
    kids = {EnvironmentKey(mosaic.environ["MOSAIC_SECRET_KEY"]).kid: "replaced", EnvironmentKey(new).kid: "current"}
    assert {row["key"]: row["state"] for row in rows if row["what"] == "environment key"} == kids


def test_status_says_that_it_could_not_ask_docker(mosaic: Machine, database: Database) -> None:
    """Where Docker does not answer, who runs on what is by the record; what was never on a Swarm needs no Docker."""
    mosaic("agent", "import", JARVIS)
    assert mosaic("secrets", "status").stderr == ""
    assert mosaic("secrets", "status", "--json").document["by_record"] is False
    with database.transaction(system=True) as session:
        agents.set(session, "jarvis-main", {"node_id": "node1"})
    said = mosaic("secrets", "status")
    assert said.stderr.startswith("which agents run on what is by the record of deploys, not by what runs: ")
    assert "unix:///nonexistent.sock" in said.stderr
    told = mosaic("secrets", "status", "--json")
    assert told.document["by_record"] is True
    assert told.stderr == ""


def test_status_shows_no_key(mosaic: Machine) -> None:
    """Neither the environment's key nor a wrapped one is printed, at -v either."""
    said = mosaic("-v", "secrets", "status", "--json")
    assert mosaic.environ["MOSAIC_SECRET_KEY"] not in said.stdout + said.stderr


def test_status_makes_no_keyring(mosaic: Machine, database: Database) -> None:
    """A look makes no keyring under whichever key is set: it says that there is none, and what makes one."""
    before = dump(database)
    for machine in (mosaic, mosaic.but(MOSAIC_SECRET_KEY=None)):
        assert machine("secrets", "status").error == (4, "there is no keyring yet", "mosaic init")
    assert dump(database) == before


def test_a_generated_key_is_printed_and_not_stored(mosaic: Machine) -> None:
    """`generate-key` prints a usable key, another one each time, and needs no database."""
    machine = mosaic.but(DATABASE_URL="postgresql://mosaic@127.0.0.1:1/none", MOSAIC_SECRET_KEY=None)
    keys = [
        machine("secrets", "generate-key").stdout.strip(),
        machine("secrets", "generate-key", "--json").document["key"],
    ]
    kids = [EnvironmentKey(key).kid for key in keys]
    assert kids[0] != kids[1]
    assert mosaic.but(MOSAIC_SECRET_KEY=keys[0])("init").exit_code == 0


def test_rotate_says_what_it_did(mosaic: Machine) -> None:
    """Which key seals how many values now, which one went; a dry run before it counts them by column."""
    mosaic("agent", "import", JARVIS)
    old = mosaic("secrets", "status", "--json").document["current"]
    assert mosaic("secrets", "rotate", "--dry-run").stdout == f"system_container.gateway_token\t{old}\t4\n"
    assert mosaic("secrets", "status", "--json").document["current"] == old
    said = mosaic("secrets", "rotate")
    new = mosaic("secrets", "status", "--json").document["current"]
    assert said.stdout == f"sealed 4 values under data key {new}, dropped {old}\n"
    assert mosaic("secrets", "rotate", "--json").document["dropped"] == [new]
    assert mosaic("secrets", "rotate", "-q").stdout == ""


def test_verify_names_what_does_not_open(mosaic: Machine, database: Database) -> None:
    """Column, row and data key of each broken value stand in the table, and the exit code is 9."""
    mosaic("agent", "import", JARVIS)
    assert mosaic("secrets", "verify").stdout == "all 4 sealed values open\n"
    assert mosaic("secrets", "verify", "--json").document == {"opened": 4}
    kid = mosaic("secrets", "status", "--json").document["current"]
    with psycopg.connect(database.url) as connection:
        row = connection.execute(
            "UPDATE system_container SET gateway_token = overlay(gateway_token placing 'AAAA' from 30) "
            "WHERE name = 'jarvis-main' RETURNING id::text"
        ).fetchone()
        connection.execute("UPDATE system_container SET gateway_token = 'plain' WHERE name = 'jarvis-research'")
    said = mosaic("secrets", "verify")
    assert said.exit_code == 9
    assert said.stderr == "error: 2 of 4 sealed values do not open\n"
    lines = {tuple(line.split("\t")[:3]) for line in said.stdout.splitlines()}
    assert row is not None
    assert ("system_container.gateway_token", row[0], kid) in lines
    assert len(lines) == 2


@pytest.mark.parametrize("words", [["rotate"], ["verify"], ["rekey", "--new-key-file", "KEY"], ["rekey", "--finish"]])
def test_a_wrong_or_missing_key_is_named(mosaic: Machine, database: Database, words: list[str], tmp_path: Path) -> None:
    """Whatever needs the key ends with 3 naming the one that this database needs, and changes nothing."""
    mosaic("agent", "import", JARVIS)
    before, kid = dump(database), EnvironmentKey(mosaic.environ["MOSAIC_SECRET_KEY"]).kid
    (tmp_path / "key").write_text(generate_key())
    words = [str(tmp_path / "key") if word == "KEY" else word for word in words]
    for machine in (mosaic.but(MOSAIC_SECRET_KEY=generate_key()), mosaic.but(MOSAIC_SECRET_KEY=None)):
        code, message, _ = machine("secrets", *words).error
        assert code == 3
        assert f"this database is sealed under key {kid}" in message
    assert dump(database) == before


@pytest.mark.parametrize("words", [["rotate"], ["rotate", "--dry-run"], ["verify"], ["rekey", "--finish"]])
def test_a_look_makes_no_keyring(mosaic: Machine, database: Database, words: list[str]) -> None:
    """Where nothing was sealed yet there is nothing to renew, and no keyring is made."""
    before = dump(database)
    assert mosaic("secrets", *words).error == (4, "there is no keyring yet", "mosaic init")
    assert dump(database) == before


def test_rekey_moves_to_a_new_key(mosaic: Machine, tmp_path: Path) -> None:
    """Both keys open everything until --finish under the new one; then the old one is refused by name."""
    mosaic("agent", "import", JARVIS)
    file, new = tmp_path / "key", generate_key()
    file.write_text(f"{new}\n")
    kids = [EnvironmentKey(key).kid for key in (mosaic.environ["MOSAIC_SECRET_KEY"], new)]
    moved = mosaic.but(MOSAIC_SECRET_KEY=new)
    said = mosaic("secrets", "rekey", "--new-key-file", str(file))
    assert said.stdout == f"key {kids[1]} opens the keyring too\n"
    assert "put the new key in the old one's place, in the environment;" in said.stderr
    assert new not in said.stdout + said.stderr
    assert mosaic("secrets", "verify").stdout == moved("secrets", "verify").stdout == "all 4 sealed values open\n"
    code, message, _ = mosaic("secrets", "rekey", "--finish", "--yes").error
    assert (code, message) == (3, f"MOSAIC_SECRET_KEY is still key {kids[0]}, the new one is key {kids[1]}")
    assert mosaic("secrets", "rekey", "--new-key-file", str(file), "--json").document["changed"] is False
    assert mosaic("secrets", "rotate").error[0] == 5
    assert moved("secrets", "rekey", "--finish").error[0] == 2
    assert moved("secrets", "rekey", "--finish", "--yes").stdout == f"key {kids[0]} opens nothing any more\n"
    assert moved("secrets", "rekey", "--finish").stdout == "unchanged, no other key opens the keyring\n"
    code, message, _ = mosaic("secrets", "verify").error
    assert code == 3
    assert message == f"MOSAIC_SECRET_KEY is key {kids[0]}, but this database is sealed under key {kids[1]}"
    assert moved("secrets", "rotate").exit_code == 0


def test_rekey_to_the_key_in_use_changes_nothing(mosaic: Machine, database: Database, tmp_path: Path) -> None:
    """The database is the same to the byte, and the exit code 0."""
    mosaic("init")
    before = dump(database)
    (tmp_path / "key").write_text(mosaic.environ["MOSAIC_SECRET_KEY"])
    said = mosaic("secrets", "rekey", "--new-key-file", str(tmp_path / "key"))
    assert (said.exit_code, said.stdout[:9], said.stderr) == (0, "unchanged", "")
    assert dump(database) == before


def test_rekey_writes_the_env_file(mosaic: Machine, tmp_path: Path) -> None:
    """Where `mosaic init` wrote the key, --write-env replaces it there and leaves the other lines alone."""
    machine = mosaic.but(MOSAIC_SECRET_KEY=None, DATABASE_URL=None)
    env_file = tmp_path / "config" / "mosaic" / "env"
    env_file.parent.mkdir(parents=True)
    env_file.write_text(f"DATABASE_URL={mosaic.environ['DATABASE_URL']}\n# ours\n")
    machine("init")
    old, new = env_file.read_text(), generate_key()
    (tmp_path / "key").write_text(new)
    said = machine("secrets", "rekey", "--new-key-file", str(tmp_path / "key"), "--write-env")
    assert said.exit_code == 0
    assert f"{env_file} has the new key" in said.stderr
    assert env_file.read_text() == "".join(old.splitlines(keepends=True)[:2]) + f"MOSAIC_SECRET_KEY={new}\n"
    assert env_file.stat().st_mode & 0o777 == 0o600
    assert machine("secrets", "rekey", "--finish", "--yes").exit_code == 0
    assert machine("secrets", "verify").exit_code == 0
    refused = mosaic.but(MOSAIC_SECRET_KEY=new)(
        "secrets", "rekey", "--new-key-file", str(tmp_path / "key"), "--write-env"
    )
    assert refused.error == (5, "the key in use stands in the environment", "leave out --write-env")


def test_rekey_needs_one_of_its_two_steps(mosaic: Machine, tmp_path: Path) -> None:
    """Neither or both, a missing file and a weak key are mistakes of the caller, and nothing is written."""
    mosaic("init")
    (tmp_path / "key").write_text("short")
    file = str(tmp_path / "key")
    assert mosaic("secrets", "rekey").error[0] == 2
    assert mosaic("secrets", "rekey", "--finish", "--new-key-file", file).error[0] == 2
    assert mosaic("secrets", "rekey", "--new-key-file", f"{file}x").error[0] == 2
    assert mosaic("secrets", "rekey", "--new-key-file", file).error[0] == 3


def test_an_error_is_json_when_asked_for(mosaic: Machine) -> None:
    """With --json the missing key is told as one document on standard error."""
    import json

    mosaic("init")
    said = mosaic.but(MOSAIC_SECRET_KEY=None)("secrets", "status", "--json")
    assert (said.exit_code, said.stdout) == (3, "")
    assert json.loads(said.stderr)["error"]["code"] == 3

"""Rotation: every sealed value under a new data key, while others read and write, whenever it is broken off."""

import threading
from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import Column, Table, Text, Uuid
from sqlmodel import SQLModel, select

from mosaic_fleet import keyring, rotation
from mosaic_fleet.db.database import Database
from mosaic_fleet.db.reads import SYSTEM_OWNER
from mosaic_fleet.db.tables import LlmProvider, SystemConfig, UserContainer, place
from mosaic_fleet.errors import ConfigurationError, Conflict, DatabaseFailure, NotFound, PartialFailure
from mosaic_fleet.sealing import Box, generate_key
from tests.postgres.machine import Machine
from tests.postgres.team import FaultyDatabase, Team
from tests.postgres.test_keyring import dump, sealed_values, use_everything
from tests.postgres.vault import Vault, held_row, nothing, sealed_texts
from tests.processes import until


@pytest.fixture
def vault(database: Database, monkeypatch: pytest.MonkeyPatch) -> Vault:
    monkeypatch.setattr(rotation, "_OLD_READERS", 120.0)  # a busy machine is slow, not stuck
    vault = Vault(database, generate_key())
    assert vault.box.ring.current
    return vault


def test_everything_is_sealed_again(mosaic: Machine, database: Database) -> None:
    """Every value reads as before, under the new key alone; names and the rows' other columns stay as they are."""
    vault = Vault(database, mosaic.environ["MOSAIC_SECRET_KEY"])
    use_everything(mosaic)
    box = vault.box
    before = {where: box.open(where, text) for _, where, text in sealed_values(database)}
    name, names_kid, touched = box.name("kind", "content"), vault.names_kid, _updated(database)
    old = box.ring.current
    done = vault.rotate()
    fresh = vault.box
    assert {where: fresh.open(where, text) for _, where, text in sealed_values(database)} == before
    assert (done.values, done.dropped, done.kept, done.continued) == (len(before), [old], [], False)
    assert vault.kids == vault.ring.keys() == {done.kid}
    assert done.kid != old
    assert (fresh.name("kind", "content"), vault.names_kid, _updated(database)) == (name, names_kid, touched)


def _updated(database: Database) -> list[object]:
    with psycopg.connect(database.url) as connection:
        return connection.execute("SELECT name, updated_at FROM llm_provider ORDER BY 1").fetchall()


def test_stored_deployments_are_rotated_too(database: Database) -> None:
    """What a deploy recorded opens under the new key, and the agents do not change by it."""
    team = Team.at(database)
    team.add("one")
    team.deploy()
    texts = [row.docker_secrets for row in team.deployments]
    with database.transaction(system=True) as session:
        assert len(sealed_texts(session)) == 3
    rotation.rotate(database, team.secret_key, nothing)
    assert [row.docker_secrets for row in team.deployments] != texts
    assert team.actions() == {"one": "unchanged"}
    assert team.box.open(place(team.deployments[0], "docker_secrets"), team.deployments[0].docker_secrets)


def test_a_setting_is_rotated_only_where_it_is_sealed(vault: Vault) -> None:
    """A plain setting stays as it is, whatever its text looks like; a sealed one beside it is sealed again."""
    box = vault.box
    with vault.db.transaction(system=True) as session:
        plain = SystemConfig(key="plain", value="enc:v1:0badcafe:xx", encrypted=False)
        hidden = SystemConfig(key="hidden", value="", encrypted=True)
        hidden.value = box.seal(place(hidden, "value"), "secret")
        session.add_all([plain, hidden])
    assert vault.rotate().values == 1
    with vault.db.transaction(system=True) as session:
        rows = {row.key: row for row in session.exec(select(SystemConfig))}
    assert rows["plain"].value == "enc:v1:0badcafe:xx"
    assert vault.box.open(place(rows["hidden"], "value"), rows["hidden"].value).get_secret_value() == "secret"


@pytest.fixture
def new_table(database: Database) -> Iterator[Table]:
    """Make a table with a sealed column that no code knows."""
    columns = [Column("id", Uuid, primary_key=True), Column("owner_id", Uuid), Column("pin", Text)]
    columns[2].info["sealed"] = "door pin"
    table = Table("new_table", SQLModel.metadata, *columns, info={"owner": "owner_id"})
    with psycopg.connect(database.url) as connection:
        connection.execute("CREATE TABLE new_table (id uuid PRIMARY KEY, owner_id uuid, pin text)")
        connection.execute("GRANT SELECT, UPDATE ON new_table TO mosaic_app")
    yield table
    SQLModel.metadata.remove(table)
    with psycopg.connect(database.url) as connection:
        connection.execute("DROP TABLE new_table")


def test_a_new_sealed_column_needs_no_code(vault: Vault, new_table: Table) -> None:
    """Rotation and verify find a column by its mark, and its place by the mark of its table."""
    row, owner = uuid4(), uuid4()
    where = f"door pin|{row}|{owner}"
    with psycopg.connect(vault.db.url) as connection:
        connection.execute("INSERT INTO new_table VALUES (%s, %s, %s)", (row, owner, vault.box.seal(where, "1234")))
    assert vault.rotate().values == 1
    with psycopg.connect(vault.db.url) as connection:
        (text,) = connection.execute("SELECT pin FROM new_table").fetchone() or ("",)
    assert vault.box.open(where, text).get_secret_value() == "1234"
    assert rotation.verify(vault.db, vault.box, nothing) == 1


@pytest.mark.parametrize("when", ["commit", "answer"])  # before the next one begins is after this one's answer
def test_whatever_fails_the_next_run_ends_it(vault: Vault, when: str) -> None:
    """With each transaction failing in turn every value reads at once, and a further run leaves one key only."""
    vault.fill(3)
    failures, at = 0, 0
    while at == failures:
        at += 1
        try:
            vault.rotate(FaultyDatabase(vault.db.url, at, when))
        except DatabaseFailure:
            failures += 1
        assert vault.read(vault.box) == {f"p{i:05}": f"p{i:05}" for i in range(3)}
        assert vault.kids <= vault.ring.keys()
        done = vault.rotate()
        assert vault.kids == vault.ring.keys() == {done.kid}
    assert failures > 5


def test_only_one_rotates(vault: Vault) -> None:
    """A second rotation, or a rekey, while one runs is refused with the name of the first."""
    with vault.db.lock("rotate", "keyring"):
        with pytest.raises(Conflict, match=r"mosaic rotate keyring .*:\d+ is under way"):
            vault.rotate()
        with pytest.raises(Conflict, match="is under way"):
            rotation.rekey(vault.db, vault.secret_key, generate_key())


def test_a_held_row_is_waited_for(vault: Vault) -> None:
    """A row that a transaction holds is left out, and sealed when it is free again."""
    vault.fill(5)
    with held_row(vault.db.url, "p00003") as holder:
        seen: list[tuple[int, int]] = []
        thread = threading.Thread(
            target=lambda: rotation.rotate(vault.db, vault.secret_key, lambda *done: seen.append(done))
        )
        thread.start()
        until(lambda: (4, 5) in seen)
        holder.rollback()
    thread.join()
    assert vault.kids == vault.ring.keys()
    assert len(vault.ring) == 1


def test_what_was_sealed_with_the_old_ring_ends_on_the_new_key(vault: Vault) -> None:
    """A value that a process sealed before a rotation and writes after it is under the new key."""
    vault.fill(1)
    db = Database(vault.db.url, actor="writer")
    box = keyring.box(db, vault.secret_key)
    with db.transaction(system=True) as session:
        row = session.exec(select(LlmProvider)).one()
    text = box.seal(place(row, "api_key"), "written-meanwhile")
    done = vault.rotate()
    with db.transaction(system=True) as session:
        session.exec(select(LlmProvider)).one().api_key = text
    assert vault.kids == {done.kid}
    assert vault.read(vault.box) == {"p00000": "written-meanwhile"}


def test_without_a_way_to_seal_again_a_late_write_is_refused(vault: Vault) -> None:
    """Nothing is ever stored under a key that is not current: whoever cannot seal again is told to try again."""
    vault.fill(1)
    text = vault.box.seal("anything", "late")
    vault.rotate()
    before = dump(vault.db)
    with pytest.raises(Conflict, match="was replaced meanwhile"), vault.db.transaction(system=True) as session:
        session.exec(select(LlmProvider)).one().api_key = text
    assert dump(vault.db) == before


def test_a_rotation_begins_when_writes_under_way_have_ended(vault: Vault) -> None:
    """A transaction that wrote under the old key holds the new one off until it commits, and nothing is lost."""
    vault.fill(2)
    db = Database(vault.db.url, actor="writer")
    box = keyring.box(db, vault.secret_key)
    with db.transaction(system=True) as session:
        row = session.exec(select(LlmProvider).where(LlmProvider.name == "p00000")).one()
        row.api_key = box.seal(place(row, "api_key"), "late")
        session.flush()
        thread = threading.Thread(target=vault.rotate)
        thread.start()
        until(lambda: _active(vault.db.url, "wait_event_type = 'Lock' AND query LIKE '%keyring%'"))
        assert len(vault.ring) == 1
    thread.join()
    assert vault.kids == vault.ring.keys()
    assert vault.read(vault.box) == {"p00000": "late", "p00001": "p00001"}


def _active(url: str, condition: str) -> bool:
    """Tell whether a connection to the database is as described."""
    query = f"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND {condition}"
    with psycopg.connect(url) as connection:
        row = connection.execute(f"{query} AND pid <> pg_backend_pid()").fetchone()
    return bool(row and row[0])


def test_a_value_read_before_the_end_opens_after_it(vault: Vault) -> None:
    """The old key stays while a transaction is open that may have read values under it."""
    vault.fill(1)
    old = vault.box.ring.current
    with vault.db.transaction(system=True) as session:
        row = session.exec(select(LlmProvider)).one()
        thread = threading.Thread(target=vault.rotate)
        thread.start()
        waits = "application_name LIKE 'mosaic rotate%' AND query LIKE '%xact_start%'"
        until(lambda: _active(vault.db.url, waits) or not thread.is_alive())
        assert vault.kids == vault.ring.keys() - {old}
        assert vault.box.open(place(row, "api_key"), row.api_key or "").get_secret_value() == "p00000"
    thread.join()
    assert old not in vault.ring


def test_values_fetched_before_the_key_was_dropped_open_afterwards(vault: Vault) -> None:
    """A box that reads the ring anew keeps the keys that it had."""
    vault.fill(1)
    box = vault.box
    with vault.db.transaction(system=True) as session:
        row = session.exec(select(LlmProvider)).one()
    assert box.open(place(row, "api_key"), row.api_key or "")
    vault.rotate()
    assert vault.read(box) == {"p00000": "p00000"}
    assert box.open(place(row, "api_key"), row.api_key or "").get_secret_value() == "p00000"


def test_what_does_not_open_keeps_its_key_and_is_named(vault: Vault) -> None:
    """A tampered value stays as it is under the old key, which stays; the others are sealed again."""
    vault.fill(3)
    old = vault.box.ring.current
    with psycopg.connect(vault.db.url) as connection:
        connection.execute(
            "UPDATE llm_provider SET api_key = overlay(api_key placing 'AAAA' from 30) WHERE name = 'p00001'"
        )
        row = connection.execute("SELECT id::text FROM llm_provider WHERE name = 'p00001'").fetchone()
    for _ in range(2):
        with pytest.raises(PartialFailure, match="1 of 3 sealed values do not open") as failure:
            vault.rotate()
        assert [(one.column, one.id, one.kid) for one in failure.value.rows] == [("llm_provider.api_key", row[0], old)]
        assert len(vault.ring) == 2
    assert vault.read(vault.box, ["p00000", "p00002"]) == {"p00000": "p00000", "p00002": "p00002"}


def test_no_ciphertext_opens_in_another_place(vault: Vault) -> None:
    """Of all pairs of rows, owners and columns none opens the other's ciphertext."""
    box = vault.box
    vault.fill(6)
    with vault.db.transaction(system=True) as session:
        values = sealed_texts(session)
        rows = session.exec(select(LlmProvider)).all()
        places = {("llm_provider.api_key", row.id): place(row, "api_key") for row in rows}
        for row in rows:
            moved = LlmProvider(**{**row.model_dump(), "user_id": uuid4()})
            places["owner", row.id] = place(moved, "api_key")
            places["column", row.id] = place(UserContainer(id=row.id, user_id=SYSTEM_OWNER), "gateway_token")
    opened = [(here, there) for here, text in values.items() for there in places if opens(box, places[there], text)]
    assert opened == [(here, here) for here in values]


def opens(box: Box, where: str, text: str) -> bool:
    """Tell whether a sealed text opens at a place."""
    try:
        return bool(box.open(where, text))
    except ConfigurationError:
        return False


def test_without_a_keyring_there_is_nothing_to_rotate(database: Database) -> None:
    """A look at a database without a keyring makes none."""
    before = dump(database)
    with pytest.raises(NotFound, match="there is no keyring yet"):
        rotation.rotate(database, generate_key(), nothing)
    assert dump(database) == before

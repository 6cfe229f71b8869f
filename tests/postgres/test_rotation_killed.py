"""Rotation of many values that is killed again and again while others read and write."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, cycle
from pathlib import Path

import psycopg
import pytest

from mosaic_fleet import keyring, rotation
from mosaic_fleet.db.database import Database
from mosaic_fleet.sealing import generate_key
from tests.postgres.vault import Vault
from tests.processes import Child, fork, until

VALUES, KILLS, WRITTEN = 20_000, 6, 40
STEPS = VALUES // 200 // (KILLS + 2)  # batches until a run is killed


@pytest.fixture
def vault(database: Database, monkeypatch: pytest.MonkeyPatch) -> Vault:
    monkeypatch.setattr(rotation, "_OLD_READERS", 120.0)  # a busy machine is slow, not stuck
    vault = Vault(database, generate_key())
    vault.fill(VALUES)
    return vault


def read(vault: Vault, stop: Path) -> int:
    """Open samples of the values until told to stop; return how often. A value that does not open ends it."""
    box = vault.box
    for number in count():
        if stop.exists():
            return number
        names = [f"p{(number * 397 + i * 1009) % VALUES:05}" for i in range(20)]
        found = vault.read(box if number % 2 else vault.box, names)
        wrong = {name for name, value in found.items() if value.rpartition("/")[2] != name}
        assert len(found) == 20
        assert not wrong
    raise AssertionError


def write(vault: Vault, stop: Path) -> dict[str, str]:
    """Give some providers ever new keys until told to stop; return the last ones that were committed."""
    db = Database(vault.db.url, actor="writer")
    box, last = keyring.box(db, vault.secret_key), {}
    for number, name in enumerate(cycle([f"p{i * (VALUES // WRITTEN):05}" for i in range(WRITTEN)])):
        if stop.exists():
            break
        vault.write(box, db, name, f"{number}/{name}")
        last[name] = f"{number}/{name}"
    return last


@contextmanager
def busy(vault: Vault, stop: Path) -> Iterator[list[Child]]:
    """Have a reader and a writer at work in processes of their own."""
    children = [fork(lambda: read(vault, stop)), fork(lambda: write(vault, stop))]
    try:
        yield children
    finally:
        stop.touch()


def written_to(file: Path) -> rotation.Progress:
    """Note each batch as a byte of a file; two batches later at most the process stands still, to be killed."""
    batches = count(1)

    def note(*_: int) -> None:
        with file.open("ab") as out:
            out.write(b".")
        if next(batches) > STEPS + 1:
            signal.pause()

    return note


def is_locked(url: str) -> bool:
    """Tell whether a session of this database holds an advisory lock: a killed one's does until Postgres notices."""
    held = "SELECT 1 FROM pg_locks JOIN pg_database d ON d.oid = database WHERE locktype = 'advisory' AND datname = %s"
    with psycopg.connect(url) as connection:
        return connection.execute(held, [connection.info.dbname]).fetchone() is not None


def test_killed_six_times_it_loses_nothing(vault: Vault, tmp_path: Path) -> None:
    """No read fails, no write is lost, each run goes on where the last one was killed, and one key is left."""
    old, stop = vault.box.ring.current, tmp_path / "stop"
    with busy(vault, stop) as (reader, writer):
        for kill in range(KILLS):
            progress = tmp_path / f"run-{kill}"
            rotating = fork(lambda file=progress: rotation.rotate(vault.db, vault.secret_key, written_to(file)).values)
            until(lambda file=progress: file.exists() and file.stat().st_size >= STEPS)
            rotating.kill()
            until(lambda: not is_locked(vault.db.url))
        assert old in vault.ring
        finished = vault.rotate()
    reads, written = reader.result(), writer.result()
    assert finished.continued
    assert 0 < finished.values < VALUES // 2
    assert vault.kids == vault.ring.keys() == {finished.kid}
    expected = {f"p{i:05}": f"p{i:05}" for i in range(VALUES)} | written
    assert vault.read(vault.box) == expected
    assert reads > KILLS
    assert len(written) > 1

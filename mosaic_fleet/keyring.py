"""The keyring table: random data keys, each wrapped by the key in MOSAIC_SECRET_KEY."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlmodel import Session, col, select

from mosaic_fleet.db import sealed
from mosaic_fleet.db.database import Database
from mosaic_fleet.db.tables import Keyring
from mosaic_fleet.errors import ConfigurationError, Conflict
from mosaic_fleet.identity import audit
from mosaic_fleet.sealing import Box, EnvironmentKey, Ring, environment_key, open_ring


def box(db: Database, secret_key: str | None) -> Box:
    """Return what seals and opens a database's values, reading the ring on first use; writers follow a rotation."""
    box = Box(lambda: load(db, secret_key))
    db.reseal = box.reseal
    return box


def load(db: Database, secret_key: str | None) -> Ring:
    """Open the keyring, making its first keys in a database that has none.

    Raises KeyFailure, naming the key that is needed, when MOSAIC_SECRET_KEY is missing or another one.
    """
    with db.transaction(system=True) as session:
        rows = _rows(session)
        key = environment_key(secret_key, rows)
        return open_ring(rows or _create(session, key), key)


def check(db: Database, secret_key: str | None) -> None:
    """Raise KeyFailure, as load() does, unless the keyring opens; makes no keys."""
    with db.transaction(system=True) as session:
        rows = _rows(session)
    key = environment_key(secret_key, rows)
    if rows:
        open_ring(rows, key)


def _rows(session: Session) -> Sequence[Keyring]:
    return session.exec(select(Keyring).order_by(col(Keyring.created_at))).all()


def _create(session: Session, key: EnvironmentKey) -> Sequence[Keyring]:
    """Make a data key and the key for names; whoever comes second finds the first one's."""
    session.execute(text("LOCK TABLE keyring IN SHARE ROW EXCLUSIVE MODE"))
    if rows := _rows(session):
        return rows
    for use in ("data", "names"):
        session.add(_fresh(key, use))
    audit.record(session, "keyring.create", key.kid)
    session.flush()
    return _rows(session)


def _fresh(key: EnvironmentKey, use: str) -> Keyring:
    kid = os.urandom(4).hex()
    return Keyring(kid=kid, use=use, environment_kid=key.kid, wrapped=key.wrap(kid, use, os.urandom(32)))


@dataclass(frozen=True)
class Key:
    """A key of the ring by its id: `use` is `data` or `names`, `wraps` maps environment keys to since when."""

    kid: str
    use: str
    is_current: bool
    created_at: datetime
    wraps: Mapping[str, datetime]


def keys(session: Session) -> list[Key]:
    """List the keys by age; those of `names` are never rotated, or every agent would restart."""
    rows: dict[str, list[Keyring]] = {}
    for row in _rows(session):
        rows.setdefault(row.kid, []).append(row)
    return [
        Key(
            kid,
            mine[0].use,
            mine[0].is_current,
            mine[0].created_at,
            {row.environment_kid: row.wrapped_at for row in mine},
        )
        for kid, mine in rows.items()
    ]


def replaced(session: Session) -> list[str]:
    """Name the data keys that are not current any more: those of a rotation that has not ended."""
    return [key.kid for key in keys(session) if key.use == "data" and not key.is_current]


def renew(session: Session, key: EnvironmentKey) -> None:
    """Make a new current data key, unless a rotation is to be ended first.

    Waits until every write of a sealed value that is under way has ended. Raises Conflict while there are two
    environment keys: the new data key could be wrapped by one of them only.
    """
    sealed.lock_keyring(session)
    rows = _rows(session)
    open_ring(rows, key)
    if replaced(session):
        return
    if len({row.environment_kid for row in rows}) > 1:
        raise Conflict("a rekey has not ended", hint="mosaic secrets rekey --finish, under the new key")
    for row in rows:
        row.is_current = row.use != "data"
    fresh = _fresh(key, "data")
    session.add(fresh)
    session.flush()
    audit.record(session, "keyring.renew", fresh.kid)


def drop(session: Session, kid: str) -> None:
    """Drop a data key that nothing is sealed under."""
    for row in session.exec(select(Keyring).where(Keyring.kid == kid)):
        session.delete(row)
    session.flush()
    audit.record(session, "keyring.drop", kid)


def wrap(session: Session, old: EnvironmentKey, new: EnvironmentKey) -> int:
    """Wrap every key for a second environment key too; return how many were not yet."""
    sealed.lock_keyring(session)
    rows = _rows(session)
    open_ring(rows, old)
    there = {row.kid for row in rows if row.environment_kid == new.kid}
    missing = [row for row in rows if row.environment_kid == old.kid and row.kid not in there]
    for row in missing:
        wrapped = new.wrap(row.kid, row.use, old.unwrap(row.kid, row.use, row.wrapped))
        twin = Keyring(kid=row.kid, use=row.use, environment_kid=new.kid, wrapped=wrapped)
        twin.is_current, twin.created_at = row.is_current, row.created_at
        session.add(twin)
    if missing:
        session.flush()
        audit.record(session, "keyring.wrap", new.kid)
    return len(missing)


def unwrap_others(session: Session, key: EnvironmentKey) -> list[str]:
    """Forget what other environment keys wrap, once this one opens every key; return their ids.

    Raises ConfigurationError where the key is not the newest one.
    """
    sealed.lock_keyring(session)
    rows = _rows(session)
    open_ring(rows, key)
    newest = max(rows, key=lambda row: row.wrapped_at).environment_kid
    if newest != key.kid:
        raise ConfigurationError(
            f"MOSAIC_SECRET_KEY is still key {key.kid}, the new one is key {newest}", hint="set the new key first"
        )
    mine = {row.kid for row in rows if row.environment_kid == key.kid}
    others = [row for row in rows if row.environment_kid != key.kid]
    if lost := sorted({row.kid for row in others} - mine):
        raise ConfigurationError(f"environment key {key.kid} does not wrap {', '.join(lost)}")
    for row in others:
        session.delete(row)
    dropped = sorted({row.environment_kid for row in others})
    if dropped:
        session.flush()
        audit.record(session, "keyring.unwrap", ", ".join(dropped))
    return dropped


@dataclass(frozen=True)
class SealedCount:
    """How many values of a column are sealed under a data key."""

    column: str
    kid: str
    values: int


def sealed_counts(db: Database) -> list[SealedCount]:
    """Count the sealed values of every marked column by data key."""
    with db.transaction(system=True) as session:
        return [
            SealedCount(sealed.title(column), kid, values)
            for column in sealed.columns()
            for kid, values in sealed.counts(session, column)
        ]


def environment_kids(db: Database) -> list[str]:
    """Name the environment keys that open this database's keyring; none before its first use."""
    with db.transaction(system=True) as session:
        return sorted({row.environment_kid for row in _rows(session)})

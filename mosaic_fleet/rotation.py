"""Renews the keys that seal: every sealed value anew, in small steps, while everything else goes on."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pydantic import SecretStr
from sqlmodel import Session

from mosaic_fleet import keyring
from mosaic_fleet.db import sealed
from mosaic_fleet.db.database import Database
from mosaic_fleet.db.sealed import Batch, Value
from mosaic_fleet.errors import ConfigurationError, Conflict, NotFound, PartialFailure
from mosaic_fleet.identity import audit
from mosaic_fleet.sealing import Box, EnvironmentKey

if TYPE_CHECKING:
    from sqlalchemy import Column

_LOCK = "keyring"
_BATCH = 200  # rows that are locked at a time
_READ = 5000  # values that are opened at a time
_PAUSE = 0.05  # seconds until rows that somebody held are tried again
_PATIENCE = 60.0  # seconds that somebody else's transaction may hold a row
_OLD_READERS = 10.0  # seconds that a transaction may go on that read values under the old key

Progress = Callable[[int, int], None]
"""Takes how many values are done, and of how many."""


@dataclass(frozen=True)
class Unopened:
    """A value that does not open: where it is, and the data key it says it is sealed under."""

    column: str
    id: str
    kid: str
    reason: str


@dataclass(frozen=True)
class Rotated:
    """What a rotation did: the key that seals now, how many values were sealed again, the keys that went and stay."""

    kid: str
    values: int
    continued: bool
    dropped: list[str]
    kept: list[str]


def preview(db: Database) -> list[keyring.SealedCount]:
    """Count what a rotation would seal again: everything, or what one that was broken off has left."""
    with db.transaction(system=True) as session:
        old = keyring.replaced(session)
    return [count for count in keyring.sealed_counts(db) if not old or count.kid in old]


def rotate(db: Database, secret_key: str | None, progress: Progress) -> Rotated:
    """Make a new data key and seal every value under it; end a rotation that was broken off instead.

    Raises Conflict while another one runs or while somebody holds a row, PartialFailure naming what does not open:
    the key of such a value stays.
    """
    key = _environment_key(db, secret_key)
    with db.lock("rotate", _LOCK) as lock:
        with db.transaction(system=True) as session:
            continued = bool(keyring.replaced(session))
            keyring.renew(session, key)
        box = Box(lambda: keyring.load(db, secret_key))
        values = _reseal_everything(db, box, progress)
        dropped = _drop_replaced(db) if lock.outlast(_OLD_READERS) else []
        with db.transaction(system=True) as session:
            kept = keyring.replaced(session)
            audit.record(session, "keyring.rotate", box.ring.current, values=values, dropped=dropped, kept=kept)
        verify(db, Box(lambda: keyring.load(db, secret_key)), lambda *_: None)
    return Rotated(box.ring.current, values, continued, dropped, kept)


def verify(db: Database, box: Box, progress: Progress) -> int:
    """Open every sealed value; return how many there are.

    Raises PartialFailure naming those that do not open.
    """
    done, total = 0, sum(count.values for count in keyring.sealed_counts(db))
    unopened: list[Unopened] = []
    for column in sealed.columns():
        for values in _batches(db, column):
            unopened += [one for one in (_opened(box, column, value) for value in values) if isinstance(one, Unopened)]
            done += len(values)
            progress(done, max(done, total))
    if unopened:
        raise PartialFailure(f"{len(unopened)} of {done} sealed values do not open", rows=unopened)
    return done


def rekey(db: Database, secret_key: str | None, new_key: str) -> bool:
    """Have a new MOSAIC_SECRET_KEY open the keyring beside the one in use; return False when it does already."""
    old, new = _environment_key(db, secret_key), EnvironmentKey(new_key)
    with db.lock("rekey", _LOCK), db.transaction(system=True) as session:
        return old.kid != new.kid and keyring.wrap(session, old, new) > 0


def finish_rekey(db: Database, secret_key: str | None) -> list[str]:
    """Have only the key in use open the keyring; return the ids of those that no longer do."""
    key = _environment_key(db, secret_key)
    with db.lock("rekey", _LOCK), db.transaction(system=True) as session:
        return keyring.unwrap_others(session, key)


def _environment_key(db: Database, secret_key: str | None) -> EnvironmentKey:
    """Return the environment's key once it has opened the ring; a look makes no keyring."""
    if not keyring.environment_kids(db):
        raise NotFound("there is no keyring yet", hint="mosaic init")
    keyring.load(db, secret_key)
    return EnvironmentKey(secret_key or "")


def _reseal_everything(db: Database, box: Box, progress: Progress) -> int:
    """Pass through all columns until all that opens is under the current key; return how many values were sealed."""
    total, done, last_change = _waiting(db, box), 0, time.monotonic()
    while True:
        before, broken = done, 0
        for column in sealed.columns():
            for fresh, unopened in _reseal_column(db, box, column):
                done, broken = done + fresh, broken + unopened
                progress(done, max(done, total))
        if _waiting(db, box) <= broken:
            return done
        last_change = last_change if done == before else time.monotonic()
        if time.monotonic() - last_change > _PATIENCE:
            raise Conflict("another transaction does not let go of rows to seal", hint="mosaic secrets rotate")
        time.sleep(_PAUSE)


def _waiting(db: Database, box: Box) -> int:
    """Count the values that are not under the current key."""
    return sum(count.values for count in keyring.sealed_counts(db) if count.kid != box.ring.current)


def _reseal_column(db: Database, box: Box, column: "Column[str]") -> Iterator[tuple[int, int]]:
    """Seal a column's values anew, a batch in each transaction; yield how many were, and how many do not open.

    Rows that somebody holds are left out.
    """
    batch = Batch(_BATCH, not_under=box.ring.current, lock=True)
    while True:
        with db.transaction(system=True) as session:
            values = sealed.read(session, column, batch)
            opened = {value: _opened(box, column, value) for value in values}
            good = {value: text for value, text in opened.items() if isinstance(text, SecretStr)}
            _reseal(session, box, column, good)
        if not values:
            return
        yield len(good), len(values) - len(good)
        batch = replace(batch, after=values[-1].id)


def _reseal(session: Session, box: Box, column: "Column[str]", opened: Mapping[Value, SecretStr]) -> None:
    """Seal values again and compare what the database holds then, before anything is committed."""
    if not opened:
        return
    stored = sealed.replace(session, column, {value.id: box.seal(value.place, opened[value]) for value in opened})
    for value, text in opened.items():
        if box.open(value.place, stored[value.id]) != text:
            raise RuntimeError(f"{sealed.title(column)} {value.id} came back as another value")


def _opened(box: Box, column: "Column[str]", value: Value) -> SecretStr | Unopened:
    try:
        return box.open(value.place, value.text)
    except ConfigurationError as error:
        return Unopened(sealed.title(column), str(value.id), value.kid, error.message)


def _drop_replaced(db: Database) -> list[str]:
    """Drop the replaced data keys that nothing is sealed under, while nobody can write a sealed value."""
    with db.transaction(system=True) as session:
        sealed.lock_keyring(session)
        used = {kid for column in sealed.columns() for kid, _ in sealed.counts(session, column)}
        dropped = [kid for kid in keyring.replaced(session) if kid not in used]
        for kid in dropped:
            keyring.drop(session, kid)
    return dropped


def _batches(db: Database, column: "Column[str]") -> Iterator[list[Value]]:
    """Yield all values of a column, each batch from a transaction of its own."""
    batch = Batch(_READ)
    while True:
        with db.transaction(system=True) as session:
            values = sealed.read(session, column, batch)
        if not values:
            return
        yield values
        batch = replace(batch, after=values[-1].id)

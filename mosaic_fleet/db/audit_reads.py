"""The quick reads of the audit, and what chains its rows."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

from mosaic_fleet.db.rows import Rows

_AT_ONCE = 5_000  # rows fetched in one go
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


@dataclass(frozen=True)
class AuditRow:
    """Who did what to which thing, when, and with what outcome."""

    id: int
    at: datetime
    actor: str
    verb: str
    object: str
    outcome: str
    details: dict[str, Any]


@dataclass(frozen=True)
class AuditPage:
    """A page of the audit, the newest row first; `page` is the one that was read."""

    rows: list[AuditRow]
    page: int
    pages: int
    total: int


class AuditReads(Rows):
    """Reads of the audit."""

    def audit(
        self, *, page: int, per_page: int, since: datetime | None = None, actor: str = "", verb: str = ""
    ) -> AuditPage:
        """List a page of the audit, newest first; `verb` may be a noun, which stands for all its verbs."""
        wanted = (since, since, actor, actor, verb, verb, verb)
        (count,) = self._all(_Count, f"SELECT count(*) AS total {_WANTED}", *wanted)
        pages = max(1, -(-count.total // per_page))
        page = max(1, min(page, pages))
        query = f"{_AUDIT} {_WANTED} ORDER BY id DESC LIMIT %s OFFSET %s"
        rows = self._all(AuditRow, query, *wanted, per_page, (page - 1) * per_page)
        return AuditPage(rows, page, pages, count.total)

    def audit_of(self, thing: str, verbs: str) -> list[AuditRow]:
        """List what was done to one thing by the verbs of a noun, newest first."""
        return self._all(
            AuditRow, f"{_AUDIT} FROM audit WHERE object = %s AND verb ^@ %s ORDER BY id DESC", thing, verbs
        )

    def audit_chain(self, *, last: int | None = None) -> Iterator[tuple[int, str, str, str]]:
        """Yield (id, previous, hash, computed hash) of every row by id, or of the last so many; streams."""
        with self._connection.cursor(name="audit_chain") as cursor:
            cursor.execute(_CHAIN, (last, last))
            while rows := cursor.fetchmany(_AT_ONCE):
                for number, previous, stored, at, actor, verb, thing, outcome, details in rows:
                    values = [at, actor, verb, thing, outcome, json.loads(details), previous]
                    yield number, previous, stored, sha256(_encode(values).encode()).hexdigest()

    def audit_id(self, hash: str) -> int | None:
        """Return the id of the row with this hash, None when there is none."""
        row = self._connection.execute("SELECT id FROM audit WHERE hash = %s ORDER BY id LIMIT 1", (hash,)).fetchone()
        return int(row[0]) if row else None


@dataclass(frozen=True)
class _Count:
    total: int


def entry_hash(entry: Mapping[str, Any]) -> str:
    """Hash an audit row together with the hash before it (key `previous`)."""
    fields = ("at", "actor", "verb", "object", "outcome", "details", "previous")
    values = [entry["at"].timestamp() if name == "at" else entry[name] for name in fields]
    return sha256(_encode(values).encode()).hexdigest()


_AUDIT = "SELECT id, at, actor, verb, object, outcome, details"
_WANTED = """
FROM audit WHERE (%s::timestamptz IS NULL OR at >= %s) AND (%s::text = '' OR actor = %s)
  AND (%s::text = '' OR verb = %s OR verb ^@ (%s || '.'))"""
# The epoch as the nearest double, which is what Python makes of the same time.
_CHAIN = """
SELECT id, previous, hash, extract(epoch FROM at)::float8, actor, verb, object, outcome, details::text
FROM audit WHERE %s::int IS NULL OR id > (SELECT max(id) FROM audit) - %s ORDER BY id"""

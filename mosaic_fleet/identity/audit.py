"""Who did what: rooms record it, the database chains it, and the chain shows what was changed."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from mosaic_fleet.errors import Invalid

if TYPE_CHECKING:
    from sqlmodel import Session

    from mosaic_fleet.db.audit_reads import AuditReads

_HEAD = re.compile("[0-9a-f]{64}")
_SPAN = re.compile(r"(\d{1,6})([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_MOST_FAULTS = 20


@dataclass(frozen=True)
class Fault:
    """What is wrong at a row; `row` is its id, None when it is not there at all."""

    row: int | None
    what: str


@dataclass(frozen=True)
class Verdict:
    """What a walk along the chain found; `head` is the hash of the last row, empty without rows."""

    rows: int
    head: str
    faults: list[Fault]


def record(session: "Session", verb: str, thing: str, *, outcome: str = "done", **details: Any) -> None:
    """Note an action; it is appended to the audit with the transaction, or not at all.

    `details` must be JSON without secrets, prompts or answers.
    """
    session.info.setdefault("audit", []).append({"verb": verb, "object": thing, "outcome": outcome, "details": details})


def verify(reads: "AuditReads", *, head: str | None = None, last: int | None = None) -> Verdict:
    """Walk along the chain and name each row that was edited, or that does not follow the one before it.

    `head` is a hash printed earlier, which must still be there; `last` walks over so many rows only.
    Raises Invalid when `head` is no hash.
    """
    if head is not None and not _HEAD.fullmatch(head):
        raise Invalid(f"head {head[:80]!r}: write the 64 hexadecimal digits that an earlier verify printed")
    edited, loose, count, seen = [], [], 0, head is None
    before: str | None = "" if last is None else None
    for number, previous, stored, computed in reads.audit_chain(last=last):
        count += 1
        if before is not None and previous != before:
            loose.append((number, previous))
        if stored != computed:
            edited.append(number)
        seen = seen or stored == head
        before = stored
    faults = [Fault(number, "was edited") for number in edited[:_MOST_FAULTS]]
    faults += [_loose(reads, number, previous) for number, previous in loose[:_MOST_FAULTS]]
    faults.sort(key=lambda fault: fault.row or 0)
    if not seen:
        faults.append(Fault(None, "the row with that head is gone: the end was cut off, or all was written anew"))
    return Verdict(count, before or "", faults)


def _loose(reads: "AuditReads", number: int, previous: str) -> Fault:
    there = reads.audit_id(previous)
    if there is not None:
        return Fault(number, f"is out of order: it was written after row {there}")
    return Fault(number, "follows a row that is missing or was rewritten")


def moment(text: str, *, now: datetime) -> datetime:
    """Read `2026-11-24`, a full ISO time, or how long ago: `90m`, `24h`, `7d`; raises Invalid."""
    try:
        if match := _SPAN.fullmatch(text):
            return now - timedelta(**{_UNITS[match[2]]: int(match[1])})
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise Invalid(f"time {text[:40]!r}: write 2026-11-24, 2026-11-24T15:00, or 90m, 24h, 7d") from None

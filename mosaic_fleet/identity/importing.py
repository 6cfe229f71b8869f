"""Imports users from a file: good rows are taken, bad ones told by line, a second run changes nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from sqlmodel import Session, col, insert, select

from mosaic_fleet.db.tables import User, now
from mosaic_fleet.errors import Conflict, Invalid, MosaicError
from mosaic_fleet.identity import administrators, audit, users
from mosaic_fleet.identity.userfile import Entry

_AT_ONCE = 5_000  # values in one statement


@dataclass(frozen=True)
class Imported:
    """What became of a row: `outcome` is added, changed, unchanged or failed."""

    line: int
    name: str
    outcome: str
    error: str | None = None


@dataclass(frozen=True)
class _Step:
    """What a row asks for: `values` of `user`, who is new unless they are there; or why it cannot be had."""

    line: int
    name: str
    user: User | None = None
    values: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    @property
    def outcome(self) -> str:
        if self.error:
            return "failed"
        return "added" if self.user is None else "changed" if self.values else "unchanged"


def load(session: Session, entries: Sequence[Entry]) -> list[Imported]:
    """Add and change users by name, in a few statements however many there are; a row that fails changes nothing.

    A column that a row has not stays as it is; nobody is removed, and one administrator stays.
    """
    administrators.hold(session)
    steps = _keep_an_administrator(session, _Planner(session, entries).plan())
    added = [_columns(step) for step in steps if step.outcome == "added"]
    if added:  # as plain rows: making 10,000 objects takes longer than everything else
        session.execute(insert(User), added)
    for step in steps:
        if step.user is not None and step.outcome == "changed":
            for column, value in step.values.items():
                setattr(step.user, column, value)
        if step.outcome in ("added", "changed"):
            told = {column: value for column, value in step.values.items() if column != "name"}
            audit.record(session, "user.add" if step.user is None else "user.set", step.name, **told)
    session.flush()
    return [Imported(step.line, step.name, step.outcome, step.error) for step in steps]


def _columns(step: _Step) -> dict[str, Any]:
    """Lay out the whole row of a new user; every row has the same columns, so that they go in together."""
    moment = now()
    defaults = {"display_name": step.name, "role": "member", "is_local": True}
    return {"id": uuid4(), "created_at": moment, "updated_at": moment, **defaults, **step.values}


class _Planner:
    """Compares the rows of a file with who is there, and with each other."""

    def __init__(self, session: Session, entries: Sequence[Entry]) -> None:
        self.entries = entries
        names = {entry.values.get("name", "") for entry in entries}
        emails = {entry.values.get("email", "").lower() for entry in entries}
        rows = [*_those(session, User.name, names), *_those(session, User.email, emails)]
        self.there = {row.name: row for row in rows}
        self.whose: dict[str | None, str] = {row.email: row.name for row in rows}
        self.lines: dict[str, int] = {}

    def plan(self) -> list[_Step]:
        """Return a step for each row."""
        return [self._step(entry) for entry in self.entries]

    def _step(self, entry: Entry) -> _Step:
        name = entry.values.get("name", "")[:80]
        if entry.error:
            return _Step(entry.line, name, error=entry.error)
        try:
            return self._change(entry)
        except MosaicError as error:
            return _Step(entry.line, name, error=error.message)

    def _change(self, entry: Entry) -> _Step:
        values = users.checked(entry.values)
        name, email = values["name"], values.get("email")
        there = self.there.get(name)
        self._check(name, email, there)
        self.lines[name] = entry.line
        if email:
            self.whose[email] = name
        changed = {key: value for key, value in values.items() if there is None or getattr(there, key) != value}
        return _Step(entry.line, name, there, changed)

    def _check(self, name: str, email: str | None, there: User | None) -> None:
        if name in self.lines:
            raise Conflict(f'"{name}" is in line {self.lines[name]} already')
        if there and there.role == "system":
            raise Conflict(f'"{name}" is reserved')
        if there is None and not email:
            raise Invalid(f'"{name}" is new and has no e-mail')
        whose = self.whose.get(email, name)
        if email and whose != name:
            line = f" of line {self.lines[whose]}" if whose in self.lines else ""
            raise Conflict(f'e-mail "{email}" belongs to "{whose}"{line}')


def _those(session: Session, column: Any, values: set[str]) -> Iterator[User]:
    """Fetch the rows that have one of these values; what Postgres cannot hold nobody has."""
    wanted = sorted(value for value in values if value.isprintable())
    for start in range(0, len(wanted), _AT_ONCE):
        yield from session.exec(select(User).where(col(column).in_(wanted[start : start + _AT_ONCE])))


def _keep_an_administrator(session: Session, steps: list[_Step]) -> list[_Step]:
    """Fail the last row that demotes an administrator when none would be left."""
    left = set(administrators.active_users(session))
    demoting = None
    for place, step in enumerate(steps):
        role = None if step.error else step.values.get("role")
        if step.user is None or step.user.id not in left or role != "member":
            continue
        left.discard(step.user.id)
        demoting = place
    promoted = any(_makes_administrator(step) for step in steps)
    if demoting is None or left or promoted or administrators.active_breakglass(session):
        return steps
    last = replace(steps[demoting], error=f'"{steps[demoting].name}" is the last active administrator')
    return [*steps[:demoting], last, *steps[demoting + 1 :]]


def _makes_administrator(step: _Step) -> bool:
    active = step.user is None or step.user.deactivated_at is None
    return not step.error and step.values.get("role") == "admin" and active

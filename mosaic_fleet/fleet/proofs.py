"""Saves providers that were proved: tries what would be saved, then saves it, and keeps what a test found."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlmodel import Session

from mosaic_fleet import configuration
from mosaic_fleet.db.database import Database, discard
from mosaic_fleet.db.reads import SYSTEM_OWNER
from mosaic_fleet.db.tables import now
from mosaic_fleet.egress import Opening
from mosaic_fleet.errors import Conflict, Invalid, RuntimeFailure
from mosaic_fleet.fleet import probes, providers
from mosaic_fleet.fleet.probes import Report, Target
from mosaic_fleet.sealing import Box

_MOST_SAVED = 200  # models that are saved unasked: each goes into every gateway's configuration


@dataclass(frozen=True)
class Accounts:
    """An owner's providers, with what keeps and opens them."""

    db: Database
    box: Box
    owner: UUID = SYSTEM_OWNER

    def transaction(self) -> AbstractContextManager[Session]:
        """Open a transaction for the owner."""
        if self.owner == SYSTEM_OWNER:
            return self.db.transaction(system=True)
        return self.db.transaction(owner=self.owner)


@dataclass(frozen=True)
class Options:
    """How a provider is tested: seconds for all of it, and whether a model is to answer, and which."""

    timeout: float = 20
    deep: bool = False
    model: str | None = None
    save_models: bool = False


@dataclass(frozen=True)
class Saved:
    """What became of a provider that was to be saved; `report` is None where there was nothing to test."""

    changed: bool
    report: Report | None


def save(accounts: Accounts, name: str, write: Callable[[Session], bool], *, test: bool = True) -> Saved:
    """Add or change a provider by `write`, which tells whether it changed anything, after testing what it would save.

    A change of nothing that a test depends on, and a removed key, are saved without one. Raises RuntimeFailure when the
    test fails, and then nothing is saved; Conflict when somebody else changed the provider meanwhile.
    """
    wanted, report = None, None
    if test:
        wanted, allowed = _rehearsed(accounts, name, write)
        if wanted:
            report = _probed(f'provider "{name}" not saved', wanted, Options(), allowed)
    with accounts.transaction() as session:
        changed = write(session)
        row = providers.find(session, accounts.owner, name)
        if wanted and (row is None or probes.target(row, accounts.box) != wanted):
            raise Conflict(f'provider "{name}" was changed while it was tested', hint="run the same command")
        if row and report:
            providers.record_test(session, row, now())
    return Saved(changed, report)


def test(accounts: Accounts, name: str, options: Options) -> Report:
    """Test a provider and keep the outcome; with `save_models` its models become those that it offers.

    Raises Invalid where there is nothing to test, and RuntimeFailure when the test fails.
    """
    with accounts.transaction() as session:
        target = probes.target(providers.get(session, accounts.owner, name), accounts.box)
        allowed = _allowed(session)
    if not target.testable:
        raise _untestable(name, target)
    try:
        report = _probed(f'provider "{name}"', target, options, allowed)
    except RuntimeFailure as error:
        _keep(accounts, name, target, reason=error.message.partition(": ")[2])
        raise
    _keep(accounts, name, target)
    if options.save_models:
        _save_models(accounts, name, report)
    return report


def _rehearsed(
    accounts: Accounts, name: str, write: Callable[[Session], bool]
) -> tuple[Target | None, tuple[Opening, ...]]:
    """Do it in a transaction that is rolled back; return what is to be tested, None when there is nothing."""
    with accounts.transaction() as session:
        discard(session)
        before = providers.find(session, accounts.owner, name)
        old = probes.target(before, accounts.box) if before else None
        write(session)
        row = providers.find(session, accounts.owner, name)
        new = probes.target(row, accounts.box) if row else None
        unproved = new and new.testable and new != old and not (old and new == replace(old, key=None))
        return (new if unproved else None), _allowed(session)


def _allowed(session: Session) -> tuple[Opening, ...]:
    allowed: tuple[Opening, ...] = configuration.values(session)["egress.allow"]
    return allowed


def _probed(title: str, target: Target, options: Options, allowed: tuple[Opening, ...]) -> Report:
    from mosaic_fleet import outbound  # late: who tests nothing need not wait for httpx

    try:
        with outbound.client(allowed, timeout=options.timeout) as http:
            return probes.probe(http, target, deep=options.deep, model=options.model)
    except RuntimeFailure as error:
        hint = error.hint or "look at the address, or save it untested with --no-test"
        raise RuntimeFailure(f"{title}: {error.message}", hint=hint) from error


def _keep(accounts: Accounts, name: str, target: Target, *, reason: str | None = None) -> None:
    """Keep the outcome of a test, unless the provider is another one by now."""
    with accounts.transaction() as session:
        row = providers.find(session, accounts.owner, name)
        if row and probes.target(row, accounts.box) == target:
            providers.record_test(session, row, now(), reason=reason)


def _save_models(accounts: Accounts, name: str, report: Report) -> None:
    if len(report.models) > _MOST_SAVED:
        raise Invalid(
            f'provider "{name}" offers {len(report.models):,} models: name those you want',
            hint=f"mosaic provider set {name} --model ID",
        )
    with accounts.transaction() as session:
        row = providers.get(session, accounts.owner, name)
        providers.set(session, accounts.box, accounts.owner, name, {"models": merged(row.models, report.models)})


def merged(here: list[dict[str, Any]], found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add models that were found to those that are there; what a person wrote about a model stays."""
    known = {one["id"]: one for one in here}
    new = {one["id"]: one for one in found}
    return [{**new.get(name, {}), **known.get(name, {})} for name in known | new]


def _untestable(name: str, target: Target) -> Invalid:
    if target.login:
        return Invalid(
            f'provider "{name}" logs in inside its gateways, so there is no key here to test',
            hint='ask an agent that uses it: mosaic fleet ask AGENT "Are you there?"',
        )
    return Invalid(f'provider "{name}" has no key to test', hint=f"mosaic provider set {name} --api-key-stdin")

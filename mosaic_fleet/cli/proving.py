"""Testing providers, and for whom: what `mosaic provider` says before and after a test."""

from dataclasses import replace
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.cli.output import check, document, note, progress

if TYPE_CHECKING:
    from mosaic_fleet.db.reads import ProviderRow
    from mosaic_fleet.fleet.probes import Report
    from mosaic_fleet.fleet.proofs import Accounts, Options

_MOST_TYPED = 10  # models in a command to copy

User = Annotated[str | None, typer.Option("--user", help="Act for this user; what you do is audited.")]


def owner(mosaic: Mosaic, user: str | None, verb: str, thing: str = "") -> UUID:
    """Return whose providers are meant; who acts for a user leaves that in the audit. Raises NotFound."""
    from mosaic_fleet.db.reads import SYSTEM_OWNER

    if user is None:
        return SYSTEM_OWNER
    from mosaic_fleet.identity import audit, users

    with mosaic.db.transaction(system=True) as session:
        person = users.get(session, user)
        audit.record(session, f"provider.{verb}.for", thing, owner=str(person.id), user=person.name)
        return person.id


def accounts(mosaic: Mosaic, user: str | None, verb: str, name: str) -> "Accounts":
    """Return the providers of the fleet or of a user."""
    from mosaic_fleet.fleet.proofs import Accounts

    return Accounts(mosaic.db, mosaic.box, owner(mosaic, user, verb, name))


def rows(mosaic: Mosaic, user: str | None, name: str | None = None) -> "list[ProviderRow]":
    """Read the providers of the fleet or of a user, or one of them; of a user's keys not even the end is shown."""
    whose = owner(mosaic, user, "show" if name else "list", name or "")
    with mosaic.reads(owner=whose if user else None) as reads:
        found = [reads.provider(whose, name)] if name else reads.providers(whose)
    return [replace(row, key_hint=None) for row in found] if user else found


def tested(mosaic: Mosaic, user: str | None, name: str, options: "Options") -> "Report":
    """Test a provider of the fleet or of a user, while a line on the terminal says so."""
    from mosaic_fleet.fleet import proofs

    whose = accounts(mosaic, user, "test", name)
    with progress() as show:
        show(f"testing {name} …")
        return proofs.test(whose, name, options)


def report(name: str, found: "Report") -> None:
    """Print what a test found, a line for each step."""
    document({}, text=f"{name}  {found.url}  answers in {found.latency_ms} ms")
    for step in found.steps:
        check(step.mark, step.name, step.text)


def offer(name: str, found: "Report", user: str | None) -> None:
    """Tell, as a command to type, which models were found."""
    if not found.models:
        return
    typed = [_typed(model) for model in found.models if "," not in model["id"]][:_MOST_TYPED]
    rest = len(found.models) - len(typed)
    note(" ".join(["mosaic provider set", name, *_for(user), *(f"--model {quote(one)}" for one in typed)]))
    if rest:
        note(f"and {rest:,} more: mosaic provider test {name} {' '.join([*_for(user), '--json'])}")


def _for(user: str | None) -> list[str]:
    return ["--user", quote(user)] if user else []


def _typed(model: dict[str, Any]) -> str:
    sizes = {"context": model.get("contextWindow"), "max": model.get("maxTokens")}
    return ",".join([model["id"], *(f"{key}={value}" for key, value in sizes.items() if value)])

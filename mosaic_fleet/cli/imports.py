"""What `mosaic agent import` does and prints, for a roster file and for a hand-made fleet's folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.cli import prompts
from mosaic_fleet.cli.output import document, note
from mosaic_fleet.cli.spans import seconds


@dataclass(frozen=True)
class How:
    """What the command was told about writing and printing."""

    dry_run: bool
    json: bool
    quiet: bool


@dataclass(frozen=True)
class Consent:
    """The stack's name as it was typed to take it over, and how long its services may take."""

    name: str | None
    timeout: str


def file(path: Path, how: How) -> None:
    """Load a roster file."""
    from mosaic_fleet.db.database import discard
    from mosaic_fleet.fleet import roster

    parsed = roster.read(path)
    mosaic = Mosaic.from_env()
    with mosaic.db.transaction(system=True) as session:
        loaded = roster.load(session, mosaic.box, parsed)
        if how.dry_run:
            discard(session)
    values = {"import": loaded, "changed": loaded.is_changed}
    document(values, text="\n".join(_lines(loaded)), json=how.json, quiet=how.quiet)
    _tell_keys(loaded, how)


def folder(path: Path, stack: str | None, how: How) -> None:
    """Load a hand-made fleet, telling of every file what was read, and what was not understood."""
    from mosaic_fleet.fleet.handmade import reading

    made = reading.read(path, stack)
    loaded, notes = _load(Mosaic.from_env(), made, how)
    values = _document(made, loaded, notes) | {"changed": loaded.is_changed}
    document(values, text="\n".join(_lines(loaded) + _read(made)), json=how.json, quiet=how.quiet)
    _tell(notes, how)
    _tell_keys(loaded, how)


def adopt(path: Path, stack: str | None, how: How, consent: Consent) -> None:
    """Load a hand-made fleet and take over what runs of it, each step told before it is done."""
    from mosaic_fleet.fleet import adopting
    from mosaic_fleet.fleet.deploying import Fleet
    from mosaic_fleet.fleet.handmade import reading
    from mosaic_fleet.fleet.options import Options

    made = reading.read(path, stack)
    timeout = seconds(consent.timeout)
    mosaic = Mosaic.from_env()
    planned = adopting.look(mosaic.db, mosaic.runtime, made)
    steps = [text for one in planned for text, _ in one.steps()]
    if planned and not how.dry_run:
        _tell(steps if consent.name is None else [], how)
        what = f"This stops {len(planned)} agents and makes them Mosaic's"
        prompts.confirm_name(made.roster.stack, what=what, given=consent.name)
    loaded, notes = _load(mosaic, made, how)
    _tell(notes, how)
    values = _document(made, loaded, notes) | {"steps": steps}
    if how.dry_run:
        text = "\n".join(_lines(loaded) + _read(made) + steps)
        document(values | {"deploy": None, "changed": False}, text=text, json=how.json, quiet=how.quiet)
        return
    fleet = Fleet(mosaic.db, mosaic.box, mosaic.runtime, _Report(how))
    outcome = adopting.adopt(fleet, made, Options(timeout=timeout))
    states = {agent: state.verdict for agent, state in outcome.states.items()}
    changed = loaded.is_changed or bool(planned) or outcome.number is not None
    lines = [*_lines(loaded), *(f"{verdict:<10} {agent}" for agent, verdict in states.items())]
    values |= {"deploy": {"number": outcome.number, "agents": states}, "changed": changed}
    document(values, text="\n".join(lines), json=how.json, quiet=how.quiet)


class _Report:
    """Prints what is done, a line before each step."""

    def __init__(self, how: How) -> None:
        self._how = how

    def step(self, text: str) -> None:
        """Print a step."""
        _tell([text], self._how)

    def states(self, states: Any) -> None:
        """Print nothing: the end says how the agents are."""


def _load(mosaic: Mosaic, made: Any, how: How) -> tuple[Any, list[str]]:
    from mosaic_fleet.db.database import discard
    from mosaic_fleet.fleet.handmade import reading

    with mosaic.db.transaction(system=True) as session:
        loaded, kept = reading.load(session, mosaic.box, made)
        if how.dry_run:
            discard(session)
    return loaded, [*made.notes, *kept]


def _document(made: Any, loaded: Any, notes: list[str]) -> dict[str, object]:
    read = [{"agent": one.agent, "files": one.files, "read": one.read} for one in made.members.values()]
    return {"import": loaded, "read": read, "notes": notes}


def _tell(lines: Sequence[str], how: How) -> None:
    for line in [] if how.json or how.quiet else lines:
        note(line)


def _tell_keys(loaded: Any, how: How) -> None:
    for name in [] if how.quiet else loaded.providers_without_key:
        note(f"{name} needs a key: mosaic provider set {name} --api-key-stdin")


def _lines(loaded: Any) -> list[str]:
    words: Sequence[tuple[str, list[str]]] = (
        ("stack", [loaded.stack] if loaded.stack_changed else []),
        ("added", loaded.added),
        ("changed", loaded.changed),
        ("unchanged", loaded.unchanged),
        ("providers", loaded.providers_added),
        ("keyed", loaded.providers_changed),
        ("kept", loaded.providers_kept),
    )
    return [f"{word:<10} {', '.join(names)}" for word, names in words if names]


def _read(made: Any) -> list[str]:
    return [
        f"read       {one.agent}: {', '.join(one.read)}   ({', '.join(one.files)})" for one in made.members.values()
    ]

"""How a deploy is told: while it goes on, and what came of it."""

from typing import Any

from mosaic_fleet.cli.output import document, note


class Report:
    """Prints what a deploy does: steps as lines, waiting as one line that is replaced; nothing when `quiet`."""

    def __init__(self, show: Any, *, quiet: bool) -> None:
        self._show = show
        self._quiet = quiet
        self._settled: set[str] = set()

    def step(self, text: str) -> None:
        """Print a step."""
        if not self._quiet:
            self._show("")
            note(text)

    def states(self, states: Any) -> None:
        """Print an agent once it is settled, and who is waited for."""
        for agent, state in states.items():
            if state.settled and agent not in self._settled:
                self._settled.add(agent)
                self.step(f"{agent:<24} {'✗' if state.verdict == 'failed' else '✓'} {state.verdict}")
        waiting = [f"{agent} ({state.reason})" for agent, state in states.items() if not state.settled]
        if waiting and not self._quiet:
            self._show(f"waiting for {', '.join(waiting)}")


def print_outcome(outcome: Any, *, dry_run: bool, json: bool, quiet: bool) -> None:
    """Print what a deploy did with each agent and how the stack is now."""
    changed = any(one.action in ("create", "update", "remove", "save") for one in outcome.changes) and not dry_run
    states = {agent: state.verdict for agent, state in outcome.states.items()}
    rows = [
        {"agent": one.agent, "action": one.action, "parts": list(one.parts), "state": states.get(one.agent)}
        for one in outcome.changes
    ]
    lines = [
        " ".join([f"{one.action:<10} {one.agent}", f"({', '.join(one.parts)})" if one.parts else ""]).rstrip()
        for one in outcome.changes
    ]
    if not dry_run:
        lines.append(f"{outcome.stack} is {'changed' if changed else 'unchanged'}{_how_it_is(outcome, states)}")
    values = {"stack": outcome.stack, "number": outcome.number, "changed": changed, "agents": rows}
    document(values, text="\n".join(lines), json=json, quiet=quiet)


def _how_it_is(outcome: Any, states: dict[str, str]) -> str:
    if all(one.action == "save" for one in outcome.changes):
        return " in the roster"
    number = f" at deploy {outcome.number}" if outcome.number else ""
    well = sum(verdict in ("healthy", "stopped") for verdict in states.values())
    return f"{number}, {f'{well}/{len(states)} healthy' if states else 'its health was not waited for'}"

"""How often an agent was started again because its gateway ended, and why."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from mosaic_fleet.errors import MosaicError
from mosaic_fleet.fleet import foreign
from mosaic_fleet.fleet.health import end_reason, ended, runs_spec, worst
from mosaic_fleet.logs import redact
from mosaic_fleet.runtimes.base import Service, StackRuntime, Task

_LINES = 5
_LONGEST = 200


@dataclass(frozen=True)
class Restarts:
    """How many tasks of the present spec ended by themselves, as far as Swarm remembers, and why the last did."""

    count: int = 0
    reason: str = ""
    task: Task | None = None


def restarts(
    runtime: StackRuntime | None, service: Service | None, tasks: Sequence[Task], secrets: Callable[[], Collection[str]]
) -> Restarts:
    """Count a service's restarts; without a runtime no container is asked how it ended.

    `secrets` tells what may not be read in what its gateway wrote; it is asked only where that is to be told.
    """
    ends = ended([task for task in tasks if service and runs_spec(service, task)])
    last = worst(ends)
    return Restarts(len(ends), _why(runtime, last, secrets), last) if last else Restarts()


def _why(runtime: StackRuntime | None, task: Task, secrets: Callable[[], Collection[str]]) -> str:
    """Say why a task ended: OOM as OOM, and an exit code with the line that its gateway wrote about it.

    Without that line where nobody can say which secrets may stand in it.
    """
    reason = f"task rejected: {task.error}" if task.state == "rejected" else end_reason(task)
    end = runtime.container_end(task.container_id) if runtime and task.container_id else None
    if runtime is None or end is None:
        return reason
    if end.oom_killed:
        return "OOM"
    line = _line(runtime.logs(str(task.container_id), tail=_LINES)) if end.exit_code else ""
    try:
        return f"{reason}: {redact(line, secrets=secrets())[:_LONGEST]}" if line else reason
    except MosaicError:
        return reason


def _line(text: str) -> str:
    """Return the last line that says something, of OpenClaw's JSON its message."""
    lines = [_message(line) for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _message(line: str) -> str:
    try:
        return " ".join(str(foreign.parsed(line)["message"]).split())
    except (ValueError, TypeError, KeyError):
        return line.strip()

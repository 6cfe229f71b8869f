"""What agents' containers wrote, merged in order of time: without secrets, and without what may be a reply."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import merge
from operator import attrgetter
from queue import Empty, Queue
from threading import Thread
from time import monotonic
from typing import TYPE_CHECKING, Any

from mosaic_fleet.errors import MosaicError, NotFound, RuntimeFailure
from mosaic_fleet.fleet import foreign
from mosaic_fleet.fleet.masking import Knowing, Known
from mosaic_fleet.identity import audit
from mosaic_fleet.logs import redact
from mosaic_fleet.runtimes.base import AGENT_LABEL, INSTALL_LABEL, LogLine, StackRuntime

if TYPE_CHECKING:
    from sqlmodel import Session

_LOOK_SECONDS = 2.0
_WAITING = 256  # lines that are read and not yet written
_CLOCK_SECONDS = 60.0
_LEVELS = ("trace", "debug", "info", "warn", "error", "fatal")


@dataclass(frozen=True)
class Entry:
    """A line of an agent as it may be shown; `hidden` counts the lines right before it that may not."""

    agent: str
    at: str
    stream: str
    text: str
    hidden: int = 0


@dataclass
class Journal:
    """What this installation's agents in these stacks write; all of them when none is named.

    `replies` shows what may be a reply too, else `hidden` counts it. `secrets` tells what is to be hidden, by agent; it
    is asked again when a container has come up, because what that one knows was known before it was made.
    """

    runtime: StackRuntime
    install: str
    stacks: Sequence[str]
    agents: Sequence[str] = ()
    replies: bool = False
    secrets: Knowing = dict
    hidden: int = 0
    _secrets: Known = field(default_factory=dict, repr=False)
    _known: dict[str, str] = field(default_factory=dict, repr=False)

    def past(self, *, after: str = "", tail: int | None = None) -> Iterator[Entry]:
        """Yield what was written after a time, of each agent the last `tail` lines.

        Raises NotFound when a named agent has no service, RuntimeFailure naming the node when one runs elsewhere.
        """
        found = self._containers()
        self._secrets = self.secrets()
        streams = [self._of_agent(agent, containers, after, tail) for agent, containers in found.items()]
        for entry in merge(*streams, key=attrgetter("at")):
            self.hidden += entry.hidden
            yield entry

    def follow(self, *, after: str = "") -> Iterator[Entry]:
        """Yield what is written after past() was read, in the order in which it comes, and never end.

        Containers that come up later are followed too.
        """
        lines: Queue[tuple[str, str, LogLine | MosaicError]] = Queue(_WAITING)
        followed: set[str] = set()
        while True:
            found = [(agent, one) for agent, containers in self._containers().items() for one in containers]
            fresh = [(agent, one) for agent, one in found if one not in followed and self._may_follow(one)]
            self._secrets = self.secrets() if fresh else self._secrets
            for agent, container in fresh:
                followed.add(container)
                known = max(after, self._known.get(container, ""))
                Thread(target=_pump, args=(self.runtime, agent, container, known, lines), daemon=True).start()
            for agent, _, line in _until(monotonic() + _LOOK_SECONDS, lines):
                if isinstance(line, MosaicError):
                    raise line
                if self._shows(line):
                    yield self._entry(agent, line)
                else:
                    self.hidden += 1

    def _may_follow(self, container: str) -> bool:
        """Tell whether Docker would follow a container: of one that is still to start it ends the stream at once."""
        seen = self.runtime.container_end(container)
        return seen is None or seen.started

    def _containers(self) -> dict[str, list[str]]:
        """Map agents to their containers on this engine, oldest first."""
        here = self.runtime.engine().node_id
        found: dict[str, list[str]] = {}
        elsewhere: dict[str, str] = {}
        for stack in self.stacks:
            agents = self._services(stack)
            for task in reversed(self.runtime.tasks(stack)):
                agent = agents.get(task.service_id)
                if agent is not None and task.container_id is not None:
                    elsewhere[agent] = task.node_id
                    found.setdefault(agent, []).extend([task.container_id] if task.node_id == here else [])
            found |= {agent: [] for agent in agents.values() if agent not in found}
        self._check(found, {agent: node for agent, node in elsewhere.items() if node != here})
        return found

    def _services(self, stack: str) -> dict[str, str]:
        """Map the ids of the services that are looked at to their agents."""
        return {
            service.id: service.labels[AGENT_LABEL]
            for service in self.runtime.services(stack)
            if service.labels.get(INSTALL_LABEL) == self.install
            and AGENT_LABEL in service.labels
            and (not self.agents or service.labels[AGENT_LABEL] in self.agents)
        }

    def _check(self, found: Mapping[str, Sequence[str]], elsewhere: Mapping[str, str]) -> None:
        for agent in self.agents:
            if agent not in found:
                raise NotFound(f'agent "{agent}" is not on the swarm', hint="mosaic fleet status")
        if elsewhere:
            names = {node.id: node.hostname for node in self.runtime.nodes()}
            where = ", ".join(f'"{agent}" runs on node {names.get(node, node)}' for agent, node in elsewhere.items())
            others = [agent for agent in found if agent not in elsewhere]
            hint = f"mosaic fleet logs {' '.join(others)}" if others else "docker node ls"
            raise RuntimeFailure(f"agent {where}, whose containers this docker cannot reach", hint=hint)

    def _of_agent(self, agent: str, containers: Sequence[str], after: str, tail: int | None) -> Iterator[Entry]:
        entries = self._entries(agent, containers, after)
        yield from entries if tail is None else deque(entries, tail)

    def _entries(self, agent: str, containers: Iterable[str], after: str) -> Iterator[Entry]:
        hidden = 0
        for container in containers:
            if self.runtime.container_end(container) is None:
                continue  # Swarm remembers the task longer than its container
            for line in self.runtime.log_lines(container, after=after):
                self._known[container] = line.at
                if self._shows(line):
                    yield self._entry(agent, line, hidden)
                    hidden = 0
                else:
                    hidden += 1
        self.hidden += hidden

    def _shows(self, line: LogLine) -> bool:
        return self.replies or not may_be_reply(line)

    def _entry(self, agent: str, line: LogLine, hidden: int = 0) -> Entry:
        text = redact(line.text, secrets=self._secrets.get(agent, ()))
        return Entry(agent, line.at, line.stream, f"{text} … (cut)" if line.cut else text, hidden)


def may_be_reply(line: LogLine) -> bool:
    """Tell whether a line is, or cannot be told from, an agent's answer to somebody.

    OpenClaw prints every answer on standard output, in JSON without a `subsystem` or bare. So of standard output only
    its own log lines pass: whole, with a subsystem and the time at which they came, which an answer that imitates one
    does not know. Standard error passes, but for what looks like a diverted line of standard output.
    """
    envelope = None if line.cut else _parsed(line.text)
    if line.stream == "stdout":
        return envelope is None or not _subsystem(envelope) or not _is_record(envelope, line.at)
    if envelope is None:
        return line.cut and line.text.startswith("{")
    return not _subsystem(envelope) and envelope.get("level") in (None, *_LEVELS[:3])


def note_replies(session: "Session", names: Iterable[str]) -> None:
    """Record that somebody reads what agents answered; `names` are agents or stacks."""
    for name in names:
        audit.record(session, "fleet.logs", name, replies=True)


def _pump(runtime: StackRuntime, agent: str, container: str, after: str, lines: "Queue[Any]") -> None:
    """Put a container's lines into a queue, as fast as they are taken out."""
    try:
        if runtime.container_end(container) is not None:
            for line in runtime.log_lines(container, after=after, follow=True):
                lines.put((agent, container, line))
    except MosaicError as error:
        lines.put((agent, container, error))


def _until(end: float, lines: "Queue[Any]") -> Iterator[Any]:
    """Yield what comes out of a queue until a time."""
    while (left := end - monotonic()) > 0:
        try:
            yield lines.get(timeout=left)
        except Empty:
            return


def _parsed(text: str) -> dict[str, Any] | None:
    if not text.startswith("{"):
        return None
    try:
        parsed = foreign.parsed(text)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None


def _subsystem(envelope: Mapping[str, Any]) -> bool:
    return isinstance(envelope.get("subsystem"), str) and envelope["subsystem"] != ""


def _is_record(envelope: Mapping[str, Any], at: str) -> bool:
    """Tell a line of OpenClaw's log: its level, its message, and its time, which is also when it came."""
    if envelope.get("level") not in _LEVELS or not isinstance(envelope.get("message"), str):
        return False
    try:
        when = datetime.fromisoformat(envelope["time"])
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        came = datetime.fromisoformat(at[:19]).replace(tzinfo=UTC)
        return abs((when - came).total_seconds()) <= _CLOCK_SECONDS
    except (KeyError, TypeError, ValueError, OverflowError):
        return False

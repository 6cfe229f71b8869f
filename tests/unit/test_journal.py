"""What agents wrote: merged, without secrets, and never with what may be an answer."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest

from mosaic_fleet.errors import NotFound, RuntimeFailure
from mosaic_fleet.fleet.journal import Entry, Journal, may_be_reply
from mosaic_fleet.fleet.masking import Known
from mosaic_fleet.runtimes.base import ContainerEnd, LogLine, Stream, Task
from tests.fakes import FakeRuntime
from tests.unit.test_status import INSTALL, deployed

RECORD = {"time": "2026-11-24T13:00:07.250+01:00", "level": "info", "subsystem": "gateway", "message": "ready"}


def at(second: int) -> str:
    """Write a time of a minute as Docker does."""
    return f"2026-11-24T12:00:{second:02}.000000000Z"


def line(text: str | dict[str, Any], *, second: int = 7, stream: Stream = "stderr", cut: bool = False) -> LogLine:
    """Make a line; an envelope becomes JSON."""
    return LogLine(at(second), stream, text if isinstance(text, str) else json.dumps(text), cut)


def out(text: str | dict[str, Any], *, cut: bool = False) -> LogLine:
    """Make a line of standard output."""
    return line(text, stream="stdout", cut=cut)


def fleet(**written: list[LogLine]) -> FakeRuntime:
    """Return a Swarm whose running agents have written this."""
    runtime = deployed(*written)
    runtime.written = {f"team_{agent}": lines for agent, lines in written.items()}
    runtime.tasks("team")
    return runtime


def journal(runtime: FakeRuntime, *agents: str, **more: Any) -> Journal:
    """Return the journal of the stack `team`."""
    return Journal(runtime, INSTALL, ["team"], agents, **more)


def texts(entries: Iterator[Entry]) -> list[str]:
    """Return what would be printed."""
    return [f"{entry.agent} | {entry.text}" for entry in entries]


@pytest.mark.parametrize(
    ("seen", "hidden"),
    [
        (out(RECORD), False),
        (out(RECORD | {"level": "warn", "extra": {"a": 1}}), False),
        (out({key: value for key, value in RECORD.items() if key != "subsystem"}), True),
        (out(RECORD | {"subsystem": ""}), True),
        (out(RECORD | {"subsystem": None}), True),
        (out(RECORD | {"subsystem": 7}), True),
        (out(RECORD | {"level": "reply"}), True),
        (out(RECORD | {"message": {"text": "x"}}), True),
        (out({key: value for key, value in RECORD.items() if key != "time"}), True),
        (out(RECORD | {"time": "yesterday"}), True),
        (out(RECORD | {"time": "2026-11-24T12:01:08+00:00"}), True),
        (out(RECORD | {"time": "2026-11-24T12:00:07"}), False),
        (out(RECORD, cut=True), True),
        (out("you said: hello"), True),
        (out(""), True),
        (out("[1, 2]"), True),
        (out("{" + '"a":{' * 9000), True),
        (out(" " + json.dumps(RECORD)), True),
        (line("tini: cannot start"), False),
        (line("Error: boom", cut=True), False),
        (line(RECORD | {"level": "error"}), False),
        (line({"time": "x", "level": "error", "message": "no subsystem, as console.error writes it"}), False),
        (line({"time": "x", "level": "info", "message": "an answer that was diverted"}), True),
        (line({"message": "an answer without a level"}), True),
        (line('{"time": "x", "level": "info", "message": "an ans', cut=True), True),
    ],
)
def test_what_may_be_an_answer_is_told(seen: LogLine, hidden: bool) -> None:
    """On standard output only a whole log line with subsystem and the right time is none; on standard error most."""
    assert may_be_reply(seen) is hidden


def test_lines_are_merged_in_order_of_time() -> None:
    """Two agents' lines come as they were written, each with its agent."""
    runtime = fleet(a=[line("one", second=1), line("three", second=3)], b=[line("two", second=2)])
    assert texts(journal(runtime).past()) == ["a | one", "b | two", "a | three"]
    assert texts(journal(runtime, "b").past()) == ["b | two"]
    assert texts(journal(runtime).past(after=at(2))) == ["a | three"]


def test_answers_are_left_out_and_counted() -> None:
    """What may be an answer is not in the entries, before, between and after others, but in the count."""
    written = [out("hi"), line("one"), out("ho"), out("ha"), line("two"), out("he")]
    runtime = fleet(a=written, b=[out("hu")])
    looked = journal(runtime)
    assert texts(looked.past()) == ["a | one", "a | two"]
    assert looked.hidden == 5
    shown = journal(runtime, "a", replies=True)
    assert texts(shown.past()) == ["a | hi", "a | one", "a | ho", "a | ha", "a | two", "a | he"]
    assert shown.hidden == 0


def test_a_tail_counts_what_is_shown() -> None:
    """Of each agent the last lines that are shown, however many answers there are in between."""
    runtime = fleet(a=[line("one"), line("two"), out("x"), out("y"), line("three"), out("z")], b=[line("b")])
    assert texts(journal(runtime).past(tail=2)) == ["a | two", "a | three", "b | b"]


def test_secrets_are_hidden() -> None:
    """An agent's own token and keys are stars, and so is what looks like a secret; a cut line says that it is."""
    runtime = fleet(
        a=[line("token k3y-of-mine and Bearer abcdefgh12345"), line("x", cut=True)], b=[line("k3y-of-mine")]
    )
    looked = journal(runtime, secrets=lambda: {"a": ["k3y-of-mine"]})
    assert texts(looked.past()) == ["a | token *** and Bearer ***", "a | x … (cut)", "b | k3y-of-mine"]


def test_following_goes_on_where_the_past_ended() -> None:
    """No line is lost and none told twice; a container that comes up later is followed from its first line."""
    runtime = fleet(a=[line("one", second=1), out("x")])
    looked = journal(runtime)
    assert texts(looked.past()) == ["a | one"]
    runtime.written["team_a"] += [
        line("two", second=8),
        line("y", second=9, stream="stdout"),
        line("three", second=10),
    ]
    assert texts(islice(looked.follow(), 2)) == ["a | two", "a | three"]
    assert looked.hidden == 2


def test_one_that_is_still_to_start_is_followed_from_its_first_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker ends the stream of a container that was only made: it is looked at again until it has started."""
    monkeypatch.setattr("mosaic_fleet.fleet.journal._LOOK_SECONDS", 0.01)

    class Late(FakeRuntime):
        """Has a container that is made at the first look and starts at the third."""

        looks = 0

        def container_end(self, container_id: str) -> ContainerEnd | None:
            """Say whether it has started."""
            self.looks += 1
            found = super().container_end(container_id)
            return replace(found, started=self.looks > 2) if found else None

        def log_lines(self, container_id: str, *, after: str = "", follow: bool = False) -> Iterator[LogLine]:
            """Yield nothing before it has started."""
            if self.looks > 2:
                yield from super().log_lines(container_id, after=after, follow=follow)

    runtime = deployed("a", make=Late)
    runtime.written = {"team_a": [line("first"), line("second", second=8)]}
    runtime.tasks("team")
    assert texts(islice(journal(runtime).follow(), 2)) == ["a | first", "a | second"]


def test_what_is_secret_is_read_again_with_each_container(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that comes up while it is followed has newer secrets: they are hidden too; else nothing is read."""
    monkeypatch.setattr("mosaic_fleet.fleet.journal._LOOK_SECONDS", 0.01)
    runtime = fleet(a=[line("k3y-one", second=1)])
    known, read = ["k3y-one"], []

    def secrets() -> Known:
        read.append([*known])
        return {"a": [*known]}

    looked = journal(runtime, secrets=secrets)
    assert texts(looked.past()) == ["a | ***"]
    runtime.written["team_a"] = [line("k3y-one", second=2), line("k3y-two", second=3)]
    known.append("k3y-two")
    followed = looked.follow()
    assert texts(islice(followed, 2)) == ["a | ***", "a | ***"]
    before = len(read)
    runtime.written["team_a"] = [line("k3y-three", second=4)]
    known.append("k3y-three")
    runtime.polls_to_running = 5  # so many looks find nothing new
    runtime.restart_service(runtime.services("team")[0].id)
    assert texts(islice(followed, 1)) == ["a | ***"]
    assert len(read) == before + 1


class Flood(FakeRuntime):
    """Writes as fast as it is read, and counts what was taken."""

    taken = 0

    def log_lines(self, container_id: str, *, after: str = "", follow: bool = False) -> Iterator[LogLine]:
        """Yield more than anybody reads."""
        del container_id, after, follow
        for _ in range(100_000):
            self.taken += 1
            yield line("one of many")


@pytest.mark.parametrize(("reads", "held"), [(Journal.past, 1), (Journal.follow, 258)])
def test_however_much_is_written_little_is_held(reads: Callable[[Journal], Iterator[Entry]], held: int) -> None:
    """Of a flood no more is taken than is read, but for what waits its turn: 256 lines, and one at each end."""
    runtime = deployed("a", make=Flood)
    runtime.tasks("team")
    ahead = 0
    for number, _ in enumerate(islice(reads(journal(runtime)), 20_000), 1):
        ahead = max(ahead, runtime.taken - number)
    assert ahead <= held


def test_following_tells_that_docker_is_gone() -> None:
    """A failure while lines are read ends it, and is not swallowed in the background."""

    class Breaking(FakeRuntime):
        """Breaks off while it is followed."""

        def log_lines(self, container_id: str, *, after: str = "", follow: bool = False) -> Iterator[LogLine]:
            """Yield a line, then fail."""
            del container_id, after, follow
            yield line("one")
            raise RuntimeFailure("docker does not answer")

    runtime = deployed("a", make=Breaking)
    runtime.tasks("team")
    seen = journal(runtime).follow()
    assert next(seen).text == "one"
    with pytest.raises(RuntimeFailure, match="docker does not answer"):
        next(seen)


def test_an_agent_that_is_not_there_is_named() -> None:
    """A named agent without a service of this installation is NotFound."""
    for runtime in (fleet(a=[]), deployed("b", install="ffffffffffff")):
        with pytest.raises(NotFound, match='agent "b" is not on the swarm'):
            list(journal(runtime, "b").past())


def test_an_agent_on_another_node_is_named_with_it() -> None:
    """Its containers cannot be reached: a RuntimeFailure says where it runs, and how to see the others."""

    class Far(FakeRuntime):
        """Runs `b` elsewhere."""

        def tasks(self, stack: str) -> list[Task]:
            """Move the second service's tasks."""
            second = self.services(stack)[1].id
            return [replace(one, node_id="node2") if one.service_id == second else one for one in super().tasks(stack)]

    runtime = deployed("a", "b", make=Far)
    runtime.tasks("team")
    with pytest.raises(RuntimeFailure, match='agent "b" runs on node node2') as caught:
        list(journal(runtime).past())
    assert caught.value.hint == "mosaic fleet logs a"
    assert texts(journal(runtime, "a").past()) == []


def test_a_container_that_docker_has_removed_is_passed_over() -> None:
    """Swarm remembers a task whose container is gone; the others are read all the same."""
    runtime = fleet(a=[line("one")])
    gone = replace(runtime.tasks("team")[0], id="old", container_id="gone", state="failed", desired="shutdown")
    tasks = runtime.tasks
    runtime.tasks = lambda stack: [*tasks(stack), gone]
    assert texts(journal(runtime).past()) == ["a | one"]

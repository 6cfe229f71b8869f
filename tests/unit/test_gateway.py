"""Asking an agent: its events over any chunks, its errors, and finding its container."""

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_fleet.errors import NotFound, RuntimeFailure
from mosaic_fleet.fleet import gateway
from mosaic_fleet.fleet.gateway import Address, answer, events
from mosaic_fleet.runtimes.base import Finished, Task
from tests.fakes import FAKE_IMAGE, FakeRuntime
from tests.rosters import INSTALL


def event(data: Any) -> bytes:
    """Write one server-sent event."""
    return b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n"


def delta(text: str) -> dict[str, Any]:
    """Make a chunk of a chat completion."""
    return {"id": "x", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}


def event_of(content: Any) -> bytes:
    """Write a chunk's data with a content that may be no text."""
    return json.dumps({"choices": [{"delta": {"content": content}}]}).encode()


ROLE = event({"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]})
STOP = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
USAGE = event({"choices": [], "usage": {"total_tokens": 18}})
DONE = b"data: [DONE]\n\n"
REPLY = ROLE + event(delta("Grüße, ")) + event(delta("漢😀")) + STOP + USAGE + DONE


def said(*chunks: bytes) -> str:
    """Return what an agent says in these chunks."""
    return "".join(answer(events(chunks), "main"))


def test_an_answer_is_the_text_of_its_chunks() -> None:
    """Role, end and usage are no text."""
    assert said(REPLY) == "Grüße, 漢😀"


@given(st.lists(st.integers(0, len(REPLY)), max_size=12))
def test_chunks_may_be_split_anywhere(cuts: list[int]) -> None:
    """Inside a line, a letter or a line end: the text is the same."""
    edges = [0, *sorted(cuts), len(REPLY)]
    assert said(*(REPLY[start:end] for start, end in pairwise(edges))) == "Grüße, 漢😀"


def test_every_byte_may_come_alone() -> None:
    """One byte at a time is a stream too."""
    assert said(*(bytes([byte]) for byte in REPLY)) == "Grüße, 漢😀"


def test_windows_line_ends_are_read() -> None:
    """A carriage return before the line feed is no part of the data."""
    assert said(REPLY.replace(b"\n", b"\r\n")) == "Grüße, 漢😀"


def test_comments_and_other_fields_are_skipped() -> None:
    """Keepalive comments, event names and ids are no data."""
    assert said(b": ping\n\nevent: message\nid: 7\nretry: 5\n", REPLY) == "Grüße, 漢😀"


def test_bytes_that_are_no_text_are_replaced() -> None:
    """A broken letter is shown as one, the rest arrives."""
    assert said(event(b'{"choices": [{"delta": {"content": "a\xffb"}}]}'), DONE) == "a\ufffdb"


def test_text_comes_before_the_end_does() -> None:
    """Each piece is handed on when it is there, not when the answer is complete."""

    def chunks() -> Iterator[bytes]:
        yield event(delta("first"))
        raise AssertionError("asked for more before the first piece was taken")

    assert next(answer(events(chunks()), "main")) == "first"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ({"message": "upstream provider error", "type": "api_error"}, 'agent "main": upstream provider error'),
        ({"type": "api_error"}, 'agent "main": error'),
        ("draining", 'agent "main": draining'),
    ],
)
def test_an_error_event_is_the_gateways_own_words(error: Any, message: str) -> None:
    """An error in the stream is an error, though the status was 200."""
    with pytest.raises(RuntimeFailure) as caught:
        said(ROLE, event({"error": error}), DONE)
    assert caught.value.message == message


def test_what_came_before_an_error_is_kept() -> None:
    """The text before the error was said, then the error is raised."""
    pieces = answer(events([event(delta("so far")), event({"error": {"message": "no"}}), DONE]), "main")
    assert next(pieces) == "so far"
    with pytest.raises(RuntimeFailure):
        next(pieces)


@pytest.mark.parametrize(
    "chunks", [[], [b""], [ROLE, event(delta("half"))], [REPLY.removesuffix(DONE)], [b"data: [DON"]]
)
def test_an_answer_without_its_end_is_an_error(chunks: list[bytes]) -> None:
    """A stream that ends before `[DONE]` broke off, however complete its text looks."""
    with pytest.raises(RuntimeFailure, match=r'^agent "main" broke off in the middle of its answer$'):
        said(*chunks)


@pytest.mark.parametrize(
    "data",
    [
        b"<html>",
        b"{",
        b"7",
        b"[]",
        b'"text"',
        b"null",
        b'{"choices": [5]}',
        b'{"choices": 5}',
        b"[" * 99_999,
        event_of(7),
    ],
)
def test_an_answer_in_another_form_is_an_error(data: bytes) -> None:
    """What is no chunk of a chat completion is refused in our words, without a traceback."""
    with pytest.raises(RuntimeFailure, match=r'^agent "main" '):
        said(event(data), DONE)


def endless(seen: list[int]) -> Iterator[bytes]:
    """Begin a line and go on with it for 64 MB; `seen` gets the size of each piece that was taken."""
    yield b"data: "
    for _ in range(1024):
        seen.append(65_536)
        yield b"x" * 65_536


def test_a_line_without_end_is_not_held() -> None:
    """After a megabyte a line is given up, as a failure of the agent."""
    seen: list[int] = []
    with pytest.raises(RuntimeFailure, match="does not end"):
        list(events(endless(seen)))
    assert sum(seen) < 2 << 20


@pytest.mark.parametrize("data", [{}, {"choices": None}, {"choices": [{"delta": None}]}, delta("")])
def test_a_chunk_without_text_says_nothing(data: Any) -> None:
    """Chunks may be empty."""
    assert said(event(data), DONE) == ""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the Swarm more often: the one in memory needs no time."""
    monkeypatch.setattr(gateway, "_POLL_SECONDS", 0.001)


def deployed(runtime: FakeRuntime, install: str = INSTALL, replicas: int = 1) -> FakeRuntime:
    """Deploy agent `main`, whose node repeats what it was asked."""
    runtime.programs["node"] = lambda _, stdin: Finished(0, (event(delta(stdin.decode())) + DONE).decode(), "")
    labels = f"{{com.mosaic.agent: main, com.mosaic.install: '{install}'}}"
    deploy = f"{{replicas: {replicas}, labels: {labels}}}"
    runtime.deploy_stack("team", f"services: {{main: {{image: {FAKE_IMAGE}, deploy: {deploy}}}}}")
    return runtime


@pytest.fixture
def runtime() -> FakeRuntime:
    """Return a Swarm on which agent `main` runs."""
    runtime = deployed(FakeRuntime())
    runtime.tasks("team")
    return runtime


def asked(runtime: FakeRuntime, agent: str = "main", timeout: float = 60) -> str:
    """Ask an agent, and return its answer."""
    return "".join(gateway.ask(runtime, Address(INSTALL, "team", agent), "hi", timeout=timeout))


def test_asking_runs_a_script_inside_the_agents_container(runtime: FakeRuntime) -> None:
    """Text and patience go in on standard input: nothing of them is on a command line."""
    said = json.loads(asked(runtime))
    assert said["text"] == "hi"
    assert 0 < said["timeout"] <= 60


def test_an_agent_that_was_not_deployed_is_not_found(runtime: FakeRuntime) -> None:
    """A name without a service is NotFound at once, with where to look."""
    with pytest.raises(NotFound, match=r'^agent "other" does not run$') as caught:
        asked(runtime, "other", timeout=86_400)
    assert caught.value.hint == "mosaic fleet status --stack team"


def test_another_installations_agent_is_not_asked() -> None:
    """A service of that name which another installation deployed is none of ours."""
    runtime = deployed(FakeRuntime(), install="ffffffffffff")
    runtime.tasks("team")
    with pytest.raises(NotFound, match=r'^agent "main" does not run$'):
        asked(runtime)


def test_a_stopped_agent_is_not_waited_for() -> None:
    """Who is to have no gateway is NotFound at once."""
    with pytest.raises(NotFound, match=r'^agent "main" does not run$'):
        asked(deployed(FakeRuntime(), replicas=0), timeout=86_400)


def test_an_agent_between_two_tasks_is_waited_for() -> None:
    """While Swarm makes its next container it is asked a little later."""
    assert json.loads(asked(deployed(FakeRuntime(polls_to_running=9))))["text"] == "hi"


def test_an_agent_that_goes_while_it_is_waited_for_is_not_found() -> None:
    """When its service is removed there is nothing more to wait for."""

    class Leaving(FakeRuntime):
        """Loses its service after the third look."""

        looks = 0

        def tasks(self, stack: str) -> list[Task]:
            """List tasks that never run."""
            self.looks += 1
            if self.looks == 3:
                self.remove_service(self.services(stack)[0].id)
            return super().tasks(stack)

    with pytest.raises(NotFound, match=r'^agent "main" does not run$'):
        asked(deployed(Leaving(polls_to_running=10**6)), timeout=86_400)


def test_an_agent_that_never_runs_is_a_failure() -> None:
    """After the timeout it is named with the time that was waited."""
    with pytest.raises(RuntimeFailure, match=r'^agent "main" does not run after 0.01 s$') as caught:
        asked(deployed(FakeRuntime(polls_to_running=10**6)), timeout=0.01)
    assert caught.value.hint == "mosaic fleet status --stack team"


def test_a_script_that_fails_is_a_failure_with_its_words(runtime: FakeRuntime) -> None:
    """What the container says on standard error is in the error."""
    runtime.programs["node"] = lambda *_: Finished(1, "", "no token")
    with pytest.raises(RuntimeFailure, match="no token"):
        asked(runtime)


@pytest.mark.parametrize(
    ("printed", "work"),
    [
        ('{"status": "ready", "blockers": []}', None),
        ('{"status": "busy", "blockers": ["embedded-run"]}', ["embedded-run"]),
        ('{"status": "busy", "blockers": 7}', []),
        ('{"status": "unknown", "message": "odd"}', None),
        ("[]", None),
        ("[" * 99_999, None),
        ("", None),
    ],
    ids=["ready", "busy", "no list", "unknown", "no object", "deep", "nothing"],
)
def test_what_a_gateway_is_busy_with_is_read_from_its_answer(
    runtime: FakeRuntime, printed: str, work: list[str] | None
) -> None:
    """An answer in another form is none, and no error: it ends no restart."""
    runtime.programs["node"] = lambda *_: Finished(0, printed, "")
    task = gateway.running_task(runtime, Address(INSTALL, "team", "main"))
    assert gateway.suspend(runtime, str(task.container_id)) == work


def test_what_a_gateway_is_busy_with_is_not_read_for_ever(
    runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer of more than a megabyte is none."""
    seen: list[int] = []
    monkeypatch.setattr(runtime, "exec", lambda *_, **__: endless(seen))
    assert gateway.suspend(runtime, "main") is None
    assert sum(seen) < 2 << 20

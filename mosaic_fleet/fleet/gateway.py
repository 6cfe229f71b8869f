"""Speaks to an agent's gateway from inside its container: it publishes no port, and its token never leaves it."""

import json
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from mosaic_fleet.errors import NotFound, RuntimeFailure
from mosaic_fleet.fleet import foreign
from mosaic_fleet.fleet.stack import service_name
from mosaic_fleet.resources import directory
from mosaic_fleet.runtimes.base import INSTALL_LABEL, Service, StackRuntime, Task

_POLL_SECONDS = 0.3
_LONGEST = 60


@dataclass(frozen=True)
class Address:
    """Which agent is asked: of this installation, not of another one on the same Swarm."""

    install: str
    stack: str
    agent: str


def ask(runtime: StackRuntime, to: Address, text: str, *, timeout: float) -> Iterator[str]:
    """Ask an agent something in a fresh conversation and yield its answer as it comes.

    Waits up to `timeout` seconds for its task to run and its gateway to have started, so also between two tasks.
    Raises NotFound when the agent is not there or stopped, RuntimeFailure with the gateway's own words when it answers
    with an error or breaks off.
    """
    end = time.monotonic() + timeout
    task = running_task(runtime, to, timeout=timeout)
    script = (directory("templates") / "agent" / "ask.js").read_text("utf-8")
    request = {"text": text, "timeout": max(math.ceil(end - time.monotonic()), 1)}
    output = runtime.exec(str(task.container_id), ["node", "-e", script], stdin=json.dumps(request).encode())
    yield from answer(events(output), to.agent)


def suspend(runtime: StackRuntime, container_id: str) -> list[str] | None:
    """Ask a gateway to take no new work; None when it has none left, or cannot be asked: else what it is busy with."""
    script = (directory("templates") / "agent" / "suspend.js").read_text("utf-8")
    try:
        said = foreign.parsed(next(foreign.lines(runtime.exec(container_id, ["node", "-e", script], stdin=b""))))
        if said["status"] != "busy":
            return None
        blockers = said["blockers"] if isinstance(said["blockers"], list) else []
        return [foreign.short(str(one), _LONGEST) for one in blockers]
    except (RuntimeFailure, ValueError, KeyError, TypeError):
        return None


def running_task(runtime: StackRuntime, to: Address, *, timeout: float = 0) -> Task:
    """Wait up to `timeout` seconds for the agent's running task.

    Raises NotFound when the agent is not there or stopped, RuntimeFailure when no task comes, or naming the node when
    it is another one's.
    """
    end = time.monotonic() + timeout
    while (task := running(runtime, to.stack, _service(runtime, to))) is None:
        if time.monotonic() > end:
            after = f" after {timeout:g} s" if timeout else ""
            hint = f"mosaic fleet status --stack {to.stack}"
            raise RuntimeFailure(f'agent "{to.agent}" does not run{after}', hint=hint)
        time.sleep(_POLL_SECONDS)
    if task.node_id != runtime.engine().node_id:
        name = next((node.hostname for node in runtime.nodes() if node.id == task.node_id), task.node_id)
        raise RuntimeFailure(f'agent "{to.agent}" runs on node {name}, which this docker cannot reach into')
    return task


def _service(runtime: StackRuntime, to: Address) -> Service:
    """Find the agent's service; raises NotFound when this installation has none or its gateway is to be stopped."""
    name = service_name(to.stack, to.agent)
    for service in runtime.services(to.stack):
        if service.name == name and service.labels.get(INSTALL_LABEL) == to.install and service.desired:
            return service
    raise NotFound(f'agent "{to.agent}" does not run', hint=f"mosaic fleet status --stack {to.stack}")


def running(runtime: StackRuntime, stack: str, service: Service) -> Task | None:
    """Find the task of a service that runs, or whose gateway is about to be healthy."""
    # "starting" is Swarm's word until the first healthy probe; the gateway may answer before.
    for task in runtime.tasks(stack):
        mine = task.service_id == service.id and task.desired == "running" and task.container_id
        if mine and task.state in ("running", "starting"):
            return task
    return None


def events(chunks: Iterable[bytes]) -> Iterator[str]:
    """Split a stream of bytes into the data of its server-sent events; raises RuntimeFailure for an endless one."""
    for line in foreign.lines(chunks):
        if line.startswith("data: ") and line.endswith("\n"):
            yield line[6:].rstrip("\r\n")


def answer(data: Iterable[str], agent: str) -> Iterator[str]:
    """Yield the text of a chat completion's events; raises RuntimeFailure on an error or a missing end."""
    for event in data:
        if event == "[DONE]":
            return
        yield from _texts(event, agent)
    raise RuntimeFailure(f'agent "{agent}" broke off in the middle of its answer', hint="ask again")


def _texts(event: str, agent: str) -> list[str]:
    try:
        parsed = foreign.parsed(event)
        if "error" in parsed:
            raise RuntimeFailure(f'agent "{agent}": {_message(parsed["error"])}', hint="mosaic fleet status")
        deltas = [choice.get("delta") or {} for choice in parsed.get("choices") or []]
        texts = [delta["content"] for delta in deltas if delta.get("content")]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("content that is no text")
        return texts
    except (ValueError, TypeError, AttributeError) as error:
        raise RuntimeFailure(f'agent "{agent}" answered in another form than a chat\'s') from error


def _message(error: Any) -> str:
    return str(error.get("message", "error") if isinstance(error, dict) else error)

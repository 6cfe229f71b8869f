"""`Containers`: what can be asked of containers on a Docker Engine, and done in them."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mosaic_fleet.errors import RuntimeFailure
from mosaic_fleet.runtimes import control_groups, docker_command, terminals
from mosaic_fleet.runtimes.base import ContainerEnd, Finished, LogLine, Streams
from mosaic_fleet.runtimes.endpoint import Endpoint
from mosaic_fleet.runtimes.frames import contents, lines, since

_RUN_SECONDS = 300.0
_LOG_LINES = 1000
_AT_ONCE = 8
# `docker run` itself failed, as its documentation says.
_DOCKER_FAILED = 125
_HARDENED = (
    *("--network", "none", "--read-only", "--tmpfs", "/tmp:size=256m,mode=1777"),  # noqa: S108  # the container's
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", "1000:1000"),
    *("--memory", "1g", "--memory-swap", "1g", "--pids-limit", "256"),
)


class Containers:
    """Containers of the Docker Engine at an endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def container_end(self, container_id: str) -> ContainerEnd | None:
        """Tell how a container ended; None when it is not on this engine."""
        item = self._endpoint.find("containers", container_id, "json")
        return _container_end(item["State"]) if item else None

    def memory(self, container_ids: Sequence[str]) -> dict[str, int]:
        """Tell how many bytes running containers use, as `docker stats` counts.

        The kernel is asked about those on this host, Docker about the others: eight at a time, as it takes a second.
        """
        found = {one: control_groups.used(one) for one in container_ids}
        elsewhere = [one for one, used in found.items() if used is None]
        if elsewhere:
            from concurrent.futures import ThreadPoolExecutor

            shares = [elsewhere[number::_AT_ONCE] for number in range(min(_AT_ONCE, len(elsewhere)))]
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                found |= {one: used for share in pool.map(self._memory, shares) for one, used in share.items()}
        return {one: used for one, used in found.items() if used is not None}

    def logs(self, container_id: str, *, tail: int) -> str:
        """Return the last lines of a container's standard error; its standard output may hold replies.

        They are looked for in the last 1,000 lines of both.
        """
        # Docker counts the tail before it leaves out the stream that is not asked for.
        options = {"stderr": "1", "tail": str(max(tail, _LOG_LINES))}
        framed = self._endpoint.get_bytes("containers", container_id, "logs", **options)
        text = b"".join(content for _, content in contents([framed])).decode(errors="replace")
        return "".join(text.splitlines(keepends=True)[-tail:])

    def log_lines(self, container_id: str, *, after: str = "", follow: bool = False) -> Iterator[LogLine]:
        """Yield what a container wrote, line by line and oldest first, on a connection of its own.

        `after` is the time of the last line already known; `follow` goes on until the container ends. Memory is
        bounded: a line that is too long is cut.
        """
        options = {"stdout": "1", "stderr": "1", "timestamps": "1", "follow": str(int(follow)), **since(after)}
        for line in lines(self._endpoint.stream("containers", container_id, "logs", **options)):
            if line.at > after:
                yield line

    def run_once(
        self,
        image: str,
        command: Sequence[str],
        *,
        labels: Mapping[str, str],
        stdin: bytes = b"",
    ) -> Finished:
        """Run a command in a throw-away hardened container without network, as user 1000.

        Raises RuntimeFailure when Docker cannot run it, or it takes longer than five minutes.
        """
        name = f"mosaic-once-{os.urandom(6).hex()}"
        run = [*self._endpoint.command, "run", "--rm", "-i", "--pull", "never", "--name", name, *_HARDENED]
        run += [part for key, value in labels.items() for part in ("--label", f"{key}={value}")]
        try:
            finished = docker_command.finish([*run, image, *command], stdin=stdin, seconds=_RUN_SECONDS)
        except BaseException:  # Ctrl-C too: the command is dead, its container is not
            self._endpoint.delete("containers", name, force="true")
            raise
        if finished.exit_code == _DOCKER_FAILED:
            raise RuntimeFailure(docker_command.failure(run, finished))
        return finished

    def exec(self, container_id: str, command: Sequence[str], *, stdin: bytes) -> Iterator[bytes]:
        """Run a command in a running container, feed it `stdin`, yield its standard output as it comes.

        Raises RuntimeFailure with its standard error when it ends with another code than 0, and when the container
        is not on this engine. Closing the generator ends the docker command, not what it started in the container.
        """
        return docker_command.stream([*self._endpoint.command, "exec", "-i", container_id, *command], stdin=stdin)

    def attach(self, container_id: str, command: Sequence[str], streams: Streams, *, terminal: bool) -> int:
        """Run a command in a running container on these streams and return its exit code; it ends with us.

        With `terminal` it gets a terminal of the size that ours has, before it starts and whenever that changes.
        """
        return terminals.attach(self._endpoint.command, container_id, command, streams, terminal=terminal)

    def _memory(self, container_ids: Sequence[str]) -> dict[str, int | None]:
        endpoint = self._endpoint.again()
        try:
            return {one: _used(endpoint, one) for one in container_ids}
        finally:
            endpoint.close()


def _used(endpoint: Endpoint, container_id: str) -> int | None:
    """Return a container's memory without the files that the kernel may drop; None when it does not run here."""
    item = endpoint.find("containers", container_id, "stats", **{"stream": "false", "one-shot": "true"})
    memory = (item or {}).get("memory_stats") or {}
    if "usage" not in memory:
        return None
    detail = memory.get("stats") or {}
    droppable = detail.get("total_inactive_file", detail.get("inactive_file", 0))  # control groups v1, v2
    return int(memory["usage"] - min(droppable, memory["usage"]))


def _container_end(state: dict[str, Any]) -> ContainerEnd:
    health = state.get("Health") or {}
    probes = health.get("Log") or [{}]
    return ContainerEnd(
        started=state["Status"] != "created",
        running=state["Running"],
        exit_code=state["ExitCode"],
        oom_killed=state["OOMKilled"],
        health=health.get("Status", ""),
        last_probe=probes[-1].get("Output", "").strip(),
    )

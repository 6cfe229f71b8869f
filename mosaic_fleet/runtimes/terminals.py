"""Runs a command in a container on streams of ours, and ends it there when we end."""

import os
import subprocess
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mosaic_fleet.runtimes import docker_command
from mosaic_fleet.runtimes.base import Streams

_MARK = "MOSAIC_ATTACHED"
_KILL_SECONDS = 30.0
# At 0 × 0 a wizard prints one character a line; docker sets the size only once the command runs.
_SIZED = 'stty rows "$1" cols "$2" 2>/dev/null; shift 2; exec "$@"'
# Whoever closes the docker command leaves the other end running: it is found by a mark that its children inherit.
_END = """
for signal in HUP TERM KILL; do
  left=
  for place in /proc/[0-9]*; do
    if grep -qs "$1" "$place/environ"; then kill -s "$signal" "${place#/proc/}" 2>/dev/null; left=1; fi
  done
  [ "$left" ] || exit 0
  sleep 0.5
done
"""


def attach(
    docker: Sequence[str], container_id: str, command: Sequence[str], streams: Streams, *, terminal: bool
) -> int:
    """Run a command on these streams and return its exit code, 128 and the signal's number if one ended docker."""
    mark = f"{_MARK}={os.urandom(8).hex()}"
    words = [*docker, "exec", "-i", "--env", mark]
    if terminal:
        size = os.get_terminal_size(streams.stdin)
        command = ["sh", "-c", _SIZED, "sh", str(size.lines or 24), str(size.columns or 80), *command]
        # Without keys to detach by: what is detached from would be ended all the same.
        words += ["-t", "--detach-keys", "ctrl-_,ctrl-_,ctrl-_,ctrl-_"]
    code: int | None = None
    try:
        with _as_it_was(streams.stdin, terminal=terminal):
            code = _run([*words, container_id, *command], streams)
        return code if code >= 0 else 128 - code
    finally:
        if terminal or code != 0:
            _end(docker, container_id, mark)


def _run(command: Sequence[str], streams: Streams) -> int:
    process = docker_command.start(command, stdin=streams.stdin, stdout=streams.stdout, stderr=streams.stderr)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@contextmanager
def _as_it_was(terminal_fd: int, *, terminal: bool) -> Iterator[None]:
    """Put a terminal back into the mode it had: a killed docker leaves it raw."""
    if not terminal:
        yield
        return
    mode = termios.tcgetattr(terminal_fd)
    try:
        yield
    finally:
        _restore(terminal_fd, mode)


def _restore(terminal_fd: int, mode: list[object]) -> None:
    try:
        termios.tcsetattr(terminal_fd, termios.TCSADRAIN, mode)  # type: ignore[arg-type]  # as tcgetattr gave it
    except termios.error:
        return  # the terminal has gone


def _end(docker: Sequence[str], container_id: str, mark: str) -> None:
    """End what carries the mark; where docker cannot reach the container any more, it has ended with that."""
    kill = [*docker, "exec", container_id, "sh", "-c", _END, "sh", mark]
    pipe = subprocess.PIPE
    with docker_command.start(kill, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as process:
        try:
            process.communicate(timeout=_KILL_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()

"""Runs the docker command: for what the command does better than Docker's HTTP interface."""

import os
import select
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import takewhile
from typing import IO

from mosaic_fleet.errors import RuntimeFailure
from mosaic_fleet.runtimes.base import Finished
from mosaic_fleet.settings import without_secrets

_ERROR_BYTES = 2000
_BLOCK = 65536
# Longer than an agent's turn may take (openclaw.json: timeoutSeconds 600): only a hung docker is this silent.
_SILENCE_SECONDS = 900.0

_Stream = int | IO[bytes]


def start(command: Sequence[str], *, stdin: _Stream, stdout: _Stream, stderr: _Stream) -> subprocess.Popen[bytes]:
    """Start a docker command. Raises RuntimeFailure when there is none on this machine."""
    try:
        return subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=stderr, env=without_secrets())
    except FileNotFoundError as error:
        raise RuntimeFailure("the docker command is not installed", hint="apt install docker.io") from error


def finish(command: Sequence[str], *, stdin: bytes = b"", seconds: float) -> Finished:
    """Run a docker command to its end; it is killed when it takes longer, which raises RuntimeFailure."""
    pipe = subprocess.PIPE
    with start(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            out, err = process.communicate(stdin, seconds)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise RuntimeFailure(f"{_title(command)} did not end within {seconds:g} s") from error
        except BaseException:
            process.kill()
            raise
    return Finished(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


def pipe(source: Sequence[str], target: Sequence[str]) -> None:
    """Run two docker commands, what the first prints being what the second reads, of any size.

    Raises RuntimeFailure with the words of those that failed.
    """
    with ExitStack() as stack:
        complaints = [stack.enter_context(_memory(b"")) for _ in range(2)]
        nothing = stack.enter_context(_memory(b""))
        first = stack.enter_context(start(source, stdin=nothing, stdout=subprocess.PIPE, stderr=complaints[0]))
        assert first.stdout  # noqa: S101  # for mypy: a pipe was asked for
        second = stack.enter_context(start(target, stdin=first.stdout, stdout=nothing, stderr=complaints[1]))
        first.stdout.close()  # so that the first one notices when the second ends early
        try:
            codes = [first.wait(), second.wait()]
        except BaseException:
            first.kill()
            second.kill()
            raise
        ends = zip((source, target), codes, complaints, strict=True)
        failed = [failure(command, Finished(code, "", _end(written))) for command, code, written in ends if code]
        if failed:  # one that fails often takes the other with it
            raise RuntimeFailure("; ".join(failed))


def stream(command: Sequence[str], *, stdin: bytes = b"") -> Iterator[bytes]:
    """Run a docker command and yield its standard output as it comes; closing the generator kills the command.

    Raises RuntimeFailure with the end of its standard error when it ends with another code than 0, or says
    nothing for 15 minutes.
    """
    with _memory(stdin) as source, _memory(b"") as complaints:
        with start(command, stdin=source, stdout=subprocess.PIPE, stderr=complaints) as process:
            try:
                yield from _blocks(process, _title(command))
            except BaseException:  # GeneratorExit too: nobody reads on
                process.kill()
                raise
        if process.returncode:
            raise RuntimeFailure(failure(command, Finished(process.returncode, "", _end(complaints))))


def failure(command: Sequence[str], finished: Finished) -> str:
    """Say in one line how a docker command failed: the end of what it wrote on standard error."""
    lines = [line.strip() for line in finished.stderr[-_ERROR_BYTES:].splitlines() if line.strip()]
    return f"{_title(command)} failed: {'; '.join(lines[-5:]) or f'exit code {finished.exit_code}'}"


def _end(written: IO[bytes]) -> str:
    written.seek(max(0, written.seek(0, os.SEEK_END) - _ERROR_BYTES))
    return written.read().decode(errors="replace")


def _title(command: Sequence[str]) -> str:
    """Name a command by its words before the first option, without those that choose the endpoint."""
    words = list(command[1:])
    while words and words[0].startswith("--"):
        del words[:2]
    return " ".join(["docker", *takewhile(lambda word: not word.startswith("-"), words)])


def _memory(content: bytes) -> IO[bytes]:
    """Hold bytes in memory as a file: a prompt must not touch the disk, and a pipe could fill up both ways."""
    held = os.fdopen(os.memfd_create("docker"), "w+b")
    held.write(content)
    held.seek(0)
    return held


def _blocks(process: subprocess.Popen[bytes], title: str) -> Iterator[bytes]:
    assert process.stdout  # noqa: S101  # for mypy: a pipe was asked for
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    while poll.poll(_SILENCE_SECONDS * 1000):
        block = os.read(process.stdout.fileno(), _BLOCK)
        if not block:
            return
        yield block
    raise RuntimeFailure(f"{title} said nothing for {_SILENCE_SECONDS:g} s")

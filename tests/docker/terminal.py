"""A terminal of a test: a process on it, and our end of it."""

import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import ioctl

# An OpenClaw command takes seconds to start, on a busy machine tens of them.
_SILENCE_SECONDS = 180
# The terminal becomes the process's own, so that the kernel sends it the signals of one.
_OWN = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


@dataclass(frozen=True)
class Terminal:
    """A process and our end of its terminal."""

    process: "subprocess.Popen[bytes]"
    ours: int

    def until(self, *texts: str) -> str:
        """Read what the process writes until one of these texts comes; fail with what came if it ends or is silent."""
        seen = ""
        while not any(text in seen for text in texts):
            assert select.select([self.ours], [], [], _SILENCE_SECONDS)[0], f"none of {texts} in {seen!r}"
            try:
                seen += os.read(self.ours, 4096).decode(errors="replace")
            except OSError as error:
                raise AssertionError(f"none of {texts} in {seen!r}") from error
        return seen

    def type(self, text: str) -> None:
        """Type a text."""
        os.write(self.ours, text.encode())

    def resize(self, lines: int, columns: int) -> None:
        """Change the size until the process writes something; `docker exec` misses what changes while it starts."""
        for wider in range(_SILENCE_SECONDS):
            _resize(self.ours, (lines, columns + wider))
            if select.select([self.ours], [], [], 1)[0]:
                return

    def ended(self) -> int:
        """Read the rest until the process has ended; return its exit code."""
        try:
            while os.read(self.ours, 4096):
                pass
        except OSError:  # nobody holds the other end any more
            pass
        return self.process.wait(120)


@contextmanager
def on_terminal(
    command: Sequence[str], *, size: tuple[int, int] = (24, 80), env: Mapping[str, str] | None = None
) -> Iterator[Terminal]:
    """Run a command on a terminal of so many lines and columns; hang up at the end."""
    ours, theirs = pty.openpty()
    _resize(theirs, size)
    words = [sys.executable, "-c", _OWN, *command]
    process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True)
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        os.close(ours)
        if process.poll() is None:
            process.send_signal(signal.SIGHUP)
        process.wait(120)


def _resize(terminal: int, size: tuple[int, int]) -> None:
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))

"""Processes that a test starts, waits for, runs as somebody else, or kills."""

import json
import os
import pwd
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Child:
    """A forked process; its interpreter and modules are ours, so it needs no file another user cannot read."""

    pid: int
    pipe: int

    def result(self) -> Any:
        """Wait for the action and return its value, or fail with its traceback."""
        with os.fdopen(self.pipe) as pipe:
            said = json.loads(pipe.read())
        os.waitpid(self.pid, 0)
        assert "error" not in said, said["error"]
        return said["value"]

    def kill(self) -> None:
        """Kill the process, and nothing it started, with SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.pipe)


def fork(action: Callable[[], Any], user: str | None = None) -> Child:
    """Run an action in a child process, as another user if one is named; its value must fit JSON."""
    reading, writing = os.pipe()
    if pid := os.fork():
        os.close(writing)
        return Child(pid, reading)
    try:
        if user:
            entry = pwd.getpwnam(user)
            os.setgroups([])
            os.setgid(entry.pw_gid)
            os.setuid(entry.pw_uid)
        said = {"value": action()}
    except BaseException:
        said = {"error": traceback.format_exc()}
    os.write(writing, json.dumps(said).encode())
    os._exit(0)


def until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """Wait for a condition and return its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)
    return value

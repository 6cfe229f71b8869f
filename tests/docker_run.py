"""What a session's tests make in Docker: told by a label, and swept by it."""

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn, TypeVar

import pytest

T = TypeVar("T")
_SWEEP_SECONDS = 240
# What to remove, how to list all of it, how to remove it; images last, containers use them.
_KINDS = (
    ("container", "-aq", ("-f",)),
    ("config", "-q", ()),
    ("secret", "-q", ()),
    ("volume", "-q", ()),
    ("network", "-q", ()),
    ("image", "-q", ("-f",)),
)


@dataclass
class DockerRun:
    """The daemon a session's tests use; `labels` say which objects are theirs, to be swept: add to them."""

    host: str
    label: str
    labels: list[str] = field(default_factory=list)

    def __call__(self, *words: str, stdin: str = "", check: bool = True) -> str:
        """Run the docker command against the daemon; return what it printed."""
        command = ["docker", "--host", self.host, *words]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=300, check=False)
        assert not check or not done.returncode, f"{' '.join(words)}: {done.stderr}"
        return done.stdout.strip()

    def listed(self, *words: str) -> list[str]:
        """List what a docker listing finds under any of the labels."""
        return [line for label in self.labels for line in self(*words, "--filter", f"label={label}").split()]

    def logs(self) -> dict[str, str]:
        """Return the last lines of the run's containers by name and state."""
        names = "{{.Names}}: {{.Status}}"
        found = {one: self("container", "ls", "-a", "--filter", f"id={one}", "--format", names) for one in self._all()}
        return {title: self.log(one, tail="40") for one, title in found.items()}

    def log(self, container: str, *, tail: str = "all") -> str:
        """Return what a container wrote on both streams, nothing when it is not there."""
        command = ["docker", "--host", self.host, "logs", "--tail", tail, container]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return "" if done.returncode else done.stdout + done.stderr

    def sweep(self) -> None:
        """Remove everything that carries one of the labels."""
        if services := self.listed("service", "ls", "-q"):
            self("service", "rm", *services, check=False)
        end = time.monotonic() + _SWEEP_SECONDS
        while self._remove_rest() and time.monotonic() < end:
            time.sleep(0.3)  # Swarm lets go of networks and volumes some seconds after the service
        assert not self._remove_rest(), f"left over from the tests: {self._remove_rest()}"

    def _all(self) -> list[str]:
        return self.listed("container", "ls", "-aq")

    def _remove_rest(self) -> list[str]:
        for kind, listing, options in _KINDS:
            if found := self.listed(kind, "ls", listing):
                self(kind, "rm", *options, *dict.fromkeys(found), check=False)
        return [f"{kind} {item}" for kind, listing, _ in _KINDS for item in self.listed(kind, "ls", listing)]


def missing(reason: str) -> NoReturn:
    """Skip a test whose prerequisite is missing; fail it where the prerequisites were to be provisioned."""
    if os.environ.get("MOSAIC_TEST_PROVISIONED"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def wait_until(look: Callable[[], T | None], *, seconds: float = 120) -> T:
    """Look again and again until there is something to see, and return it."""
    end = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < end, f"not seen within {seconds} s"
        time.sleep(0.1)
    return seen

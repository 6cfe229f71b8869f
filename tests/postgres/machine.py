"""A computer as Mosaic sees it: an environment in which the real command line runs."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from mosaic_fleet import resources
from mosaic_fleet.cli import app

JARVIS = str(resources.directory("stacks") / "jarvis.yml")
_NO_DOCKER = "unix:///nonexistent.sock"
_OURS = ("DATABASE_URL", "MOSAIC_", "DOCKER_", "XDG_", "NO_COLOR", "FORCE_COLOR")


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> dict[str, Any]:
        """Return the one JSON document that a successful command printed."""
        assert self.exit_code == 0, self
        document = json.loads(self.stdout)
        assert document.pop("schema") == 1
        return dict(document)

    @property
    def error(self) -> tuple[int, str, str | None]:
        """Return exit code, message and hint of a command that failed and printed nothing else."""
        assert self.stdout == "", self
        message, _, hint = self.stderr.removesuffix("\n").partition("\nhint:  ")
        assert message.startswith("error: "), self
        assert "\n" not in message + hint, self
        return self.exit_code, message.removeprefix("error: "), hint or None


@dataclass(frozen=True)
class Machine:
    """Runs `mosaic` with these variables and none of the test's own."""

    environ: Mapping[str, str]

    @classmethod
    def at(cls, folder: Path, **environ: str) -> "Machine":
        """Make one whose configuration and data lie in a folder; Docker is away unless it is given."""
        homes = {"XDG_CONFIG_HOME": str(folder / "config"), "XDG_DATA_HOME": str(folder / "data")}
        return cls({**homes, "DOCKER_HOST": _NO_DOCKER, "COLUMNS": "100", **environ})

    def but(self, **environ: str | None) -> "Machine":
        """Return the same machine with some variables changed; None takes one away."""
        changed = {**self.environ, **environ}
        return Machine({name: value for name, value in changed.items() if value is not None})

    def __call__(self, *words: str, input: str | bytes | None = None) -> Said:
        """Run a command in this process."""
        unset = {name: None for name in os.environ if name.startswith(_OURS)}
        runner = CliRunner(env={**unset, **self.environ})
        result = runner.invoke(app, list(words), prog_name="mosaic", input=input)
        return Said(result.exit_code, result.stdout, result.stderr)

    def start(self, *words: str | bytes, **options: Any) -> "subprocess.Popen[bytes]":
        """Start a command in a process of its own; its standard input is empty unless options say otherwise."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [sys.executable, "-m", "mosaic_fleet", *words]
        return subprocess.Popen(command, env={**inherited, **self.environ}, **{**pipes, **options})

    def spawn(self, *words: str | bytes, **options: Any) -> Said:
        """Run a command in a process of its own."""
        return finished(self.start(*words, **options))


def finished(process: "subprocess.Popen[bytes]") -> Said:
    """Wait for a command and return what it said."""
    stdout, stderr = process.communicate(timeout=240)
    return Said(process.returncode, stdout.decode(), stderr.decode())

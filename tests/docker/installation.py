"""A whole Mosaic on the test's Docker: real command line, embedded Postgres, and the stand-in for OpenClaw."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.docker_run import DockerRun, wait_until

_MOSAIC = [sys.executable, "-m", "mosaic_fleet", "--no-input"]
_OTHERS = ("DATABASE_URL", "DATABASE_URL_FILE", "MOSAIC_SECRET_KEY", "MOSAIC_SECRET_KEY_FILE", "XDG_RUNTIME_DIR")
# Settings of the fleet that fit a gateway which starts in a moment.
QUICK = {"health.interval": "1", "update.monitor": "1", "restart.delay": "1"}


@dataclass(frozen=True)
class Installation:
    """One Mosaic in folders of its own, on the Docker that `docker` speaks to."""

    folder: Path
    docker: DockerRun
    env: Mapping[str, str] = field(repr=False)

    @classmethod
    def at(cls, folder: Path, docker: DockerRun) -> "Installation":
        """Describe a Mosaic that nobody has initialised yet."""
        kept = {key: value for key, value in os.environ.items() if key not in _OTHERS}
        homes = {f"XDG_{name}_HOME": str(folder / name.lower()) for name in ("CONFIG", "DATA", "CACHE", "STATE")}
        return cls(folder, docker, kept | homes | {"DOCKER_HOST": docker.host})

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """Start a command and let it run."""
        pipe = subprocess.PIPE
        return subprocess.Popen(_MOSAIC + list(words), env=dict(self.env), stdout=pipe, stderr=pipe, text=True)

    def run(self, *words: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        """Run a command to its end, whatever that is."""
        return subprocess.run(
            _MOSAIC + list(words),
            env=dict(self.env),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def mosaic(self, *words: str, stdin: str = "") -> str:
        """Run a command that must succeed; return what it printed."""
        done = self.run(*words, stdin=stdin)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def document(self, *words: str) -> dict[str, Any]:
        """Run a command that must succeed with --json; return its document."""
        return dict(json.loads(self.mosaic(*words, "--json")))

    def refused(self, code: int, *words: str, stdin: str = "") -> str:
        """Run a command that must end with an exit code; return its error and hint."""
        done = self.run(*words, stdin=stdin)
        assert done.returncode == code, f"{' '.join(words)}: {done.returncode} {done.stdout}{done.stderr}"
        return done.stderr


@dataclass(frozen=True)
class Fleet:
    """A stack of an installation, with one provider that answers by echo: a roster that a test changes and deploys."""

    installation: Installation
    stack: str

    def load(self, **agents: Mapping[str, Any]) -> None:
        """Import a roster of these agents; each runs the healthy model unless it says otherwise."""
        named = {
            self.agent(name): {"model": "echo/m1", "memory": {"limit": "256M", "reservation": "16M"}} | dict(values)
            for name, values in agents.items()
        }
        faults = ["m1", "m2", "crash", "blab", "hog", "never-healthy", "held", "slow-start", "slow-stop", "slow-answer"]
        faults.append("slow-stream")
        roster = {
            "stack": self.stack,
            "providers": {
                "echo": {"type": "custom", "base_url": "http://llm:1/v1", "models": [{"id": one} for one in faults]}
            },
            "agents": named,
        }
        self.take(roster)

    def take(self, roster: Mapping[str, Any]) -> None:
        """Import a roster."""
        file = self.installation.folder / f"{self.stack}.yml"
        file.write_text(json.dumps(roster, ensure_ascii=False), "utf-8")
        self.installation.mosaic("agent", "import", str(file))

    def agent(self, name: str) -> str:
        """Name an agent so that no other stack's has that name."""
        return f"{self.stack}-{name}"

    def deploy(self, *options: str) -> dict[str, Any]:
        """Deploy; return the document."""
        return self.installation.document("fleet", "deploy", "--stack", self.stack, "--timeout", "5m", *options)

    def refused(self, code: int, *options: str) -> str:
        """Deploy in vain; return error and hint."""
        words = ("fleet", "deploy", "--stack", self.stack, "--timeout", "5m", *options)
        return self.installation.refused(code, *words)

    def change(self, name: str, *options: str) -> None:
        """Change an agent."""
        self.installation.mosaic("agent", "set", self.agent(name), *options)

    def service(self, name: str) -> dict[str, Any]:
        """Return Docker's own description of an agent's service."""
        text = self.installation.docker("service", "inspect", f"{self.stack}_{self.agent(name)}")
        return dict(json.loads(text)[0])

    def container(self, name: str) -> str:
        """Return the running container of an agent."""
        service = f"label=com.docker.swarm.service.name={self.stack}_{self.agent(name)}"
        return self.installation.docker("ps", "-q", "--no-trunc", "--filter", service)

    def exec(self, name: str, *words: str) -> str:
        """Run a command in an agent's container; return what it printed, to the byte."""
        command = ["docker", "--host", self.installation.docker.host, "exec", self.container(name), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    def let_go(self, name: str) -> None:
        """Let a gateway whose model is `held` listen, as soon as it is there."""
        wait_until(lambda: self.container(name))
        self.exec(name, "touch", "/home/node/.openclaw/go")

    def objects(self, kind: str) -> set[str]:
        """Name the stack's Docker configs or Docker secrets."""
        listing = self.installation.docker(kind, "ls", "--format", "{{.Name}}")
        return {name for name in listing.splitlines() if name.startswith(f"{self.stack}-")}

    def status(self, name: str) -> dict[str, Any]:
        """Return an agent's line of `fleet status`."""
        rows = self.installation.document("fleet", "status", "--stack", self.stack)["agents"]
        return dict(next(row for row in rows if row["agent"] == self.agent(name)))

    def deployments(self) -> list[tuple[int, str]]:
        """Return number and status of the stack's deployments, from the database."""
        query = "SELECT number, d.status FROM deployment d JOIN stack s ON s.id = stack_id WHERE s.name = %s ORDER BY 1"
        return [(int(number), str(status)) for number, status in sql(self.installation, query, self.stack)]

    def remove(self) -> None:
        """Take the stack off the Swarm without waiting; its volumes are swept at the end of the session."""
        self.installation.docker("stack", "rm", self.stack, check=False)


@contextmanager
def installed(docker: DockerRun, image: str, **settings: str) -> Iterator[Installation]:
    """Initialise a Mosaic whose agents run an image, with these settings of the fleet; stop its database at the end."""
    folder = Path(tempfile.mkdtemp(prefix="mosaic-test-"))
    folder.chmod(0o755)
    made = Installation.at(folder, docker)
    try:
        made.mosaic("config", "set", "fleet.network", f"mosaic-test-{fresh_stack()}")
        made.mosaic("init", "--create-network")
        docker.labels.append(f"com.mosaic.install={made.document('status')['install']}")
        for key, value in ({"image": image} | settings).items():
            made.mosaic("config", "set", f"fleet.{key}", value)
        yield made
    finally:
        made.run("db", "stop")
        shutil.rmtree(folder)


def sql(installation: Installation, query: str, *values: object) -> list[tuple[Any, ...]]:
    """Ask an installation's database."""
    import psycopg

    from mosaic_fleet.bootstrap import Mosaic
    from mosaic_fleet.settings import Settings

    embedded = Mosaic(Settings.from_env(installation.env)).embedded
    assert embedded is not None
    embedded.start()
    with psycopg.connect(embedded.url("mosaic_super")) as connection:
        return connection.execute(query, values).fetchall()


def interrupted(process: "subprocess.Popen[str]", how: signal.Signals) -> tuple[int, str]:
    """Send a signal to a command; return its exit code and what it wrote on standard error."""
    process.send_signal(how)
    _, stderr = process.communicate(timeout=120)
    return process.returncode, stderr


def fresh_stack() -> str:
    """Return a stack name that no other test has."""
    return f"t{uuid4().hex[:7]}"


def when(process: "subprocess.Popen[str]", seen: Any) -> None:
    """Wait until something is seen while a command runs; fail with its output when it ended first."""

    def look() -> bool:
        if process.poll() is not None:
            raise AssertionError(f"the command ended first: {process.communicate()}")
        return bool(seen())

    wait_until(look)

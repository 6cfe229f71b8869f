"""The fleet that `make quickstart` makes, once for all tests that need a real one."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mosaic_fleet.fleet import admin_rpc, refreshing, renewing, sleeping
from tests.docker_run import missing

ROOT = Path(__file__).parents[2]
STACK = "jarvis"
STUB = "mosaic-stub-llm"
HOST_STUB = "mosaic-host-stub-llm"
_STUBS_ADDRESS = "`http://${process.env.HOST}:${process.env.PORT}/requests`"
_FETCH = f"fetch({_STUBS_ADDRESS}).then(r=>r.text()).then(t=>process.stdout.write(t))"
_OTHERS = ("DATABASE_URL", "DATABASE_URL_FILE", "MOSAIC_SECRET_KEY", "MOSAIC_SECRET_KEY_FILE", "MAKEFLAGS", "MAKELEVEL")


@dataclass
class Quickstart:
    """A checkout's quickstart in folders of its own: what it said at first, and how to use it on."""

    env: Mapping[str, str]
    output: str = field(default="", repr=False)

    def make(self, verb: str) -> str:
        """Run a verb of the Makefile; return what it said on both streams, in order."""
        done = subprocess.run(
            ["make", verb],
            cwd=ROOT,
            env=dict(self.env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1500,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def mosaic(self, *words: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the mosaic command on this fleet."""
        command = [str(ROOT / ".venv/bin/mosaic"), "--no-input", *words]
        done = subprocess.run(
            command, env=dict(self.env), input=stdin, capture_output=True, text=True, timeout=900, check=False
        )
        assert not check or done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
        return done

    def docker(self, *words: str) -> str:
        """Run the docker command on this fleet's daemon; return what it printed."""
        return subprocess.run(
            ["docker", *words], env=dict(self.env), capture_output=True, text=True, timeout=120, check=True
        ).stdout.strip()

    def named(self, kind: str) -> list[str]:
        """Return the names of the fleet's and the stubs' Docker objects of a kind; other tests have theirs beside."""
        names = self.docker(kind, "ls", "--format", "{{.Name}}").splitlines()
        return sorted(name for name in names if name.startswith((STACK, STUB, HOST_STUB)))

    def running(self) -> dict[str, str]:
        """Return the fleet's and the stubs' running containers: service → id."""
        name = '{{.Label "com.docker.swarm.service.name"}} {{.ID}}'
        lines = self.docker("ps", "--no-trunc", "--format", name).splitlines()
        found = dict(line.split() for line in lines if len(line.split()) == 2)
        return {service: one for service, one in found.items() if service.startswith((f"{STACK}_", STUB, HOST_STUB))}

    def users_gateways(self) -> list[dict[str, Any]]:
        """Return the users' gateways of this installation."""
        found: list[dict[str, Any]] = json.loads(self.mosaic("gateway", "list", "--json").stdout)["gateways"]
        return found

    def requests(self, stub: str = STUB) -> list[dict[str, Any]]:
        """Return what a stub LLM has been asked, oldest first, with the nonces it made."""
        answer: list[dict[str, Any]] = json.loads(self.docker("exec", self.running()[stub], "node", "-e", _FETCH))
        return answer


@pytest.fixture(scope="module", autouse=True)
def patience() -> Iterator[None]:
    """Give a real gateway time to answer and to end, however loaded the machine is: no limit is tested here."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(admin_rpc, "_SECONDS", 120.0)
        patched.setattr(sleeping, "_GRACE_SECONDS", 300.0)
        for module in (refreshing, renewing):
            patched.setattr(module, "_IDLE_SECONDS", 300.0)
        yield


@pytest.fixture(scope="module")
def quickstart() -> Iterator[Quickstart]:
    """Run `make quickstart` with fresh folders; take all of it away at the end."""
    if not os.environ.get("MOSAIC_TEST_PROVISIONED"):
        missing("it changes the machine's Docker: run it in the sandbox, make test")
    folder = Path(tempfile.mkdtemp(prefix="mosaic-quickstart-"))
    folder.chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if key not in _OTHERS}
    homes = {f"XDG_{name}_HOME": str(folder / name.lower()) for name in ("CONFIG", "DATA", "CACHE", "STATE")}
    fleet = Quickstart(kept | homes)
    try:
        fleet.output = fleet.make("quickstart")
        yield fleet
        fleet.mosaic("fleet", "rm", "--stack", STACK, "--volumes", "--confirm", STACK)
    finally:
        fleet.make("down")
        shutil.rmtree(folder)

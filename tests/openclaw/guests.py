"""Users whose gateways are real OpenClaw, and the stub LLM in the world outside."""

import json
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import SecretStr

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.db.tables import User, UserAgentConfig
from mosaic_fleet.fleet import containers, lifecycle, providers
from mosaic_fleet.fleet.hosting import Running
from mosaic_fleet.resources import directory
from mosaic_fleet.settings import Settings
from tests import gateways, worlds
from tests.docker.installation import Installation
from tests.docker_run import DockerRun

SCRIPT = directory("stacks") / "quickstart" / "stub-llm.mjs"


@dataclass(frozen=True)
class Guests:
    """Two users of an installation whose gateways are real."""

    installation: Installation
    mosaic: Mosaic
    stub: str
    users: dict[str, UUID]

    def wake(self, name: str) -> Running:
        """Ensure that a user's gateway runs."""
        return lifecycle.ensure_running(self.mosaic.hosting, self.users[name])

    def asked(self) -> list[dict[str, Any]]:
        """Return what the stub was asked, oldest first."""
        with urllib.request.urlopen(f"http://{self.stub}:11434/requests", timeout=30) as response:
            found: list[dict[str, Any]] = json.load(response)
        return found

    def exec(self, name: str, *words: str) -> str:
        """Run a command in a user's container."""
        return self.installation.docker("exec", containers.name(self.users[name]), *words)


@contextmanager
def hosted(docker: DockerRun, openclaw_image: str, *names: str, world: int) -> Iterator[Guests]:
    """Make an installation with users and a stub LLM in a world outside; their gateways are stopped at the end."""
    folder = Path(tempfile.mkdtemp(prefix="mosaic-test-"))
    folder.chmod(0o755)
    made = Installation.at(folder, docker)
    stub = f"203.0.113.{world + 8}"
    with worlds.world(world, [stub], 11434, "node", str(SCRIPT)):
        try:
            made.mosaic("init")
            docker.labels.append(f"com.mosaic.install={made.document('status')['install']}")
            made.mosaic("config", "set", "fleet.image", openclaw_image)
            made.mosaic("config", "set", "gateways.start_timeout", "600")
            mosaic = Mosaic(Settings.from_env(made.env))
            guests = Guests(made, mosaic, stub, {name: add(mosaic, name, stub) for name in names})
            yield guests
            for name in guests.users:
                made.run("gateway", "stop", name, "--timeout", "30", "--force")
            mosaic.hosting.runtime.close()
        finally:
            made.run("db", "stop")
            shutil.rmtree(folder)


def add(mosaic: Mosaic, name: str, stub: str) -> UUID:
    """Add a user with a provider of their own at the stub, and a personality."""
    with mosaic.db.transaction(system=True) as session:
        user = User(name=name, email=f"{name}@example.org")
        session.add(user)
        session.flush()
        values = {"type": "custom", "base_url": f"http://{stub}:11434/v1", "models": [{"id": "stub"}]}
        providers.add(
            session, mosaic.box, user.id, "llm", values | {"api_key": SecretStr(f"key-of-{name}-at-the-stub")}
        )
        session.add(UserAgentConfig(user_id=user.id, primary_model="llm/stub", personality=f"I serve {name}.\n"))
        return user.id


def ask(found: Running, text: str, *, token: str | None = None) -> tuple[int, str | None]:
    """Ask a gateway something in the conversation `one`; return status and answer."""
    return gateways.ask(found, text, token=token, timeout=300, model="openclaw", user="one")


def history(found: Running) -> str:
    """Return the conversation `one` as the gateway has it."""
    key = "agent%3Amain%3Aopenai-user%3Aone"
    headers = {"authorization": f"Bearer {found.token.get_secret_value()}"}
    request = urllib.request.Request(f"{found.url}/sessions/{key}/history?limit=100", headers=headers)
    with urllib.request.urlopen(request, timeout=120) as response:
        return str(response.read().decode())


def fingerprint(key: str) -> str:
    """Return what the stub keeps of a key."""
    return sha256(key.encode()).hexdigest()[:8]

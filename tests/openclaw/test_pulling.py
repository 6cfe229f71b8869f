"""Containers that pull their config from a running `mosaic serve`: one of plain `docker run`, one of Swarm's."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from uuid import uuid4

import pytest

from mosaic_fleet.fleet import delivery, openclaw
from tests.docker.installation import Installation, installed
from tests.docker_run import DockerRun, wait_until

KEY = "planted-provider-key-of-a-puller"
TOKEN_FILE = "/run/secrets/config_token"
_BASE = f"http://127.0.0.1:{openclaw.PORT}"


@dataclass(frozen=True)
class Puller:
    """An agent that nobody deploys, and the address where containers fetch its config."""

    installation: Installation
    docker: DockerRun
    name: str
    url: str

    @property
    def environment(self) -> list[str]:
        """Return what its container is told; nothing of it is secret."""
        values = {"MOSAIC_API_URL": self.url, "AGENT_ID": self.name, "AGENT_TOKEN_FILE": TOKEN_FILE}
        return [word for key, value in values.items() for word in ("-e", f"{key}={value}")]

    def status(self, container: str, token: str) -> str:
        """Send an empty chat with a token; return the status."""
        words = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-d", "{}", f"{_BASE}/v1/chat/completions"]
        return self.docker("exec", container, *words, "-H", f"Authorization: Bearer {token}")

    def check(self, container: str, token: str) -> None:
        """Check that a container's gateway runs with what it pulled, and that no secret shows."""
        wait_until(
            lambda: '"ok":true' in self.docker("exec", container, "curl", "-s", f"{_BASE}/healthz", check=False),
            seconds=1200,
        )
        files = self.docker("exec", container, "stat", "-c", "%n %a %u", *(f"{delivery.PLACE}/{one}" for one in FILES))
        assert files.split("\n") == [f"{delivery.PLACE}/{one} 400 1000" for one in FILES]
        pulled = self.docker("exec", container, "cat", f"{delivery.PLACE}/gateway_token")
        assert (self.status(container, "wrong"), self.status(container, pulled) != "401") == ("401", True)
        soul = self.docker("exec", container, "cat", f"{openclaw.WORKSPACE_DIR}/SOUL.md")
        assert soul == "Be far away."
        shown = self.docker("inspect", container) + self.docker.log(container)
        shown += self.docker("exec", container, "cat", "/proc/1/environ", "/proc/1/cmdline")
        assert not [secret for secret in (token, pulled, KEY) if secret in shown]


FILES = ("openclaw.json", "gateway_token", "provider_keys", "SOUL.md")


@pytest.fixture(scope="module")
def installation(docker: DockerRun, openclaw_image: str) -> Iterator[Installation]:
    """Initialise a Mosaic; stop its database at the end."""
    with installed(docker, openclaw_image) as made:
        yield made


@pytest.fixture(scope="module")
def puller(installation: Installation, docker: DockerRun) -> Iterator[Puller]:
    """Serve configs where containers of the default network reach it, for one agent."""
    name = f"far-{uuid4().hex[:8]}"
    roster = {
        "stack": name,
        "providers": {name: {"type": "custom", "base_url": "http://llm:1/v1", "models": [{"id": "m1"}]}},
        "agents": {name: {"model": f"{name}/m1", "personality": "Be far away."}},
    }
    file = installation.folder / f"{name}.yml"
    file.write_text(json.dumps(roster), "utf-8")
    installation.mosaic("agent", "import", str(file))
    installation.mosaic("provider", "set", name, "--api-key-stdin", "--no-test", stdin=KEY)
    subnet = docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Subnet}}")
    host = str(ip_network(subnet)[1])
    words = ("serve", "--port", "0", "--internal-host", host, "--internal-port", "0")
    with installation.start(*words) as server:
        assert server.stderr
        said: list[str] = []
        while not said or not said[-1].startswith("internal listener"):
            said.append(server.stderr.readline())
            assert said[-1], said
        yield Puller(installation, docker, name, said[-1].split()[-1])
        server.terminate()
        assert server.wait(120) == 0
    installation.mosaic("agent", "remove", name, "--yes")
    installation.mosaic("provider", "remove", name, "--yes")


def test_a_real_gateway_of_docker_run_pulls_its_config(puller: Puller, openclaw_image: str) -> None:
    """The real OpenClaw, hardened and with its token in a file, starts with what it fetched."""
    file = puller.installation.folder / "config_token"
    puller.installation.mosaic("agent", "config-token", puller.name, "--renew", "--token-file", str(file))
    os.chown(file, 1000, 1000)
    hardened = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", "1000:1000"]
    memory = ["--memory", "2g", "--init", "--tmpfs", "/tmp", "--tmpfs", f"{openclaw.STATE_DIR}:uid=1000,mode=0700"]
    places = ["--tmpfs", delivery.RUN_DIR, "-v", f"{file}:{TOKEN_FILE}:ro", "--label", puller.docker.label]
    shell, *script = delivery.command()
    command = [*hardened, *memory, *places, *puller.environment, "--entrypoint", shell, openclaw_image, *script]
    container = puller.docker("run", "-d", *command)
    try:
        puller.check(container, file.read_text().strip())
    finally:
        puller.docker("rm", "-f", container)


def test_a_swarm_service_pulls_with_its_token_as_a_docker_secret(puller: Puller, openclaw_image: str) -> None:
    """Swarm's tmpfs is open to all, its secret is a file: that is enough for the real OpenClaw, hardened too."""
    label, name = puller.docker.label, puller.name
    token = puller.installation.mosaic("agent", "config-token", name, "--renew")
    puller.docker("secret", "create", "--label", label, name, "-", stdin=token.strip())
    shell, *script = delivery.command()
    options = ["--detach", "--name", name, "--label", label, "--container-label", label, "--restart-condition", "none"]
    options += ["--user", "1000:1000", "--read-only", "--cap-drop", "ALL", "--limit-memory", "2g", "--init"]
    options += ["--no-resolve-image", *puller.environment]
    options += ["--secret", f"source={name},target={TOKEN_FILE},uid=1000,gid=1000,mode=0400"]
    options += ["--mount", f"type=volume,source={name}-state,target={openclaw.STATE_DIR},volume-label={label}"]
    for place in (delivery.RUN_DIR, "/tmp"):
        options += ["--mount", f"type=tmpfs,target={place}"]
    puller.docker("service", "create", *options, "--entrypoint", shell, openclaw_image, *script)
    try:
        listing = ("ps", "-q", "--filter", f"label=com.docker.swarm.service.name={name}")
        container = wait_until(lambda: puller.docker(*listing))
        puller.check(container, token.strip())
        places = puller.docker("exec", container, "stat", "-c", "%a %u", delivery.RUN_DIR, delivery.PLACE)
        assert places.split("\n") == ["1777 0", "700 1000"]
    finally:
        puller.docker("service", "rm", name)

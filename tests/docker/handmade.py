"""A fleet of one agent as an operator runs it by hand, and what it remembers."""

import json
from pathlib import Path

from tests.docker.installation import Fleet
from tests.docker_run import wait_until

CONFIG = {
    "gateway": {"mode": "local", "auth": {"mode": "token", "token": "hand-made-token-0123456789"}},
    "agents": {"defaults": {"model": {"primary": "hand/m1"}, "workspace": "/home/node/workspace"}},
    "models": {"providers": {"hand": {"baseUrl": "http://llm:1/v1", "models": [{"id": "m1"}]}}},
}


# A gateway that writes when it is told to stop, outside of its volume.
LAST_WORDS = (
    "trap 'mkdir -p /home/node/workspace; echo words > /home/node/workspace/LAST.md; exit 0' TERM; "
    "openclaw gateway run --port 18789 & wait"
)

# What an adopted agent is to have: of its volume, of the folder outside of it, and what it wrote as it was stopped.
MEMORY = {
    "/home/node/.openclaw/memory.sqlite": "memory\n",
    "/home/node/.openclaw/workspace/deep/NOTES.md": "notes\n",
    "/home/node/.openclaw/workspace/LAST.md": "words\n",
}


def remember(fleet: Fleet) -> None:
    """Let the agent write into its volume, and outside of it."""
    deep = "/home/node/workspace/deep"
    fleet.exec("one", "sh", "-c", f"mkdir -p {deep} && echo notes > {deep}/NOTES.md")
    fleet.exec("one", "sh", "-c", "echo memory > /home/node/.openclaw/memory.sqlite")


def run_by_hand(fleet: Fleet) -> Path:
    """Write a folder with one agent and deploy it as an operator does."""
    docker, name = fleet.installation.docker, fleet.agent("one")
    folder = fleet.installation.folder / f"{fleet.stack}-by-hand"
    folder.mkdir()
    (folder / f"{name}.json").write_text(json.dumps(CONFIG))
    network = fleet.installation.mosaic("config", "get", "fleet.network").strip()
    config = {"source": "conf", "target": "/config/openclaw.json", "uid": "1000", "mode": 0o400}
    service = {
        "image": fleet.installation.mosaic("config", "get", "fleet.image").strip(),
        "command": ["sh", "-c", LAST_WORDS],
        "user": "1000:1000",
        "environment": ["OPENCLAW_CONFIG_PATH=/config/openclaw.json"],
        "configs": [config],
        "volumes": ["state:/home/node/.openclaw"],
        "networks": ["fleet"],
        "stop_grace_period": "60s",
        "deploy": {"resources": {"limits": {"memory": "256M"}, "reservations": {"memory": "16M"}}},
    }
    compose = {
        "version": "3.9",
        "services": {name: service},
        "configs": {"conf": {"file": f"./{name}.json"}},
        "networks": {"fleet": {"external": True, "name": network}},
        "volumes": {"state": {"name": f"{fleet.stack}-old", "labels": [docker.label]}},
    }
    (folder / "compose.yml").write_text(json.dumps(compose))
    docker("stack", "deploy", "--resolve-image", "never", "-c", str(folder / "compose.yml"), fleet.stack)
    assert wait_until(lambda: fleet.container("one"))
    return folder

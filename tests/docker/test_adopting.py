"""A fleet that was made by hand moves in, on a real Swarm: `mosaic agent import DIR --adopt`."""

import json

from tests.docker.handmade import MEMORY, remember, run_by_hand
from tests.docker.installation import Fleet


def test_a_hand_made_fleet_moves_in_with_its_memory(fleet: Fleet) -> None:
    """Same service, same volume, its files and those from outside of it; a copy stays; the gateway answers."""
    docker, mosaic = fleet.installation.docker, fleet.installation
    folder = run_by_hand(fleet)
    service = fleet.service("one")["ID"]
    remember(fleet)
    words = ("agent", "import", str(folder), "--stack", fleet.stack, "--adopt", "--timeout", "5m")
    assert "--confirm" in mosaic.refused(2, *words)
    assert f"stops service {fleet.stack}_{fleet.agent('one')}" in mosaic.mosaic(*words, "--dry-run")
    assert fleet.service("one")["Spec"]["Mode"]["Replicated"]["Replicas"] == 1
    mosaic.mosaic(*words, "--confirm", fleet.stack)
    assert fleet.service("one")["ID"] == service
    assert fleet.status("one")["health"] == "ok"
    assert mosaic.mosaic("fleet", "ask", fleet.agent("one"), "x") == "you said: x\n"
    state = "/home/node/.openclaw"
    assert {path: fleet.exec("one", "cat", path) for path in MEMORY} == MEMORY
    assert fleet.exec("one", "stat", "-c", "%u %a", state, f"{state}/workspace") == "1000 700\n1000 700\n"
    mounts = json.loads(docker("inspect", fleet.container("one")))[0]["Mounts"]
    assert [one["Name"] for one in mounts if one["Destination"] == state] == [f"{fleet.stack}-old"]
    image = mosaic.mosaic("config", "get", "fleet.image").strip()
    kept = ("run", "--rm", "--network", "none", "-v", f"{fleet.stack}-old-before-mosaic:/kept", image)
    files = docker(*kept, "cat", "/kept/state/memory.sqlite", "/kept/workspace/deep/NOTES.md")
    assert files.split() == ["memory", "notes"]
    container = fleet.container("one")
    assert mosaic.document(*words)["changed"] is False
    assert fleet.container("one") == container
    assert docker("volume", "ls", "-q", "--filter", f"name={fleet.stack}").split() == [
        f"{fleet.stack}-old",
        f"{fleet.stack}-old-before-mosaic",
    ]

"""A node that is drained while agents run on it."""

import pytest

from tests.docker.installation import Fleet, Installation
from tests.docker_run import wait_until

pytestmark = pytest.mark.alone


def test_a_drained_node_leaves_an_agent_pending(fleet: Fleet, installation: Installation) -> None:
    """An agent whose node is drained starts nowhere else; status and deploy say why; it comes back by itself."""
    fleet.load(one={})
    fleet.deploy()
    docker = installation.docker
    node = docker("node", "ls", "-q")
    docker("node", "update", "--availability", "drain", node)
    try:
        wait_until(lambda: "is drained; it waits for it" in fleet.status("one")["reason"])
        assert "is drained; it waits for it" in fleet.refused(7)
        fleet.change("one", "--role", "another")
        assert "is drained; it waits for it" in fleet.refused(7)  # an update that Swarm would wait with for ever
    finally:
        docker("node", "update", "--availability", "active", node)
    wait_until(lambda: fleet.status("one")["health"] == "ok")
    assert fleet.deploy()["changed"] is False
    assert fleet.deployments()[-1] == (2, "healthy")

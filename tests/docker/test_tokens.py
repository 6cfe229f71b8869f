"""New gateway tokens on a real Swarm: chats end whole, old tokens are dead, agents that fail end it."""

import subprocess

from tests.docker.installation import Fleet
from tests.docker_run import wait_until

CHAT = "http://127.0.0.1:18789/v1/chat/completions"


def status_of(fleet: Fleet, name: str, token: str) -> str:
    """Return what a gateway answers to a request without a message: 400 when the token is right, else 401."""
    header = f"Authorization: Bearer {token}"
    return fleet.exec(name, *("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-d", "{}", "-H", header, CHAT))


def token_of(fleet: Fleet, name: str) -> str:
    """Return the token that a gateway has."""
    return fleet.exec(name, "cat", "/run/secrets/gateway_token")


def test_a_chat_ends_whole_and_the_old_token_is_dead(fleet: Fleet) -> None:
    """Tokens are renewed while an agent answers: the answer arrives to its last word, then the old token gets 401."""
    fleet.load(one={"model": "echo/slow-stream"}, two={})
    fleet.deploy()
    old = {name: token_of(fleet, name) for name in ("one", "two")}
    first = {name: fleet.container(name) for name in old}
    question = " ".join(f"word{number}" for number in range(20))
    chat = fleet.installation.start("fleet", "ask", fleet.agent("one"), question)
    wait_until(lambda: "you said" in logs(fleet, first["one"]))
    rotated = fleet.installation.start("secrets", "rotate-tokens", "--agent", fleet.agent("one"), "--json")
    wait_until(lambda: "draining 1" in logs(fleet, first["one"]))
    answer, errors = chat.communicate(timeout=120)
    assert (chat.returncode, answer, errors) == (0, f"you said: {question}\n", "")
    said, errors = rotated.communicate(timeout=300)
    assert rotated.returncode == 0, errors
    assert fleet.agent("one") in said
    assert fleet.container("two") == first["two"]
    assert fleet.container("one") != first["one"]
    assert [status_of(fleet, "one", token) for token in (old["one"], token_of(fleet, "one"))] == ["401", "400"]
    assert status_of(fleet, "two", old["two"]) == "400"
    assert fleet.deploy()["changed"] is False


def test_a_token_that_docker_brought_back_is_stale(fleet: Fleet) -> None:
    """After `docker service rollback` the status of secrets says so, and the next deploy mends it."""
    fleet.load(one={})
    fleet.deploy()
    agent, old = fleet.agent("one"), token_of(fleet, "one")
    fleet.installation.mosaic("secrets", "rotate-tokens", "--agent", agent)
    assert states_of(fleet, f"token {agent}") == {"current": [agent]}
    fleet.installation.docker("service", "rollback", "--detach=false", f"{fleet.stack}_{agent}")
    assert token_of(fleet, "one") == old
    assert states_of(fleet, f"token {agent}") == {"unused": [], "stale": [agent]}
    fleet.deploy()
    assert states_of(fleet, f"token {agent}") == {"current": [agent]}


def states_of(fleet: Fleet, what: str) -> dict[str, list[str]]:
    """Return who has a secret in which state."""
    rows = fleet.installation.document("secrets", "status")["all"]
    return {row["state"]: row["used_by"] for row in rows if row["what"] == what}


def logs(fleet: Fleet, container: str) -> str:
    """Return what a container wrote."""
    command = ["docker", "--host", fleet.installation.docker.host, "logs", container]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout + done.stderr

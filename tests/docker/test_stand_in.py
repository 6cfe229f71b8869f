"""The faults that the stand-in has for other tests, chosen by the agent's model."""

import json
from collections.abc import Callable

import pytest

from tests.docker_run import DockerRun, wait_until

Start = Callable[[str], str]


@pytest.fixture
def start(docker: DockerRun, stand_in_image: str) -> Start:
    """Return a function that starts a gateway with a model and returns its container."""

    def start(model: str) -> str:
        config = {
            "gateway": {"mode": "local", "auth": {"token": "t"}},
            "agents": {"defaults": {"model": {"primary": model}}},
        }
        script = f"echo '{json.dumps(config)}' > /tmp/openclaw.json && exec openclaw gateway run --port 18789"
        options = [
            "--label",
            docker.label,
            "--network",
            "none",
            "--memory",
            "128m",
            "--memory-swap",
            "128m",
            "--user",
            "1000",
        ]
        environment = ["-e", "OPENCLAW_CONFIG_PATH=/tmp/openclaw.json"]
        return docker("run", "-d", *options, *environment, stand_in_image, "sh", "-c", script)

    return start


def _probe(docker: DockerRun, container: str) -> str:
    return docker("exec", container, "curl", "-s", "http://127.0.0.1:18789/healthz", check=False)


def _end(docker: DockerRun, container: str) -> str:
    docker("wait", container)
    code, oom_killed = ("{{.State.ExitCode}}", "{{.State.OOMKilled}}")
    if docker("inspect", "-f", code, container) == "137":  # why comes by a way of its own
        wait_until(lambda: docker("inspect", "-f", oom_killed, container) == "true")
    return docker("inspect", "-f", f"{code} {oom_killed}", container)


def test_a_model_without_a_fault_is_healthy_and_stops(docker: DockerRun, start: Start) -> None:
    """With any other model the gateway is healthy, and SIGTERM ends it with 0."""
    container = start("zai/glm-5")
    assert wait_until(lambda: _probe(docker, container)) == '{"ok":true,"status":"live"}'
    docker("stop", "-t", "120", container)
    assert _end(docker, container) == "0 false"


def test_never_healthy_answers_without_ok(docker: DockerRun, start: Start) -> None:
    """`never-healthy` listens, and its probe never says ok."""
    container = start("x/never-healthy")
    assert wait_until(lambda: _probe(docker, container)) == '{"ok":false,"status":"starting"}'


def test_crash_ends_with_1(docker: DockerRun, start: Start) -> None:
    """`crash` ends with 1 at once."""
    assert _end(docker, start("x/crash")) == "1 false"


def test_hog_runs_out_of_memory(docker: DockerRun, start: Start) -> None:
    """`hog` is killed for its memory."""
    assert _end(docker, start("x/hog")) == "137 true"


@pytest.mark.parametrize("model", ["x/slow-start", "x/slow-stop"])
def test_what_is_slow_is_healthy_in_the_end(docker: DockerRun, start: Start, model: str) -> None:
    """`slow-start` and `slow-stop` serve, and end with 0 when told to stop."""
    container = start(model)
    assert wait_until(lambda: _probe(docker, container)) == '{"ok":true,"status":"live"}'
    docker("stop", "-t", "120", container)
    assert _end(docker, container) == "0 false"


def test_held_listens_when_it_is_let_go(docker: DockerRun, start: Start) -> None:
    """`held` begins like any other and answers nothing until its file is there."""
    container = start("x/held")
    wait_until(lambda: "starting..." in docker("logs", container))
    assert _probe(docker, container) == ""
    docker("exec", container, "sh", "-c", 'mkdir -p "$HOME/.openclaw"; touch "$HOME/.openclaw/go"')
    assert wait_until(lambda: _probe(docker, container)) == '{"ok":true,"status":"live"}'
    docker("rm", "-f", container)

"""What Mosaic relies on in OpenClaw: the same tests on the real one and on the stand-in that other tests use."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import SecretStr

from mosaic_fleet.fleet import openclaw
from mosaic_fleet.fleet.journal import may_be_reply
from mosaic_fleet.fleet.openclaw import KEYS_FILE, PORT, STATE_DIR, TOKEN_FILE
from mosaic_fleet.fleet.stack import CONFIG_FILE
from mosaic_fleet.resources import directory
from mosaic_fleet.runtimes.endpoint import Endpoint
from mosaic_fleet.runtimes.swarm import SwarmRuntime
from tests.docker.terminal import on_terminal
from tests.docker_run import DockerRun, wait_until

TOKEN = "token-of-the-gateway-contract"
BASE = f"http://127.0.0.1:{PORT}"
RUN = f"openclaw gateway run --bind lan --port {PORT} --auth token"
HARDENED = [
    *("--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--user", "1000:1000", "--memory", "2g", "--tmpfs", "/tmp"),
    *("--tmpfs", "/run/mosaic:uid=1000,gid=1000,mode=0700", "--tmpfs", "/run/secrets:uid=1000,gid=1000,mode=0700"),
    *("--tmpfs", f"{STATE_DIR}:uid=1000,gid=1000,mode=0700"),
    *("-e", f"OPENCLAW_CONFIG_PATH={CONFIG_FILE}", "-e", f"OPENCLAW_STATE_DIR={STATE_DIR}"),
    *("-e", f"XDG_CACHE_HOME={STATE_DIR}/cache", "-e", "OPENCLAW_CONFIG_READONLY=1"),
]


_LOGIN = """
import sys
from mosaic_fleet.fleet.consoles import Login, login
from mosaic_fleet.runtimes.base import Streams
from mosaic_fleet.runtimes.endpoint import Endpoint
from mosaic_fleet.runtimes.swarm import SwarmRuntime
host, container = sys.argv[1:]
runtime = SwarmRuntime(Endpoint(host, ("docker", "--host", host)))
done = login(runtime, container, Login("openai", "api-key"), Streams())
print(f"saved {done.changed}, exit {done.exit_code}")
"""


@dataclass(frozen=True)
class Outcome:
    """How a command in a container ended."""

    code: int
    output: str


@dataclass(frozen=True)
class Gateway:
    """A running gateway and how to ask it: from inside its container, which has no network."""

    docker: DockerRun
    container: str

    def ask(self, path: str, body: Any = None, *, token: str = "", method: str = "") -> tuple[int, str, str]:
        """Send a request; return status, content type and body."""
        words = ["curl", "-sS", "-m", "300", "-w", "\n%{http_code} %{content_type}", f"{BASE}{path}"]
        words += ["-H", f"Authorization: Bearer {token}"] if token else []
        words += ["-X", method] if method else []
        words += ["-d", "@-"] if body is not None else []
        answer = self.docker("exec", "-i", self.container, *words, stdin=json.dumps(body))
        text, _, last = answer.rpartition("\n")
        status, _, kind = last.partition(" ")
        return int(status), kind, text

    def chat(self, text: str) -> str:
        """Stream one turn; return the server-sent events as they are."""
        body = {"model": "openclaw", "stream": True, "messages": [{"role": "user", "content": text}]}
        status, kind, events = self.ask("/v1/chat/completions", body, token=TOKEN)
        assert (status, kind) == (200, "text/event-stream; charset=utf-8")
        return events

    def answer(self, text: str) -> str:
        """Ask something; return the whole answer."""
        chunks = [json.loads(line[6:]) for line in self.chat(text).splitlines() if line.startswith("data: {")]
        return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


@pytest.fixture(scope="module", params=["stand_in_image", "openclaw_image"])
def image(request: pytest.FixtureRequest) -> str:
    """Return the stand-in, then the real image."""
    return str(request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def gateway(image: str, docker: DockerRun) -> Iterator[Gateway]:
    """Start one gateway with a stub LLM beside it, shared by this module's tests."""
    wait = f"until [ -f /run/mosaic/ready ]; do sleep 0.1; done; exec {RUN}"
    container = docker("run", "-d", "--label", docker.label, *HARDENED, image, "sh", "-c", wait)
    keys = json.dumps({"stub": "key-of-the-stub"})
    stub = (directory("stacks") / "quickstart" / "stub-llm.mjs").read_text("utf-8")
    files = {TOKEN_FILE: TOKEN, KEYS_FILE: keys, CONFIG_FILE: _config(), "/tmp/stub.mjs": stub, "/run/mosaic/ready": ""}
    for path, content in files.items():
        docker("exec", "-i", container, "sh", "-c", f"umask 077; cat > {path}", stdin=content)
    docker("exec", "-d", container, "node", "/tmp/stub.mjs")
    gateway = Gateway(docker, container)
    probe = ["exec", container, "curl", "-s", f"{BASE}/startupz"]
    wait_until(lambda: '"ok":true' in docker(*probe, check=False), seconds=600)
    yield gateway
    docker("rm", "-f", container)


def test_the_version_is_told(image: str, docker: DockerRun) -> None:
    """`openclaw --version` begins with the name and the version."""
    assert _run(docker, image, "openclaw --version").output.startswith("OpenClaw 2026.9.6")


def test_validate_accepts_what_mosaic_renders(image: str, docker: DockerRun) -> None:
    """`config validate` takes a rendered openclaw.json, and one that says nothing."""
    for config in (_config(), "{}"):
        outcome = _run(docker, image, "openclaw config validate", config)
        assert outcome.code == 0
        assert f"Config valid: {CONFIG_FILE}" in outcome.output


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ('{"gateway": {"mode": "local"}, "bogus": 1}', 'Unrecognized key: "bogus"'),
        ('{"gateway":', "JSON5 parse failed"),
        (None, "Config file not found"),
    ],
)
def test_validate_refuses_a_wrong_config(image: str, docker: DockerRun, config: str | None, words: str) -> None:
    """`config validate` ends with 1 and says what is wrong: an unknown key, broken text, no file."""
    outcome = _run(docker, image, "openclaw config validate", config)
    assert outcome.code == 1
    assert words in outcome.output


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "Missing config"),
        ("{}", "missing gateway.mode"),
        ('{"gateway": {"mode": "local"}}', "Refusing to bind gateway to lan without auth"),
        ("with an unknown key", "Unrecognized key"),
    ],
)
def test_a_gateway_ends_with_78_on_a_wrong_config(
    image: str, docker: DockerRun, config: str | None, words: str
) -> None:
    """A gateway without a config, mode or token, or with an unknown key, ends with 78 and says why."""
    if config == "with an unknown key":
        config = json.dumps(json.loads(_config()) | {"bogus": 1})
    outcome = _run(docker, image, RUN, config)
    assert outcome.code == 78
    assert words in outcome.output


def test_a_token_file_that_others_may_read_is_refused(image: str, docker: DockerRun) -> None:
    """A gateway does not start with a token file that its group may read."""
    outcome = _run(docker, image, f"chmod 0440 {TOKEN_FILE}; {RUN}", _config())
    assert outcome.code == 1
    assert "required secrets are unavailable" in outcome.output


def test_the_probes_answer_without_a_token(gateway: Gateway) -> None:
    """`/healthz` says live and `/startupz` says started, both with ok, as JSON."""
    for path, word in (("/healthz", "live"), ("/startupz", "started")):
        status, kind, body = gateway.ask(path)
        assert (status, kind) == (200, "application/json; charset=utf-8")
        assert '"ok":true' in body
        assert json.loads(body)["status"] == word


@pytest.mark.parametrize("token", ["", "wrong", TOKEN + "x"])
def test_a_wrong_token_gets_401(gateway: Gateway, token: str) -> None:
    """Without the token there is one 401, whatever was sent."""
    body = {"messages": [{"role": "user", "content": "hi"}]}
    status, kind, text = gateway.ask("/v1/chat/completions", body, token=token)
    assert (status, kind) == (401, "application/json; charset=utf-8")
    assert json.loads(text) == {"error": {"message": "Unauthorized", "type": "unauthorized"}}


def test_a_chat_streams_from_role_to_done(gateway: Gateway) -> None:
    """A streamed turn is a role, pieces of text, a stop and [DONE], each an event of its own."""
    events = gateway.chat("hello").strip().split("\n\n")
    assert all(event.startswith("data: ") for event in events)
    assert events.pop() == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"] == {"role": "assistant"}
    assert choices[-1] == {"index": 0, "delta": {}, "finish_reason": "stop"}
    assert "".join(choice["delta"].get("content", "") for choice in choices)


def test_a_whole_answer_is_one_object(gateway: Gateway) -> None:
    """A turn that is not streamed is one chat.completion."""
    body = {"model": "openclaw", "messages": [{"role": "user", "content": "hello"}]}
    status, kind, text = gateway.ask("/v1/chat/completions", body, token=TOKEN)
    assert (status, kind) == (200, "application/json; charset=utf-8")
    answer = json.loads(text)
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["content"]


def test_a_bad_request_is_told_as_one(gateway: Gateway) -> None:
    """Without a user message it is 400, with another method 405, on an unknown path 404."""
    status, _, text = gateway.ask("/v1/chat/completions", {"messages": []}, token=TOKEN)
    refusal = {"message": "Missing user message in `messages`.", "type": "invalid_request_error"}
    assert (status, json.loads(text)) == (400, {"error": refusal})
    assert gateway.ask("/v1/chat/completions", token=TOKEN, method="GET")[0] == 405
    assert gateway.ask("/no-such-path", token=TOKEN)[0] == 404


def test_replies_go_to_standard_output_only(gateway: Gateway, endpoint: Endpoint) -> None:
    """OpenClaw prints what it answers, on standard output: so logs that drop that hold no replies."""
    reply = gateway.answer("hello")
    wait_until(lambda: reply in gateway.docker("logs", gateway.container))
    assert reply not in SwarmRuntime(endpoint).logs(gateway.container, tail=1000)


def test_replies_can_be_told_from_log_lines(gateway: Gateway, endpoint: Endpoint) -> None:
    """A printed reply may be one, while the gateway's own lines on standard output are none."""
    reply = gateway.answer("hello again")
    wait_until(lambda: reply in gateway.docker("logs", gateway.container))
    lines = list(SwarmRuntime(endpoint).log_lines(gateway.container))
    shown = [line for line in lines if not may_be_reply(line)]
    assert reply in "".join(line.text for line in lines)
    assert reply not in "".join(line.text for line in shown)
    assert [line for line in shown if line.stream == "stdout" and '"subsystem"' in line.text]


def test_a_login_on_a_terminal_is_saved(gateway: Gateway, endpoint: Endpoint) -> None:
    """A login by our terminal is in the state afterwards, though OpenClaw ends with 1 for its config is not its own."""
    words = [sys.executable, "-c", _LOGIN, endpoint.host, gateway.container]
    with on_terminal(words, size=(40, 100)) as wizard:
        wizard.until("Enter OpenAI API key", "code: ")
        wizard.type("sk-not-a-real-key-0123456789\r")
        wizard.until("saved True, exit 1")
        assert wizard.ended() == 0
    running = gateway.docker("exec", gateway.container, "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert "auth login" not in running


def test_a_gateway_says_whether_it_is_busy(gateway: Gateway) -> None:
    """Asked as `fleet restart` asks it: busy while it answers, ready soon after. (It takes nothing new then.)

    Busy too when it takes longer to say so than one waits for an answer: its processes are stopped meanwhile.
    """
    body = {"model": "openclaw", "stream": True, "messages": [{"role": "user", "content": "sleep:60 hello"}]}
    words = ["curl", "-sSN", "-m", "300", f"{BASE}/v1/chat/completions", "-H", f"Authorization: Bearer {TOKEN}"]
    command = ["docker", "--host", gateway.docker.host, "exec", gateway.container, *words, "-d", json.dumps(body)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as chat:
        assert chat.stdout
        assert chat.stdout.read(1) == b"d"
        gateway.docker("exec", "-d", gateway.container, "sh", "-c", "kill -STOP -1; sleep 12; kill -CONT -1")
        said = _suspend(gateway)
        assert said["status"] == "busy", said
        assert said["blockers"]
        chat.communicate(timeout=300)
    wait_until(lambda: _suspend(gateway)["status"] == "ready", seconds=300)


def test_sigterm_ends_an_idle_gateway_with_0(gateway: Gateway) -> None:
    """A stopped idle gateway ends by itself with 0. (The last test: it ends the shared gateway.)"""
    gateway.docker("stop", "-t", "240", gateway.container)
    assert gateway.docker("inspect", "-f", "{{.State.ExitCode}}", gateway.container) == "0"


def _suspend(gateway: Gateway) -> dict[str, Any]:
    script = (directory("templates") / "agent" / "suspend.js").read_text("utf-8")
    return dict(json.loads(gateway.docker("exec", "-i", gateway.container, "node", "-e", script)))


def _config() -> str:
    models = [{"id": "glm-5", "name": "GLM-5"}]
    address, key = "http://127.0.0.1:11434/v1", SecretStr("key-of-the-stub")
    stub = openclaw.Provider("stub", "custom", "openai-completions", address, models, key)
    return openclaw.render(openclaw.Gateway("stub/glm-5", providers=[stub]))


def _run(docker: DockerRun, image: str, line: str, config: str | None = None) -> Outcome:
    """Run a shell line in a throw-away container with the gateway's files in place."""
    keys = json.dumps({"stub": "key-of-the-stub"})
    lines = ["umask 077", f"echo {TOKEN} > {TOKEN_FILE}", f"echo '{keys}' > {KEYS_FILE}"]
    lines += [f"cat > {CONFIG_FILE}"] if config is not None else []
    script = "; ".join([*lines, f"{{ {line}; }} 2>&1; code=$?; echo; echo $code"])
    container = ["run", "--rm", "-i", "--label", docker.label, *HARDENED, image, "sh", "-c", script]
    output, _, code = docker(*container, stdin=config or "").rpartition("\n")
    return Outcome(int(code), output.strip())

"""`make quickstart` itself, in the sandbox: real OpenClaw gateways on a real Swarm, answering by the stub LLM."""

import json
import re
from pathlib import Path

from tests.docker_run import wait_until
from tests.openclaw.conftest import HOST_STUB, STACK, STUB, Quickstart

AGENTS = {f"{STACK}_jarvis-{name}" for name in ("main", "projects", "research", "operations")}
SOUL = "/home/node/.openclaw/workspace/SOUL.md"
HOSTILE = "quo\"te 's $HOME ${HOME} $$ {{ x }} # no: \\ \U0001f980 end"
NONCE = re.compile(r"stub nonce ([0-9a-f]{32})")


def test_it_ends_with_an_answer_of_the_stub(quickstart: Quickstart) -> None:
    """The first run ends with all agents healthy and two answers, an agent's and a user's gateway's.

    The nonce of each was made for that question: by the stub beside the fleet, and by the one on the host.
    """
    assert "4/4 healthy" in quickstart.output
    for stub, nonce in zip((STUB, HOST_STUB), NONCE.findall(quickstart.output), strict=True):
        (request,) = [one for one in quickstart.requests(stub) if one["nonce"] == nonce]
        assert request["done"]
        assert "Who are you?" in request["message"]
    [gateway] = quickstart.users_gateways()
    assert (gateway["user"], gateway["status"]) == ("demo", "running")


def test_it_tells_what_it_did_and_how_to_undo_it(quickstart: Quickstart) -> None:
    """The output names the stub, the way to a real key and the way to take everything away."""
    assert "provider zai       now asks the stub LLM" in quickstart.output
    for command in (
        'provider set zai --base-url ""',
        "provider set ollama --base-url",
        "mosaic fleet deploy",
        "make down",
    ):
        assert command in quickstart.output


def test_ask_returns_a_nonce_made_for_that_request(quickstart: Quickstart) -> None:
    """Two questions get two answers, and each nonce belongs to the request that carried that question."""
    questions = ["What is seven by six?", "What is six by seven?"]
    answers = [quickstart.mosaic("fleet", "ask", "jarvis-main", text).stdout for text in questions]
    asked = {one["nonce"]: one for one in quickstart.requests()}
    for question, answer in zip(questions, answers, strict=True):
        request = asked[NONCE.findall(answer)[0]]
        assert question in request["message"]
        assert (request["path"], request["model"]) == ("/api/paas/v4/chat/completions", "glm-5")


def test_an_agent_on_ollama_answers(quickstart: Quickstart) -> None:
    """The agent whose model is an Ollama one reaches the stub by Ollama's own protocol."""
    answer = quickstart.mosaic("fleet", "ask", "jarvis-operations", "Is all well?").stdout
    (request,) = [one for one in quickstart.requests() if one["nonce"] in answer]
    assert (request["path"], request["model"]) == ("/api/chat", "cogito")


def test_a_gateway_is_what_the_roster_says(quickstart: Quickstart) -> None:
    """Its personality is SOUL.md in a workspace of its own user, and a process there can gain no privileges."""
    container = quickstart.running()[f"{STACK}_jarvis-main"]
    workspace = "/home/node/.openclaw/workspace"
    assert quickstart.docker("exec", container, "stat", "-c", "%u %a", workspace) == "1000 700"
    personality = json.loads(quickstart.mosaic("agent", "show", "jarvis-main", "--json").stdout)["agent"]["personality"]
    assert quickstart.docker("exec", container, "cat", f"{workspace}/SOUL.md") == personality.strip()
    assert "NoNewPrivs:\t1" in quickstart.docker("exec", container, "cat", "/proc/1/status")
    assert "no new privileges" in quickstart.mosaic("doctor").stdout


def test_an_agent_of_ones_own(quickstart: Quickstart, tmp_path: Path) -> None:
    """A new agent starts and answers, hostile as its texts are, and read back equal; nobody else restarts."""
    soul = tmp_path / "SOUL.md"
    soul.write_text(f"You are a scribe. {HOSTILE}")
    others = quickstart.running()
    model = ("--model", f"m1,name={HOSTILE}")
    quickstart.mosaic(
        "provider", "add", "odd", "--type", "custom", "--base-url", f"http://{STUB}:11434/v1", "--no-test", *model
    )
    quickstart.mosaic("agent", "add", "scribe", "--role", HOSTILE, "--model", "odd/m1", "--personality-file", str(soul))
    assert "create     scribe" in quickstart.mosaic("fleet", "deploy", "--dry-run").stdout
    assert "5/5 healthy" in quickstart.mosaic("fleet", "deploy").stdout
    running = quickstart.running()
    container = running.pop(f"{STACK}_scribe")
    assert running == others
    assert quickstart.docker("exec", container, "cat", SOUL) == soul.read_text()
    assert json.loads(quickstart.docker("inspect", container))[0]["Config"]["Labels"]["com.mosaic.role"] == HOSTILE
    assert NONCE.search(quickstart.mosaic("fleet", "ask", "scribe", "Who are you?").stdout)
    quickstart.mosaic("agent", "remove", "scribe", "--yes")
    quickstart.mosaic("fleet", "deploy", "--prune")
    quickstart.mosaic("provider", "remove", "odd", "--yes")
    wait_until(lambda: f"{STACK}_scribe" not in quickstart.running())


def test_a_second_run_changes_nothing(quickstart: Quickstart) -> None:
    """A second run says unchanged, answers again, and no task was replaced."""
    before = quickstart.running()
    output = quickstart.make("quickstart")
    assert quickstart.running() == before
    assert set(before) == AGENTS | {STUB, HOST_STUB}
    assert f"{STACK} is unchanged" in output
    for line in ("stub llm           unchanged", "roster             unchanged", "provider zai       unchanged"):
        assert line in output
    for line in ("egress.allow       unchanged", "user               unchanged: demo", "unchanged demo"):
        assert line in output
    assert NONCE.search(output)


def test_down_and_up_again_keep_what_is_the_operators(quickstart: Quickstart, stand_in_image: str) -> None:
    """`make down` leaves only volumes and folders; the next quickstart uses the operator's key, address and image.

    The image is the stand-in, which starts in a moment.
    """
    volumes = quickstart.named("volume")
    [gateway] = quickstart.users_gateways()
    output = quickstart.make("down")
    assert quickstart.named("service") + quickstart.named("config") + quickstart.named("secret") == []
    assert quickstart.named("volume") == volumes
    assert "gateway            demo stopped" in output
    assert quickstart.docker("ps", "--all", "--quiet", "--filter", f"name={gateway['container_name']}") == ""
    assert "Kept: the agents' volumes, the database, the key" in output
    assert quickstart.mosaic("config", "get", "egress.allow").stdout.strip() == ""
    key, address = "an-operators-own-key-0123456789", f"http://{STUB}:11434/v1"
    quickstart.mosaic("provider", "set", "zai", "--base-url", address, "--api-key-stdin", "--no-test", stdin=key)
    quickstart.mosaic("config", "set", "fleet.image", stand_in_image)
    output = quickstart.make("quickstart")
    assert "provider zai       unchanged: your own" in output
    assert f"{stand_in_image}, as the setting fleet.image says" in output
    assert "4/4 healthy" in output
    container = quickstart.running()[f"{STACK}_jarvis-main"]
    assert json.loads(quickstart.docker("exec", container, "cat", "/run/secrets/provider_keys")) == {"zai": key}
    config = json.loads(quickstart.docker("exec", container, "cat", "/run/mosaic/openclaw.json"))
    assert config["models"]["providers"]["zai"]["baseUrl"] == address

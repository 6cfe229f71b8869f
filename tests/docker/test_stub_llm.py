"""The stub LLM in a container of the OpenClaw image, as the quickstart runs it."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.docker_run import DockerRun, wait_until

SCRIPT = Path(__file__).parents[2] / "stacks/quickstart/stub-llm.mjs"


class Stub:
    """Speaks HTTP to the stub."""

    def __init__(self, base: str) -> None:
        self.base = base

    def get(self, path: str) -> Any:
        """Get a path's JSON."""
        with urllib.request.urlopen(self.base + path, timeout=60) as response:
            return json.load(response)

    def post(self, path: str, key: str = "", **body: Any) -> str:
        """Post a body and return the whole answer."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        request = urllib.request.Request(self.base + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as response:
            return str(response.read().decode())

    def ready(self) -> bool:
        """Tell whether it answers."""
        with suppress(OSError):
            return bool(self.get("/healthz")["ok"])
        return False


@pytest.fixture(scope="module")
def stub(docker: DockerRun, openclaw_image: str) -> Iterator[Stub]:
    """Run the stub in a container and wait until it answers."""
    node = ("node", "--input-type=module", "-e", SCRIPT.read_text())
    container = docker("run", "-d", "--label", docker.label, openclaw_image, *node)
    address = docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", container)
    stub = Stub(f"http://{address}:11434")
    wait_until(stub.ready)
    yield stub
    docker("rm", "-f", container)


def user(text: str) -> list[dict[str, Any]]:
    """Make a conversation of one message."""
    return [{"role": "system", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": text}]}]


def test_every_answer_has_a_nonce_of_its_own(stub: Stub) -> None:
    """Two answers carry two nonces, each listed with its request's path, model, message and key fingerprint."""
    path = "/api/paas/v4/chat/completions"
    answers = [json.loads(stub.post(path, "sk-0123456789", model="m", messages=user(text))) for text in ("one", "two")]
    first, second = (one["choices"][0]["message"]["content"].removeprefix("stub nonce ") for one in answers)
    listed = {one["nonce"]: one for one in stub.get("/requests")}
    assert (listed[first]["message"], listed[second]["message"]) == ("one", "two")
    assert listed[first]["path"] == path
    assert listed[first]["done"]
    assert listed[first]["key"] == {"last4": "6789", "sha256": sha256(b"sk-0123456789").hexdigest()[:8]}


def test_a_tool_is_called_once(stub: Stub) -> None:
    """Steered to a tool it calls that first, and answers once the result is there, whatever OpenClaw adds after it."""
    asked = user('tool:exec{"command": "true"}')
    called = stub.post("/v1/chat/completions", model="m", stream=True, messages=asked)
    first = json.loads(called.partition("data: ")[2].partition("\n")[0])["choices"][0]["delta"]["tool_calls"][0]
    assert first["function"] == {"name": "exec", "arguments": '{"command": "true"}'}
    assert called.endswith("data: [DONE]\n\n")
    told = [
        *asked,
        {"role": "tool", "tool_call_id": first["id"], "content": "done"},
        {"role": "user", "content": "so?"},
    ]
    assert "nonce " in stub.post("/v1/chat/completions", model="m", stream=True, messages=told)


def test_openclaws_own_context_is_not_the_question(stub: Stub) -> None:
    """The message listed is what the user asked, not what OpenClaw adds after it."""
    context = "<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>\nstatus:500\n<<<END_OPENCLAW_INTERNAL_CONTEXT>>>"
    stub.post("/v1/chat/completions", model="m", messages=user("the question") + user(context))
    assert stub.get("/requests")[-1]["message"] == "the question"


def test_openai_streams_end_with_usage_and_done(stub: Stub) -> None:
    """A stream is chunks whose pieces make the answer, then the usage that was asked for, then [DONE]."""
    body: dict[str, Any] = {
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": user("hi"),
    }
    *lines, done = stub.post("/v1/chat/completions", **body).split("\n\n")[:-1]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    text = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
    assert text == f"stub nonce {stub.get('/requests')[-1]['nonce']}"
    assert chunks[-1]["usage"]["total_tokens"] > 0
    assert done == "data: [DONE]"


def test_ollama_streams_lines_of_json(stub: Stub) -> None:
    """Ollama's chat streams unless told otherwise, and its last line is done."""
    lines = [json.loads(line) for line in stub.post("/api/chat", model="cogito", messages=user("hi")).splitlines()]
    whole = json.loads(stub.post("/api/chat", model="cogito", stream=False, messages=user("hi")))
    assert "".join(line["message"]["content"] for line in lines).startswith("stub nonce ")
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert whole["message"]["content"].startswith("stub nonce ")
    assert stub.get("/api/tags")["models"]
    assert "completion" in json.loads(stub.post("/api/show", model="cogito"))["capabilities"]


def test_words_steer_it(stub: Stub) -> None:
    """sleep:N spreads the answer over pieces, status:N refuses with that status and leaves the request undone."""
    answer = json.loads(stub.post("/v1/chat/completions", model="m", messages=user("sleep:0.5 hi")))
    assert answer["choices"][0]["message"]["content"].startswith("1 stub nonce ")
    with pytest.raises(urllib.error.HTTPError, match="429"):
        stub.post("/v1/chat/completions", model="m", messages=user("status:429"))
    assert not stub.get("/requests")[-1]["done"]


def test_only_the_last_thousand_requests_are_kept(stub: Stub) -> None:
    """The list of requests never grows beyond a thousand."""
    for number in range(1001):
        stub.post("/v1/chat/completions", model="m", messages=user(f"question {number}"))
    listed = stub.get("/requests")
    assert len(listed) == 1000
    assert listed[-1]["message"] == "question 1000"


@pytest.mark.parametrize(("path", "body", "status"), [("/nowhere", b"{}", 404), ("/api/chat", b"{", 400)])
def test_what_it_does_not_know_is_refused(stub: Stub, path: str, body: bytes, status: int) -> None:
    """An unknown path and a broken body are answered as errors."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(stub.base + path, body, timeout=30)
    assert caught.value.code == status
    caught.value.close()

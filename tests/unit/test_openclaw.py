"""openclaw.json: golden files of typical gateways, no secret in any, and user text that OpenClaw leaves alone.

After a wanted change: `MOSAIC_WRITE_GOLDEN=1 python -m pytest tests/unit/test_openclaw.py tests/unit/test_stack.py`,
then read the difference as carefully as code.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import SecretStr

from mosaic_fleet.fleet.openclaw import Gateway, Provider, render
from tests.golden import check_golden

KEY = "sk-planted-secret-0123456789abcdef"
GLM = {"id": "glm-5", "name": "GLM-5", "contextWindow": 200_000, "maxTokens": 8192}
COGITO = {"id": "cogito", "name": "Cogito", "contextWindow": 128_000, "maxTokens": 8192}
EVIL = 'a"b\\c\n${HOME} $${HOME} $HOME {{ 7*7 }} </script> \u2028\x85 漢😀'


def provider(name: str, kind: str, url: str, *models: dict[str, Any], **options: Any) -> Provider:
    """Make a provider of a type that speaks the usual API."""
    api = {"openai": "openai-responses", "anthropic": "anthropic-messages", "ollama": "ollama"}
    return Provider(name, kind, api.get(kind, "openai-completions"), url, models, **options)


def model(model_id: str) -> dict[str, Any]:
    """Make a model with nothing but its id and name."""
    return {"id": model_id, "name": model_id}


ZAI = provider("zai", "zai", "https://api.z.ai/api/paas/v4", GLM, key=SecretStr(KEY))
OLLAMA = provider("ollama", "ollama", "http://10.1.1.42:11434", COGITO)
CASES = {
    "zai-with-fallbacks": Gateway("zai/glm-5", fallback_models=("ollama/cogito", "zai/glm-5"), providers=(ZAI, OLLAMA)),
    "ollama": Gateway("ollama/cogito", providers=(OLLAMA,)),
    "openai": Gateway(
        "openai/gpt-5.5",
        providers=(provider("openai", "openai", "https://api.openai.com/v1", model("gpt-5.5"), key=SecretStr(KEY)),),
    ),
    "anthropic": Gateway(
        "claude/claude-sonnet-4-6",
        providers=(
            provider(
                "claude", "anthropic", "https://api.anthropic.com", model("claude-sonnet-4-6"), key=SecretStr(KEY)
            ),
        ),
    ),
    "custom-with-key": Gateway(
        "my-llm/m1", providers=(provider("my-llm", "custom", "http://llm:8000/v1", model("m1"), key=SecretStr(KEY)),)
    ),
    "login-account": Gateway(
        "openai/gpt-5.5",
        providers=(provider("openai", "openai", "https://api.openai.com/v1", model("gpt-5.5"), login=True),),
    ),
    "schedules-on": Gateway("ollama/cogito", schedules=True, providers=(OLLAMA,)),
    "external-plugin-off": Gateway(
        "mistral/large",
        fallback_models=("groq/fast",),
        providers=(
            provider("mistral", "custom", "https://api.mistral.ai/v1", model("large"), key=SecretStr(KEY)),
            provider("groq", "custom", "https://api.groq.com/openai/v1", model("fast"), key=SecretStr(KEY)),
        ),
    ),
    "hostile-strings": Gateway(
        "my-llm/a/b:${HOME}",
        providers=(provider("my-llm", "custom", "http://llm/v1?a=${HOME}", {"id": "a/b:${HOME}", "name": EVIL}),),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_file_is_the_golden_one(name: str) -> None:
    """Each kind of gateway gets exactly the bytes that were reviewed and tried on OpenClaw."""
    check_golden(name, "openclaw.json", render(CASES[name]))


@pytest.mark.parametrize("name", CASES)
def test_no_secret_is_in_the_file(name: str) -> None:
    """A key is named by the file it comes in, whole or in part it is never there."""
    text = render(CASES[name])
    assert "planted" not in text
    assert "**" not in text


def test_every_golden_folder_has_its_case() -> None:
    """No file stays behind when a case goes."""
    folders = {path.parent.name for path in (Path(__file__).parent / "golden").glob("*/openclaw.json")}
    assert folders == set(CASES)


def block(gateway: Gateway, name: str) -> dict[str, Any]:
    """Return a provider's block of the rendered file."""
    return json.loads(render(gateway))["models"]["providers"][name]


@pytest.mark.parametrize(
    ("case", "name", "key"),
    [
        ("zai-with-fallbacks", "zai", {"source": "file", "provider": "keys", "id": "/zai"}),
        ("zai-with-fallbacks", "ollama", "no-key"),
        ("custom-with-key", "my-llm", {"source": "file", "provider": "keys", "id": "/my-llm"}),
        ("login-account", "openai", None),
    ],
)
def test_a_provider_names_where_its_key_is(case: str, name: str, key: Any) -> None:
    """With a key a place in the file of keys, without one a placeholder, with a login nothing at all."""
    assert block(CASES[case], name).get("apiKey") == key


@pytest.mark.parametrize(("case", "runtime"), [("openai", {"id": "openclaw"}), ("anthropic", None), ("ollama", None)])
def test_openai_runs_in_openclaws_own_harness(case: str, runtime: Any) -> None:
    """Only an OpenAI account needs to be kept from another harness, which OpenClaw would install first."""
    [provider] = json.loads(render(CASES[case]))["models"]["providers"].values()
    assert provider.get("agentRuntime") == runtime


def test_the_file_of_keys_is_named_only_when_there_is_one() -> None:
    """A gateway without any key has one secret file: its token's."""
    files = [json.loads(render(CASES[case]))["secrets"]["providers"] for case in ("openai", "ollama")]
    assert [sorted(one) for one in files] == [["keys", "token"], ["token"]]


def test_a_gateway_is_quiet_and_closed_by_default() -> None:
    """No turn, update, plugin install, terminal or page that nobody asked for."""
    config = json.loads(render(CASES["ollama"]))
    assert config["agents"]["defaults"]["heartbeat"] == {"every": "0m"}
    assert config["plugins"]["entries"]["memory-core"] == {"config": {"dreaming": {"enabled": False}}}
    assert config["cron"] == {"enabled": False}
    assert config["update"] == {"checkOnStart": False}
    assert config["models"]["catalogRefresh"] == {"enabled": False}
    assert config["discovery"] == {"mdns": {"mode": "off"}}
    assert config["gateway"]["controlUi"] == config["gateway"]["terminal"] == {"enabled": False}
    assert config["gateway"]["auth"] == {
        "mode": "token",
        "token": {"source": "file", "provider": "token", "id": "value"},
    }


def openclaw_reads(text: str) -> str:
    """Substitute variables as OpenClaw 2026.9.6 does: left to right, `$${NAME}` is the literal `${NAME}`."""
    return re.sub(
        r"\$(\$\{[A-Z_][A-Z0-9_]*\})|\$\{[A-Z_][A-Z0-9_]*\}",
        lambda match: match[1] or "SUBSTITUTED",
        text,
        flags=re.ASCII,
    )


@given(
    st.lists(st.sampled_from(["$", "{", "}", "A", "_", "9", "a", "${A}", "${}", "é", " "]), max_size=12).map("".join)
)
@example("${HOME}")
@example("$${HOME}")
@example("$$${HOME}$")
@example("${A${B}}")
@example("${a} ${} ${9A} $HOME")
def test_openclaw_reads_what_a_user_wrote(name: str) -> None:
    """No `${NAME}` of a user's text is substituted, and none gains or loses a dollar."""
    gateway = Gateway("x/m", providers=(provider("x", "custom", "http://x/v1", {"id": "m", "name": name}),))
    assert openclaw_reads(block(gateway, "x")["models"][0]["name"]) == name

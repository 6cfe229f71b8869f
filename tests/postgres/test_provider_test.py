"""`mosaic provider test`, `add` and `set` against real servers on loopback: what is proved, offered and refused."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from mosaic_fleet.db.database import Database
from tests import servers
from tests.postgres.machine import Machine, Said
from tests.postgres.test_audit import rows
from tests.servers import answering, serving
from tests.vendors import (
    KEY,
    Asked,
    Reply,
    Vendor,
    anthropic_turn,
    keyed,
    ollama_turn,
    openai_turn,
    responses_turn,
    vendor,
)

MODELS = {"data": [{"id": "glm-5", "context_window": 200_000, "max_tokens": 8192}, {"id": "glm-4"}]}
TAGS = {"models": [{"name": "cogito:8b", "model": "cogito:8b"}, {"name": "tiny", "model": "tiny"}]}


@pytest.fixture(autouse=True)
def loopback(mosaic: Machine) -> None:
    """Let Mosaic call loopback."""
    assert mosaic("config", "set", "egress.allow", "127.0.0.1").exit_code == 0


@pytest.fixture
def zai() -> Iterator[Vendor]:
    """Run a vendor that speaks OpenAI's completions and wants the key."""
    with vendor(models=keyed(MODELS), chat__completions=openai_turn) as made:
        yield made


def add(mosaic: Machine, url: str, *words: str, kind: str = "zai", key: str = KEY) -> Said:
    """Add the provider `p` with a key."""
    return mosaic("provider", "add", "p", "--type", kind, "--base-url", url, "--api-key-stdin", *words, input=key)


def test_a_good_provider_is_saved_as_tested(mosaic: Machine, zai: Vendor) -> None:
    """A key that is accepted is saved, the list shows that it was tested, and its models are offered as a command."""
    said = add(mosaic, zai.url)
    assert said.stdout == "added p\n"
    assert said.stderr == "mosaic provider set p --model glm-5,context=200000,max=8192 --model glm-4\n"
    assert zai.paths == ["GET /models", "GET /models"]
    assert [one.headers.get("authorization") for one in zai.asked] == [f"Bearer {KEY}", None]
    assert mosaic("provider", "list").stdout.rstrip("\n").split("\t")[-1] == "just now ok"
    row = mosaic("provider", "show", "p", "--json").document["provider"]
    assert (row["tested_ok"], row["tested_reason"], bool(row["tested_at"])) == (True, None, True)


def test_a_wrong_key_is_not_saved(mosaic: Machine, zai: Vendor) -> None:
    """The error names address, status and the key's end; neither what the server said nor the provider is kept."""
    code, message, hint = add(mosaic, f"{zai.url}", key="another-key-of-the-team-77aa").error
    assert code == 7
    assert message == f'provider "p" not saved: {zai.url}/… answered 401 (key ends …77aa)'
    assert hint == "check the key, or save it untested with --no-test"
    assert mosaic("provider", "list").stdout == ""


def test_no_test_saves_what_cannot_be_reached(mosaic: Machine) -> None:
    """With --no-test nothing is called; without it the hint tells of it."""
    words = ["provider", "add", "p", "--type", "ollama", "--base-url", "http://10.1.1.42:11434"]
    code, message, hint = mosaic(*words).error
    assert (code, message) == (
        7,
        'provider "p" not saved: http://10.1.1.42:11434/… is at a private address, which egress.allow does not list',
    )
    assert hint == "mosaic config set egress.allow 10.1.1.42:11434   (or save it untested with --no-test)"
    assert mosaic(*words, "--no-test").stdout == "added p\n"
    assert mosaic("provider", "list").stdout.endswith("\tyes\t\n")


@pytest.mark.parametrize(
    ("kind", "words", "replies", "paths"),
    [
        ("zai", [], {"models": keyed(MODELS), "chat__completions": openai_turn}, "/chat/completions"),
        ("openai", [], {"models": keyed(MODELS), "responses": responses_turn}, "/responses"),
        ("anthropic", [], {"v1__models?limit=1000": keyed(MODELS), "v1__messages": anthropic_turn}, "/v1/messages"),
        ("custom", [], {"models": keyed(MODELS), "chat__completions": openai_turn}, "/chat/completions"),
        (
            "ollama",
            [],
            {
                "api__tags": keyed(TAGS),
                "api__show": (200, {"model_info": {"q.context_length": 131_072}}),
                "api__chat": ollama_turn,
            },
            "/api/chat",
        ),
    ],
)
def test_deep_proves_an_answer_a_stream_and_a_tool(
    mosaic: Machine, kind: str, words: list[str], replies: dict[str, Any], paths: str
) -> None:
    """Each type is asked in its own protocol for a short answer, a stream to its end and a call of a tool."""
    with vendor(**replies) as server:
        assert add(mosaic, server.url, "--no-test", kind=kind).exit_code == 0
        tested = mosaic("provider", "test", "p", "--deep", "--json").document
        turns = [one for one in server.asked if one.path == paths]
    assert [(step["name"], step["mark"]) for step in tested["steps"]] == [
        ("authentication", "ok"),
        ("models", "ok"),
        ("completion", "ok"),
        ("streaming", "ok"),
        ("tool call", "ok"),
    ]
    assert [(one.body["stream"], "tools" in one.body) for one in turns] == [
        (False, False),
        (True, False),
        (False, True),
    ]
    assert (tested["url"], tested["skipped"], tested["tested"]) == (f"{server.url}/…", 0, True)
    if kind == "anthropic":
        assert turns[0].headers["anthropic-version"] == "2023-06-01"
        assert turns[0].headers["x-api-key"] == KEY


def test_models_are_offered_with_their_context_windows(mosaic: Machine) -> None:
    """Sizes are read under any key that servers use, Ollama is asked model by model, and --save-models adds them."""
    shown = {"model_info": {"llama.context_length": 131_072, "llama.block_count": 4}}
    with vendor(api__tags=(200, TAGS), api__show=(200, shown)) as server:
        mosaic(
            "provider", "add", "p", "--type", "ollama", "--base-url", server.url, "--no-test", "--model", "tiny,name=T"
        )
        report = mosaic("provider", "test", "p")
        assert report.stdout.splitlines()[0].startswith(f"p  {server.url}/…  answers in ")
        assert "--model cogito:8b,context=131072 --model tiny,context=131072" in report.stderr
        assert mosaic("provider", "test", "p", "--save-models", "-q").stdout == ""
    assert mosaic("provider", "show", "p", "--json").document["provider"]["models"] == [
        {"id": "tiny", "name": "T", "contextWindow": 131_072},
        {"id": "cogito:8b", "name": "cogito:8b", "contextWindow": 131_072},
    ]


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (400, "answered 400 (key ends …wxyz)"),
        (401, "answered 401 (key ends …wxyz)"),
        (403, "answered 403 (key ends …wxyz)"),
        (404, "answered 404: nothing is there (key ends …wxyz)"),
        (429, "answered 429: too many requests, or no quota is left (key ends …wxyz)"),
        (500, "answered 500 (key ends …wxyz)"),
        (503, "answered 503 (key ends …wxyz)"),
    ],
)
def test_a_failed_test_is_told_and_kept(mosaic: Machine, database: Database, status: int, told: str) -> None:
    """The status is told, and with the time kept as why; nothing of the body is repeated."""
    with serving(answering(f"{status} Oops", b"secret-of-the-server")) as server:
        add(mosaic, server.url, "--no-test")
        code, message, hint = mosaic("provider", "test", "p").error
    assert (code, message) == (7, f'provider "p": {server.url}/… {told}')
    assert hint
    row = mosaic("provider", "show", "p", "--json").document["provider"]
    assert (row["tested_ok"], row["tested_reason"]) == (False, f"{server.url}/… {told}")
    assert mosaic("provider", "list").stdout.rstrip("\n").split("\t")[-1] == "just now failed"
    last = rows(database)[-1]
    assert (last["verb"], last["outcome"]) == ("provider.test", "failed")


@pytest.mark.parametrize(
    ("handler", "told"),
    [
        (answering("200 OK", b"<html>secret-of-the-server</html>"), "answered something that is no JSON"),
        (answering("200 OK", b"[" * 100_000), "answered something that is no JSON"),
        (answering("200 OK", b'"secret-of-the-server"'), "answered no list of models"),
        (answering("200 OK", b'{"message": "secret-of-the-server"}'), "answered no list of models"),
        (answering("200 OK", b'{"data": {"a": 1}}'), "answered no list of models"),
        (
            answering("302 Found", b"", "Location: http://169.254.169.254/latest/meta-data/"),
            "answered 302; redirects are not followed",
        ),
        (servers.silent, "did not answer within 1 s"),
        (servers.slow_headers, "did not answer within 1 s"),
        (servers.endless, "answered more than 4 MB"),
        (servers.gzip_bomb(), "answered more than 4 MB"),
        (servers.no_http, "does not answer as HTTP asks for"),
    ],
)
def test_a_misbehaving_server_is_refused(mosaic: Machine, handler: servers.Handler, told: str) -> None:
    """HTML, redirects, silence, floods: each ends in a line within the time, and nothing of it is repeated."""
    timeout = "1s" if "within" in told else "120s"
    with serving(handler) as server:
        add(mosaic, server.url, "--no-test")
        said = mosaic("provider", "test", "p", "--timeout", timeout)
    assert said.error[:2] == (7, f'provider "p": {server.url}/… {told}')
    assert "secret-of-the-server" not in said.stderr


def test_an_untrusted_certificate_is_refused(mosaic: Machine, tmp_path: Path) -> None:
    """A key is not sent to who cannot prove to be whom the address names."""
    with serving(servers.tls(answering("200 OK"), tmp_path)) as server:
        code, message, _ = add(mosaic, f"https://127.0.0.1:{server.port}").error
        assert (code, "shows a certificate that is not trusted" in message) == (7, True)
        assert server.requests == []


def test_ten_thousand_models_are_counted_not_saved(mosaic: Machine) -> None:
    """A long list is offered in part, and saved only by name."""
    many = {"data": [{"id": f"m-{number}", "name": f"Model {number}"} for number in range(10_000)]}
    with vendor(models=keyed(many)) as server:
        add(mosaic, server.url, "--no-test")
        said = mosaic("provider", "test", "p")
        assert "10,000 offered" in said.stdout
        assert said.stderr.count("--model") == 10
        assert "and 9,990 more" in said.stderr
        refused = mosaic("provider", "test", "p", "--save-models").error
    assert refused == (2, 'provider "p" offers 10,000 models: name those you want', "mosaic provider set p --model ID")
    assert mosaic("provider", "show", "p", "--json").document["provider"]["models"] == []


def test_hostile_models_do_no_harm(mosaic: Machine) -> None:
    """Ids with control characters, none, far too long ones or the key itself are only counted."""
    odd: list[Any] = ["\x1b[31mred", "a b", "", "x" * 201, None, 7, ["a"], KEY, f"echo-{KEY}", "\u202eevil", "a\ud800"]
    entries = [{"id": one} for one in odd] + [
        None,
        "text",
        7,
        {},
        {"id": "good", "display_name": "\x1b]0;x\x07", "context_window": "9" * 99},
    ]
    with vendor(models=keyed({"data": entries})) as server:
        add(mosaic, server.url, "--no-test")
        said = mosaic("provider", "test", "p")
        document = mosaic("provider", "test", "p", "--json").document
    assert document["models"] == [{"id": "good", "name": "good"}]
    assert document["skipped"] == len(entries) - 1
    assert "1 offered, 15 more cannot be used by their names" in said.stdout
    assert not [one for one in ("\x1b", "\u202e", KEY) if one in said.stdout + said.stderr]


def test_a_public_list_proves_nothing_about_a_key(mosaic: Machine) -> None:
    """Where anybody is told the models, a key that is refused later is not called accepted."""
    with vendor(models=(200, MODELS), chat__completions=keyed({})) as server:
        assert add(mosaic, server.url, key="another-key-of-the-team-77aa").exit_code == 0
        assert " ! authentication     not proved" in mosaic("provider", "test", "p").stdout
        code, message, _ = mosaic("provider", "test", "p", "--deep").error
    assert (code, message) == (7, f'provider "p": {server.url}/… answered 401 (key ends …77aa)')


def test_a_server_without_a_list_is_asked_for_an_answer(mosaic: Machine) -> None:
    """A server of one's own may have no list of models: then one of the provider's own models must answer."""

    def turn(asked: Asked) -> Reply:
        return openai_turn(asked) if asked.body["model"] == "mine" else (404, {})

    with vendor(chat__completions=turn) as server:
        words = ["provider", "add", "p", "--type", "custom", "--base-url", server.url]
        assert mosaic(*words).error[1].endswith("answered 404: nothing is there")
        assert mosaic(*words, "--model", "other").error[1].endswith("answered 404: nothing is there")
        assert mosaic(*words, "--model", "mine").stdout == "added p\n"


@pytest.mark.parametrize(
    ("turn", "told"),
    [
        ((200, {"choices": []}), "answered glm-5 in no form that is known"),
        ((200, b"<html>"), "answered something that is no JSON"),
        ((500, {}), "answered 500 (key ends …wxyz)"),
        (
            lambda asked: (200, b"data: {}\n\n") if asked.body["stream"] else openai_turn(asked),
            "broke off a streamed answer of glm-5",
        ),
    ],
)
def test_deep_finds_what_the_list_hides(mosaic: Machine, turn: Any, told: str) -> None:
    """A provider whose models do not answer, or whose streams break off, fails although it lists its models."""
    with vendor(models=keyed(MODELS), chat__completions=turn) as server:
        add(mosaic, server.url)
        assert mosaic("provider", "test", "p", "--deep").error[:2] == (7, f'provider "p": {server.url}/… {told}')


def test_a_model_without_tools_is_a_warning(mosaic: Machine, zai: Vendor) -> None:
    """A model that calls no tool is told, because agents need it, and the test passes."""

    def turn(asked: Asked) -> Reply:
        return (400, {}) if "tools" in asked.body else openai_turn(asked)

    zai.replies["/chat/completions"] = turn
    add(mosaic, zai.url)
    said = mosaic("provider", "test", "p", "--deep", "--model", "glm-4")
    assert " ! tool call          glm-4 made none: agents need it" in said.stdout
    assert {one.body["model"] for one in zai.asked if one.body} == {"glm-4"}


def test_set_tests_what_a_test_depends_on(mosaic: Machine, zai: Vendor) -> None:
    """A new key is tested, a new name is not; a failed one changes nothing."""
    add(mosaic, zai.url)
    zai.asked.clear()
    assert mosaic("provider", "set", "p", "--display-name", "Z", "--disable").stdout == "changed p\n"
    assert mosaic("provider", "set", "p", "--api-key-stdin", input=KEY).stdout == "unchanged p\n"
    assert zai.paths == []
    code, message, _ = mosaic("provider", "set", "p", "--api-key-stdin", input="another-key-of-the-team-77aa").error
    assert (code, message) == (7, f'provider "p" not saved: {zai.url}/… answered 401 (key ends …77aa)')
    row = mosaic("provider", "show", "p", "--json").document["provider"]
    assert (row["key_hint"], row["tested_ok"]) == ("wxyz", True)


def test_a_removed_key_needs_no_test(mosaic: Machine, zai: Vendor) -> None:
    """A key can be taken away from a provider that does not answer."""
    with serving(answering("500 Oops")) as server:
        add(mosaic, server.url, "--no-test", kind="custom")
    assert mosaic("provider", "set", "p", "--remove-key").stdout == "changed p\n"


def test_what_tests_nothing_does_not_wait_for_httpx(mosaic: Machine) -> None:
    """The library that calls out is imported only to call out."""
    words = ["provider", "add", "p", "--type", "ollama", "--base-url", "http://10.1.1.42:11434", "--no-test"]
    for command in (words, ["provider", "list"], ["provider", "show", "p"], ["provider", "set", "p", "--disable"]):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "mosaic_fleet", *command],
            env={**os.environ, **mosaic.environ},
            capture_output=True,
            text=True,
            check=True,
        )
        assert "mosaic_fleet.cli.proving" in done.stderr
        assert "httpx" not in done.stderr


def test_an_untested_change_forgets_the_last_test(mosaic: Machine, zai: Vendor) -> None:
    """What was tested is no longer what is stored."""
    add(mosaic, zai.url)
    assert mosaic("provider", "set", "p", "--api-key-stdin", "--no-test", input="x" * 20).stdout == "changed p\n"
    assert mosaic("provider", "show", "p", "--json").document["provider"]["tested_at"] is None


def test_a_key_does_not_follow_a_new_address(mosaic: Machine, zai: Vendor) -> None:
    """Whoever changes an address must have the key: otherwise they could have it sent to themselves."""
    with vendor(models=(200, MODELS)) as other:
        add(mosaic, zai.url)
        for words in (["--base-url", other.url], ["--base-url", other.url, "--no-test"], ["--base-url", ""]):
            code, message, hint = mosaic("provider", "set", "p", *words).error
            assert (code, hint) == (2, "add --api-key-stdin, or --remove-key")
            assert message == f'the key of provider "p" is for {zai.url}: another address needs the key again'
        assert mosaic("provider", "set", "p", "--base-url", f"{zai.url}/", "--no-test").stdout == "unchanged p\n"
        assert other.asked == []
        assert mosaic("provider", "set", "p", "--base-url", other.url, "--api-key-stdin", input=KEY).exit_code == 0
        assert mosaic("provider", "set", "p", "--base-url", zai.url, "--remove-key", "--no-test").exit_code == 0


def test_a_test_changes_nothing_that_agents_get(mosaic: Machine, database: Database, zai: Vendor) -> None:
    """Testing a provider does not make the agents that use it stale."""
    add(mosaic, zai.url, "--no-test")
    before = mosaic("provider", "show", "p", "--json").document["provider"]["updated_at"]
    with psycopg.connect(database.url) as connection:
        connection.execute("UPDATE llm_provider SET updated_at = updated_at - interval '1 hour'")
    mosaic("provider", "test", "p")
    assert mosaic("provider", "show", "p", "--json").document["provider"]["updated_at"] < before


def test_a_change_during_the_test_is_a_conflict(mosaic: Machine, zai: Vendor) -> None:
    """What is saved is what was tested: who changed it meanwhile is not overwritten unseen."""
    add(mosaic, zai.url)

    def meddling(asked: Asked) -> Reply:
        mosaic("provider", "set", "p", "--api-type", "openai-responses", "--no-test")
        return keyed(MODELS, "another-key-of-the-team-77aa")(asked)

    zai.replies["/models"] = meddling
    said = mosaic("provider", "set", "p", "--api-key-stdin", input="another-key-of-the-team-77aa").error
    assert said == (5, 'provider "p" was changed while it was tested', "run the same command")
    assert mosaic("provider", "show", "p", "--json").document["provider"]["key_hint"] == "wxyz"


def test_what_has_no_key_here_cannot_be_tested(mosaic: Machine) -> None:
    """An account that logs in inside its gateway, and one whose key is missing, are saved and told as that."""
    assert mosaic("provider", "add", "sub", "--type", "openai", "--auth", "login").stdout == "added sub\n"
    assert mosaic("provider", "add", "zai", "--type", "zai").stdout == "added zai\n"
    assert mosaic("provider", "test", "sub").error[0] == 2
    assert mosaic("provider", "test", "zai").error == (
        2,
        'provider "zai" has no key to test',
        "mosaic provider set zai --api-key-stdin",
    )
    assert mosaic("provider", "test", "nobody").error[0] == 4
    assert mosaic("provider", "test", "zai", "--model", "m").error == (
        2,
        "--model says which model answers",
        "add --deep",
    )


def test_a_key_is_in_no_log_of_a_test(mosaic: Machine, zai: Vendor) -> None:
    """At the highest verbosity neither the key nor what the server says is shown."""
    zai.replies["/models"] = lambda _: (200, {"data": [{"id": "m"}], "echo": "secret-of-the-server"})
    said = [
        add(mosaic, zai.url, "-v"),
        mosaic("-v", "provider", "test", "p", "--deep"),
        mosaic("provider", "test", "p", "-v"),
    ]
    assert said[0].exit_code == 0
    assert not [one for one in said for text in (KEY, "secret-of", "httpcore") if text in one.stdout + one.stderr]

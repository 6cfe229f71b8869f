"""`mosaic provider`: what it prints, what it refuses, and that a key goes in and never comes out."""

from pathlib import Path

import pytest

from mosaic_fleet.cli import prompts
from tests.postgres.machine import Machine

KEY = "0123456789abcdef-sentinel-9f2c"
OLLAMA = ["provider", "add", "ollama", "--type", "ollama", "--base-url", "http://10.1.1.42:11434", "--no-test"]
ZAI = ["provider", "add", "zai", "--type", "zai", "--no-test"]
# Hostile to YAML, JSON, Jinja, Compose, SQL, shells, terminals and markup.
HOSTILE = [
    "quote ' \" ` \\",
    "line\nbreak: {a: b}\r\n\tend",
    "$x ${HOME} $${y} $(id) pa$w0rd",
    "{{ 7 * 7 }} {% raw %} {# c #}",
    "yes",
    "012",
    "12:34:56",
    "a # c",
    "- item",
    "'; DROP TABLE audit; --",
    "%s %(name)s {0}",
    "\x1b[31mred\x1b[0m \u202e",
    "[bold]x[/bold] <b>&amp;</b>",
    "Ünï ☃ \U0001f600",
    "--yes",
    " spaces ",
]


def test_a_model_in_use_cannot_be_removed(mosaic: Machine) -> None:
    """The agent whose ref names it is named; a model that nobody uses goes."""
    mosaic("provider", "add", "zai", "--type", "zai", "--model", "glm-5", "--model", "glm-4")
    mosaic("agent", "add", "one", "--stack", "office", "--model", "zai/glm-5")
    refused = mosaic("provider", "set", "zai", "--remove-model", "glm-5")
    assert (refused.exit_code, 'agent "one" uses zai/glm-5' in refused.stderr) == (5, True)
    assert mosaic("provider", "set", "zai", "--remove-model", "glm-4").stdout == "changed zai\n"


def test_add_show_list_set_remove(mosaic: Machine) -> None:
    """A provider is added, shown, listed, changed and removed, each in a line."""
    assert mosaic(*OLLAMA, "--model", "cogito,context=128000,name=Cogito").stdout == "added ollama\n"
    assert mosaic(*ZAI, "--api-key-stdin", input=f"{KEY}\n").stdout == "added zai\n"
    assert mosaic("provider", "list").stdout == (
        "ollama\tollama\thttp://10.1.1.42:11434\t\t1\tyes\t\nzai\tzai\tbuilt in\t…9f2c\t0\tyes\t\n"
    )
    assert mosaic("provider", "list", "-q").stdout == "ollama\nzai\n"
    assert mosaic("provider", "set", "zai", "--disable").stdout == "changed zai\n"
    shown = [line.split(maxsplit=1) for line in mosaic("provider", "show", "zai").stdout.splitlines()]
    assert ["key", "…9f2c"] in shown
    assert ["active", "no"] in shown
    assert mosaic("provider", "remove", "zai", "--yes").stdout == "removed zai\n"
    assert mosaic("provider", "list", "-q").stdout == "ollama\n"


def test_everything_has_json(mosaic: Machine) -> None:
    """With --json each command prints one document, in which the key is its hint at most."""
    assert mosaic(*ZAI, "--api-key-stdin", "--json", input=KEY).document == {
        "provider": "zai",
        "changed": True,
        "tested": False,
    }
    provider = mosaic("provider", "show", "zai", "--json").document["provider"]
    assert mosaic("provider", "list", "--json").document == {"providers": [provider]}
    assert provider.pop("updated_at").endswith("+00:00")
    assert provider == {
        "name": "zai",
        "display_name": "zai",
        "type": "zai",
        "base_url": None,
        "auth": "key",
        "has_key": True,
        "key_hint": "9f2c",
        "api_type": "openai-completions",
        "models": [],
        "is_active": True,
        "tested_at": None,
        "tested_ok": None,
        "tested_reason": None,
    }
    assert mosaic("provider", "set", "zai", "--json").document == {"provider": "zai", "changed": False, "tested": False}
    assert mosaic("provider", "remove", "zai", "--yes", "--json").document == {"provider": "zai", "changed": True}


def test_quiet_actions_say_nothing(mosaic: Machine) -> None:
    """With -q an action that went well prints nothing at all."""
    for words in ([*ZAI, "-q"], ["provider", "set", "zai", "--model", "glm-5", "-q"], ["provider", "rm", "zai", "-yq"]):
        said = mosaic(*words)
        assert (said.exit_code, said.stdout, said.stderr) == (0, "", "")


def test_the_second_run_changes_nothing(mosaic: Machine) -> None:
    """The same command again says `unchanged`, whatever it sets."""
    assert mosaic(*ZAI).stdout == "added zai\n"
    assert mosaic(*ZAI, "--if-not-exists").stdout == "unchanged zai\n"
    for words in (
        ["--model", "glm-5,context=200000,max=8192,name=GLM"],
        ["--base-url", "https://example.test/v1"],
        ["--base-url", ""],
        ["--display-name", "Z"],
        ["--api-type", "ollama"],
        ["--auth", "login"],
        ["--disable"],
        ["--enable"],
        ["--api-key-stdin"],
        ["--remove-key"],
        ["--remove-model", "glm-5"],
    ):
        said = [mosaic("provider", "set", "zai", *words, "--no-test", input=KEY).stdout for _ in range(2)]
        assert said == ["changed zai\n", "unchanged zai\n"], words
    assert mosaic(*ZAI).error == (5, 'provider "zai" already exists', "mosaic provider set zai …")


def test_models_are_added_and_taken_away_one_by_one(mosaic: Machine) -> None:
    """`--model` adds or replaces one, `--remove-model` removes one, and the others stay."""
    mosaic(*ZAI, "--model", "a", "--model", "b,context=1000")
    mosaic("provider", "set", "zai", "--model", "b,max=10,name=B", "--model", "c/d:e", "--remove-model", "a")
    assert mosaic("provider", "show", "zai", "--json").document["provider"]["models"] == [
        {"id": "b", "name": "B", "maxTokens": 10},
        {"id": "c/d:e", "name": "c/d:e"},
    ]


def test_a_provider_that_needs_a_key_says_so(mosaic: Machine) -> None:
    """What is still missing is told on standard error, as a command."""
    assert "mosaic provider set zai --api-key-stdin" in mosaic(*ZAI).stderr
    assert mosaic(*OLLAMA).stderr == ""


@pytest.mark.parametrize("name", ["x" * 41, "", "Upper", "a_b", "-a", "a-", "a b", "a/b", "a\n", "ä", "\x1b[31m", "日"])
def test_a_bad_name_is_refused(mosaic: Machine, name: str) -> None:
    """A provider's name is what model refs can carry: anything else exits with 2 and is not saved."""
    code, message, _ = mosaic("provider", "add", "--type", "zai", "--", name).error
    assert code == 2
    assert message.startswith("provider name ")
    assert mosaic("provider", "list").stdout == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--type", "zia"], "provider type 'zia': use one of zai, openai, anthropic, ollama, custom"),
        (["--type", "zai", "--auth", "magic"], "auth 'magic': use one of key, login"),
        (["--type", "zai", "--api-type", "soap"], "api type 'soap': use one of openai-completions"),
        (["--type", "custom"], 'provider "p" of type custom needs an address'),
        (["--type", "zai", "--base-url", "ftp://x"], "address 'ftp://x': write http://"),
        (["--type", "zai", "--base-url", "http://"], "address 'http://': write http://"),
        (["--type", "zai", "--base-url", "http://h:99999"], "address 'http://h:99999': write http://"),
        (["--type", "zai", "--base-url", "http://[::1"], "address 'http://[::1': write http://"),
        (["--type", "zai", "--base-url", "http://h\n"], r"address 'http://h\n': write http://"),
        (["--type", "zai", "--base-url", f"http://u:{KEY}@h"], "an address has no user, password, query or fragment"),
        (["--type", "zai", "--base-url", f"http://h?key={KEY}"], "an address has no user, password, query or fragment"),
        (["--type", "zai", "--model", ""], "model id '': use 1 to 200"),
        (["--type", "zai", "--model", "a b"], "model id 'a b': use 1 to 200"),
        (["--type", "zai", "--model", "x" * 201], "model id 'x"),
        (["--type", "zai", "--model", "a\x1b[31m"], r"model id 'a\x1b[31m': use 1 to 200"),
        (["--type", "zai", "--model", "a", "--model", "a"], "model 'a' is listed twice"),
        (["--type", "zai", "--model", "a,contxt=1"], "model 'a,contxt=1': write ID[,name=…]"),
        (["--type", "zai", "--model", "a,context=many"], "model 'a': contextWindow must be a number of tokens"),
        (["--type", "zai", "--model", "a,context=0"], "model 'a': contextWindow must be a number of tokens"),
        (["--type", "zai", "--model", "a,max=" + "9" * 5000], "model 'a': maxTokens must be a number of tokens"),
        (["--type", "zai", "--display-name", "x" * 201], "display name has 201 characters, at most 200 fit"),
        (["--type", "zai", "--display-name", "a\udcffb"], "display name contains a character that cannot be stored"),
        (["--type", "zai", "--api-key", KEY], "no such option: --api-key"),
        ([], "missing option '--type'"),
    ],
)
def test_a_bad_value_is_refused(mosaic: Machine, words: list[str], message: str) -> None:
    """A value that breaks its rule exits with 2, names what is wrong and saves nothing."""
    code, said, _ = mosaic("provider", "add", "p", *words).error
    assert code == 2
    assert said.startswith(message)
    assert KEY not in said
    assert mosaic("provider", "list").stdout == ""


@pytest.mark.parametrize("verb", [["show"], ["set"], ["set", "--model", "a"], ["remove", "--yes"]])
@pytest.mark.parametrize("name", ["nobody", "\x1b[31m", "a\udcffb", "x" * 5000, "'; --"])
def test_what_is_not_there_is_named(mosaic: Machine, verb: list[str], name: str) -> None:
    """An unknown name, however odd, exits with 4 (or with 2 where it cannot be a name), never with a bug."""
    code, _, hint = mosaic("provider", *verb, "--", name).error
    assert (code, hint) == (2, None) if "\udcff" in name else (4, "mosaic provider list")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_kept_as_it_is(mosaic: Machine, text: str) -> None:
    """A display name comes back equal to the byte, and cannot reach the terminal's controls."""
    assert mosaic(*OLLAMA, f"--display-name={text}").exit_code == 0
    assert mosaic("provider", "show", "ollama", "--json").document["provider"]["display_name"] == text
    shown = mosaic("provider", "show", "ollama").stdout
    assert len(shown.splitlines()) == 12
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert mosaic("provider", "set", "ollama", f"--display-name={text}").stdout == "unchanged ollama\n"


@pytest.mark.parametrize(
    "model", ["$x", "${HOME}", "{{x}}", "'\"\\`", "%s", "yes", "012", "#a", "--yes", "<b>", "☃", "a/b/c"]
)
def test_hostile_models_are_kept_as_they_are(mosaic: Machine, model: str) -> None:
    """A model's id and name come back equal to the byte."""
    assert mosaic(*OLLAMA, f"--model={model},name=N {model}").exit_code == 0
    models = mosaic("provider", "show", "ollama", "--json").document["provider"]["models"]
    assert models == [{"id": model, "name": f"N {model}"}]


@pytest.mark.parametrize("key", [KEY, "short-sentinel", "x" * 4096, "sentinel'\"$\\`{{x}}${HOME}%s"])
def test_a_key_is_never_shown(mosaic: Machine, key: str, tmp_path: Path) -> None:
    """No command prints a key, not even when it logs everything or fails; four characters at most, of long ones."""
    (tmp_path / "key").write_text(f"{key}\r\n")
    said = [
        mosaic("-v", *ZAI, "--api-key-stdin", input=f"{key}\n"),
        mosaic("-v", *ZAI, "--api-key-stdin", input=key),
        mosaic("provider", "set", "zai", "--api-key-file", str(tmp_path / "key"), "-v", "--no-test"),
        mosaic("-v", "provider", "set", "zai", "--auth", "magic", "--api-key-stdin", input=key),
        mosaic("-v", "provider", "show", "zai", "--json"),
        mosaic("-v", "provider", "list", "--json"),
        mosaic("-v", "provider", "show", "zai"),
        mosaic("-v", "secrets", "status"),
    ]
    assert [one.exit_code for one in said] == [0, 5, 0, 2, 0, 0, 0, 0]
    assert said[2].stdout == "unchanged zai\n"
    assert not [one for one in said if key in one.stdout + one.stderr]
    hint = said[4].document["provider"]["key_hint"]
    assert hint == (key[-4:] if len(key) >= 20 else None)


def test_short_keys_show_nothing_of_themselves(mosaic: Machine) -> None:
    """Of a key below 20 characters only is told that it is set."""
    mosaic(*ZAI, "--api-key-stdin", input="x" * 19)
    assert "\tset\t" in mosaic("provider", "list").stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "--api-key-stdin: it is empty"),
        (b"\n", "--api-key-stdin: it is empty"),
        (b"one\ntwo\n", "--api-key-stdin: more than one line"),
        (b"\xff\xfe", "--api-key-stdin: not UTF-8 text"),
        (b"x" * 70_000, "--api-key-stdin: more than 65536 bytes"),
        (b"x" * 5_000, "an API key is 1 to 4096 printable characters without spaces"),
        (b"with space", "an API key is 1 to 4096 printable characters without spaces"),
        (b"nul\0nul", "an API key is 1 to 4096 printable characters without spaces"),
    ],
)
def test_a_bad_key_is_refused(mosaic: Machine, content: bytes, message: str) -> None:
    """What cannot be a key exits with 2, is not repeated and saves nothing."""
    assert mosaic(*ZAI, "--api-key-stdin", input=content).error[:2] == (2, message)
    assert mosaic("provider", "list").stdout == ""


def test_a_key_file_that_cannot_be_read_is_named(mosaic: Machine, tmp_path: Path) -> None:
    """A missing file, or a folder in its place, is told by name."""
    missing, folder = tmp_path / "missing", tmp_path
    for path, why in ((missing, "No such file or directory"), (folder, "Is a directory")):
        said = mosaic(*ZAI, "--api-key-file", str(path)).error
        assert said == (2, f"--api-key-file: {path} cannot be read: {why}", None)


def test_contradictions_are_refused(mosaic: Machine, tmp_path: Path) -> None:
    """Two sources of a key, or a new key together with its removal, are refused."""
    mosaic(*ZAI)
    both = ["--api-key-stdin", "--api-key-file", str(tmp_path / "key")]
    for words in (both, ["--remove-key", "--api-key-stdin"]):
        code, message, _ = mosaic("provider", "set", "zai", *words, input=KEY).error
        assert code == 2
        assert message.endswith("exclude each other")


def test_a_provider_in_use_stays(mosaic: Machine) -> None:
    """A provider that agents use is not removed, and they are named, whichever way they use it."""
    for name in ("one", "two", "three"):
        mosaic("provider", "add", name, "--type", "zai", "--model", "m")
    mosaic("agent", "add", "a", "--stack", "office", "--model", "one/m", "--fallback", "two/m", "--provider", "three")
    mosaic("agent", "add", "b", "--provider", "three")
    for name, users in (("one", "a"), ("two", "a"), ("three", "a, b")):
        said = mosaic("provider", "remove", name, "--yes").error
        assert said == (5, f'provider "{name}" is used by {users}', "mosaic agent set AGENT --model …")
    assert mosaic("provider", "list", "-q").stdout == "one\nthree\ntwo\n"


def test_removing_is_asked_for(mosaic: Machine) -> None:
    """Where nobody can answer, `remove` without --yes exits with 2 and names the flag."""
    mosaic(*ZAI)
    code, _, hint = mosaic("provider", "remove", "zai").error
    assert (code, hint) == (2, "add --yes")
    assert mosaic("provider", "list", "-q").stdout == "zai\n"


def test_set_says_who_uses_it(mosaic: Machine) -> None:
    """After a change the agents that use the provider are named, with the deploy that gives it to them; others not."""
    mosaic(
        "provider", "add", "zai", "--type", "zai", "--model", "glm-5", "--api-key-stdin", "--no-test", input="key-one"
    )
    mosaic("provider", "add", "spare", "--type", "openai", "--api-key-stdin", "--no-test", input="key-one")
    for name in ("one", "two"):
        mosaic("agent", "add", name, "--stack", "office", "--model", "zai/glm-5")
    said = mosaic("provider", "set", "zai", "--api-key-stdin", "--no-test", input="key-two")
    assert said.stderr == "used by one, two, who get it with: mosaic fleet deploy --stack office\n"
    assert mosaic("provider", "set", "zai", "--api-key-stdin", "--no-test", input="key-two").stderr == ""
    assert mosaic("provider", "set", "spare", "--api-key-stdin", "--no-test", input="key-two").stderr == ""
    assert mosaic("provider", "set", "zai", "--api-key-stdin", "--no-test", "--json", input="key-three").stderr == ""


@pytest.mark.parametrize(("answer", "code"), [("y", 7), ("n", 0), ("", 0)])
def test_set_offers_the_deploy(mosaic: Machine, monkeypatch: pytest.MonkeyPatch, answer: str, code: int) -> None:
    """Where somebody is there a yes deploys (here into the void: no Docker), anything else leaves it."""
    mosaic(
        "provider", "add", "zai", "--type", "zai", "--model", "glm-5", "--api-key-stdin", "--no-test", input="key-one"
    )
    mosaic("agent", "add", "one", "--stack", "office", "--model", "zai/glm-5")
    monkeypatch.setattr(prompts, "can_ask", lambda: True)
    said = mosaic("provider", "set", "zai", "--display-name", "Z", input=f"{answer}\n")
    assert said.exit_code == code
    assert "Deploy office now? [y/N]" in said.stderr
    assert said.stdout == "changed zai\n"
    assert mosaic("provider", "show", "zai", "--json").document["provider"]["display_name"] == "Z"

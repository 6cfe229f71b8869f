"""The roster file: what it says, and every way it can be wrong, with line and key."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mosaic_fleet.errors import ConfigurationError
from mosaic_fleet.fleet.roster import parse, read
from mosaic_fleet.resources import directory

AGENTS = "agents:\n  a: {}\n"
GOOD = """\
stack: team
network: team_net
providers:
  local:
    type: ollama
    base_url: http://10.0.0.1:11434
    models:
      - {id: cogito, name: Cogito, context_window: 128000, max_tokens: 8192}
agents:
  one:
    role: first
    model: local/cogito
    fallbacks: [local/other]
    providers: [spare]
    memory: {limit: 2G, reservation: 512M}
    cpus: 1.5
    schedules: true
    personality: |
      You are one.
  two: {}
"""


def test_a_roster_becomes_columns() -> None:
    """Keys of the file become columns of providers and agents, sizes bytes."""
    file = parse(GOOD)
    assert (file.stack, file.network) == ("team", "team_net")
    assert file.providers == {
        "local": {
            "type": "ollama",
            "base_url": "http://10.0.0.1:11434",
            "models": [{"id": "cogito", "name": "Cogito", "contextWindow": 128_000, "maxTokens": 8192}],
        }
    }
    assert file.agents == {
        "one": {
            "role": "first",
            "primary_model": "local/cogito",
            "fallback_models": ["local/other"],
            "providers": ["spare"],
            "memory_limit": 2_147_483_648,
            "memory_reservation": 536_870_912,
            "cpu_limit": 1.5,
            "schedules": True,
            "personality": "You are one.\n",
        },
        "two": {},
    }


def test_entries_know_their_lines() -> None:
    """A value that a room refuses later can still be placed: each provider and agent has its line."""
    entries = parse(GOOD).entries
    assert {path: entry.line for path, entry in entries.items()} == {
        "providers.local": 4,
        "agents.one": 10,
        "agents.two": 20,
    }
    assert entries["agents.one"].fail("no").message == "line 10: agents.one: no"


def test_network_and_providers_may_be_left_out() -> None:
    """The smallest roster is a stack with an agent."""
    file = parse(f"stack: team\n{AGENTS}")
    assert (file.network, file.providers, file.agents) == (None, {}, {"a": {}})


@pytest.mark.parametrize(
    "change", [("\n", "\r\n"), ("stack: team", "\ufeffstack: team"), ("stack: team", "---\nstack: team")]
)
def test_another_editor_changes_nothing(change: tuple[str, str], tmp_path: Path) -> None:
    """Windows line ends, a byte order mark or a document start are read as if they were not there."""
    path = tmp_path / "roster.yml"
    path.write_bytes(GOOD.replace(*change).encode())
    assert read(path).agents == parse(GOOD).agents


def test_an_anchor_is_shared() -> None:
    """YAML's own way to say a thing once works."""
    file = parse("stack: s\nagents:\n  a: {memory: &m {limit: 2G}}\n  b: {memory: *m}\n")
    assert file.agents["a"] == file.agents["b"] == {"memory_limit": 2_147_483_648}


def test_the_shipped_roster_is_good() -> None:
    """stacks/jarvis.yml has four agents, and only the watching one has schedules."""
    file = read(directory("stacks") / "jarvis.yml")
    assert (file.stack, file.network) == ("jarvis", "mosaic-stack_internal")
    assert sorted(file.agents) == ["jarvis-main", "jarvis-operations", "jarvis-projects", "jarvis-research"]
    assert [name for name, agent in file.agents.items() if agent.get("schedules")] == ["jarvis-operations"]
    assert min(agent["memory_limit"] for agent in file.agents.values()) == 2_147_483_648


BAD: dict[str, tuple[str, str]] = {
    "empty": ("", "line 1: the file is empty"),
    "only a comment": ("# nothing\n", "line 1: the file is empty"),
    "a word": ("jarvis", "line 1: the file: must be a mapping of keys to values"),
    "a list": ("- a\n", "line 1: the file: must be a mapping of keys to values"),
    "no stack": (AGENTS, "line 1: the file: the key 'stack' is missing"),
    "no agents": ("stack: s\n", "line 1: the file: the key 'agents' is missing"),
    "agents is null": ("stack: s\nagents:\n", "line 2: agents: must be a mapping of keys to values"),
    "agents is a list": ("stack: s\nagents:\n  - a\n", "line 2: agents: must be a mapping of keys to values"),
    "stack is a number": (f"stack: 7\n{AGENTS}", "line 1: stack: must be text; quote it"),
    "stack is yes": (f"stack: yes\n{AGENTS}", "line 1: stack: must be text; quote it"),
    "stack is a date": (f"stack: 2026-01-01\n{AGENTS}", "line 1: stack: must be text; quote it"),
    "stack is no date": (
        f"stack: 2026-99-99\n{AGENTS}",
        "line 1: stack: this is no value; quote it if it is text",
    ),
    "stack is a long number": (
        f"stack: {'1' * 5000}\n{AGENTS}",
        "line 1: stack: this is no value; quote it if it is text",
    ),
    "network is null": (f"stack: s\nnetwork:\n{AGENTS}", "line 2: network: must be text; quote it"),
    "unknown key": (f"stack: s\nagent: {{}}\n{AGENTS}", "line 2: agent: unknown key, did you mean agents?"),
    "unknown key, nothing near": (
        f"stack: s\nversion: 3\n{AGENTS}",
        "line 2: version: unknown key, did you mean agents or network or providers or stack?",
    ),
    "unknown key of an agent": (
        "stack: s\nagents:\n  a:\n    role: x\n    modle: x/y\n",
        "line 5: agents.a.modle: unknown key, did you mean model?",
    ),
    "unknown key of a memory": (
        "stack: s\nagents:\n  a:\n    memory: {limits: 2G}\n",
        "line 4: agents.a.memory.limits: unknown key, did you mean limit?",
    ),
    "unknown key of a provider": (
        f"stack: s\nproviders:\n  p: {{type: ollama, url: x}}\n{AGENTS}",
        "line 3: providers.p.url: unknown key, did you mean ",
    ),
    "a key of a provider": (
        f"stack: s\nproviders:\n  p: {{type: zai, api_key: sk-1}}\n{AGENTS}",
        "line 3: providers.p.api_key: unknown key, did you mean api_type?",
    ),
    "unknown key of a model": (
        f"stack: s\nproviders:\n  p:\n    type: ollama\n    models:\n      - id: a\n      - nam: b\n{AGENTS}",
        "line 7: providers.p.models[1].nam: unknown key, did you mean name?",
    ),
    "a provider without type": (
        f"stack: s\nproviders:\n  p: {{}}\n{AGENTS}",
        "line 3: providers.p: the key 'type' is missing",
    ),
    "models is a mapping": (
        f"stack: s\nproviders:\n  p: {{type: zai, models: {{}}}}\n{AGENTS}",
        "line 3: providers.p.models: must be a list",
    ),
    "context is text": (
        f"stack: s\nproviders:\n  p: {{type: zai, models: [{{id: a, context_window: lots}}]}}\n{AGENTS}",
        "line 3: providers.p.models[0].context_window: must be a number",
    ),
    "cpus is true": ("stack: s\nagents:\n  a: {cpus: true}\n", "line 3: agents.a.cpus: must be a number"),
    "schedules is text": (
        "stack: s\nagents:\n  a: {schedules: 'on'}\n",
        "line 3: agents.a.schedules: must be true or false",
    ),
    "fallbacks is text": ("stack: s\nagents:\n  a: {fallbacks: x/y}\n", "line 3: agents.a.fallbacks: must be a list"),
    "a fallback is a number": (
        "stack: s\nagents:\n  a:\n    fallbacks:\n      - x/y\n      - 5\n",
        "line 6: agents.a.fallbacks[1]: must be text; quote it",
    ),
    "memory is a size": (
        "stack: s\nagents:\n  a: {memory: 2G}\n",
        "line 3: agents.a.memory: must be a mapping of keys to values",
    ),
    "a bad size": (
        "stack: s\nagents:\n  a: {memory: {limit: lots}}\n",
        "line 3: agents.a.memory.limit: size 'lots': write for instance 2G or 512M",
    ),
    "a negative size": (
        "stack: s\nagents:\n  a: {memory: {limit: -1}}\n",
        "line 3: agents.a.memory.limit: size '-1': write for instance 2G or 512M",
    ),
    "an agent is text": ("stack: s\nagents:\n  a: x\n", "line 3: agents.a: must be a mapping of keys to values"),
    "an agent twice": (
        "stack: s\nagents:\n  a: {}\n  b: {}\n  a: {}\n",
        "line 5: agents.a: this key stands here twice",
    ),
    "a key twice": (f"stack: s\nstack: t\n{AGENTS}", "line 2: stack: this key stands here twice"),
    "a list as key": ("? [a]\n: b\n", "line 1: the file: its keys must be words"),
    "a line as key": ('"a\\nb": c\n', "line 1: the file: its keys must be words"),
    "a tab": ("stack: s\nagents:\n\ta: {}\n", "line 3: this is no YAML: "),
    "a missing quote": (f'stack: "s\n{AGENTS}', "line "),
    "a bad indent": ("stack: s\nagents:\n  a: {}\n b: {}\n", "line 4: this is no YAML: "),
    "an unknown alias": ("stack: *s\n", "line 1: this is no YAML: found undefined alias"),
    "a foreign tag": ("stack: !!python/object/apply:os.system [x]\n", "line 1: "),
    "a foreign tag on text": (
        "stack: !!python/name:os.system x\n",
        "line 1: this is no YAML: could not determine a constructor for the tag",
    ),
    "two documents": (f"stack: s\n{AGENTS}---\na: b\n", "line 4: this is no YAML: but found another document"),
    "a control character": ("stack: a\x01b\n", "this is no YAML: "),
    "an alias inside itself": ("stack: s\nagents: &a\n  a: *a\n", "line "),
    "a nameless alias inside itself": ('&a {"": *a}', "line 1: the file: its keys must be words"),
    "a dotted alias inside itself": ('&a {".": *a}', "line 1: the file unfolds to too many values"),
    "nested without end": ("[" * 200_000, "line 1: the file is nested too deep"),
    "nested mappings": ("{a: " * 100_000, "line 1: the file is nested too deep"),
    "too long": ("#" * 1_000_001, "a roster file has at most a million characters"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_placed(name: str) -> None:
    """Whatever is wrong, the message is one line that begins with the place."""
    text, problem = BAD[name]
    with pytest.raises(ConfigurationError) as caught:
        parse(text)
    assert caught.value.message.startswith(problem)
    assert caught.value.message.isprintable()


def test_aliases_of_aliases_are_refused() -> None:
    """A few lines that unfold to a thousand million values are refused before they fill the memory."""
    levels = ["stack: s", "l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 10)]
    with pytest.raises(ConfigurationError, match=r"^line \d+: the file unfolds to too many values$"):
        parse("\n".join([*levels, "agents: *l9"]))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file or directory"),
        (b"stack: \xff\n", "this is no UTF-8 text"),
        (b"stack: 7\nagents: {}\n", "line 1: stack: must be text; quote it"),
    ],
)
def test_a_bad_file_is_named(content: bytes | None, problem: str, tmp_path: Path) -> None:
    """The message begins with the file's path."""
    path = tmp_path / "roster.yml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        read(path)
    assert caught.value.message == f"{path}: {problem}"


def test_a_folder_is_no_roster(tmp_path: Path) -> None:
    """A path that is a folder is refused by name."""
    with pytest.raises(ConfigurationError, match=r"Is a directory$"):
        read(tmp_path)


PIECES = st.sampled_from(
    [
        "stack: s\n",
        "agents:\n",
        "  a: {}\n",
        "  a:\n",
        "    memory: {limit: 2G}\n",
        "providers:\n",
        "- ",
        ": ",
        "&x ",
        "*x",
        "!!int ",
        "!!bool ",
        "!!timestamp ",
        "!!float ",
        "!!binary ",
        "0b_",
        "2026-99-99",
        "<<: ",
        "? ",
        "[",
        "]",
        "{",
        "}",
        *["\n", "  ", "\t", "'", '"', "|\n", ">-\n", "#", "%", "---\n", "...\n", "~", ".nan", "1:99", "\x85", "\u2028"],
    ]
)


@given(st.text(max_size=60) | st.lists(PIECES, max_size=12).map("".join))
@example("stack: !!int ''")
@example("stack: !!bool maybe")
@example("stack: !!timestamp now")
@example("stack: 0b_")
def test_any_text_is_a_roster_or_refused_in_one_line(text: str) -> None:
    """No text makes the parser fail with anything but ConfigurationError."""
    problem = ""
    try:
        parse(text)
    except ConfigurationError as error:
        problem = error.message
    assert problem.isprintable()

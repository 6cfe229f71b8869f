"""`mosaic agent`: the roster by hand and by file, kept as written or not written at all."""

from pathlib import Path

import psycopg
import pytest

from mosaic_fleet.db.database import Database
from mosaic_fleet.fleet import agents
from tests.postgres.machine import JARVIS, Machine, Said
from tests.postgres.test_cli_provider import HOSTILE

AGENTS = ["jarvis-main", "jarvis-operations", "jarvis-projects", "jarvis-research"]


@pytest.fixture
def zai(mosaic: Machine) -> Machine:
    """Return a machine with a provider `zai` whose models are glm-5 and glm-4."""
    mosaic("provider", "add", "zai", "--type", "zai", "--model", "glm-5", "--model", "glm-4")
    return mosaic


def shown(mosaic: Machine, name: str) -> dict[str, object]:
    agent = mosaic("agent", "show", name, "--json").document["agent"]
    assert isinstance(agent, dict)
    return agent


def import_text(mosaic: Machine, folder: Path, text: str | bytes, *words: str) -> Said:
    path = folder / "roster.yml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return mosaic("agent", "import", str(path), *words)


def rows(database: Database) -> list[int]:
    """Count what an import may write."""
    with psycopg.connect(database.url) as connection:
        tables = ("stack", "llm_provider", "system_container", "audit")
        return [len(connection.execute(f"SELECT FROM {table}").fetchall()) for table in tables]


def test_add_show_list_set_remove(zai: Machine) -> None:
    """An agent is added, listed, changed and removed, each in a line."""
    assert zai("agent", "add", "one", "--stack", "office").stdout == "added one to stack office\n"
    assert zai("agent", "add", "two", "--model", "zai/glm-5").stdout == "added two to stack office\n"
    assert zai("agent", "add", "two", "--model", "zai/glm-4", "--if-not-exists").stdout == "unchanged two\n"
    assert zai("agent", "list").stdout == "one\toffice\t\t\t2G\tno\tyes\ntwo\toffice\t\tzai/glm-5\t2G\tno\tyes\n"
    assert zai("agent", "list", "-q", "--stack", "office").stdout == "one\ntwo\n"
    assert zai("agent", "list", "-q", "--stack", "other").stdout == ""
    assert zai("agent", "set", "one", "--memory", "3G", "--role", "x").stdout == "changed one: role, memory_limit\n"
    assert "memory       3G, reserved 512M" in zai("agent", "show", "one").stdout
    assert zai("agent", "remove", "one", "--yes").stdout == "removed one\n"
    assert zai("agent", "list", "-q").stdout == "two\n"


def test_an_agent_like_another(zai: Machine) -> None:
    """It takes over what is not given, its stack too, but a token of its own; an unknown one is not found."""
    zai("agent", "add", "one", "--stack", "office", "--role", "first", "--model", "zai/glm-5", "--memory", "3G")
    assert zai("agent", "add", "two", "--like", "one", "--role", "second").stdout == "added two to stack office\n"
    assert shown(zai, "two") | {"role": "first", "name": "one"} == shown(zai, "one") | {
        key: shown(zai, "two")[key] for key in ("updated_at", "changed_at")
    }
    refused = zai("agent", "add", "three", "--like", "nobody")
    assert (refused.exit_code, 'no agent "nobody"' in refused.stderr) == (4, True)


def test_an_agent_like_one_with_an_adopted_volume(zai: Machine, database: Database) -> None:
    """The volume that an adoption found is the one agent's memory: another like it gets a volume of its own."""
    zai("agent", "add", "one", "--stack", "office", "--model", "zai/glm-5")
    with database.transaction(system=True) as session:
        agents.set(session, "one", {"volume": "old_home", "node_id": "n1", "replicas": 0})
    zai("agent", "add", "two", "--like", "one")
    with database.transaction(system=True) as session:
        two = agents.get(session, "two")
        assert (two.volume, two.node_id, two.replicas, two.primary_model) == (None, None, 1, "zai/glm-5")


def test_an_empty_model_or_size_is_refused(zai: Machine) -> None:
    """An empty model ref would let OpenClaw choose a vendor of its own, an empty size was meant to be one."""
    zai("agent", "add", "one", "--stack", "office", "--model", "zai/glm-5")
    for option in ("--model", "--memory", "--memory-reservation"):
        assert zai("agent", "set", "one", option, "").exit_code == 2
    assert shown(zai, "one")["primary_model"] == "zai/glm-5"


def test_a_stack_that_was_never_deployed_goes_with_its_last_agent(zai: Machine) -> None:
    """A mistyped stack does not make every later command ask for --stack."""
    zai("agent", "add", "one", "--stack", "office")
    zai("agent", "add", "two", "--stack", "offcie")
    assert "several stacks" in zai("agent", "add", "three").stderr
    zai("agent", "remove", "two", "--yes")
    assert zai("agent", "add", "three").stdout == "added three to stack office\n"


def test_an_import_tells_of_another_network(zai: Machine, tmp_path: Path) -> None:
    """A file that moves its stack is a change; one that names no network leaves it where it is."""
    text = "stack: office\nagents: {one: {model: zai/glm-5}}\n"
    import_text(zai, tmp_path, text)
    moved = import_text(zai, tmp_path, f"network: elsewhere\n{text}")
    assert moved.stdout == "stack      office\nunchanged  one\n"
    assert import_text(zai, tmp_path, text).stdout == "unchanged  one\n"


def test_everything_has_json(zai: Machine) -> None:
    """With --json each command prints one document, free of the gateway's token."""
    added = zai("agent", "add", "one", "--stack", "office", "--model", "zai/glm-5", "--json").document
    assert added == {"agent": "one", "stack": "office", "changed": True}
    agent = shown(zai, "one")
    assert zai("agent", "list", "--json").document == {"agents": [agent]}
    assert str(agent.pop("updated_at")) <= str(agent.pop("changed_at"))
    assert agent == {
        "name": "one",
        "stack": "office",
        "role": "",
        "primary_model": "zai/glm-5",
        "fallback_models": [],
        "providers": [],
        "personality": None,
        "schedules": False,
        "image": None,
        "memory_limit": 2 << 30,
        "memory_reservation": 512 << 20,
        "cpu_limit": None,
        "replicas": 1,
        "node_id": None,
        "is_active": True,
    }
    changed = zai("agent", "set", "one", "--disable", "--json").document
    assert changed == {"agent": "one", "changed": True, "fields": ["is_active"]}
    assert zai("agent", "remove", "one", "--yes", "--json").document == {"agent": "one", "changed": True}


def test_quiet_actions_say_nothing(zai: Machine) -> None:
    """With -q an action that went well prints nothing at all."""
    for words in (
        ["add", "one", "--stack", "s"],
        ["set", "one", "--role", "r"],
        ["rm", "one", "-y"],
        ["import", JARVIS],
    ):
        said = zai("agent", *words, "-q")
        assert (said.exit_code, said.stdout, said.stderr) == (0, "", "")


def test_the_second_run_changes_nothing(zai: Machine, tmp_path: Path) -> None:
    """The same change again says `unchanged`, whatever it sets."""
    (tmp_path / "SOUL.md").write_text("You are one.\n")
    zai("agent", "add", "one", "--stack", "office")
    for words, field in (
        (["--role", "research"], "role"),
        (["--model", "zai/glm-5"], "primary_model"),
        (["--fallback", "zai/glm-4"], "fallback_models"),
        (["--no-fallbacks"], "fallback_models"),
        (["--provider", "zai"], "providers"),
        (["--no-providers"], "providers"),
        (["--personality-file", str(tmp_path / "SOUL.md")], "personality"),
        (["--personality-file", "/dev/null"], "personality"),
        (["--memory", "3G"], "memory_limit"),
        (["--memory-reservation", "1G"], "memory_reservation"),
        (["--cpus", "1.5"], "cpu_limit"),
        (["--cpus", "0"], "cpu_limit"),
        (["--schedules"], "schedules"),
        (["--disable"], "is_active"),
    ):
        said = [zai("agent", "set", "one", *words).stdout for _ in range(2)]
        assert said == [f"changed one: {field}\n", "unchanged one\n"]
    assert zai("agent", "add", "one").error == (5, 'agent "one" already exists', "mosaic agent set one …")


@pytest.mark.parametrize(
    "name", ["x" * 25, "", "Upper", "a_b", "-a", "a-", "a b", "a/b", "a\n", "ä", "\x1b[31m", "{{x}}"]
)
def test_a_bad_name_is_refused(mosaic: Machine, database: Database, name: str) -> None:
    """A name that does not fit a Docker config's exits with 2, for an agent and for a stack, and writes nothing."""
    code, message, _ = mosaic("agent", "add", "--stack", "office", "--", name).error
    assert (code, message.split(" name ")[0]) == (2, "agent")
    code, message, _ = mosaic("agent", "add", "fine", f"--stack={name or '-'}").error
    assert (code, message.split(" name ")[0]) == (2, "stack")
    assert rows(database) == [0, 0, 0, 0]


def test_names_may_be_this_long(mosaic: Machine) -> None:
    """An agent of 24 and a stack of 20 characters are accepted, 21 for the stack are not."""
    assert mosaic("agent", "add", "a" * 24, "--stack", "s" * 20).exit_code == 0
    assert mosaic("agent", "add", "b", "--stack", "s" * 21).exit_code == 2


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--model", "nobody/m"], 4, 'agent "a" uses provider "nobody", which does not exist'),
        (["--model", "zai/other"], 4, 'agent "a": provider "zai" has no model "other"'),
        (["--model", "zai"], 2, "model ref 'zai': write <provider>/<model id>"),
        (["--fallback", "zai/"], 2, "model id '': use 1 to 200"),
        (["--fallback", "zai/other"], 4, 'agent "a": provider "zai" has no model "other"'),
        (["--provider", "nobody"], 4, 'agent "a" uses provider "nobody", which does not exist'),
        (["--model", "zai/\x1b[31m"], 2, r"model id '\x1b[31m': use 1 to 200"),
        (["--role", "x" * 201], 2, "role has 201 characters, at most 200 fit"),
        (["--role", "a\udcffb"], 2, "role contains a character that cannot be stored"),
        (["--memory", "lots"], 2, "size 'lots': write for instance 2G or 512M"),
        (["--memory", "9" * 400], 2, "size '9999"),
        (["--memory", "9" * 15 + "T"], 2, "size '999999999999999T'"),
        (["--memory", "128M"], 2, 'agent "a": a memory limit below 256M cannot run OpenClaw'),
        (["--memory", "1G", "--memory-reservation", "2G"], 2, 'agent "a": the memory reservation must not exceed'),
        (["--cpus", "-1"], 2, 'agent "a": a CPU limit is a number of cores from 0.1 on'),
        (["--cpus", "nan"], 2, 'agent "a": a CPU limit is a number of cores from 0.1 on'),
        (["--cpus", "many"], 2, "invalid value for '--cpus'"),
        (["--personality-file", "/nonexistent"], 2, "--personality-file: /nonexistent cannot be read as text"),
        (["--personality-file", "/bin/true"], 2, "--personality-file: /bin/true cannot be read as text"),
    ],
)
def test_a_bad_value_is_refused(zai: Machine, database: Database, words: list[str], code: int, message: str) -> None:
    """A value that breaks its rule, or names what is not there, is told and leaves neither agent nor stack."""
    before = rows(database)
    said = zai("agent", "add", "a", "--stack", "office", *words).error
    assert said[0] == code
    assert said[1].startswith(message)
    assert rows(database)[:3] == before[:3]


def test_a_personality_may_be_this_long(mosaic: Machine, tmp_path: Path) -> None:
    """20,000 characters, which OpenClaw reads at most, are accepted, one more is not, nor is a NUL."""
    path = tmp_path / "SOUL.md"
    path.write_text("☃" * 20_000)
    assert mosaic("agent", "add", "one", "--stack", "s", "--personality-file", str(path)).exit_code == 0
    for text, message in (
        ("☃" * 20_001, "has 20001 characters"),
        ("a\0b", "contains a character that cannot be stored"),
    ):
        path.write_text(text)
        code, said, _ = mosaic("agent", "set", "one", "--personality-file", str(path)).error
        assert code == 2
        assert said.startswith(f"personality {message}")
    assert shown(mosaic, "one")["personality"] == "☃" * 20_000


@pytest.mark.parametrize("text", [*HOSTILE, "\ufeffBOM", "\r\n\r\r\n", "trailing \n\n"])
def test_hostile_text_is_kept_as_it_is(mosaic: Machine, tmp_path: Path, text: str) -> None:
    """A role and a personality come back equal to the byte, and cannot reach the terminal's controls."""
    (tmp_path / "SOUL.md").write_bytes(text.encode())
    words = [f"--role={text}", "--personality-file", str(tmp_path / "SOUL.md")]
    assert mosaic("agent", "add", "one", "--stack", "office", *words).exit_code == 0
    agent = shown(mosaic, "one")
    assert (agent["role"], agent["personality"]) == (text, text)
    said = mosaic("agent", "show", "one").stdout
    assert len(said.splitlines()) == 15
    assert not set("\x1b\u202e\r") & set(said)
    assert len(mosaic("agent", "list").stdout.splitlines()) == 1
    assert mosaic("agent", "set", "one", *words).stdout == "unchanged one\n"


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_survives_a_file(mosaic: Machine, tmp_path: Path, text: str) -> None:
    """A quoted role, personality, model and label of a roster file come back equal to the byte."""
    import yaml

    model = "".join(text.split()) if text.isprintable() else "m"
    roster = {
        "stack": "office",
        "providers": {
            "p": {"type": "zai", "display_name": text, "models": [{"id": model, "name": text}]},
        },
        "agents": {"one": {"role": text, "personality": text, "model": f"p/{model}", "fallbacks": [f"p/{model}"]}},
    }
    assert import_text(mosaic, tmp_path, yaml.safe_dump(roster)).exit_code == 0
    agent = shown(mosaic, "one")
    assert [agent["role"], agent["personality"], agent["primary_model"]] == [text, text, f"p/{model}"]
    provider = mosaic("provider", "show", "p", "--json").document["provider"]
    assert [provider["display_name"], provider["models"]] == [text, [{"id": model, "name": text}]]
    assert import_text(mosaic, tmp_path, yaml.safe_dump(roster), "--json").document["changed"] is False


@pytest.mark.parametrize("verb", [["show"], ["set"], ["set", "--role", "a"], ["remove", "--yes"]])
@pytest.mark.parametrize("name", ["nobody", "\x1b[31m", "a\udcffb", "x" * 5000])
def test_what_is_not_there_is_named(mosaic: Machine, verb: list[str], name: str) -> None:
    """An unknown name, however odd, exits with 4 (or with 2 where it cannot be a name), never with a bug."""
    code, _, hint = mosaic("agent", *verb, "--", name).error
    assert (code, hint) == (2, None) if "\udcff" in name else (4, "mosaic agent list")


def test_a_stack_must_be_named_where_there_are_several(mosaic: Machine) -> None:
    """Without a stack the first agent has nowhere to go, and with two it must be said where."""
    assert mosaic("agent", "add", "one").error == (4, "there are no agents yet", "mosaic agent import FILE")
    mosaic("agent", "add", "one", "--stack", "a")
    mosaic("agent", "add", "two", "--stack", "b")
    assert mosaic("agent", "add", "three").error == (2, "there are several stacks: a, b", "--stack NAME")


def test_removing_is_asked_for(mosaic: Machine) -> None:
    """Where nobody can answer, `remove` without --yes exits with 2 and names the flag."""
    mosaic("agent", "add", "one", "--stack", "office")
    code, _, hint = mosaic("agent", "remove", "one").error
    assert (code, hint) == (2, "add --yes")
    assert mosaic("agent", "list", "-q").stdout == "one\n"


def test_an_import_adds_changes_and_keeps(mosaic: Machine, tmp_path: Path) -> None:
    """A roster file is loaded; again it changes nothing; what differs is changed, and providers stay as they are."""
    first = mosaic("agent", "import", JARVIS)
    assert first.stdout.splitlines()[0].split(maxsplit=1) == [
        "added",
        "jarvis-main, jarvis-projects, jarvis-research, jarvis-operations",
    ]
    assert "mosaic provider set zai --api-key-stdin" in first.stderr
    assert mosaic("agent", "list", "-q").stdout.split() == AGENTS
    second = mosaic("agent", "import", JARVIS, "--json").document
    assert second["changed"] is False
    assert sorted(second["import"]["unchanged"]) == AGENTS
    mosaic("provider", "set", "ollama", "--base-url", "http://127.0.0.1:9", "--no-test")
    changed = Path(JARVIS).read_text().replace("role: research", "role: other")
    third = import_text(mosaic, tmp_path, changed, "--json").document["import"]
    assert (third["changed"], third["providers_kept"]) == (["jarvis-research"], ["zai", "ollama"])
    assert mosaic("provider", "show", "ollama", "--json").document["provider"]["base_url"] == "http://127.0.0.1:9"


def test_a_dry_run_writes_nothing(mosaic: Machine, database: Database) -> None:
    """`import --dry-run` says what it would do, and neither rows nor audit are there afterwards."""
    mosaic("init")
    before = rows(database)
    said = mosaic("agent", "import", JARVIS, "--dry-run", "--json").document
    assert len(said["import"]["added"]) == 4
    assert rows(database) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the file is empty"),
        ("stack: [\n", "line 2: this is no YAML"),
        ("stack: office", "line 1: the file: the key 'agents' is missing"),
        ("stack: office\nagents:\n  one:\n    rol: x", "line 4: agents.one.rol: unknown key, did you mean role?"),
        ("stack: office\nagents:\n  one: {memory: {limit: lots}}", "line 3: agents.one.memory.limit: size 'lots'"),
        ("stack: office\nagents:\n  one: {}\n  one: {}", "line 4: agents.one: this key stands here twice"),
        ("stack: office\nagents:\n  fine: {}\n  Bad: {}", "line 4: agents.Bad: agent name 'Bad'"),
        (
            "stack: office\nagents:\n  fine: {}\n  bad: {model: x/y}",
            'line 4: agents.bad: agent "bad" uses provider "x"',
        ),
        ("stack: office\nproviders:\n  p: {type: zia}\nagents: {}", "line 3: providers.p: provider type 'zia'"),
        ("stack: office\nproviders:\n  p: {type: zai, api_key: x}\nagents: {}", "line 3: providers.p.api_key: unknown"),
        ("stack: office\nagents:\n  one: {role: 2026-99-99}", "line 3: agents.one.role: this is no value"),
        ("stack: office\nagents:\n  one: {role: " + "9" * 5000 + "}", "line 3: agents.one.role: this is no value"),
        ("stack: office\nagents:\n  one: {role: !!python/object:os.system x}", "line 3: this is no YAML"),
        ('stack: office\nagents:\n  one: {role: "a\\0b"}', "line 3: agents.one: role contains a character"),
        ("[" * 100_000, "line 1: "),
        (
            "a: &a [x]\n"
            + "".join(f"{n}: &{n} [*{p},*{p},*{p},*{p}]\n" for p, n in zip("abcdefghi", "bcdefghij", strict=True)),
            "line ",
        ),
        (b"\xff\xfe\x00", "this is no UTF-8 text"),
        ("x" * 1_000_001, "a roster file has at most a million characters"),
    ],
)
def test_a_bad_file_writes_nothing(
    mosaic: Machine, database: Database, tmp_path: Path, text: str | bytes, message: str
) -> None:
    """A file that is wrong anywhere exits with 3 naming file, line and key, and nothing of it is there."""
    code, said, _ = import_text(mosaic, tmp_path, text).error
    assert code == 3
    assert said.removeprefix(f"{tmp_path}/roster.yml: ").startswith(message)
    assert rows(database)[:3] == [0, 0, 0]


def test_a_file_that_cannot_be_read_is_named(mosaic: Machine, tmp_path: Path) -> None:
    """A missing file, or a folder without a fleet, exits with 3 by name."""
    for path, why in (
        (tmp_path / "missing.yml", "No such file or directory"),
        (tmp_path, "no compose file is in this folder"),
    ):
        assert mosaic("agent", "import", str(path)).error[:2] == (3, f"{path}: {why}")


def test_an_agent_of_another_stack_is_not_taken(mosaic: Machine, database: Database, tmp_path: Path) -> None:
    """A file that names another stack's agent is refused as a whole."""
    mosaic("agent", "add", "one", "--stack", "office")
    before = rows(database)
    code, said, _ = import_text(mosaic, tmp_path, "stack: other\nagents:\n  new: {}\n  one: {}").error
    assert code == 3
    assert said.endswith('line 4: agents.one: agent "one" belongs to stack "office"')
    assert rows(database) == before

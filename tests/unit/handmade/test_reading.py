"""Whole folders of hand-made fleets: what is read of two unlike ones, what is named, and every way to be wrong."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from mosaic_fleet import logs
from mosaic_fleet.errors import ConfigurationError
from mosaic_fleet.fleet.handmade.reading import HandMade, read

SAMPLES = Path(__file__).parents[2] / "samples"
CONFIG = "{agents: {defaults: {model: 'zai/glm-5'}}}"
COMPOSE = "services:\n  one:\n    image: openclaw\n"


@pytest.fixture(autouse=True)
def no_registered_secrets() -> None:
    """Forget the secrets that a test registered."""
    logs.forget()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with one agent."""
    made = tmp_path / "small"
    made.mkdir()
    (made / "compose.yml").write_text(COMPOSE)
    (made / "one.json").write_text(CONFIG)
    return made


def key(fleet: HandMade, provider: str) -> str:
    found = fleet.roster.providers[provider]["api_key"]
    assert isinstance(found, SecretStr)
    return found.get_secret_value()


def refused(path: Path, stack: str | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read(path, stack)
    return caught.value.message


# The two samples ------------------------------------------------------------------------------------------------------


def test_the_old_fleet_is_read_whole() -> None:
    """Four agents with models, limits, roles and tokens; one zai and one Ollama, which is spoken to natively."""
    fleet = read(SAMPLES / "old-fleet", "jarvis")
    assert (fleet.roster.stack, fleet.roster.network) == ("jarvis", "mosaic-stack_internal")
    assert fleet.roster.agents["jarvis-projects"] == {
        "role": "development",
        "primary_model": "zai/glm-5",
        "fallback_models": [],
        "providers": ["ollama"],
        "memory_limit": 4 << 30,
        "memory_reservation": 1 << 30,
        "replicas": 1,
    }
    assert fleet.roster.agents["jarvis-operations"]["primary_model"] == "ollama/cogito"
    assert fleet.roster.agents["jarvis-operations"]["providers"] == []
    assert sorted(fleet.roster.providers) == ["ollama", "zai"]
    assert key(fleet, "zai") == "sample-zai-key-0123456789abcdef"
    assert fleet.roster.providers["zai"]["models"] == [{"id": "glm-5"}]
    assert fleet.roster.providers["ollama"] == {
        "type": "ollama",
        "api_type": "ollama",
        "base_url": "http://10.1.1.42:11434",
        "models": [{"id": "cogito", "name": "Cogito (Local Reasoning)", "contextWindow": 128_000, "maxTokens": 8192}],
    }
    main = fleet.members["jarvis-main"]
    assert main.token == SecretStr("6175a66989101384f103dcfd2cdda1ebfd1cdabe3234eccaafe65d09ec5d5d18")
    assert (main.volume, main.workspace) == ("jarvis_jarvis-main-state", "/home/node/workspace")
    assert main.files[1:] == ("openclaw-instances/jarvis-main.env", "openclaw-instances/jarvis-main.json")


def test_what_the_old_fleet_loses_is_named() -> None:
    """Too little memory, a key that nobody uses, the image and the address of Ollama are told, once each."""
    notes = read(SAMPLES / "old-fleet").notes
    assert [note for note in notes if "less than OpenClaw needs" in note] == [
        f"openclaw-compose.yml:{line}: services.{name}: 1G of memory is less than OpenClaw needs today: "
        f"mosaic agent set {name} --memory 2G"
        for line, name in ((68, "jarvis-research"), (101, "jarvis-operations"))
    ]
    assert any(note.startswith("openclaw-instances/jarvis-operations.env:2: ZAI_API_KEY is not") for note in notes)
    assert sum("Ollama is spoken to in its own way" in note for note in notes) == 4
    assert len(notes) == 9


def test_the_workshop_is_read_whole() -> None:
    """Anchors, lists, CRLF, quotes, defaults, hex numbers and keys by name come out as an operator means them."""
    fleet = read(SAMPLES / "workshop")
    assert (fleet.roster.stack, fleet.roster.network) == ("workshop", "workshop_net")
    assert fleet.roster.agents == {
        "scribe": {
            "role": "minutes, notes",
            "primary_model": "zai-scribe/glm-5",
            "fallback_models": ["house/big-1", "ollama/cogito"],
            "providers": [],
            "memory_limit": 1536 << 20,
            "memory_reservation": 384 << 20,
            "cpu_limit": 0.75,
            "schedules": True,
            "personality": "You are the scribe.\nYou write down what was said.\n",
        },
        "coder": {
            "role": "development",
            "primary_model": "anthropic/claude-sonnet-4-6",
            "fallback_models": [],
            "providers": ["zai-coder"],
            "memory_limit": 3 << 30,
            "replicas": 0,
        },
        "watcher": {
            "primary_model": "zai-watcher/glm-5",
            "fallback_models": [],
            "providers": [],
            "memory_limit": 2 << 30,
            "memory_reservation": 2 << 30,
            "cpu_limit": 2.0,
            "schedules": False,
        },
    }
    assert {name: one.token and one.token.get_secret_value() for name, one in fleet.members.items()} == {
        "scribe": "scribe-token-0123456789abcdef",
        "coder": "coder-token-0123456789abcdef",
        "watcher": "watcher-token-$literal-0123456789",
    }
    volumes = {"scribe": "old_scribe", "coder": "workshop_coder-state", "watcher": "workshop_watcher-state"}
    assert {name: one.volume for name, one in fleet.members.items()} == volumes
    assert "replicas" in fleet.members["coder"].read


def test_the_accounts_of_the_workshop_are_kept_apart() -> None:
    """Different keys by one name become `zai-<agent>`; addresses and numbers are as OpenClaw reads them."""
    fleet = read(SAMPLES / "workshop")
    assert {name: key(fleet, name) for name in fleet.roster.providers} == {
        "anthropic": "anthropic-coder-key-0123456789",
        "house": "house-key-0123456789abcdef#1",
        "ollama": "ollama-local",
        "zai-coder": "zai-coder-key-0123456789abcdef",
        "zai-scribe": "zai-scribe-key-0123456789abcdef",
        "zai-watcher": "zai-shared-key-0123456789abcdef",
    }
    scribe = fleet.roster.providers["zai-scribe"]
    assert scribe["models"] == [{"id": "glm-5", "name": "GLM-5", "contextWindow": 200_000, "maxTokens": 8192}]
    assert "base_url" not in scribe
    assert fleet.roster.providers["ollama"]["base_url"] == "http://ollama.example:11434"
    assert fleet.roster.providers["house"]["type"] == "custom"


def test_what_the_workshop_loses_is_named() -> None:
    """Each thing that is not understood is named with file, line where there are lines, and key."""
    notes = read(SAMPLES / "workshop").notes
    for start in (
        "docker-compose.yml:54: services.watcher.environment.UNKNOWN: NOWHERE is not set",
        "docker-compose.yml: image registry.example/openclaw:2026.8.2: ",
        "docker-compose.yml:28: services.scribe.ports: is not taken over",
        "docker-compose.yml:36: services.coder.labels.traefik.enable: is not taken over",
        "docker-compose.yml:61: services.redis: is no OpenClaw gateway",
        "docker-compose.yml:42: what is mounted at /repos is not taken over",
        "conf/scribe.json5: channels: is not taken over",
        "conf/scribe.json5: models.providers.zai.models[0].input: is not taken over",
        "conf/scribe.json5: models.providers.house.headers: is not taken over",
        "conf/coder.json5: agents.list: is not taken over",
        "conf/coder.json5: models.providers.odd: is not taken over: Mosaic does not know how to speak to it",
        "secrets/shared.env:3: PERSON is not taken over",
        "docker-compose.yml:11: environment: TZ is not taken over",
        "docker-compose.yml:18: services.scribe: 1.5G of memory is less",
    ):
        assert [note for note in notes if note.startswith(start)], start


@pytest.mark.parametrize("name", ["old-fleet", "workshop"])
def test_no_secret_is_told(name: str) -> None:
    """Neither notes nor the printed form of what was read hold a key or a token."""
    fleet = read(SAMPLES / name)
    text = f"{fleet!r} {fleet.notes}"
    planted = [
        word
        for path in (SAMPLES / name).rglob("*.env")
        for word in re.findall(r"(?:KEY|TOKEN)=['\"]?([^'\"\s]+)", path.read_text())
    ]
    assert len(planted) >= 4
    assert [word for word in planted if word in text] == []


# Where things are -----------------------------------------------------------------------------------------------------


def test_a_stack_is_called_as_asked_else_as_the_file_says_else_as_the_folder(folder: Path) -> None:
    """`--stack` rules over `name:`, which rules over the folder's own name."""
    assert read(folder).roster.stack == "small"
    (folder / "compose.yml").write_text(f"name: office\n{COMPOSE}")
    assert read(folder).roster.stack == "office"
    assert read(folder, "jarvis").roster.stack == "jarvis"


def test_a_folder_may_have_moved(folder: Path) -> None:
    """A path of another machine finds the file by its end."""
    (folder / "one.json").rename(folder / "other.json")
    mount = "    volumes: ['/srv/elsewhere/other.json:/home/node/.openclaw/openclaw.json:ro']\n"
    (folder / "compose.yml").write_text(COMPOSE + mount)
    assert read(folder).members["one"].files == ("compose.yml", "other.json")


def test_a_fleet_without_limits_gets_the_roster_s_own(folder: Path) -> None:
    """What no file says is left to the roster's defaults."""
    assert read(folder).roster.agents["one"] == {
        "primary_model": "zai/glm-5",
        "fallback_models": [],
        "providers": [],
    }


# Every way to be wrong ------------------------------------------------------------------------------------------------

BROKEN: dict[str, tuple[str, str | bytes, str]] = {
    "no yaml": ("compose.yml", "services: [", "compose.yml:2: this is no YAML"),
    "a bomb": (
        "compose.yml",
        "a: &a [1,2,3,4,5,6,7,8,9]\n"
        + "".join(f"{x}: &{x} [{','.join([f'*{y}'] * 9)}]\n" for x, y in zip("bcdefghij", "abcdefghi", strict=True)),
        "unfolds to too many values",
    ),
    "an alias in itself": ("compose.yml", "services: &a\n  one: *a\n", "unfolds to too many values"),
    "merging itself": ("compose.yml", "services: &a\n  <<: *a\n", "unfolds to too many values"),
    "merging a word": ("compose.yml", "services:\n  <<: word\n", "compose.yml:2: services: << takes a mapping"),
    "nothing": ("compose.yml", "", "compose.yml:1: the file is empty"),
    "no services": ("compose.yml", "services: {}\n", "compose.yml: none of its services is an OpenClaw gateway"),
    "services by list": ("compose.yml", "services: [one]\n", "compose.yml:1: services: must be a mapping"),
    "a binary file": ("one.json", b"\x00\x01\xff", "one.json: this is no UTF-8 text"),
    "a NUL": ("one.json", b"{}\0", "one.json: this is no UTF-8 text"),
    "a huge file": ("one.json", "[" + "1," * 600_000 + "]", "one.json: it is larger than a million bytes"),
    "no json5": ("one.json", "{\n  a: 1,\n  b: sk-secretsecretsecret\n}", "one.json:3: this is no JSON5"),
    "nested without end": ("one.json", "[" * 90_000, "one.json:1: this is no JSON5"),
    "json5 of another form": ("one.json", "[]", "one.json: the file: must be an object"),
    "a model that is no text": (
        "one.json",
        "{agents: {defaults: {model: 5}}}",
        "one.json: agents.defaults.model: must",
    ),
    "models by name": (
        "one.json",
        "{models: {providers: {x: {models: {}}}}}",
        "one.json: models.providers.x.models: must be a list",
    ),
    "a vendor without address": (
        "one.json",
        "{agents: {defaults: {model: 'acme/x'}}}",
        'one.json: agents.defaults.model: Mosaic does not know how to speak to provider "acme"',
    ),
    "a vendor that speaks otherwise": (
        "one.json",
        "{agents: {defaults: {model: 'g/x'}}, models: {providers: {g: {baseUrl: 'http://g', api: 'google'}}}}",
        'one.json: models.providers.g: Mosaic does not know how to speak to provider "g"',
    ),
    "a provider's name": (
        "one.json",
        "{models: {providers: {My_LLM: {baseUrl: 'http://g/v1'}}}}",
        "one.json: models.providers.My_LLM: provider name 'My_LLM': use lower-case letters",
    ),
    "an agent's name": (
        "compose.yml",
        "services:\n  One_two:\n    volumes: ['./one.json:/home/node/.openclaw/openclaw.json']\n",
        "compose.yml:2: services.One_two: agent name 'One_two': use lower-case letters",
    ),
    "an agent's long name": (
        "compose.yml",
        f"services:\n  {'a' * 25}:\n    volumes: ['./one.json:/home/node/.openclaw/openclaw.json']\n",
        "has 25 characters, at most 24 fit",
    ),
    "a stack's name": ("compose.yml", f"name: My Stack\n{COMPOSE}", "compose.yml: stack name 'My Stack': use lower"),
    "a config that is not there": (
        "compose.yml",
        "services:\n  two: {image: openclaw}\n",
        "compose.yml:2: services.two: its OpenClaw config is not in the folder",
    ),
    "an env file that is not there": (
        "compose.yml",
        f"{COMPOSE}    env_file: none.env\n",
        "compose.yml:4: services.one.env_file: this file is not in the folder",
    ),
    "an env file's line": ("compose.yml", f"{COMPOSE}    env_file: one.json\n", "one.json:1: this is no NAME=value"),
    "a required variable": (
        "compose.yml",
        f"{COMPOSE}    environment: ['A=${{B:?must be set}}']\n",
        "compose.yml:4: services.one.environment[0]: B must be set",
    ),
    "a global service": (
        "compose.yml",
        f"{COMPOSE}    deploy: {{mode: global}}\n",
        "compose.yml:4: services.one.deploy.mode: an agent is one gateway",
    ),
    "a size": ("compose.yml", f"{COMPOSE}    mem_limit: lots\n", "compose.yml:4: services.one.mem_limit: size 'lots'"),
    "cores": (
        "compose.yml",
        f"{COMPOSE}    cpus: many\n",
        "compose.yml:4: services.one.cpus: must be a number of cores",
    ),
    "a token": (
        "compose.yml",
        f"{COMPOSE}    environment: {{OPENCLAW_GATEWAY_TOKEN: 'two secretwords'}}\n",
        "compose.yml:4: environment: OPENCLAW_GATEWAY_TOKEN: a gateway token is 1 to 4096",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_bad_file_is_placed(folder: Path, case: str) -> None:
    """Each is a ConfigurationError that names file and line or key, and tells no value."""
    name, content, message = BROKEN[case]
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    said = refused(folder)
    assert message in said
    assert "secret" not in said


ELSEWHERE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a link out of the folder": (lambda path: path.symlink_to("/etc/hostname"), "one.json: it leads out of"),
    "a folder": (lambda path: path.mkdir(), "its OpenClaw config is not in the folder"),
}


@pytest.mark.parametrize("case", ["a link out of the folder", "a folder"])
def test_nothing_else_than_a_file_of_the_folder_is_read(folder: Path, case: str) -> None:
    """Where a config should be stands something else: it is named and not read."""
    make, message = ELSEWHERE[case]
    (folder / "one.json").unlink()
    make(folder / "one.json")
    assert message in refused(folder)


def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    """A named pipe would be read without end: it is refused at once."""
    import os

    (folder / "one.json").unlink()
    os.mkfifo(folder / "one.json")
    assert "one.json: it is no ordinary file" in refused(folder)


def test_no_or_several_compose_files_are_told(folder: Path) -> None:
    """Without one, and with two that could be meant, the folder is refused; a usual name decides."""
    shutil.copy(folder / "compose.yml", folder / "b.yml")
    assert read(folder).roster.stack == "small"
    (folder / "compose.yml").rename(folder / "a.yml")
    assert "several compose files: a.yml, b.yml" in refused(folder)
    (folder / "a.yml").unlink()
    (folder / "b.yml").unlink()
    assert "no compose file is in this folder" in refused(folder)
    assert "No such file or directory" in refused(folder / "nowhere")

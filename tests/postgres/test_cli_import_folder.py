"""`mosaic agent import DIR`: a hand-made fleet in the roster, sealed, whole or not at all."""

import re
import shutil
from pathlib import Path

import psycopg
import pytest

from mosaic_fleet import keyring
from mosaic_fleet.db.database import Database
from mosaic_fleet.db.reads import SYSTEM_OWNER
from mosaic_fleet.db.tables import place
from mosaic_fleet.fleet import agents, providers
from mosaic_fleet.sealing import Box
from tests.postgres.machine import Machine

SAMPLES = Path(__file__).parents[1] / "samples"
OLD, WORKSHOP = str(SAMPLES / "old-fleet"), str(SAMPLES / "workshop")
OLD_AGENTS = "jarvis-main, jarvis-projects, jarvis-research, jarvis-operations"


def counts(database: Database) -> list[int]:
    with psycopg.connect(database.url) as connection:
        tables = ("stack", "llm_provider", "system_container", "audit")
        return [len(connection.execute(f"SELECT FROM {table}").fetchall()) for table in tables]


def opened(mosaic: Machine, database: Database, agent: str, provider: str) -> tuple[str, str | None]:
    """Return an agent's token and a provider's key."""
    box = a_box(mosaic, database)
    with database.transaction(system=True) as session:
        account = providers.get(session, SYSTEM_OWNER, provider)
        key = account.api_key
        opened_key = box.open(place(account, "api_key"), key).get_secret_value() if key else None
    return token(mosaic, database, agent), opened_key


def token(mosaic: Machine, database: Database, agent: str) -> str:
    """Return an agent's token."""
    with database.transaction(system=True) as session:
        return agents.token(a_box(mosaic, database), agents.get(session, agent)).get_secret_value()


def a_box(mosaic: Machine, database: Database) -> Box:
    return Box(lambda: keyring.load(database, mosaic.environ["MOSAIC_SECRET_KEY"]))


def planted(name: str) -> list[str]:
    files = [path for path in (SAMPLES / name).rglob("*") if path.name.endswith(".env")]
    found = [re.findall(r"(?:KEY|TOKEN)=['\"]?([^'\"\s]+)", path.read_text()) for path in files]
    return sorted({word for words in found for word in words})


def test_a_folder_becomes_a_roster_once(mosaic: Machine, database: Database) -> None:
    """The first import adds agents and providers, the second says unchanged and writes nothing."""
    first = mosaic("agent", "import", OLD, "--stack", "jarvis")
    assert first.exit_code == 0, first
    assert first.stdout.splitlines()[:3] == [
        f"added      {OLD_AGENTS}",
        "providers  ollama, zai",
        "read       jarvis-main: replicas, role, memory_limit, memory_reservation, primary_model, providers, token"
        "   (openclaw-compose.yml, openclaw-instances/jarvis-main.env, openclaw-instances/jarvis-main.json)",
    ]
    assert "openclaw-compose.yml:68: services.jarvis-research: 1G of memory is less" in first.stderr
    before = counts(database)
    second = mosaic("agent", "import", OLD, "--stack", "jarvis")
    assert second.stdout.splitlines()[:2] == [f"unchanged  {OLD_AGENTS}", "kept       ollama, zai"]
    assert counts(database)[:3] == before[:3]
    assert mosaic("agent", "import", OLD, "--stack", "jarvis", "--json").document["changed"] is False


def test_tokens_and_keys_are_kept_and_sealed(mosaic: Machine, database: Database) -> None:
    """What the files held opens as it was, and nothing of it stands in the database, in the output or in an error."""
    said = [mosaic("agent", "import", folder) for folder in (OLD, WORKSHOP)]
    assert [one.exit_code for one in said] == [0, 0], said
    token = "6175a66989101384f103dcfd2cdda1ebfd1cdabe3234eccaafe65d09ec5d5d18"
    assert opened(mosaic, database, "jarvis-main", "zai") == (token, "sample-zai-key-0123456789abcdef")
    scribe = ("scribe-token-0123456789abcdef", "zai-scribe-key-0123456789abcdef")
    assert opened(mosaic, database, "scribe", "zai-scribe") == scribe
    with psycopg.connect(database.url) as connection:
        tables = ("llm_provider", "system_container", "audit", "stack")
        rows = [str(connection.execute(f"SELECT * FROM {table}").fetchall()) for table in tables]
    everything = "".join(rows) + "".join(one.stdout + one.stderr for one in said)
    secrets = planted("old-fleet") + planted("workshop")
    assert len(secrets) >= 9
    assert [secret for secret in secrets if secret in everything] == []


def test_a_dry_run_writes_nothing(mosaic: Machine, database: Database) -> None:
    """It prints what would be added, and leaves the database empty."""
    before = counts(database)
    said = mosaic("agent", "import", WORKSHOP, "--dry-run")
    assert said.stdout.startswith("added      scribe, coder, watcher\n")
    assert counts(database)[:3] == before[:3]


def test_everything_is_in_the_document(mosaic: Machine) -> None:
    """With --json: what was done, what was read of each agent, and what was not understood; nothing beside it."""
    said = mosaic("agent", "import", WORKSHOP, "--json")
    document = said.document
    assert said.stderr == ""
    assert document["import"]["added"] == ["scribe", "coder", "watcher"]
    assert document["changed"] is True
    assert [one["agent"] for one in document["read"]] == ["scribe", "coder", "watcher"]
    assert document["read"][2]["files"] == ["docker-compose.yml", "conf/watcher.json5"]
    assert "docker-compose.yml:28: services.scribe.ports: is not taken over" in document["notes"]
    assert mosaic("agent", "import", WORKSHOP, "-q").stdout == ""


def test_a_bad_file_writes_nothing(mosaic: Machine, database: Database, tmp_path: Path) -> None:
    """One bad config of three, or a value that the roster refuses: exit 3 with the place, and no row."""
    folder = tmp_path / "workshop"
    shutil.copytree(WORKSHOP, folder)
    before = counts(database)
    (folder / "conf" / "coder.json5").write_text("{\n  a: sk-secret-0123456789\n}")
    code, message, _ = mosaic("agent", "import", str(folder)).error
    assert (code, message) == (3, "conf/coder.json5:2: this is no JSON5")
    shutil.copy(Path(WORKSHOP) / "conf" / "coder.json5", folder / "conf")
    compose = (folder / "docker-compose.yml").read_text()
    for old, new in (("memory: 3gb", "memory: 3m"), ("replicas: 0", "replicas: 2")):
        (folder / "docker-compose.yml").write_text(compose.replace(old, new))
        code, message, _ = mosaic("agent", "import", str(folder)).error
        assert code == 3
        assert message.startswith("docker-compose.yml:31: services.coder: agent"), message
    assert counts(database)[:3] == before[:3]


def test_a_model_that_is_no_model_is_placed(mosaic: Machine, tmp_path: Path) -> None:
    """A provider that the roster refuses is named with the file and the key where it stands."""
    folder = tmp_path / "workshop"
    shutil.copytree(WORKSHOP, folder)
    config = folder / "conf" / "scribe.json5"
    config.write_text(config.read_text().replace("id: 'big-1'", "id: 'big 1'"))
    code, message, _ = mosaic("agent", "import", str(folder)).error
    assert (code, message) == (
        3,
        "conf/scribe.json5: models.providers.house: model id 'big 1': use 1 to 200 printable characters without spaces",
    )


def test_a_provider_that_was_there_only_gets_the_key_it_lacks(mosaic: Machine, database: Database) -> None:
    """Without a key it gets the fleet's; with another key it is kept, and that is told."""
    mosaic("provider", "add", "zai", "--type", "zai", "--model", "glm-5", "--no-test")
    first = mosaic("agent", "import", OLD)
    assert "keyed      zai\n" in first.stdout
    assert "needs a key" not in first.stderr
    key = "another-key-0123456789abcdef"
    mosaic("provider", "set", "zai", "--api-key-stdin", "--no-test", input=key)
    second = mosaic("agent", "import", OLD)
    assert "kept       ollama, zai\n" in second.stdout
    assert 'provider "zai" was there and is kept, with another key\n' in second.stderr
    assert opened(mosaic, database, "jarvis-main", "zai")[1] == key


def test_another_token_is_a_change(mosaic: Machine, database: Database, tmp_path: Path) -> None:
    """A token that was changed in the files is taken over by the next import."""
    folder = tmp_path / "old-fleet"
    shutil.copytree(OLD, folder)
    mosaic("agent", "import", str(folder))
    env = folder / "openclaw-instances" / "jarvis-main.env"
    env.write_text(env.read_text().replace("6175a", "7175a"))
    said = mosaic("agent", "import", str(folder))
    assert said.stdout.startswith("changed    jarvis-main\n")
    assert opened(mosaic, database, "jarvis-main", "zai")[0].startswith("7175a")


def test_a_token_that_was_rotated_since_is_kept(mosaic: Machine, database: Database) -> None:
    """The folder's may be the one that leaked: another import leaves the new one alone, and that is told."""
    mosaic("agent", "import", OLD)
    before = token(mosaic, database, "jarvis-main")
    mosaic("secrets", "rotate-tokens", "--agent", "jarvis-main")
    rotated = token(mosaic, database, "jarvis-main")
    assert rotated != before
    said = mosaic("agent", "import", OLD)
    assert said.stdout.startswith(f"unchanged  {OLD_AGENTS}\n")
    assert 'agent "jarvis-main" was there and keeps its own token\n' in said.stderr
    assert said.stderr.count("keeps its own token") == 1
    assert token(mosaic, database, "jarvis-main") == rotated
    document = mosaic("agent", "import", OLD, "--json").document
    assert 'agent "jarvis-main" was there and keeps its own token' in document["notes"]
    assert document["changed"] is False


def test_a_token_that_mosaic_made_is_kept(mosaic: Machine, database: Database) -> None:
    """An agent that was added by hand keeps its token when a folder has another one for it."""
    mosaic("agent", "add", "jarvis-main", "--stack", "old-fleet")
    made = token(mosaic, database, "jarvis-main")
    said = mosaic("agent", "import", OLD)
    assert said.exit_code == 0, said
    assert 'agent "jarvis-main" was there and keeps its own token\n' in said.stderr
    assert token(mosaic, database, "jarvis-main") == made


@pytest.mark.parametrize("words", [["--stack", "My Stack"], ["--stack", "x" * 21]])
def test_a_bad_stack_name_is_refused(mosaic: Machine, words: list[str]) -> None:
    """A stack that Mosaic cannot call so is told before anything is written."""
    code, message, _ = mosaic("agent", "import", OLD, *words).error
    assert code == 3
    assert "stack name" in message


def test_a_roster_file_says_its_own_stack(mosaic: Machine, tmp_path: Path) -> None:
    """`--stack` and `--adopt` are for folders."""
    file = tmp_path / "roster.yml"
    file.write_text("stack: s\nagents: {}\n")
    assert mosaic("agent", "import", str(file), "--stack", "t").exit_code == 2
    assert mosaic("agent", "import", str(file), "--adopt").exit_code == 2
    assert mosaic("agent", "import", str(tmp_path / "nowhere")).exit_code == 3


def test_without_docker_nothing_is_adopted_and_nothing_written(mosaic: Machine, database: Database) -> None:
    """Whether there is anything to take over cannot be seen: exit 7, and no row."""
    before = counts(database)
    for words in ([], ["--dry-run"], ["--confirm", "old-fleet"]):
        code, message, _ = mosaic("agent", "import", OLD, "--adopt", *words).error
        assert code == 7
        assert "unix:///nonexistent.sock" in message
    assert counts(database) == before

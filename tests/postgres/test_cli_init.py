"""`mosaic init`: key, database and schema on any machine, Docker or not, and never twice."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from sqlmodel import select

from mosaic_fleet.db.database import _MIGRATION_LOCK, Database
from mosaic_fleet.db.migrations import HEAD
from mosaic_fleet.db.tables import Audit, User, UserContainer
from mosaic_fleet.identity import audit
from mosaic_fleet.runtimes.base import INSTALL_LABEL
from tests.postgres.machine import Machine, Said, finished
from tests.postgres.team import Team
from tests.processes import until

FRESH = [
    ["provider", "list"],
    ["provider", "show", "x"],
    ["agent", "list"],
    ["agent", "show", "x"],
    ["admin", "list"],
    ["config", "list"],
    ["config", "get", "fleet.image"],
    ["secrets", "status"],
    ["status"],
    ["db", "check"],
    ["db", "start"],
]
PEOPLE = {"admins": "!", "audit": "✓", "clock": "✓"}
WITHOUT_DOCKER = dict.fromkeys(["docker", "swarm", "network", "image", "memory"], "!")
# Words that would wait for somebody to type, were they to ask.
ASKING = [
    ["admin", "create-breakglass", "ops"],
    ["provider", "add", "zai", "--type", "zai", "--api-key-stdin", "--no-test"],
    ["provider", "remove", "ollama"],
]


def env_file(machine: Machine) -> Path:
    return Path(machine.environ["XDG_CONFIG_HOME"]) / "mosaic" / "env"


def marks(said: Said) -> dict[str, str]:
    """Read the mark of each check."""
    assert said.exit_code == 0, said
    return {line[3:21].strip(): line[1] for line in said.stdout.splitlines()}


def unkeyed(mosaic: Machine, **environ: str) -> Machine:
    return mosaic.but(MOSAIC_SECRET_KEY=None, **environ)


def test_the_first_one_makes_everything_without_docker(first_init: tuple[Machine, Said]) -> None:
    """On a machine without Docker key, database and schema are made, Docker is a warning, and the exit code is 0."""
    machine, said = first_init
    assert marks(said) == {"secret key": "✓", "db": "✓", "schema": "✓", **PEOPLE, **WITHOUT_DOCKER}
    assert f"written to {env_file(machine)} (0600)" in said.stdout
    assert "made just now" in said.stdout
    assert f"empty → {HEAD}" in said.stdout
    assert "next:  mosaic admin create-breakglass" in said.stderr


def test_the_key_is_in_a_file_of_its_own(first_init: tuple[Machine, Said]) -> None:
    """The env file is readable by its owner only, holds the key, and the key was not printed."""
    machine, said = first_init
    name, _, key = env_file(machine).read_text().strip().partition("=")
    assert name == "MOSAIC_SECRET_KEY"
    assert env_file(machine).stat().st_mode & 0o777 == 0o600
    assert key not in said.stdout + said.stderr
    assert [path.name for path in env_file(machine).parent.iterdir()] == ["env"]


def test_the_second_one_changes_nothing(first_init: tuple[Machine, Said]) -> None:
    """A second run leaves the key, the keyring and the schema as they are."""
    machine, _ = first_init
    before = [env_file(machine).read_text(), machine("secrets", "status").stdout, machine("status").stdout]
    said = machine("init")
    assert "secret key         is set" in said.stdout
    assert "made just now" not in said.stdout
    assert f"at {HEAD}" in said.stdout
    assert [env_file(machine).read_text(), machine("secrets", "status").stdout, machine("status").stdout] == before


def test_it_has_json_and_quiet(first_init: tuple[Machine, Said]) -> None:
    """With --json the checks are one document, with -q only what is wrong is printed."""
    machine, _ = first_init
    checks = machine("init", "--json").document["checks"]
    assert [check["check"] for check in checks[:3]] == ["secret key", "db", "schema"]
    assert {check["mark"] for check in checks if check["check"] in WITHOUT_DOCKER} == {"warn"}
    said = machine("init", "-q")
    assert (said.exit_code, said.stderr) == (0, "")
    assert all(line.startswith(" ! ") for line in said.stdout.splitlines())


def test_a_network_cannot_be_made_without_docker(mosaic: Machine) -> None:
    """Asked to make a network where there is no Docker, it still tells what it made, and Docker is a warning."""
    said = unkeyed(mosaic)("init", "--create-network")
    assert marks(said) == {"secret key": "✓", "db": "✓", "schema": "✓", **PEOPLE, **WITHOUT_DOCKER}
    assert f"written to {env_file(mosaic)} (0600)" in said.stdout
    assert "unix:///nonexistent.sock" in said.stdout


def test_a_role_above_the_rules_fails(mosaic: Machine, database: Database) -> None:
    """A superuser in DATABASE_URL ends it as it ends doctor: with the line of the check and exit code 9."""
    said = mosaic.but(DATABASE_URL=database.url.replace("mosaic@", "mosaic_super@"))("init")
    assert (said.exit_code, said.stderr) == (9, "error: 1 of 11 checks failed: db\n")
    assert " ✗ db " in said.stdout


def test_a_lost_key_is_not_replaced(mosaic: Machine) -> None:
    """A database that was sealed gets no second key: the needed one is named, and no env file is written."""
    mosaic("init")
    code, message, hint = unkeyed(mosaic)("init").error
    assert code == 3
    assert message.startswith("MOSAIC_SECRET_KEY is not set, but this database is sealed under key ")
    assert str(env_file(mosaic)) in str(hint)
    assert not env_file(mosaic).exists()


def test_what_the_env_file_holds_is_kept(mosaic: Machine) -> None:
    """The key is added behind what stands there, and a file that others could read no longer can be."""
    machine = unkeyed(mosaic).but(DATABASE_URL=None)
    env_file(machine).parent.mkdir(parents=True)
    env_file(machine).write_text(f"# ours\nDATABASE_URL={mosaic.environ['DATABASE_URL']}")
    env_file(machine).chmod(0o644)
    assert marks(machine("init"))["secret key"] == "✓"
    lines = env_file(machine).read_text().splitlines()
    assert lines[:2] == ["# ours", f"DATABASE_URL={mosaic.environ['DATABASE_URL']}"]
    assert lines[2].startswith("MOSAIC_SECRET_KEY=")
    assert env_file(machine).stat().st_mode & 0o777 == 0o600


def test_several_at_once_agree_on_one_key(mosaic: Machine, database_url: str) -> None:
    """Two first runs at the same moment end well, with one key that opens what they made."""
    machine = unkeyed(mosaic, DATABASE_URL=database_url)
    with psycopg.connect(database_url) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
        runs = [machine.start("init") for _ in range(2)]
        waiting = "SELECT FROM pg_locks JOIN pg_database d ON d.oid = database WHERE NOT granted AND datname = %s"
        name = connection.info.dbname
        until(lambda: len(connection.execute(waiting, (name,)).fetchall()) == 2)
    assert [said.exit_code for said in map(finished, runs)] == [0, 0]
    assert env_file(machine).read_text().count("MOSAIC_SECRET_KEY=") == 1
    assert machine("secrets", "status").exit_code == 0


def test_one_waits_while_another_writes_the_key(mosaic: Machine, database_url: str) -> None:
    """A run that comes while another one writes the env file takes that one's key instead of making a second."""
    machine = unkeyed(mosaic, DATABASE_URL=database_url)
    env_file(machine).parent.mkdir(parents=True)
    folder = os.open(env_file(machine).parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    run = machine.start("init")
    until(lambda: f"/{run.pid}/" in _waiters())
    written = f"MOSAIC_SECRET_KEY={mosaic.environ['MOSAIC_SECRET_KEY']}\n"
    env_file(machine).write_text(written)
    os.close(folder)
    assert finished(run).exit_code == 0
    assert env_file(machine).read_text() == written


def _waiters() -> str:
    """Name, from the kernel's list, the processes that wait for a file lock."""
    lines = Path("/proc/locks").read_text().splitlines()
    return "".join(f"/{line.split()[5]}/" for line in lines if "->" in line)


def test_a_folder_that_cannot_be_made_is_named(mosaic: Machine, tmp_path: Path) -> None:
    """Where the env file cannot be written the run ends with exit code 3 and names the place."""
    (tmp_path / "file").touch()
    code, message, _ = unkeyed(mosaic, XDG_CONFIG_HOME=str(tmp_path / "file"))("init").error
    assert code == 3
    assert str(tmp_path / "file") in message


@pytest.mark.parametrize("words", FRESH, ids=" ".join)
def test_a_read_on_a_fresh_machine_makes_nothing(fresh_mosaic: Machine, words: list[str]) -> None:
    """Where nothing was made yet a read exits with 8, says `mosaic init`, and leaves no file behind."""
    assert fresh_mosaic(*words).error == (8, "there is no database yet", "mosaic init")
    assert not Path(fresh_mosaic.environ["XDG_DATA_HOME"]).exists()


def test_the_first_change_makes_the_database(fresh_mosaic: Machine) -> None:
    """`provider add` on a fresh machine makes, starts and migrates the database by itself."""
    words = ["provider", "add", "ollama", "--type", "ollama", "--base-url", "http://10.1.1.42:11434", "--no-test"]
    assert fresh_mosaic(*words).stdout == "added ollama\n"
    assert fresh_mosaic("provider", "list", "-q").stdout == "ollama\n"
    assert fresh_mosaic("agent", "add", "one", "--stack", "s").error == (
        3,
        "MOSAIC_SECRET_KEY is not set",
        "mosaic init",
    )
    assert marks(fresh_mosaic("init"))["secret key"] == "✓"
    assert fresh_mosaic("agent", "add", "one", "--stack", "s").exit_code == 0


@pytest.mark.parametrize("words", ASKING, ids=" ".join)
def test_a_closed_standard_input_never_hangs(mosaic: Machine, words: list[str]) -> None:
    """With standard input closed a command that would ask exits with 2 instead of waiting."""
    mosaic("provider", "add", "ollama", "--type", "ollama", "--base-url", "http://10.1.1.42:11434", "--no-test")
    said = finished(mosaic.start(*words, preexec_fn=lambda: os.close(0), stdin=None))
    assert said.error[0] == 2


# Another installation's id --------------------------------------------------------------------------------------------


def used_by_nobody(_: Team) -> None:
    """Roster and people are no matter of Docker's."""


def pinned(team: Team) -> None:
    team.set("anna", node_id="node1")


def deployed(team: Team) -> None:
    team.deploy()
    team.set("anna", node_id=None)


def woken(team: Team) -> None:
    with team.db.transaction(system=True) as session:
        user = User(name="ann", email="ann@example.org")
        session.add(user)
        session.flush()
        session.add(UserContainer(user_id=user.id, container_name="one", gateway_token="", status="stopped"))


def adopted(team: Team) -> None:
    with team.db.transaction(system=True) as session:
        audit.record(session, "agent.adopt", "anna", volume="old")


@pytest.mark.parametrize("use", [used_by_nobody, pinned, deployed, woken, adopted])
def test_only_an_unused_database_becomes_a_former_installation(
    use: Callable[[Team], None], mosaic: Machine, database: Database
) -> None:
    """The id is taken once and recorded; where Docker may have something of this one's it is refused."""
    team, former = Team.at(database), uuid4().hex[:12]
    team.add("anna")
    use(team)
    mosaic = mosaic.but(MOSAIC_SECRET_KEY=team.secret_key)
    before = team.marks[INSTALL_LABEL]
    said = mosaic("init", "--install", former)
    if use is not used_by_nobody:
        assert said.error[:2] == (5, f"installation {before} has run agents or gateways: it cannot become {former}")
        assert team.marks[INSTALL_LABEL] == before
        return
    assert marks(said)["installation"] == "✓"
    assert team.marks[INSTALL_LABEL] == former
    team.deploy()
    assert f"is {former} already" in mosaic("init", "--install", former).stdout
    with database.transaction(system=True) as session:
        rows = session.exec(select(Audit).where(Audit.verb == "install.succeed")).all()
    assert [row.details for row in rows] == [{"value": former}]


@pytest.mark.parametrize("bad", ["", "4F1C0A9B2E7D", "4f1c", "4f1c0a9b2e7d0"])
def test_what_is_no_id_is_refused(mosaic: Machine, bad: str) -> None:
    """With where to find one."""
    code, message, hint = mosaic("init", "--install", bad).error
    assert (code, message) == (2, f'"{bad}" is not the id of an installation, which is 12 hex digits')
    assert "docker volume inspect" in str(hint)

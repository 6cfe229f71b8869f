"""`Settings.from_env()`: the only reader of the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from mosaic_fleet.errors import ConfigurationError

# Where `mosaic serve` has the config endpoint, unless it is told another port.
INTERNAL_PORT = 4001
_VARIABLES = ("DATABASE_URL", "MOSAIC_SECRET_KEY")
_NAMES = [f"{name}{ending}" for name in _VARIABLES for ending in ("", "_FILE")]


@dataclass(frozen=True)
class Settings:
    """What the environment, or else the env file, decides: two variables and where files lie.

    `database_url` is None for the embedded Postgres, `key` is the text of the secret key, its file, or None.
    """

    env_file: Path
    data_dir: Path
    socket_dir: Path
    database_url: str | None = None
    key: str | Path | None = field(default=None, repr=False)
    docker_host: str | None = None
    docker_context: str | None = None
    docker_config_dir: Path = Path("~/.docker")
    no_input: bool = False
    dumb_terminal: bool = False
    origins: Mapping[str, str] = field(default_factory=lambda: dict.fromkeys(_VARIABLES, "default"))

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Read the two variables (each also as `…_FILE`), the env file and the XDG directories.

        Raises ConfigurationError when a named file cannot be read or is empty, when the env file has a bad line, and
        when a folder is the home's and there is none.
        """
        env = os.environ if environ is None else environ
        root = os.geteuid() == 0
        env_file = _home(env, "XDG_CONFIG_HOME", "/etc" if root else "~/.config") / "mosaic" / "env"
        data_dir = _home(env, "XDG_DATA_HOME", "/var/lib" if root else "~/.local/share") / "mosaic"
        written = _read_env_file(env_file)
        return cls(
            env_file=env_file,
            data_dir=data_dir,
            socket_dir=_socket_dir(env, data_dir / "pg", root=root),
            database_url=_value(_VARIABLES[0], _source(_VARIABLES[0], env, written)),
            key=_source(_VARIABLES[1], env, written),
            docker_host=env.get("DOCKER_HOST") or None,
            docker_context=env.get("DOCKER_CONTEXT") or None,
            docker_config_dir=_expanded(Path(env.get("DOCKER_CONFIG") or "~/.docker")),
            no_input=bool(env.get("MOSAIC_NO_INPUT")),
            dumb_terminal=env.get("TERM") == "dumb",
            origins={name: _origin(name, env, written) for name in _VARIABLES},
        )

    @property
    def secret_key(self) -> str | None:
        """The text of the key; its file is read only now, because administrators get in without it.

        Raises ConfigurationError when the file cannot be read or is empty.
        """
        return _value(_VARIABLES[1], self.key)

    @property
    def secret_key_place(self) -> str | None:
        """Say in words where the key stands: the path of its file, the environment, or the path of the env file."""
        if isinstance(self.key, Path):
            return str(self.key)
        return {"environment": "the environment", "env file": str(self.env_file)}.get(self.origins[_VARIABLES[1]])


def without_secrets() -> dict[str, str]:
    """Return this process's environment for programs it starts: all of it but what holds or names a secret."""
    return {name: value for name, value in os.environ.items() if name not in _NAMES}


def _home(env: Mapping[str, str], variable: str, default: str) -> Path:
    """Return an XDG directory; one that is not absolute is ignored, as its specification says."""
    given = Path(env.get(variable) or default)
    return given if given.is_absolute() else _expanded(Path(default))


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ConfigurationError("this user has no home directory", hint="export HOME=…") from error


def _socket_dir(env: Mapping[str, str], pg_data: Path, *, root: bool) -> Path:
    """Name a folder per data directory, short enough for a socket path (107 bytes)."""
    short = sha256(str(pg_data).encode()).hexdigest()[:8]
    if root:
        return Path("/run/mosaic") / short
    runtime = Path(env.get("XDG_RUNTIME_DIR") or "")
    return runtime / "mosaic" / short if runtime.is_absolute() else pg_data.parent / "run"


def _source(name: str, env: Mapping[str, str], written: Mapping[str, str]) -> str | Path | None:
    """Look a variable up: itself, then its `…_FILE`, then the env file."""
    for source in (env, written):
        if source.get(name):
            return source[name]
        if path := source.get(f"{name}_FILE"):
            return Path(path)
    return None


def _origin(name: str, env: Mapping[str, str], written: Mapping[str, str]) -> str:
    """Tell where a variable comes from: the environment, the env file, or its default."""
    for origin, source in (("environment", env), ("env file", written)):
        if source.get(name) or source.get(f"{name}_FILE"):
            return origin
    return "default"


def _value(name: str, source: str | Path | None) -> str | None:
    return _read_file(source, f"{name}_FILE") if isinstance(source, Path) else source


def _read_file(path: Path, what: str) -> str:
    """Read the one value in a file; an empty one is an error, or another database or key would be taken silently."""
    try:
        value = path.read_text("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{what} names {path}, which cannot be read: {error}") from error
    if not value:
        raise ConfigurationError(f"{what} names {path}, which is empty")
    return value


def _read_env_file(path: Path) -> dict[str, str]:
    """Parse `NAME=value` lines; blank lines and lines starting with # are skipped."""
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the env file {path} cannot be read: {error}") from error
    values = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals:
            raise ConfigurationError(f"{path}, line {number}: expected NAME=value")
        if name.strip() not in _NAMES:  # not repeated: half of a key may stand before an equals sign
            raise ConfigurationError(f"{path}, line {number}: no such name", hint=f"one of {', '.join(_NAMES)}")
        values[name.strip()] = _unquoted(value.strip())
    return values


def _unquoted(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value

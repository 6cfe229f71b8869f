"""The folder of a hand-made fleet: its files are read with care, and none outside of it."""

import stat
from pathlib import Path, PurePosixPath

from mosaic_fleet.errors import ConfigurationError
from mosaic_fleet.fleet import entries
from mosaic_fleet.fleet.entries import Entry

_LONGEST = 1_000_000  # bytes: far more than such a file has, far less than memory
# What docker compose looks for, in its order.
_COMPOSE_NAMES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
_HINT = "docs/reference/hand-made-fleet.md"


class Folder:
    """A folder to read from; names are relative to it. Errors are ConfigurationErrors that name the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._root = path.resolve()

    @property
    def name(self) -> str:
        """Name the folder itself."""
        return self._root.name

    @property
    def absolute(self) -> str:
        """Say where it is."""
        return str(self._root)

    def read(self, name: str) -> str:
        """Return a file's text, with `\\n` at the end of its lines."""
        content = self._bytes(name)
        if len(content) > _LONGEST:
            raise ConfigurationError(f"{name}: it is larger than a million bytes", hint=_HINT)
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            raise ConfigurationError(f"{name}: this is no UTF-8 text", hint=_HINT)
        return text.replace("\r\n", "\n")

    def find(self, reference: str) -> str | None:
        """Find the file that a compose file means, by its path or, as the folder may have moved, by the end of it."""
        parts = [part for part in PurePosixPath(reference).parts if part not in ("/", ".")]
        while ".." in parts:
            parts = parts[parts.index("..") + 1 :]
        for start in range(len(parts)):
            name = "/".join(parts[start:])
            if self.has(name):
                return name
        return None

    def has(self, name: str) -> bool:
        """Tell whether there is such a file, or something else that was meant as one."""
        try:
            return (self._root / name).exists() and not (self._root / name).is_dir()
        except OSError:
            return False

    def compose_file(self) -> tuple[str, Entry]:
        """Find the compose file: by its usual name, else the only YAML file with services."""
        found = {name: self._composed(name) for name in self._yaml_names()}
        usual = [name for name in _COMPOSE_NAMES if name in found]
        names = usual[:1] or [name for name, entry in found.items() if _has_services(entry)]
        if len(names) > 1:
            raise ConfigurationError(f"{self.path}: several compose files: {', '.join(names)}", hint=_HINT)
        if not names:
            raise ConfigurationError(f"{self.path}: no compose file is in this folder", hint=_HINT)
        return names[0], found[names[0]]

    def _yaml_names(self) -> list[str]:
        try:
            names = sorted(one.name for one in self._root.iterdir() if one.suffix in (".yml", ".yaml"))
        except OSError as error:
            raise ConfigurationError(f"{self.path}: {error.strerror}", hint=_HINT) from error
        return [name for name in names if name in _COMPOSE_NAMES] or names

    def _composed(self, name: str) -> Entry:
        return entries.compose(self.read(name), merge=True, file=name)

    def _bytes(self, name: str) -> bytes:
        path = self._root / name
        try:
            real = path.resolve()
            if not real.is_relative_to(self._root):
                raise ConfigurationError(f"{name}: it leads out of {self.path}; copy the file in", hint=_HINT)
            if not stat.S_ISREG(real.stat().st_mode):  # a pipe would be waited for without end
                raise ConfigurationError(f"{name}: it is no ordinary file", hint=_HINT)
            with real.open("rb") as file:
                return file.read(_LONGEST + 1)
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
            why = getattr(error, "strerror", None) or "it cannot be read"
            raise ConfigurationError(f"{name}: {why}", hint=_HINT) from error


def _has_services(entry: Entry) -> bool:
    return isinstance(entry.value, dict) and "services" in entry.value

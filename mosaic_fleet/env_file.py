"""Writes the env file that `mosaic init` makes: whole or not at all, by one process at a time, for its owner's eyes."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mosaic_fleet.errors import ConfigurationError


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Have one process at a time write a folder's files: a second key would replace the one that already seals."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise ConfigurationError(f"the folder {folder} cannot be made: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def put(path: Path, name: str, value: str) -> None:
    """Set a variable in the file; its other lines stay as they are. Whoever does is alone()."""
    try:
        lines = path.read_text("utf-8-sig").splitlines() if path.exists() else []
        place = next((number for number, line in enumerate(lines) if _name(line) == name), len(lines))
        _write(path, [*lines[:place], f"{name}={value}", *lines[place + 1 :]])
    except OSError as error:
        raise ConfigurationError(f"the env file {path} cannot be written: {error.strerror}") from error


def _name(line: str) -> str:
    return "" if line.lstrip().startswith("#") else line.partition("=")[0].strip()


def _write(path: Path, lines: list[str]) -> None:
    """Write beside the file and put it in its place; what a killed one left there is written over."""
    fresh = path.with_name(f"{path.name}.new")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)  # it may hold a key
        raise
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """Have a renaming outlive a power cut: a key that already seals must not be gone."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""The env file: whole or as it was, for its owner alone, whatever breaks off a writing of it."""

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mosaic_fleet import env_file
from mosaic_fleet.errors import ConfigurationError

# Ends by SIGKILL when all is written and nothing is in its place.
_KILLED = """
import os, pathlib, signal, sys
from mosaic_fleet import env_file
pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
env_file.put(pathlib.Path(sys.argv[1]), "MOSAIC_SECRET_KEY", "lost")
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return an env file of one line."""
    path = tmp_path / "env"
    path.write_text("A=b\n")
    return path


def test_what_a_killed_one_left_is_in_nobodys_way(path: Path) -> None:
    """The file is as it was; the next writing works, is its owner's alone, and leaves nothing beside."""
    assert subprocess.run([sys.executable, "-c", _KILLED, path], check=False).returncode == -signal.SIGKILL
    assert path.read_text() == "A=b\n"
    [left] = [one for one in path.parent.iterdir() if one != path]
    left.chmod(0o644)
    env_file.put(path, "A", "c")
    assert path.read_text() == "A=c\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [*path.parent.iterdir()] == [path]


def test_a_full_disk_leaves_no_key_behind(path: Path) -> None:
    """A writing that fails says so; the file is as it was, and half of another one is not there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
    try:
        with pytest.raises(ConfigurationError, match="cannot be written: File too large"):
            env_file.put(path, "MOSAIC_SECRET_KEY", "secret" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "A=b\n"
    assert [*path.parent.iterdir()] == [path]

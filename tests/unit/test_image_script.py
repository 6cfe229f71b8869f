"""image.sh --tar with stand-ins for mmdebstrap and npm: what a build leaves when it works, fails or is killed."""

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "stacks/quickstart/image.sh"
# It gets `… SUITE TAR [SOURCES]` and makes the tar that npm's part is added to.
MMDEBSTRAP = 'for word; do case $word in */image.tar) tar --create --file="$word" --files-from=/dev/null;; esac; done'
NPM = "mkdir -p node_modules/.bin; echo built >>node_modules/built; echo {} >node_modules/.package-lock.json"


@dataclass
class Builder:
    """Runs image.sh with its own cache and its own tools first on PATH."""

    home: Path

    def tool(self, name: str, script: str) -> None:
        """Make a tool that is found before the machine's own."""
        path = self.home / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def start(self) -> subprocess.Popen[str]:
        """Start a build."""
        env = os.environ | {"PATH": f"{self.home}/bin:{os.environ['PATH']}", "XDG_CACHE_HOME": str(self.home)}
        pipe = subprocess.PIPE
        return subprocess.Popen([SCRIPT, "--tar"], env=env, stdout=pipe, stderr=pipe, text=True, start_new_session=True)

    def cached(self) -> list[str]:
        """List the cache, but for the lock."""
        return sorted(path.name for path in (self.home / "mosaic").iterdir() if path.name != "image.lock")


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    """Make a builder whose tools work and take no time."""
    builder = Builder(tmp_path)
    builder.tool("mmdebstrap", MMDEBSTRAP)
    builder.tool("npm", NPM)
    return builder


def test_a_build_leaves_one_tar(builder: Builder) -> None:
    """The tar holds the npm tree without npm's lock file, owned by root, and nothing else stays in the cache."""
    with builder.start() as build:
        out, err = build.communicate(timeout=240)
    assert build.returncode == 0, err
    tar = Path(out.strip())
    assert builder.cached() == [tar.name]
    listed = subprocess.run(["tar", "-tvf", tar], capture_output=True, text=True, check=True).stdout
    assert "opt/openclaw/node_modules/built" in listed
    assert "package-lock" not in listed
    assert {line.split()[1] for line in listed.splitlines()} == {"0/0"}


def test_a_tar_that_is_there_is_used(builder: Builder) -> None:
    """A second run prints the same path and builds nothing; a tar of another recipe goes when a new one is made."""
    old = builder.home / "mosaic/mosaic-openclaw-2026.9.6-old.tar"
    old.parent.mkdir()
    old.write_text("old")
    with builder.start() as build:
        first = build.communicate(timeout=240)[0]
    builder.tool("mmdebstrap", "exit 1")
    with builder.start() as build:
        second = build.communicate(timeout=240)[0]
    assert second == first
    assert builder.cached() == [Path(first.strip()).name]


@pytest.mark.parametrize("tool", ["mmdebstrap", "npm"])
def test_a_failed_half_is_shown_whole_and_leaves_nothing(builder: Builder, tool: str) -> None:
    """When one half fails its whole log is shown, the exit code is not 0 and the cache stays empty."""
    builder.tool(tool, f"echo {tool} says what it misses; exit 3")
    with builder.start() as build:
        out, err = build.communicate(timeout=240)
    assert build.returncode == 7
    assert f"{tool} says what it misses" in err
    assert out == ""
    assert builder.cached() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_build_is_healed_by_the_next(builder: Builder, number: signal.Signals) -> None:
    """Whatever interrupts a build, no half of it is ever taken for a whole, and the next run builds one.

    A signal ends both halves at once; after kill -9 the next run waits until they have ended.
    """
    work = "sleep 1" if number == signal.SIGKILL else "sleep 600"
    builder.tool("npm", work)
    fifo = builder.home / "started"
    os.mkfifo(fifo)
    builder.tool("mmdebstrap", f"echo begun >{fifo}; {work}")
    with builder.start() as build:
        fifo.read_text()
        if number == signal.SIGKILL:
            os.killpg(build.pid, number)
        else:
            build.send_signal(number)
        build.communicate(timeout=240)
    assert build.returncode != 0
    assert not [name for name in builder.cached() if name.endswith(".tar")]
    builder.tool("mmdebstrap", MMDEBSTRAP)
    builder.tool("npm", NPM)
    with builder.start() as build:
        out, err = build.communicate(timeout=240)
    assert build.returncode == 0, err
    assert builder.cached() == [Path(out.strip()).name]

"""The how-to pages about keys: their commands are run in order, on a machine whose key `mosaic init` wrote."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from mosaic_fleet.sealing import EnvironmentKey
from tests.postgres.machine import JARVIS, Machine, Said

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"
PAGES = ["leaked-provider-key", "stolen-dump", "lost-key-file", "employee-gone"]
# These get as far as Docker, which is away here; what they do there is tested in tests/docker.
NEEDS_DOCKER = {"fleet"}


def commands(page: str) -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", (HOW_TO / f"{page}.md").read_text("utf-8"), re.DOTALL)
    return [line.removeprefix("$ mosaic ") for block in blocks for line in block.splitlines()]


def run(machine: Machine, line: str) -> Said:
    """Run a command as a shell would, with what it reads and writes."""
    words = shlex.split(line)
    if words[:2] == ["provider", "set"]:
        words.insert(3, "--no-test")  # no vendor can be reached from here
    source = words.index("<") if "<" in words else len(words)
    target = words.index(">") if ">" in words else len(words)
    given = Path(words[source + 1]).read_text() if source < len(words) else None
    said = machine(*words[: min(source, target)], input=given)
    if target < len(words):
        Path(words[target + 1]).write_text(said.stdout)
    return said


@pytest.fixture
def machine(mosaic: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Return a machine with a roster; the working folder has `jarvis.yml`, and `key` with a vendor's new key."""
    monkeypatch.chdir(tmp_path)
    machine = mosaic.but(MOSAIC_SECRET_KEY=None)
    machine("init")
    machine("agent", "import", JARVIS)
    machine("provider", "set", "zai", "--api-key-stdin", "--no-test", input="0123456789abcdef-leaked")
    machine("admin", "create-breakglass", "ops", "--generate")
    machine("admin", "create-breakglass", "old-colleague", "--generate")
    machine("user", "add", "old-colleague", "--email", "old-colleague@example.org")
    shutil.copy(JARVIS, "jarvis.yml")
    Path("key").write_text("0123456789abcdef-renewed\n")
    return machine


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_work(machine: Machine, page: str) -> None:
    """Each command ends well, or gets as far as Docker, and everything opens afterwards."""
    lines = commands(page)
    assert lines
    for line in lines:
        said = run(machine, line)
        expected = 7 if {*line.split()[:2]} & NEEDS_DOCKER else 0
        assert said.exit_code == expected, (line, said)
    assert machine("secrets", "verify").exit_code == 0


@pytest.mark.parametrize("page", PAGES[1:])
def test_the_old_key_opens_nothing_afterwards(machine: Machine, tmp_path: Path, page: str) -> None:
    """After the pages that change the key the old one is refused by its id."""
    env_file = tmp_path / "config" / "mosaic" / "env"
    old = env_file.read_text().strip().partition("=")[2]
    for line in commands(page):
        run(machine, line)
    code, message, _ = machine.but(MOSAIC_SECRET_KEY=old)("secrets", "verify").error
    assert code == 3
    assert message.startswith(f"MOSAIC_SECRET_KEY is key {EnvironmentKey(old).kid}, but this database is sealed under")

"""The command line starts quickly because it imports little."""

import subprocess
import sys

import pytest

HEAVY = [
    "rich",
    "pydantic",
    "sqlalchemy",
    "sqlmodel",
    "docker",
    "asyncio",
    "psycopg",
    "cryptography",
    "bcrypt",
    "httpx",
    "httpcore",
    "fastapi",
    "starlette",
    "uvicorn",
    "mosaic_fleet.web",
    "mosaic_fleet.cli.fleet",
]


def imported(*words: str, stub: str = "") -> list[str]:
    """Run `mosaic` in a fresh interpreter and name the heavy modules that it imported."""
    script = f"""
import sys
sys.argv[1:] = {list(words)!r}
from mosaic_fleet.cli import main
try:
    main()
except SystemExit:
    pass
print("\\n" + " ".join(name for name in {HEAVY!r} if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["nonsense"], []])
def test_the_root_imports_no_command(words: list[str]) -> None:
    """Help, version and a typo need neither a noun's module nor a library."""
    assert imported(*words) == []


def test_the_version_imports_no_library() -> None:
    """`mosaic version` imports its own module only."""
    assert imported("version") == []


@pytest.mark.parametrize(
    "noun", ["admin", "provider", "agent", "fleet", "user", "gateway", "config", "secrets", "audit", "db"]
)
def test_the_help_of_a_noun_imports_no_library_to_print(noun: str) -> None:
    """A noun's help needs no ORM, no Docker and no cryptography."""
    assert set(imported(noun, "--help")) <= {"psycopg", "asyncio", "mosaic_fleet.cli.fleet"}


def test_comparing_imports_no_orm_and_renders_nothing() -> None:
    """`fleet diff` needs neither SQLModel nor pydantic, Jinja or YAML: they cost more than comparing."""
    script = """
import sys
from mosaic_fleet.cli import fleet, fleet_changes, fleet_report
from mosaic_fleet.fleet import comparing
from mosaic_fleet.runtimes import swarm
print(*{"sqlalchemy", "sqlmodel", "pydantic", "jinja2", "yaml", "rich"} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_status_imports_neither_orm_nor_cryptography() -> None:
    """`fleet status` opens sealed values only when it has a line of a log to show."""
    script = """
import sys
from mosaic_fleet.cli import fleet, fleet_watch
from mosaic_fleet.fleet import masking, status
from mosaic_fleet.runtimes import swarm
print(*{"sqlalchemy", "sqlmodel", "pydantic", "jinja2", "yaml", "rich", "cryptography"} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_completion_at_the_root_imports_no_command() -> None:
    """Completing the name of a noun reads the table of stubs only."""
    script = f"""
import os, sys
os.environ.update(_MOSAIC_COMPLETE="complete_bash", COMP_WORDS="mosaic pro", COMP_CWORD="1")
sys.argv[1:] = []
from mosaic_fleet.cli import main
try:
    main()
except SystemExit:
    pass
print("\\n" + " ".join(name for name in {HEAVY!r} if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "provider" in done.stdout.splitlines()
    assert done.stdout.splitlines()[-1] == ""

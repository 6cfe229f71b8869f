"""The reference is written from the program, is fresh, and every command helps with examples that parse."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from mosaic_fleet import cli
from mosaic_fleet.configuration import REGISTRY
from tests.docs import reference

ROOT = Path(__file__).parents[2]
COMMANDS = {path: (command, context) for path, command, context in reference.commands()}
VERBS = {path: command for path, (command, _) in COMMANDS.items() if not hasattr(command, "commands")}
EXAMPLES = [(path, line) for path, command in VERBS.items() for line in (command.epilog or "").split("\n")[2:]]


@pytest.mark.parametrize("name", reference.pages())
def test_a_reference_page_is_fresh(name: str) -> None:
    """What is checked in is what the program says today; `make docs` writes it anew."""
    path = reference.PLACE / name
    assert path.is_file(), f"docs/reference/{name} is missing: run `make docs`"
    assert path.read_text("utf-8") == reference.pages()[name], "stale: run `make docs`"


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_has_help(path: str) -> None:
    """A command and each of its options say what they do."""
    command, _ = COMMANDS[path]
    assert command.help
    assert [param.name for param in command.params if not getattr(param, "help", None)] == []


@pytest.mark.parametrize("path", sorted(COMMANDS.keys() - VERBS.keys()))
def test_the_list_of_commands_cuts_nobody_short(path: str) -> None:
    """The first sentence of each command fits the list of its noun on a terminal of 80 columns."""
    command, context = COMMANDS[path]
    context.terminal_width = 80
    _, *lines = command.get_help(context).splitlines()
    assert [line for line in lines if line.endswith("...")] == []


@pytest.mark.parametrize("path", VERBS)
def test_every_command_has_examples(path: str) -> None:
    """Two or three lines to copy stand under every command."""
    lines = (VERBS[path].epilog or "").split("\n")
    assert lines[:2] == ["\b", "Examples:"]
    assert 2 <= len(lines[2:]) <= 3
    assert all(re.search(rf"(^|\| ){path}( |$)", line.strip()) for line in lines[2:])


@pytest.mark.parametrize(("path", "line"), EXAMPLES)
def test_every_example_parses(path: str, line: str) -> None:
    """An example has only commands and options that exist."""
    words = _mosaic_words(line)
    command: Any = typer.main.get_command(cli.app)
    context = typer.Context(command, info_name="mosaic")
    while hasattr(command, "commands"):
        name, command, words = command.resolve_command(context, words)
        context = typer.Context(command, info_name=name, parent=context)
    command.make_context(path, words, parent=context)


def _mosaic_words(line: str) -> list[str]:
    """Take the words behind `mosaic` up to a redirection or the next command of a pipe."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="<>|;")
    lexer.whitespace_split = True
    words = list(lexer)
    words = words[words.index("mosaic") + 1 :]
    end = next((place for place, word in enumerate(words) if word[:1] in {*"<>|;#"}), len(words))
    return words[:end]


@pytest.mark.parametrize("goal", [[], ["help"]], ids=["make", "make help"])
def test_make_helps(goal: list[str]) -> None:
    """`make`, alone too, says a line about every verb of a checkout and does nothing."""
    done = subprocess.run(["make", "-C", ROOT, "--no-print-directory", *goal], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    (verbs,) = re.findall(r"^\.PHONY: help (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["make", verb] for verb in verbs.split()]


def test_every_variable_is_documented() -> None:
    """What the settings read from the environment is on the page, and nothing else."""
    source = (ROOT / "mosaic_fleet" / "settings.py").read_text("utf-8")
    read = set(re.findall(r'"([A-Z][A-Z_]{3,})"', source))
    assert read == reference.VARIABLES.keys() | reference.PLACES.keys() | reference.OBEYED.keys()


@pytest.mark.parametrize("key", REGISTRY)
def test_every_setting_is_documented(key: str) -> None:
    """A setting's help is a sentence, its default keeps its own rule."""
    setting = REGISTRY[key]
    assert setting.help[0].isupper()
    assert setting.help.endswith(".")
    setting.parse(setting.default)
    assert f"`{key}`" in reference.pages()["settings.md"]


@pytest.mark.parametrize("page", [*sorted(ROOT.glob("docs/**/*.md")), ROOT / "README.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """A link to a file of the project has that file behind it."""
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    local = [target for target in targets if not target.startswith("http")]
    assert [target for target in local if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", [*sorted(ROOT.glob("docs/**/*.md")), ROOT / "README.md"], ids=lambda page: page.name)
def test_commands_in_the_pages_exist(page: Path) -> None:
    """A command line shown in a console block names a command and options that exist."""
    for block in re.findall(r"```console\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
        for line in re.findall(r"^\$ (.*\bmosaic .*)$", block, re.MULTILINE):
            test_every_example_parses(page.name, line)

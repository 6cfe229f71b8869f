"""The root of the command line: lazy nouns, aliases, errors and exit codes."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from mosaic_fleet import cli
from mosaic_fleet.errors import Conflict, MosaicError

SUBCLASSES = MosaicError.__subclasses__()


def fail(error: BaseException, *words: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `mosaic version` so that it raises an error."""
    app = cli.command()

    @app.command()
    def version(json: bool = False) -> None:
        raise error

    monkeypatch.setattr("mosaic_fleet.cli.version.app", app)
    return CliRunner().invoke(cli.app, ["version", *words], prog_name="mosaic")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_listed_command_exists(name: str) -> None:
    """The table names a Typer application for each command, and is in words that fit a line."""
    module, _, attribute = cli.COMMANDS[name][0].partition(":")
    assert isinstance(getattr(import_module(module), attribute), typer.Typer)
    assert len(cli.COMMANDS[name][1]) <= 64


def test_a_bare_command_prints_help(run: Callable[..., Any]) -> None:
    """Without a command the help is printed and the exit code is 2."""
    result = run()
    assert result.exit_code == 2
    assert "Commands:" in result.stderr
    assert result.stdout == ""


def test_a_bare_noun_prints_help(run: Callable[..., Any]) -> None:
    """Without a verb the noun's help is printed and the exit code is 2."""
    result = run("admin")
    assert result.exit_code == 2
    assert "create-breakglass" in result.stderr


def test_a_typo_is_answered_with_the_nearest_command(run: Callable[..., Any]) -> None:
    """A mistyped noun gets two lines in our form, with a suggestion."""
    result = run("provder", "list")
    assert result.exit_code == 2
    assert result.stderr == "error: no such command 'provder'. Did you mean 'provider'?\nhint:  mosaic --help\n"


def test_a_mistyped_verb_is_answered_with_the_nearest(run: Callable[..., Any]) -> None:
    """A mistyped verb gets a suggestion too."""
    result = run("admin", "lst")
    assert "Did you mean 'list'?" in result.stderr
    assert result.stderr.endswith("hint:  mosaic admin --help\n")


def test_plurals_and_short_verbs_work_but_are_not_listed(run: Callable[..., Any]) -> None:
    """`mosaic admins ls` is `mosaic admin list`, and help shows only the latter."""
    assert run("admins", "ls", "--help").stdout == run("admin", "list", "--help").stdout.replace("list [", "ls [", 1)
    assert "admins" not in run("--help").stdout
    assert " ls " not in run("admin", "--help").stdout


@pytest.mark.parametrize("error", SUBCLASSES)
def test_an_error_is_two_lines_and_its_exit_code(error: type[MosaicError], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each error of the tree ends the command with its own code, nothing on standard output."""
    rows = {"rows": []} if error.__name__ == "PartialFailure" else {}
    result = fail(error("it broke", hint="mend it", **rows), monkeypatch=monkeypatch)
    assert result.exit_code == error.exit_code
    assert result.stderr == "error: it broke\nhint:  mend it\n"
    assert result.stdout == ""


def test_no_two_errors_share_an_exit_code() -> None:
    """A script can tell the errors apart."""
    assert len({error.exit_code for error in SUBCLASSES}) == len(SUBCLASSES)


def test_an_error_is_json_when_json_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `--json` the error is one document on standard error."""
    result = fail(Conflict("taken", hint="take another"), "--json", monkeypatch=monkeypatch)
    assert result.exit_code == 5
    assert json.loads(result.stderr) == {"error": {"code": 5, "message": "taken", "hint": "take another"}}


def test_a_usage_error_is_json_when_json_is_asked_for(run: Callable[..., Any]) -> None:
    """A missing argument is told in the same form."""
    result = run("admin", "create-breakglass", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stderr)["error"]["hint"] == "mosaic admin create-breakglass --help"


def test_json_after_two_dashes_is_an_argument(run: Callable[..., Any]) -> None:
    """What follows `--` does not choose the form of errors."""
    assert run("version", "--", "--json").stderr.startswith("error: ")


def test_an_error_cannot_send_escapes_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control characters of a name in an error are spelled out."""
    result = fail(Conflict('"\x1b[31mred\nerror: forged" exists'), monkeypatch=monkeypatch)
    assert result.stderr == 'error: "\\x1b[31mred\\nerror: forged" exists\n'


def test_an_error_never_shows_a_registered_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that got into a message is starred out."""
    from mosaic_fleet import logs

    logs.register("hunter-of-the-north")
    result = fail(Conflict("bad key hunter-of-the-north"), monkeypatch=monkeypatch)
    assert result.stderr == "error: bad key ***\n"


def test_a_bug_shows_a_redacted_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected exception prints where it came from, without secrets, and exits with 1."""
    result = fail(KeyError("postgresql://mosaic:hunter2@db/x"), monkeypatch=monkeypatch)
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "in version" in result.stderr
    assert "hunter2" not in result.stderr
    assert "this is a bug" in result.stderr


def test_a_bug_is_json_when_json_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `--json` the traceback is a key of the one document."""
    error = json.loads(fail(KeyError("x"), "--json", monkeypatch=monkeypatch).stderr)["error"]
    assert error["code"] == 1
    assert "Traceback" in error["traceback"]


def test_an_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends a command with 130."""
    assert fail(KeyboardInterrupt(), monkeypatch=monkeypatch).exit_code == 130


def test_global_options_work_behind_the_verb(run: Callable[..., Any]) -> None:
    """`--no-input` and `-v` may stand anywhere."""
    from mosaic_fleet.cli import prompts

    assert run("version").exit_code == 0
    assert (logging.getLogger().level, prompts._forbidden) == (logging.WARNING, False)
    assert run("version", "-v", "--no-input").exit_code == 0
    assert (logging.getLogger().level, prompts._forbidden) == (logging.DEBUG, True)


def test_a_usage_error_is_in_our_words(run: Callable[..., Any]) -> None:
    """Typer's message loses its capital and its full stop, and gains a hint to type."""
    expected = "error: missing argument 'username'\nhint:  mosaic admin create-breakglass --help\n"
    assert run("admin", "create-breakglass").stderr == expected


def test_a_closed_pipe_ends_quietly() -> None:
    """A reader that leaves early gets no traceback, and the exit code tells what happened."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "mosaic_fleet", "version"]
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_missing_standard_output_is_no_error() -> None:
    """With standard output closed the command still does its work."""
    script = f"exec {sys.executable} -m mosaic_fleet version >&-"
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("words", [["version"], ["--help"], ["secrets", "generate-key", "--json"]], ids=" ".join)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_an_error_line(words: list[str], unbuffered: str) -> None:
    """Output that cannot be written is one line on standard error and exit code 1, and no traceback."""
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "mosaic_fleet", *words]
        environ = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        done = subprocess.run(command, env=environ, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert b"standard output cannot be written: No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"\n") == 1

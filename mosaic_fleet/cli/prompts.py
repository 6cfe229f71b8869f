"""Asks for what was not given, only where somebody can answer; otherwise names the option that is missing."""

import sys
from pathlib import Path

import typer

from mosaic_fleet import logs
from mosaic_fleet.errors import Invalid
from mosaic_fleet.settings import Settings

_LONGEST = 65_536
_forbidden = False


def configure(*, no_input: bool) -> None:
    """Forbid or allow questions in this process."""
    global _forbidden
    _forbidden = no_input


def can_ask() -> bool:
    """Tell whether a person is there: input and errors are a terminal and nobody said `--no-input`."""
    if _forbidden or sys.stdin is None or sys.stderr is None:
        return False
    return sys.stdin.isatty() and sys.stderr.isatty() and not Settings.from_env().no_input


def ask(label: str, *, flag: str) -> str:
    """Ask for a line; raises Invalid naming the flag where nobody can answer."""
    return _read(label, flag, hidden=False)


def secret(label: str, *, flags: str, from_stdin: bool = False, file: Path | None = None, repeat: bool = False) -> str:
    """Read a secret of one line from standard input, from a file, or by a question without echo.

    `flags` names the options, without their ending: `--password` for `--password-stdin`. `repeat` asks twice.
    Raises Invalid when it is missing, empty or more than a line.
    """
    if from_stdin and not can_ask():
        value = _one_line(_read_stdin(f"{flags}-stdin"), f"{flags}-stdin")
    elif file is not None:
        value = _one_line(_read_file(file, f"{flags}-file"), f"{flags}-file")
    else:
        value = _read(label, f"{flags}-stdin", hidden=True)
        if repeat and value != _read(f"{label} again", f"{flags}-stdin", hidden=True):
            raise Invalid("the two entries differ")
    logs.register(value)
    return value


def text_file(path: Path, *, flag: str) -> str:
    """Read a text from a file, its line ends as they are; raises Invalid when it cannot be read as text."""
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{flag}: {path} cannot be read as text: {error}") from error


def confirm(question: str, *, yes: bool) -> None:
    """Ask for a yes unless `--yes` was given; a no ends the command with exit code 1."""
    if yes:
        return
    if _read(f"{question} [y/N]", "--yes", hidden=False, empty=True).strip().lower() not in ("y", "yes"):
        raise typer.Exit(1)


def agree(question: str) -> bool:
    """Offer something; no answer, or nobody to ask, is a no."""
    if not can_ask():
        return False
    try:
        return _read(f"{question} [y/N]", "", hidden=False, empty=True).strip().lower() in ("y", "yes")
    except Invalid:
        return False


def confirm_name(name: str, *, what: str, given: str | None) -> None:
    """Have the name of what will be lost typed, or given by `--confirm`; raises Invalid when it differs."""
    typed = given if given is not None else _read(f"{what}. Type {name} to go on", f"--confirm {name}", hidden=False)
    if typed != name:
        raise Invalid(f'"{typed}" is not the name "{name}": nothing was done', hint=f"--confirm {name}")


def _read(label: str, flag: str, *, hidden: bool, empty: bool = False) -> str:
    if not can_ask():
        raise Invalid(f"{_what(label)}: it was not given and there is nobody to ask", hint=f"add {flag}")
    try:
        value = _read_hidden(label) if hidden else _read_visible(label)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        raise
    except EOFError:
        print(file=sys.stderr)
        raise Invalid(f"{_what(label)}: there was no answer", hint=f"add {flag}") from None
    if not value and not empty:
        raise Invalid(f"{_what(label)}: nothing was typed", hint=f"add {flag}")
    return value


def _what(label: str) -> str:
    return label.partition(" [")[0]


def _read_hidden(label: str) -> str:
    from getpass import getpass

    return getpass(f"{label}: ", stream=sys.stderr)


def _read_visible(label: str) -> str:
    print(f"{label}: ", end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")


def _read_stdin(flag: str) -> bytes:
    if sys.stdin is None:
        raise Invalid(f"{flag}: standard input is closed")
    try:
        return sys.stdin.buffer.read(_LONGEST + 1)
    except (OSError, ValueError) as error:
        raise Invalid(f"{flag}: standard input cannot be read: {error}") from error


def _read_file(path: Path, flag: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LONGEST + 1)
    except OSError as error:
        raise Invalid(f"{flag}: {path} cannot be read: {error.strerror}") from error


def _one_line(raw: bytes, flag: str) -> str:
    """Decode a secret and strip the one newline that `echo` or an editor left behind it."""
    if len(raw) > _LONGEST:
        raise Invalid(f"{flag}: more than {_LONGEST} bytes")
    try:
        text = raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise Invalid(f"{flag}: not UTF-8 text") from None
    if not text:
        raise Invalid(f"{flag}: it is empty")
    if "\n" in text:
        raise Invalid(f"{flag}: more than one line")
    return text

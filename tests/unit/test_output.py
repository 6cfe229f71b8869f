"""What commands print: tables, tab-separated lines, JSON, and nothing that a terminal obeys."""

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from mosaic_fleet.cli import output, prompts
from mosaic_fleet.errors import Invalid

Capture = pytest.CaptureFixture[str]


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    name: str
    size: int | None = None


COLUMNS: dict[str, Callable[[Row], object]] = {"NAME": lambda row: row.name, "SIZE": lambda row: row.size}
ROWS = [Row("ann", 3), Row("bob")]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make standard output a terminal and return it (not a fixture: pytest puts its own stream back in between)."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    return stream


def test_a_piped_table_is_one_line_a_row(capsys: Capture) -> None:
    """Without a terminal there is no heading: `wc -l` counts rows, `cut -f` finds columns."""
    output.table("people", ROWS, COLUMNS)
    assert capsys.readouterr().out == "ann\t3\nbob\t\n"


def test_an_empty_piped_table_is_empty(capsys: Capture) -> None:
    """No rows, no lines."""
    output.table("people", [], COLUMNS)
    assert capsys.readouterr().out == ""


def test_a_table_on_a_terminal_has_headings(monkeypatch: pytest.MonkeyPatch) -> None:
    """People get headings and a dash for what is not there, and no escape codes."""
    terminal = on_terminal(monkeypatch)
    output.table("people", ROWS, COLUMNS)
    assert [line.split() for line in terminal.getvalue().splitlines()] == [["NAME", "SIZE"], ["ann", "3"], ["bob", "–"]]
    assert "\x1b" not in terminal.getvalue()


def test_json_is_one_document_with_every_field(capsys: Capture) -> None:
    """`--json` gives the rows under their plural, with the schema's number."""
    output.table("people", ROWS, {"NAME": lambda row: row.name}, json=True)
    expected = {"schema": 1, "people": [{"name": "ann", "size": 3}, {"name": "bob", "size": None}]}
    assert json.loads(capsys.readouterr().out) == expected


def test_quiet_prints_names_only(capsys: Capture) -> None:
    """`-q` gives what a loop in a shell wants."""
    output.table("people", ROWS, COLUMNS, quiet=True)
    assert capsys.readouterr().out == "ann\nbob\n"


HOSTILE = ["\x1b]0;title\x07", "a\tb", "a\nb", "[bold]a[/bold]", "[red", "\x9b2J", "\u202eevil", "\ud800"]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_value_stays_in_its_cell(value: str, capsys: Capture) -> None:
    """A stored value can neither start a line or column nor send an escape code."""
    output.table("people", [Row(value, 1)], COLUMNS)
    line = capsys.readouterr().out
    assert line.endswith("\t1\n")
    assert line.count("\n") == line.count("\t") == 1
    assert all(character.isprintable() for character in line.rstrip().replace("\t", ""))


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_value_is_no_markup_on_a_terminal(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich shows brackets as they are, and control characters spelled out."""
    terminal = on_terminal(monkeypatch)
    output.table("people", [Row(value, 1)], COLUMNS)
    text = terminal.getvalue()
    assert all(character.isprintable() or character == "\n" for character in text)
    assert output.neutralise(value) in text


@given(st.text(), st.text())
def test_json_survives_any_text(name: str, other: str) -> None:
    """What was put in is what a parser gets out, and no control character is raw."""
    stream, sys.stdout = sys.stdout, io.StringIO()
    try:
        output.document({"a": name, "b": {"c": [other]}}, json=True)
        text = sys.stdout.getvalue()
    finally:
        sys.stdout = stream
    assert json.loads(text) == {"schema": 1, "a": name, "b": {"c": [other]}}
    assert not output._RAW.search(text)


def test_json_knows_times_ids_and_paths(capsys: Capture) -> None:
    """Times are ISO 8601 in UTC, ids and paths are text."""
    when = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    output.document({"at": when, "id": UUID(int=0), "path": Path("/x")}, json=True)
    got = json.loads(capsys.readouterr().out)
    assert got == {"schema": 1, "at": "2026-11-23T12:00:00+00:00", "id": str(UUID(int=0)), "path": "/x"}


def test_a_secret_cannot_be_printed_as_json() -> None:
    """An opened secret in a document is an error, not a leak."""
    with pytest.raises(TypeError, match="SecretStr cannot be printed"):
        output.document({"key": SecretStr("x")}, json=True)


def test_quiet_silences_text_but_not_json(capsys: Capture) -> None:
    """An action with `-q` says nothing; with `--json` it still gives its document."""
    output.document({"changed": True}, text="added", quiet=True)
    assert capsys.readouterr().out == ""
    output.document({"changed": True}, text="added", quiet=True, json=True)
    assert json.loads(capsys.readouterr().out)["changed"] is True


def test_fields_are_aligned(capsys: Capture) -> None:
    """Without a text of its own a document is shown a field a line."""
    output.document({"name": "zai", "base url": None, "active": True, "models": ["a", "b"]})
    assert capsys.readouterr().out == "name      zai\nbase url  –\nactive    yes\nmodels    a, b\n"


def test_notes_go_to_standard_error(capsys: Capture) -> None:
    """Remarks never mix with data."""
    output.note("next: \x1b[31m")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "next: \\x1b[31m\n")


def test_progress_is_silent_without_a_terminal(capsys: Capture) -> None:
    """A log file gets no progress."""
    with output.progress() as show:
        show("1 of 4")
    assert capsys.readouterr() == ("", "")


def test_progress_replaces_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal the line is rewritten and wiped at the end, and never wider than the terminal."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "10")
    with output.progress() as show:
        show("0123456789")
    assert stream.getvalue() == "\r\x1b[K012345678\r\x1b[K"


def test_a_stream_is_raw_in_a_pipe_and_harmless_on_a_terminal(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent's answer reaches a file byte for byte, but cannot drive a terminal."""
    output.stream("a\x1b[2J\n")
    assert capsys.readouterr().out == "a\x1b[2J\n"
    terminal = on_terminal(monkeypatch)
    output.stream("a\x1b[2J\n")
    assert terminal.getvalue() == "a\\x1b[2J\n"


@pytest.mark.parametrize(
    ("past", "words"),
    [
        (timedelta(seconds=3), "just now"),
        (timedelta(minutes=2), "2 min ago"),
        (timedelta(hours=1), "1 hour ago"),
        (timedelta(days=3), "3 days ago"),
        (timedelta(seconds=-60), "just now"),
    ],
)
def test_times_are_told_as_people_do(past: timedelta, words: str) -> None:
    """Times of the past are rounded down to one unit."""
    assert output.ago(datetime.now(UTC) - past - timedelta(milliseconds=1)) == words


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make sure that nobody can be asked."""
    prompts.configure(no_input=True)


class Input:
    """Standard input with bytes in it."""

    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)

    def isatty(self) -> bool:
        """Say that it is no terminal."""
        return False


@pytest.mark.parametrize(
    ("content", "value"), [(b"abc", "abc"), (b"abc\n", "abc"), (b"abc\r\n", "abc"), (b" a ", " a ")]
)
def test_a_secret_loses_one_newline(
    content: bytes, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The newline of `echo` is no part of a secret, blanks are."""
    monkeypatch.setattr(sys, "stdin", Input(content))
    assert prompts.secret("API key", flags="--api-key", from_stdin=True) == value
    (tmp_path / "key").write_bytes(content)
    assert prompts.secret("API key", flags="--api-key", file=tmp_path / "key") == value


@pytest.mark.parametrize("content", [b"", b"\n", b"a\nb", b"\xff", b"x" * 70_000])
def test_what_is_no_secret_is_refused(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing, two lines, no text or far too much is an error that names the option."""
    monkeypatch.setattr(sys, "stdin", Input(content))
    with pytest.raises(Invalid, match="--api-key-stdin"):
        prompts.secret("API key", flags="--api-key", from_stdin=True)


def test_a_secret_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The option and the path are in the message."""
    with pytest.raises(Invalid, match=r"--api-key-file: .*/key cannot be read: No such file"):
        prompts.secret("API key", flags="--api-key", file=tmp_path / "key")


def test_a_closed_standard_input_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing hangs and nothing crashes when there is no standard input at all."""
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(Invalid, match="standard input is closed"):
        prompts.secret("API key", flags="--api-key", from_stdin=True)


def test_a_secret_that_was_read_is_never_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a secret registers it with the redaction."""
    from mosaic_fleet import logs

    monkeypatch.setattr(sys, "stdin", Input(b"planted-secret"))
    prompts.secret("API key", flags="--api-key", from_stdin=True)
    assert logs.redact("planted-secret") == "***"


def test_a_missing_value_names_its_option(nobody: None) -> None:
    """Where nobody can answer the error says what to add."""
    with pytest.raises(Invalid) as caught:
        prompts.secret("Password", flags="--password")
    assert caught.value.hint == "add --password-stdin"
    with pytest.raises(Invalid) as caught:
        prompts.confirm("Remove it?", yes=False)
    assert caught.value.hint == "add --yes"


def test_the_variable_forbids_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """MOSAIC_NO_INPUT does what --no-input does, terminal or not."""
    for name in ("stdin", "stderr"):
        monkeypatch.setattr(sys, name, Terminal())
    prompts.configure(no_input=False)
    assert prompts.can_ask()
    monkeypatch.setenv("MOSAIC_NO_INPUT", "1")
    assert not prompts.can_ask()


@pytest.mark.parametrize(("answer", "code"), [("y\n", None), ("YES\n", None), ("n\n", 1), ("\n", 1), ("maybe\n", 1)])
def test_only_a_yes_is_a_yes(answer: str, code: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything but a yes ends the command with 1."""
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(sys, "stderr", Terminal())
    prompts.configure(no_input=False)
    if code is None:
        prompts.confirm("Remove it?", yes=False)
    else:
        with pytest.raises(typer.Exit):
            prompts.confirm("Remove it?", yes=False)


def test_a_name_must_be_confirmed_exactly(nobody: None) -> None:
    """A severe action goes on only with the very name."""
    prompts.confirm_name("jarvis", what="volumes will be lost", given="jarvis")
    with pytest.raises(Invalid, match="nothing was done"):
        prompts.confirm_name("jarvis", what="volumes will be lost", given="Jarvis")
    with pytest.raises(Invalid) as caught:
        prompts.confirm_name("jarvis", what="volumes will be lost", given=None)
    assert caught.value.hint == "add --confirm jarvis"

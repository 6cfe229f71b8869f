"""Env files and `${NAME}`: what docker compose reads, Mosaic reads."""

import pytest

from mosaic_fleet.errors import ConfigurationError
from mosaic_fleet.fleet.handmade.variables import read, substitute


def values(text: str, **known: str) -> dict[str, str]:
    return {name: one.value for name, one in read(text, "x.env", known).items()}


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=plain", "plain"),
        ("export A=plain", "plain"),
        ("  A = spaced  ", "spaced"),
        ('A="two words" # said', "two words"),
        ("A='sin$gle ${B}'", "sin$gle ${B}"),
        ("A=key#1", "key#1"),
        ("A=key #1", "key"),
        ('A="line\\nfeed"', "line\nfeed"),
        ("A=${B}", "known"),
        ("A=${B:-other}", "known"),
        ("A=${C:-other}", "other"),
        ("A=pa$w0rd", "pa$w0rd"),
        ("A=", ""),
    ],
)
def test_a_line_becomes_a_value(line: str, value: str | None) -> None:
    """Comments, `export`, quotes and known variables are understood; a dollar sign of a key stays."""
    assert values(f"# first\n{line}\n", B="known").get("A") == value


def test_a_variable_knows_its_line() -> None:
    """Empty lines and comments count."""
    found = read("\n# c\n\nA=1\n\nexport B=2\n", "x.env", {})
    assert {name: one.place for name, one in found.items()} == {"A": "x.env:4", "B": "x.env:6"}


def test_later_lines_see_earlier_ones() -> None:
    """A file may build a value from another one of it."""
    assert values("A=1\nB=${A}2\n") == {"A": "1", "B": "12"}


@pytest.mark.parametrize("line", ["=x", 'A="open', "a b=c"])
def test_a_broken_line_is_placed_and_not_told(line: str) -> None:
    """What is no NAME=value is named by its line, without what stands there."""
    with pytest.raises(ConfigurationError) as caught:
        read(f"A=1\n\n{line}\n", "x.env", {})
    assert caught.value.message == "x.env:3: this is no NAME=value"


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("${A}", "a"),
        ("$A-b", "a-b"),
        ("$$A", "$A"),
        ("${A:-x}", "a"),
        ("${EMPTY:-x}", "x"),
        ("${EMPTY-x}", ""),
        ("${NONE-x}", "x"),
        ("${NONE:-${A}}", "a"),
        ("${NONE:-${NONE:-y}}", "y"),
        ("${A:+set}", "set"),
        ("${EMPTY:+set}", ""),
        ("${EMPTY+set}", "set"),
        ("${NONE}", "?NONE"),
        ("${NONE:?must}", "!NONE"),
        ("${A:?must}", "a"),
        ("costs $5", "costs $5"),
    ],
)
def test_a_compose_file_s_variables_are_filled_in(text: str, filled: str) -> None:
    """Every form of docker compose works, and what is missing is asked for."""
    known = {"A": "a", "EMPTY": ""}
    assert substitute(text, known, lambda name, must: f"{'!' if must else '?'}{name}") == filled

"""The tree of errors: exit codes, HTTP statuses, and the drawing in the docstring."""

import re

import pytest

from mosaic_fleet import errors
from mosaic_fleet.errors import MosaicError, PartialFailure

CODES = {
    "Invalid": (2, 422),
    "ConfigurationError": (3, 500),
    "NotFound": (4, 404),
    "Conflict": (5, 409),
    "Denied": (6, 403),
    "RuntimeFailure": (7, 502),
    "DatabaseFailure": (8, 503),
    "PartialFailure": (9, 500),
}


@pytest.mark.parametrize(("name", "codes"), CODES.items())
def test_each_error_has_its_exit_code_and_status(name: str, codes: tuple[int, int]) -> None:
    """A shell and a browser are told the same thing, by a number that never changes."""
    error = getattr(errors, name)
    assert (error.exit_code, error.http_status) == codes


def test_the_drawing_matches_the_classes() -> None:
    """The docstring draws every error, in the order of exit codes, and no other."""
    drawn = re.findall(r"^[├└]─ (\w+) +exit (\d+)  HTTP (\d+)", errors.__doc__ or "", re.MULTILINE)
    assert {name: (int(code), int(status)) for name, code, status in drawn} == CODES
    assert [name for name, _, _ in drawn] == [error.__name__ for error in MosaicError.__subclasses__()]


def test_an_error_prints_as_its_message() -> None:
    """The text of an error is its message; the hint stands beside it."""
    error = errors.NotFound('no agent "x"', hint="mosaic agent list")
    assert str(error) == error.message == 'no agent "x"'
    assert error.hint == "mosaic agent list"


def test_a_partial_failure_carries_rows() -> None:
    """What failed and what did not can be printed before the error."""
    assert PartialFailure("1 of 2 failed", rows=("a", "b")).rows == ["a", "b"]

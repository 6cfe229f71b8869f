"""Docker's framed stream as lines."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_fleet.runtimes.base import LogLine
from mosaic_fleet.runtimes.frames import LONGEST, contents, lines, since

AT = "2026-11-24T12:00:00.123456789Z"


def frame(number: int, text: bytes, at: str = AT) -> bytes:
    """Frame what a container wrote as Docker does, with its time."""
    content = at.encode() + b" " + text
    return bytes([number, 0, 0, 0]) + len(content).to_bytes(4, "big") + content


FRAMES = frame(1, b"one\n") + frame(2, b"two\r\n") + frame(1, b"") + frame(2, "café \x1b[31m\n".encode())


@given(st.lists(st.integers(1, len(FRAMES) - 1), max_size=9, unique=True))
def test_it_does_not_matter_where_the_stream_is_cut(cuts: list[int]) -> None:
    """Blocks of any size give the same lines."""
    places = [0, *sorted(cuts), len(FRAMES)]
    blocks = [FRAMES[start:end] for start, end in pairwise(places)]
    assert list(lines(blocks)) == list(lines([FRAMES]))


def test_a_frame_is_a_line_of_its_stream() -> None:
    """The stream, the time and the text without its end; a line that never ended comes last."""
    assert list(lines([FRAMES, frame(2, b"unfinished")])) == [
        LogLine(AT, "stdout", "one"),
        LogLine(AT, "stderr", "two"),
        LogLine(AT, "stderr", "café \x1b[31m"),
        LogLine(AT, "stdout", ""),
        LogLine(AT, "stderr", "unfinished"),
    ]


def test_parts_of_a_line_are_put_together_by_stream() -> None:
    """A long line comes in frames without an end, the other stream's in between; its time is its first part's."""
    later = AT.replace("789Z", "999Z")
    parts = [frame(1, b"be"), frame(2, b"meanwhile\n"), frame(1, b"gun\n", later)]
    assert list(lines(parts)) == [LogLine(AT, "stderr", "meanwhile"), LogLine(AT, "stdout", "begun")]


def test_a_line_without_an_end_in_sight_is_cut() -> None:
    """No more than 64 KiB of a line are held."""
    [line, after] = lines([*[frame(1, b"x" * 16_384)] * 9, frame(1, b"y\n"), frame(1, b"z\n")])
    assert (line.text, line.cut) == ("x" * LONGEST, True)
    assert (after.text, after.cut) == ("z", False)


def test_half_a_frame_at_the_end_is_dropped() -> None:
    """A stream that breaks off in a frame gives the frames before."""
    assert list(contents([frame(1, b"one\n"), frame(1, b"two\n")[:-1]])) == [(1, f"{AT} one\n".encode())]


@pytest.mark.parametrize(
    ("at", "seconds"),
    [
        (AT, {"since": "1795521600.123456789"}),
        ("2026-11-24T12:00:00.5Z", {"since": "1795521600.500000000"}),
        ("2026-11-24T12:00:00Z", {"since": "1795521600.000000000"}),
        ("", {}),
    ],
)
def test_a_time_is_asked_for_as_docker_reads_it(at: str, seconds: dict[str, str]) -> None:
    """Seconds since 1970 with nanoseconds, exact: no line is lost or told twice."""
    assert since(at) == seconds

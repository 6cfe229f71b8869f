"""Docker's framed stream of a container's output, as lines: pure, and in bounded memory."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mosaic_fleet.runtimes.base import LogLine, Stream

LONGEST = 65_536
_HEADER = 8
_STREAMS: dict[int, Stream] = {1: "stdout", 2: "stderr"}


@dataclass
class _Line:
    """A line whose end has not come yet."""

    at: str
    content: bytearray = field(default_factory=bytearray)
    cut: bool = False

    def add(self, content: bytes) -> None:
        """Take more of it, as far as it fits."""
        self.content += content[: LONGEST - len(self.content)]
        self.cut = self.cut or len(self.content) == LONGEST


def contents(blocks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Take (stream, content) out of Docker's frames: one byte for the stream, three zeros, four for the length."""
    held = bytearray()
    for block in blocks:
        held += block
        start = 0
        while len(held) >= start + _HEADER:
            end = start + _HEADER + int.from_bytes(held[start + 4 : start + _HEADER], "big")
            if len(held) < end:
                break
            yield held[start], bytes(held[start + _HEADER : end])
            start = end
        del held[:start]


def lines(blocks: Iterable[bytes]) -> Iterator[LogLine]:
    """Put lines together from frames that begin with a time: Docker writes a long line in several of them.

    A line of more than 64 KiB is cut.
    """
    begun: dict[Stream, _Line] = {}
    for number, content in contents(blocks):
        at, _, text = content.partition(b" ")
        stream = _STREAMS.get(number, "stdout")  # what cannot be told apart may be a reply
        line = begun.setdefault(stream, _Line(at.decode(errors="replace")))
        line.add(text.removesuffix(b"\n"))
        if text.endswith(b"\n"):
            yield _whole(stream, begun.pop(stream))
    for stream, line in begun.items():
        yield _whole(stream, line)


def since(at: str) -> dict[str, str]:
    """Ask Docker for what came at this time or later: seconds since 1970, a dot, nanoseconds."""
    if not at:
        return {}
    from datetime import UTC, datetime

    seconds = datetime.fromisoformat(at[:19]).replace(tzinfo=UTC).timestamp()
    return {"since": f"{seconds:.0f}.{at[20:].rstrip('Z') or '0':0<9}"}


def _whole(stream: Stream, line: _Line) -> LogLine:
    return LogLine(line.at, stream, line.content.decode(errors="replace").rstrip("\r"), line.cut)

"""What gateways, containers and providers write: it may be anything, and must end nothing but what it is about."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from mosaic_fleet.errors import RuntimeFailure
from mosaic_fleet.logs import neutralise

_LONGEST_LINE = 1 << 20


def parsed(text: str | bytes) -> Any:
    """Parse JSON; raises ValueError for what is none, and for what is nested more deeply than can be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def short(words: str, longest: int) -> str:
    """Put words into one line, spell out their control characters, and cut them."""
    return neutralise(" ".join(words.split()))[:longest]


def lines(parts: Iterable[bytes]) -> Iterator[str]:
    """Cut a stream into lines, each with its end; the last may have none. Raises RuntimeFailure for one over 1 MB."""
    rest = bytearray()
    for part in parts:
        *ended, begun = part.split(b"\n")
        for line in ended:
            yield (rest + line + b"\n").decode("utf-8", "replace")
            rest.clear()
        rest += begun
        if len(rest) > _LONGEST_LINE:
            raise RuntimeFailure("a line of the streamed answer does not end")
    yield rest.decode("utf-8", "replace")

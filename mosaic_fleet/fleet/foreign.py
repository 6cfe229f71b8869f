"""What gateways, containers and providers write: it may be anything, and must end nothing but what it is about."""

import json
from typing import Any

from mosaic_fleet.logs import neutralise


def parsed(text: str | bytes) -> Any:
    """Parse JSON; raises ValueError for what is none, and for what is nested more deeply than can be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def short(words: str, longest: int) -> str:
    """Put words into one line, spell out their control characters, and cut them."""
    return neutralise(" ".join(words.split()))[:longest]

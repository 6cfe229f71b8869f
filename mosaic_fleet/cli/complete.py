"""Completes names with TAB: one quick query, and silence when anything is amiss."""

import os
from threading import Timer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mosaic_fleet.bootstrap import Mosaic

_SECONDS = 0.3


def agents(incomplete: str) -> list[str]:
    """Complete an agent's name."""
    return _names("agents", incomplete)


def providers(incomplete: str) -> list[str]:
    """Complete a provider's name."""
    return _names("providers", incomplete)


def stacks(incomplete: str) -> list[str]:
    """Complete a stack's name."""
    return _names("stacks", incomplete)


def _names(kind: str, incomplete: str) -> list[str]:
    try:
        from mosaic_fleet.bootstrap import Mosaic
        from mosaic_fleet.db import reads  # noqa: F401  # imported before the query's time begins

        return _asked(Mosaic.from_env(), kind, incomplete)
    except Exception:
        return []


def _asked(mosaic: "Mosaic", kind: str, incomplete: str) -> list[str]:
    """Ask the database for names; one that does not run stays so, and whatever hangs is left after 300 ms."""
    watch = Timer(_SECONDS, os._exit, [0])  # nothing is printed yet
    watch.daemon = True
    watch.start()
    try:
        if mosaic.embedded and not mosaic.embedded.running():
            return []
        with mosaic.reads() as reads:
            return reads.names(kind, incomplete)
    finally:
        watch.cancel()

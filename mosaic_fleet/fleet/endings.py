"""Why a gateway ended or never started, in words: from its exit code, Docker's own finding and its last lines."""

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from mosaic_fleet.errors import RuntimeFailure
from mosaic_fleet.runtimes.gateway_base import Container

_LONGEST = 500
# By SIGKILL: somebody's, or the kernel's for want of memory, which Docker says a moment after the end.
_KILLED = 137
_LOOKS, _LOOK_SECONDS = 30, 0.1
# OpenClaw's own code for a refused config or a state that another gateway holds.
_REFUSED = 78
# The entrypoint's codes: what it wrote says it all.
_ENTRYPOINT = (*range(81, 88), 127)


class _Seen(Protocol):
    """How a container ended, as Docker says."""

    @property
    def exit_code(self) -> int | None:
        """Return its exit code."""

    @property
    def oom_killed(self) -> bool:
        """Tell whether the kernel ended it for want of memory."""


_AnySeen = TypeVar("_AnySeen", bound=_Seen)


class Ended(RuntimeFailure):
    """A gateway ended by itself."""


def ended(name: str, seen: Container | None, words: str) -> Ended:
    """Say why a gateway ended; `words` are the last lines of its standard error, cleaned."""
    return Ended(f'gateway of "{name}" did not start: {why(seen, words)}', hint=_hint(name, seen))


def settled(look: Callable[[], _AnySeen | None]) -> _AnySeen | None:
    """Look at a container that has ended; at one that was killed until Docker says that it was for want of memory.

    For three seconds at most.
    """
    seen = look()
    for _ in range(_LOOKS):
        if seen is None or seen.exit_code != _KILLED or seen.oom_killed:
            break
        time.sleep(_LOOK_SECONDS)
        seen = look()
    return seen


def never_started(name: str, seconds: float, words: str) -> RuntimeFailure:
    """Say that a gateway lives and does not say that it has started."""
    return RuntimeFailure(
        f'gateway of "{name}" did not start: not started after {seconds:g} s{_last(words)}',
        hint="mosaic config set gateways.start_timeout …",
    )


def why(seen: Container | None, words: str) -> str:
    """Say why a container ended, in one line."""
    if seen is None:
        return "its container is gone"
    if seen.oom_killed:
        return "killed for using more memory than its limit (OOM)"
    if seen.exit_code in _ENTRYPOINT and words.startswith("mosaic: "):
        return words.splitlines()[0].removeprefix("mosaic: ")[:_LONGEST]
    if seen.exit_code == _REFUSED:
        return f"OpenClaw refused its config or its state (exit 78){_last(words)}"
    return f"it ended with exit code {seen.exit_code}{_last(words)}"


def _last(words: str) -> str:
    line = " | ".join(one.strip() for one in words.splitlines() if one.strip())
    return f" (last lines: {line[-_LONGEST:]})" if line else ""


def _hint(name: str, seen: Container | None) -> str:
    if seen and seen.oom_killed:
        return "mosaic config set gateways.memory …"
    return f"mosaic gateway start {name}"

"""A lease on one user's gateway: while it holds, the gateway has nothing to do and takes nothing new.

OpenClaw gives it only when nothing is under way there, fences new work in the same step, and takes it back by itself
after two minutes, by a clock that stands still while the machine sleeps. It knows nothing of commands that Docker
started in the container: those are looked for here.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeGuard

from pydantic import SecretStr

from mosaic_fleet.errors import MosaicError, RuntimeFailure
from mosaic_fleet.fleet import admin_rpc
from mosaic_fleet.fleet.foreign import short
from mosaic_fleet.runtimes.gateway_base import Container, GatewayRuntime

# Always the same, so that whoever comes after a killed Mosaic gets the lease that is still held instead of a refusal;
# the lock of a gateway sees to it that one at a time asks.
_REQUEST = "mosaic"
_LONGEST = 60
# However the wall clock was set meanwhile: no lease of today's OpenClaw is longer.
_TTL_SECONDS, _MARGIN_SECONDS = 120.0, 1.0
_MOST = 1_000_000


@dataclass(frozen=True)
class Lease:
    """The promise of a gateway to take no new work until then."""

    id: str
    until: datetime


@dataclass(frozen=True)
class Busy:
    """What keeps a gateway from being suspended, in readable words such as `embedded-run` or `background-exec (2)`.

    One that is `draining` was asked to end, and does when that is done.
    """

    blockers: tuple[str, ...]
    draining: bool = False


def prepare(runtime: GatewayRuntime, found: Container, token: SecretStr) -> Lease | Busy:
    """Have a running gateway take no new work for two minutes; one that has work goes on as if it was not asked.

    The same call renews a lease that is held. To be called under the gateway's lock; OpenClaw takes 30 calls a minute.
    Raises RuntimeFailure when the gateway cannot be asked or answers something else.
    """
    said = admin_rpc.call(runtime, found, token, "gateway.suspend.prepare", {"requestId": _REQUEST})
    if said.get("status") == "busy":
        return Busy(_blockers(said), draining=said.get("reason") == "gateway-draining")
    lease = _lease(found, said)
    try:
        programs = runtime.execs(found.id)
    except BaseException:
        _let_go(runtime, found, token, lease)
        raise
    if programs:
        release(runtime, found, token, lease)
        return Busy(tuple(f"a command in the container: {short(one, _LONGEST)}" for one in programs))
    return lease


def release(runtime: GatewayRuntime, found: Container, token: SecretStr, lease: Lease) -> None:
    """Let a gateway take new work again; one whose lease has run out does already. Raises RuntimeFailure."""
    _resume(runtime, found, token, lease.id)


def lift(runtime: GatewayRuntime, found: Container, token: SecretStr) -> None:
    """Let a gateway take new work again without having its lease; one that is not fenced never is for it.

    Raises RuntimeFailure when the gateway does not answer.
    """
    try:
        _resume(runtime, found, token, _REQUEST)  # no lease has this name: it is refused only while one is held
    except RuntimeFailure:
        said = admin_rpc.call(runtime, found, token, "gateway.suspend.prepare", {"requestId": _REQUEST})
        if said.get("status") != "busy":
            release(runtime, found, token, _lease(found, said))


def _resume(runtime: GatewayRuntime, found: Container, token: SecretStr, suspension: str) -> None:
    admin_rpc.call(runtime, found, token, "gateway.suspend.resume", {"suspensionId": suspension})


def check(lease: Lease, now: datetime) -> None:
    """Make sure that a lease still holds; raises RuntimeFailure."""
    if now >= lease.until:
        raise RuntimeFailure("the gateway takes new work again: its lease has run out")


def lapses_at(runtime: GatewayRuntime, lease: Lease, now: datetime) -> float | None:
    """Tell when a lease has surely run out, in seconds of this machine's monotonic clock; None on another machine."""
    left = max((lease.until - now).total_seconds(), _TTL_SECONDS) + _MARGIN_SECONDS
    return time.monotonic() + left if runtime.is_local else None


def has_lapsed(runtime: GatewayRuntime, lapses_at: float | None) -> bool:
    """Tell whether a lease has surely run out."""
    return runtime.is_local and lapses_at is not None and time.monotonic() >= lapses_at


def _let_go(runtime: GatewayRuntime, found: Container, token: SecretStr, lease: Lease) -> None:
    """Release a lease while another error is on its way; unreleased it runs out by itself."""
    try:
        release(runtime, found, token, lease)
    except MosaicError:
        return


def _lease(found: Container, said: Mapping[str, Any]) -> Lease:
    try:
        until = admin_rpc.moment(said["expiresAtMs"])
        if said["status"] == "ready" and said["suspensionId"]:
            return Lease(str(said["suspensionId"]), until)
    except (KeyError, ValueError):
        pass
    raise RuntimeFailure(f"{found.name} answers gateway.suspend.prepare with something else than ready or busy")


def _blockers(said: Mapping[str, Any]) -> tuple[str, ...]:
    """Name the kinds of work and how often each is there; what a task is called is its owner's and left out."""
    counts: dict[str, int] = {}
    blockers = said.get("blockers")
    for one in blockers if isinstance(blockers, list) else []:
        if isinstance(one, dict) and one.get("kind"):
            kind, count = short(str(one["kind"]), _LONGEST), one.get("count")
            counts[kind] = counts.get(kind, 0) + (count if _is_count(count) else 1)
    words = tuple(kind if count == 1 else f"{kind} ({count})" for kind, count in counts.items())
    return words or (short(str(said.get("reason") or "something"), _LONGEST),)


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and 0 < value < _MOST

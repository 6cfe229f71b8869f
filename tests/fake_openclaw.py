"""`FakeOpenClaw`: what one gateway says over HTTP, in memory; tests/openclaw/test_sleep.py runs on the real one too.

It admits turns, fences them while a suspension is prepared, and lets that run out, as OpenClaw 2026.9.6 does.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import RLock
from typing import Any
from uuid import uuid4

from mosaic_fleet.runtimes.gateway_base import Answer, Sent

RPC = "/api/v1/admin/rpc"
CHAT = "/v1/chat/completions"
LEASE_SECONDS = 120
PREPARES = 30
_WINDOW_SECONDS = 60
_STATUSES = {"INVALID_REQUEST": 400, "UNAVAILABLE": 503}


@dataclass
class _Held:
    """A prepared suspension."""

    id: str
    request: str
    until: float


class FakeOpenClaw:
    """One gateway; may be shared by threads.

    To be set by a test: `prepares` (how many a minute it takes), `work` (other blockers by kind), `schedules` and
    `next_wake` (seconds since 1970), `clock`, and `broken` (what every call is answered with). To be looked at: `begun`
    and `ended` turns, `latest_turn` (seconds since 1970), `calls` by method.
    """

    def __init__(self, token: str = "", clock: Callable[[], float] = time.time) -> None:
        self.token = token
        self.clock = clock
        self.prepares = PREPARES
        self.work: Counter[str] = Counter()
        self.schedules = False
        self.next_wake: float | None = None
        self.broken: Answer | None = None
        self.begun = self.ended = 0
        self.latest_turn: float | None = None
        self.calls: Counter[str] = Counter()
        self.closed = False
        self._held: _Held | None = None
        self._window = (0.0, 0)
        self._lock = RLock()

    @property
    def turns(self) -> int:
        """Count the turns that are under way."""
        return self.begun - self.ended

    @property
    def fenced(self) -> bool:
        """Tell whether new work is refused."""
        with self._lock:
            if self._held and self.clock() >= self._held.until:
                self._held = None
            return self.closed or self._held is not None

    def begin(self) -> bool:
        """Begin a turn; False when it is refused."""
        with self._lock:
            if self.fenced:
                return False
            self.begun += 1
            self.latest_turn = self.clock()
            return True

    def end(self) -> None:
        """End a turn."""
        with self._lock:
            self.ended += 1
            self.latest_turn = self.clock()

    def post(self, path: str, sent: Sent) -> Answer:
        """Answer a request; a turn is over at once here."""
        if self.broken:
            return self.broken
        if sent.headers.get("Authorization") != f"Bearer {self.token}":
            return _answer(401, {"error": {"message": "Unauthorized", "type": "unauthorized"}})
        if path == RPC:
            return self._rpc(json.loads(sent.body))
        if path != CHAT:
            return Answer(404, b"Not Found")
        if not self.begin():
            return unavailable()
        self.end()
        return _answer(200, {"object": "chat.completion"})

    def _rpc(self, asked: Mapping[str, Any]) -> Answer:
        params = asked.get("params") or {}
        with self._lock:
            self.calls[asked["method"]] += 1
            if asked["method"] == "gateway.suspend.prepare":
                return self._prepare(str(params.get("requestId") or ""))
            if asked["method"] == "gateway.suspend.resume":
                return self._resume(str(params.get("suspensionId") or ""))
            if asked["method"] == "cron.status":
                return self._cron()
            if asked["method"] == "status":
                return self._status()
        return _refused("INVALID_REQUEST", f"admin HTTP RPC method is not supported: {asked['method']}")

    def _prepare(self, request: str) -> Answer:
        if not self._has_budget():
            return _refused("UNAVAILABLE", "rate limit exceeded for gateway.suspend.prepare; retry after 60s")
        if not request.strip():
            return _refused("INVALID_REQUEST", "invalid gateway.suspend.prepare params")
        until = self.clock() + LEASE_SECONDS
        if self.closed:
            return self._busy("gateway-draining")
        if self.fenced and self._held:
            if self._held.request != request:
                return _refused("UNAVAILABLE", "another gateway suspension is already prepared")
            self._held.until = until
        elif self._blockers():
            return self._busy("active-work")
        else:
            self._held = _Held(str(uuid4()), request, until)
        ready = {"status": "ready", "suspensionId": self._held.id, "expiresAtMs": int(until * 1000)}
        return _payload(ready | {"activeCount": 0, "blockers": []})

    def _busy(self, reason: str) -> Answer:
        blockers = self._blockers()
        active = sum(one["count"] for one in blockers)
        busy = {"status": "busy", "reason": reason, "retryAfterMs": 20_000, "activeCount": active}
        return _payload(busy | {"blockers": blockers})

    def _blockers(self) -> list[dict[str, Any]]:
        kinds = +(Counter({"embedded-run": self.turns, "root-request": self.turns}) + self.work)
        return [{"kind": kind, "count": many, "message": f"{many} active {kind}"} for kind, many in kinds.items()]

    def _resume(self, suspension: str) -> Answer:
        resumed = self.fenced and self._held is not None
        if resumed and self._held and self._held.id != suspension:
            return _refused("INVALID_REQUEST", "gateway suspension id does not match")
        self._held = None
        return _payload({"ok": True, "status": "running", "resumed": resumed})

    def _cron(self) -> Answer:
        if self.fenced:
            return _refused("UNAVAILABLE", "cron.status unavailable during gateway suspension")
        due = self.next_wake if self.schedules else None
        return _payload({"enabled": self.schedules, "nextWakeAtMs": None if due is None else int(due * 1000)})

    def _status(self) -> Answer:
        recent = (
            [] if self.latest_turn is None else [{"key": "agent:main:one", "updatedAt": int(self.latest_turn * 1000)}]
        )
        return _payload({"runtimeVersion": "2026.9.6", "sessions": {"count": len(recent), "recent": recent}})

    def _has_budget(self) -> bool:
        since, used = self._window
        if self.clock() - since >= _WINDOW_SECONDS:
            since, used = self.clock(), 0
        self._window = (since, used + 1)
        return used < self.prepares


def unavailable() -> Answer:
    """Answer as a gateway does that takes no new work."""
    message = "Gateway is temporarily unavailable"
    return _answer(503, {"error": {"message": message, "type": "service_unavailable", "code": "gateway_unavailable"}})


def _payload(payload: Mapping[str, Any]) -> Answer:
    return _answer(200, {"id": str(uuid4()), "ok": True, "payload": payload})


def _refused(code: str, message: str) -> Answer:
    return _answer(_STATUSES[code], {"id": str(uuid4()), "ok": False, "error": {"code": code, "message": message}})


def _answer(status: int, body: Mapping[str, Any]) -> Answer:
    return Answer(status, json.dumps(body).encode())

"""The admin RPC of one user's gateway, over the network that Mosaic alone reaches it by."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import SecretStr

from mosaic_fleet.errors import RuntimeFailure
from mosaic_fleet.fleet import foreign
from mosaic_fleet.fleet.openclaw import PORT
from mosaic_fleet.runtimes.gateway_base import Answer, Container, GatewayRuntime, Sent

_PATH = "/api/v1/admin/rpc"
_SECONDS = 10.0
_LONGEST = 200


def call(
    runtime: GatewayRuntime, found: Container, token: SecretStr, method: str, params: Mapping[str, Any]
) -> dict[str, Any]:
    """Call a method of a running gateway and return its payload.

    Raises RuntimeFailure with the gateway's own words when it refuses, and when it does not answer within 10 seconds.
    """
    headers = {"Authorization": f"Bearer {token.get_secret_value()}", "Content-Type": "application/json"}
    asked = Sent(json.dumps({"method": method, "params": params}).encode(), headers)
    answer = runtime.post(found.address, _PATH, asked, port=PORT, timeout=_SECONDS)
    if answer is None:
        raise RuntimeFailure(f"{found.name} does not answer {method} within {_SECONDS:g} s")
    said = _read(answer)
    payload = said.get("payload")
    if answer.status != 200 or not isinstance(payload, dict):
        raise RuntimeFailure(f"{found.name} refuses {method}: {_reason(answer, said)}")
    return payload


def moment(milliseconds: Any) -> datetime:
    """Read a time of an answer, in milliseconds since 1970; raises ValueError for what is none."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (TypeError, OverflowError, OSError):
        raise ValueError("no time") from None


def _read(answer: Answer) -> dict[str, Any]:
    try:
        said = foreign.parsed(answer.body)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _reason(answer: Answer, said: Mapping[str, Any]) -> str:
    error = said.get("error")
    message = error.get("message") if isinstance(error, dict) else None
    return foreign.short(str(message), _LONGEST) if message else f"HTTP {answer.status}"

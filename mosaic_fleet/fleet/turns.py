"""When a gateway's latest turn was: asked of the gateway, because turns come by other ways than Mosaic too."""

from datetime import datetime

from pydantic import SecretStr

from mosaic_fleet.errors import RuntimeFailure
from mosaic_fleet.fleet import admin_rpc
from mosaic_fleet.runtimes.gateway_base import Container, GatewayRuntime


def latest(runtime: GatewayRuntime, found: Container, token: SecretStr) -> datetime | None:
    """Ask a running gateway when something last changed in a conversation; None when it has had none.

    Raises RuntimeFailure when it cannot be asked or answers something else.
    """
    said = admin_rpc.call(runtime, found, token, "status", {})
    try:
        times = [session["updatedAt"] for session in said["sessions"]["recent"]]
        return admin_rpc.moment(max(times)) if times else None
    except (KeyError, TypeError, ValueError):
        raise RuntimeFailure(f"{found.name} does not say when its latest turn was") from None

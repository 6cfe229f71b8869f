"""When a job of a gateway's own schedules is due: asked of the gateway, because it keeps them."""

from datetime import datetime

from pydantic import SecretStr

from mosaic_fleet.errors import RuntimeFailure
from mosaic_fleet.fleet import admin_rpc
from mosaic_fleet.runtimes.gateway_base import Container, GatewayRuntime


def next_due(runtime: GatewayRuntime, found: Container, token: SecretStr) -> datetime | None:
    """Ask a running gateway when its next job is due; None without schedules or jobs.

    Raises RuntimeFailure when it cannot be asked: a suspended gateway does not say.
    """
    said = admin_rpc.call(runtime, found, token, "cron.status", {})
    due = said.get("nextWakeAtMs")
    if due is None or said.get("enabled") is False:
        return None
    try:
        return admin_rpc.moment(due)
    except ValueError:
        raise RuntimeFailure(f"{found.name} answers cron.status with a time that is none") from None

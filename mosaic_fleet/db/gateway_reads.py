"""The quick reads about users' gateways."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from mosaic_fleet.db.rows import Rows, one

# Has started and was not asked to end: it runs, naps, or is being asked whether it may. The query below says it too.
STARTED = ("running", "dozing", "paused")


@dataclass(frozen=True)
class GatewayRow:
    """A user's gateway as the database knows it; a stale one runs with something else than its owner wants by now.

    `idle_timeout_min` is None for the setting's; `has_schedules` tells whether it was started with its schedules on.
    """

    user: str
    user_id: UUID
    is_active: bool
    status: str
    reason: str | None
    status_at: datetime | None
    is_stale: bool
    has_schedules: bool
    started_at: datetime | None
    last_active_at: datetime | None
    last_active_by: str | None
    idle_timeout_min: int | None
    next_due_at: datetime | None
    changed_at: datetime
    container_name: str
    image_id: str | None
    failures: int
    retry_at: datetime | None
    model: str | None

    @property
    def has_started(self) -> bool:
        """Tell whether it runs, awake or not, and was not asked to end."""
        return self.status in STARTED


class GatewayReads(Rows):
    """Reads about users' gateways."""

    def gateways(self) -> list[GatewayRow]:
        """List the gateways that were ever asked for, by their users' names."""
        return self._all(GatewayRow, f"{_GATEWAYS} ORDER BY u.name")

    def gateway(self, user: UUID) -> GatewayRow:
        """Show one user's gateway; raises NotFound when it was never asked for."""
        rows = self._all(GatewayRow, f"{_GATEWAYS} WHERE u.id = %s", user)
        return one(rows, "this user's gateway was never started", "mosaic gateway start NAME")


_GATEWAYS = """
SELECT u.name AS user, u.id AS user_id, u.deactivated_at IS NULL AS is_active, c.status, c.reason, c.status_at,
       c.started_at, c.last_active_at, c.last_active_by, c.idle_timeout_min, c.next_due_at, c.updated_at AS changed_at,
       c.container_name, c.image_id, c.failures, c.retry_at,
       coalesce(c.config #>> '{cron,enabled}' = 'true', false) AS has_schedules,
       c.config #>> '{agents,defaults,model,primary}' AS model,
       c.status IN ('running', 'dozing', 'paused') AND c.is_stale AS is_stale
FROM user_container c JOIN mosaic_user u ON u.id = c.user_id"""

"""Says of one user's gateway why it is awake or asleep, and what comes next."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from mosaic_fleet import configuration
from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.cli import spans
from mosaic_fleet.cli.output import ago
from mosaic_fleet.db.gateway_reads import GatewayRow
from mosaic_fleet.db.reads import SettingRow
from mosaic_fleet.errors import MosaicError
from mosaic_fleet.fleet import idleness
from mosaic_fleet.fleet.idleness import Gateway


@dataclass(frozen=True)
class Told:
    """What is told beside the row: `sleeps_at` is when it may be stopped, if it has nothing to do then."""

    why: str | None
    active_at: datetime | None
    active_by: str | None
    timeout_min: int
    next_due_at: datetime | None
    sleeps_at: datetime | None
    now: datetime = field(repr=False)

    @property
    def last_active(self) -> str | None:
        """Say when it was active last, and what that was."""
        return f"{ago(self.active_at)} ({self.active_by})" if self.active_at else None

    @property
    def idle_timeout(self) -> str:
        """Say how long it may idle."""
        return f"{spans.spelled(self.timeout_min * 60)}" if self.timeout_min else "never sleeps"

    @property
    def next_job(self) -> str | None:
        """Say when the next job of its schedules is due."""
        if self.next_due_at is None:
            return None
        late = self.now - self.next_due_at
        is_overdue = late > idleness.OVERDUE
        return f"overdue for {spans.spelled(late.total_seconds())}" if is_overdue else self._ahead(self.next_due_at)

    @property
    def sleeps(self) -> str | None:
        """Say when it may be stopped."""
        return f"{self._ahead(self.sleeps_at)}, if it has nothing to do then" if self.sleeps_at else None

    def _ahead(self, at: datetime) -> str:
        left = (at - self.now).total_seconds()
        return f"in {spans.spelled(left)}" if left > 0 else "now"


def told(row: GatewayRow, changed: Iterable[SettingRow], due: datetime | None, now: datetime) -> Told:
    """Tell of a gateway; `changed` are the settings that were changed, `due` is when its next job is."""
    rules = idleness.rules(configuration.parsed({row.key: row.value or "" for row in changed}))
    own = row.idle_timeout_min
    timeout = int(rules.idle_timeout.total_seconds() // 60) if own is None else own
    gateway = Gateway(
        row.user, row.is_active, row.status, row.changed_at, row.started_at, row.last_active_at, row.last_active_by, own
    )
    if not row.has_started:
        return Told(row.reason, row.last_active_at, row.last_active_by, timeout, due, None, now)
    verdict = idleness.judge(gateway, rules, now)
    sleeps = verdict.at and idleness.after_job(max(verdict.at, now), due)
    at, by = idleness.last_active(gateway, now)
    return Told(row.reason or verdict.reason, at, by, timeout, due, sleeps, now)


def next_due(mosaic: Mosaic, row: GatewayRow) -> datetime | None:
    """Ask a gateway that is awake and has schedules when its next job is due; else what it said last."""
    from mosaic_fleet.fleet import lifecycle, schedules

    if row.status != "running" or not row.has_schedules:
        return row.next_due_at
    try:
        runtime, running = mosaic.hosting.runtime, lifecycle.running(mosaic.hosting, row.user_id)
        found = runtime.container(row.container_name)
        return schedules.next_due(runtime, found, running.token) if found and running else row.next_due_at
    except MosaicError:
        return row.next_due_at

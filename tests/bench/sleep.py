"""A round of the reaper over many gateways, few of which idle; beside it the way of asking each one, as cullers do."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from statistics import median
from uuid import UUID

from sqlmodel import text

from mosaic_fleet import configuration
from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.db.tables import now
from mosaic_fleet.fleet import containers, lifecycle, reaping
from mosaic_fleet.fleet.hosting import Hosting
from mosaic_fleet.fleet.openclaw import PORT
from mosaic_fleet.runtimes.base import Image
from mosaic_fleet.settings import Settings
from tests.bench import site
from tests.bench.measuring import Line, against, at_most, seconds
from tests.docker.installation import Installation
from tests.loopback_gateways import LoopbackGateways
from tests.postgres.guests import FakeWalls

ROUNDS = 5
_ROWS, _IDLE = 10_000, 10
# As many calls at once as jupyterhub-idle-culler makes.
_AT_ONCE = 10
_FILL = """
WITH made AS (
  INSERT INTO mosaic_user (id, name, display_name, email, role, created_at, updated_at)
  SELECT gen_random_uuid(), 'busy-' || n, '', 'busy-' || n || '@example.com', 'member', now(), now()
  FROM generate_series(1, :count) n RETURNING id)
INSERT INTO user_container (id, user_id, container_id, container_name, gateway_port, gateway_token, gateway_token_at,
                            status, started_at, last_active_at, last_active_by, config, failures, created_at,
                            updated_at)
SELECT gen_random_uuid(), id, 'none', 'mosaic-user-' || id, 18789, '', now(), 'running', now(), now(), 'chat', '{}', 0,
       now(), now() FROM made
"""


def sleeping(made: Installation) -> Iterator[Line]:
    """Time a dry round, a round that stops the idle ones, and one call for each gateway there is."""
    mosaic = Mosaic(Settings.from_env(made.env))
    runtime = LoopbackGateways()
    hosting = Hosting(mosaic.db, mosaic.box, runtime, FakeWalls())
    with mosaic.db.transaction(system=True) as session:
        session.execute(text(_FILL), {"count": _ROWS - _IDLE})
        idle = [site.user(session, mosaic, f"idle-{number}") for number in range(_IDLE)]
        runtime.images[str(configuration.values(session)["fleet.image"])] = Image(
            "sha256:" + "0" * 64, "2026.9.6", None
        )
    deciding = median(seconds(lambda: reaping.reap(hosting, now(), dry_run=True)) for _ in range(ROUNDS))
    yield at_most(f"reap --dry-run, {_ROWS:,} awake", deciding, 1)
    rounds = median(_round(hosting, idle) for _ in range(ROUNDS))
    running = lifecycle.ensure_running(hosting, idle[0])
    asking = _ask_each(runtime, running.url.removeprefix("http://").partition(":")[0])
    yield at_most(f"reap, {_ROWS:,} awake, {_IDLE} stopped", rounds, 1)
    yield against("reap, against one call each", rounds, ("one call each", asking), times=1)
    lifecycle.stop(hosting, idle[0])


def _round(hosting: Hosting, idle: list[UUID]) -> float:
    """Wake the idle ones and let them idle, untimed; time a round that stops them all."""
    for user in idle:
        lifecycle.ensure_running(hosting, user)
        with hosting.db.transaction(system=True) as session:
            row = containers.find(session, user)
            assert row
            row.started_at = now() - timedelta(hours=1)
    began = time.perf_counter()
    rows = reaping.reap(hosting, now()) or []
    taken = time.perf_counter() - began
    assert len([row for row in rows if row.outcome == "stopped"]) == len(idle)
    return taken


def _ask_each(runtime: LoopbackGateways, address: str) -> float:
    """Make one call for each gateway, at loopback."""

    def ask(_: int) -> bool:
        return runtime.get(address, "/healthz", port=PORT, timeout=30) is not None

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        began = time.perf_counter()
        assert all(pool.map(ask, range(_ROWS)))
        return time.perf_counter() - began

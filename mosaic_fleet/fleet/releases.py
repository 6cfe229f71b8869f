"""Which OpenClaw releases the agents have run: a newer one than is wanted may have migrated their state."""

from collections.abc import Mapping, Sequence

from mosaic_fleet.db.database import Database
from mosaic_fleet.db.tables import Deployment
from mosaic_fleet.errors import ConfigurationError
from mosaic_fleet.fleet import deployments
from mosaic_fleet.fleet.preflight import is_older, read_version
from mosaic_fleet.fleet.tracing import GOOD
from mosaic_fleet.runtimes.base import SPEC_LABEL, Service


def ran(db: Database, stack_name: str, live: Mapping[str, Service]) -> dict[str, str]:
    """Return the newest release that each agent may have run since it was last seen healthy; `live` is what runs."""
    with db.transaction(system=True) as session:
        return newest(deployments.history(session, stack_name), live)


def newest(rows: Sequence[Deployment], live: Mapping[str, Service]) -> dict[str, str]:
    """Do what ran() does with deployments, the newest first: pure."""
    found: dict[str, str] = {}
    healthy: set[str] = set()
    for row in rows:
        for agent, one in row.outcome.items():
            version = one.get("version")
            if version and agent not in healthy and _may_have_run(row, one, live.get(agent)):
                found[agent] = max(found.get(agent, ""), version, key=lambda text: read_version(text) or ())
                healthy |= {agent} if one["verdict"] == "healthy" else set()
    return found


def check(wanted: Mapping[str, str], ran: Mapping[str, str], way_out: str = "") -> None:
    """Refuse an agent an older release than it has run; raises ConfigurationError.

    `way_out` is a word of the command that allows it all the same.
    """
    for agent, version in wanted.items():
        if is_older(version, ran.get(agent, "")):
            raise ConfigurationError(
                f"the image is OpenClaw {version}, {agent} has run {ran[agent]}: its state may have been migrated",
                hint=f"mosaic fleet upgrade {agent} --image …   (to {ran[agent]} or later"
                + (f"; or {way_out} {agent})" if way_out else ")"),
            )


def _may_have_run(row: Deployment, outcome: Mapping[str, str], service: Service | None) -> bool:
    """Tell whether a deployment reached an agent: nobody may have waited for it, and Swarm may have taken it back."""
    if outcome["verdict"] in GOOD:
        return True
    if service:
        return service.labels.get(SPEC_LABEL) == outcome["spec"]
    return row.status != "failed" or bool(row.validated)  # one that nothing was validated for changed nothing

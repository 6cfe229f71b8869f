"""Applies a recorded deploy again, as a new one; the roster stays as it is and is ahead then."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mosaic_fleet.db.tables import Deployment
from mosaic_fleet.errors import ConfigurationError, NotFound
from mosaic_fleet.fleet import agents, amending, deploying, deployments, releases, stack
from mosaic_fleet.fleet.deploying import Fleet, Outcome
from mosaic_fleet.fleet.options import Options
from mosaic_fleet.fleet.preflight import Site
from mosaic_fleet.fleet.stack import Rendered


def go_back(fleet: Fleet, stack_name: str | None, number: int | None, options: Options) -> Outcome:
    """Go back to the deploy of a number, else to the last healthy one that was another than what runs.

    Without a number, a rollback that did not end well is gone on with, whatever ended it. Agents that came later run
    on; who is stopped stays stopped, because `scale` is kept. Raises NotFound when there is no such deploy,
    ConfigurationError when it failed itself or ran another OpenClaw, and what a deploy raises.
    """
    with fleet.db.transaction(system=True) as session:
        name = agents.get_stack(session, stack_name).name
    with fleet.db.lock("rollback", f"stack {name}") as lock:
        with fleet.db.transaction(system=True) as session:
            place = stack.frame(session, name)
            rows = deployments.history(session, name)
            replicas = {row.name: row.replicas for row in agents.of_stack(session, agents.get_stack(session, name))}
            number = number or _broken_off(rows)
            row = deployments.get(session, name, number) if number else None
        row, rendered = _chosen(fleet, rows, row, replicas)
        place = replace(amending.placed(place, rendered), read_at=row.seen_at)
        site, intended = amending.prepared(fleet, place, rendered, options)
        _check_versions(row, rendered, releases.newest(rows, intended.live))
        _check_images(row, rendered, site)
        if options.dry_run:
            return Outcome(name, intended.changes)
        return deploying.carry_out(fleet, lock, site, replace(intended, applies=row.number), options)


def _broken_off(rows: Sequence[Deployment]) -> int | None:
    """Return the deploy that the newest one was to be again, None when that one ended well or was no rollback."""
    return rows[0].applies if rows and rows[0].status != "healthy" else None


def _chosen(
    fleet: Fleet, rows: Sequence[Deployment], row: Deployment | None, replicas: Mapping[str, int]
) -> tuple[Deployment, Rendered]:
    """Return the deployment to go back to, and its stack with the agents stopped that are stopped today."""
    if row and row.status != "healthy":
        raise ConfigurationError(f"deploy {row.number} was itself {row.status}", hint="mosaic fleet rollback")
    if row:
        return row, _stopped(deployments.reread(fleet.box, row), replicas)
    if rows:
        newest = _stopped(deployments.reread(fleet.box, rows[0]), replicas)
        for earlier in (one for one in rows[1:] if one.status == "healthy"):
            rendered = _stopped(deployments.reread(fleet.box, earlier), replicas)
            if rendered.text != newest.text:
                return earlier, rendered
    raise NotFound("there is no earlier healthy deploy to go back to", hint="mosaic fleet diff")


def _stopped(rendered: Rendered, replicas: Mapping[str, int]) -> Rendered:
    services = {
        agent: amending.with_replicas(service, replicas.get(agent, service["deploy"]["replicas"]))
        for agent, service in rendered.services.items()
    }
    return stack.assemble(services, rendered.network, {**rendered.docker_configs, **rendered.docker_secrets})


def _check_versions(row: Deployment, rendered: Rendered, now: Mapping[str, str]) -> None:
    """Refuse to start an OpenClaw on a state that another release may have migrated."""
    for agent in rendered.services:
        then = row.outcome[agent].get("version")
        if then and now.get(agent, then) != then:
            raise ConfigurationError(
                f"deploy {row.number} ran OpenClaw {then}, {agent} has run {now[agent]} since: "
                "its state may have been migrated",
                hint="mosaic fleet upgrade --image …   (to a release with a repair)",
            )


def _check_images(row: Deployment, rendered: Rendered, site: Site) -> None:
    """Refuse a name that means another image now: not what ran then would run, but something new."""
    for agent in rendered.services:
        ref, then = rendered.image(agent), row.outcome[agent].get("image_id")
        if then and ref in site.images and site.images[ref].id != then:
            raise ConfigurationError(
                f"image {ref} is another one now than deploy {row.number} ran", hint=f"docker tag {then} {ref}"
            )

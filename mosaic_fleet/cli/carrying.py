"""Carries a change out where something runs on what was changed: by a deploy for agents, by a restart for gateways."""

from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.cli import fleet, prompts
from mosaic_fleet.cli.output import note, progress
from mosaic_fleet.errors import ConfigurationError, MosaicError

if TYPE_CHECKING:
    from mosaic_fleet.fleet.refreshing import Outcome


def offer(mosaic: Mosaic, provider: str) -> None:
    """Name the agents that use a shared provider, by stack; deploy them where somebody is there and says yes."""
    from mosaic_fleet.fleet import fingerprints

    with mosaic.db.transaction(system=True) as session:
        users = fingerprints.users_of(session, provider)
    for stack, agents in users.items():
        note(f"used by {', '.join(agents)}, who get it with: mosaic fleet deploy --stack {stack}")
    if users and prompts.agree(f"Deploy {', '.join(users)} now?"):
        for stack in users:
            fleet.deploy(stack=stack)


def put_up_walls(mosaic: Mosaic, key: str, *, quiet: bool) -> None:
    """Have the walls around users' gateways follow a setting that they are made from, for those that run too.

    Where none was ever started nobody asks Docker. What cannot be done here never undoes the change.
    """
    from mosaic_fleet.fleet import containers, walls

    if key not in walls.SETTINGS:
        return
    with mosaic.db.transaction(system=True) as session:
        if not containers.any_started(session):
            return
    try:
        if not mosaic.hosting.runtime.is_local:
            raise ConfigurationError("their Docker is on another machine")
        mosaic.hosting.runtime.engine()
        if walls.stand(mosaic.hosting) and not quiet:
            note("the walls around users' gateways follow it")
    except MosaicError as error:
        note(f"the walls around users' gateways do not follow it yet: {error.message}")
        note("  the next start of one puts them up, or mosaic serve on their host")


def refresh(mosaic: Mosaic, user: UUID | None = None) -> "list[Outcome]":
    """Restart a user's gateway, or everybody's, where it is idle and runs with what was changed.

    Where none runs nobody asks Docker. What cannot be done now is done by `mosaic serve` or `mosaic reap`, and never
    undoes the change.
    """
    from mosaic_fleet.fleet import containers, refreshing
    from mosaic_fleet.fleet.refreshing import Outcome

    with mosaic.db.transaction(system=True) as session:
        rows = [row for row in containers.all_alive(session) if user in (None, row.user_id)]
        names = {row.user_id: containers.owner(session, row.user_id) for row in rows}
    found: list[Outcome] = []
    with progress() as show:
        for number, (one, name) in enumerate(names.items(), 1):
            show(f"gateway of {name} ({number} of {len(names)}) …")
            try:
                found += [outcome] if (outcome := refreshing.refresh(mosaic.hosting, one)) else []
            except MosaicError as error:
                found.append(Outcome(name, "failed", error.message))
    return found


def tell(outcomes: "Sequence[Outcome]", *, quiet: bool) -> None:
    """Say what became of gateways; those that still run with what they had are told even when quiet."""
    for one in outcomes:
        if one.result == "restarted" and not quiet:
            note(f"gateway of {one.user}: restarted with it")
        elif one.result == "stopped" and not quiet:
            note(f"gateway of {one.user}: stopped; {one.reason}")
        elif one.result == "busy":
            note(f"gateway of {one.user}: busy ({one.reason}), mosaic serve or reap restarts it when it is idle")
            note(f"  at once, when its turns are over: mosaic gateway restart {one.user}")
        elif one.result == "failed":
            note(f"gateway of {one.user}: not restarted: {one.reason}")

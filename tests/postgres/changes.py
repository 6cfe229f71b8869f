"""The operator's verbs on a team in memory, for the tests of changes."""

from functools import partial
from typing import Any

from mosaic_fleet.db.reads import read
from mosaic_fleet.fleet import comparing, pushing, restarting, rollbacks, scaling, upgrades
from mosaic_fleet.fleet.comparing import Diff
from mosaic_fleet.fleet.deploying import Fleet, Outcome
from mosaic_fleet.fleet.options import Options
from tests.postgres.team import STACK, Silent, Team


class Operator:
    """Changes a team; a broken database or runtime may stand in for its own."""

    def __init__(self, team: Team, *, db: Any = None, runtime: Any = None) -> None:
        self.fleet = Fleet(db or team.db, team.box, runtime or team.runtime, Silent())

    def diff(self) -> Diff:
        """Compare."""
        return comparing.diff(partial(read, self.fleet.db.url), self.fleet.box, self.fleet.runtime, STACK)

    def differences(self) -> dict[str, dict[str, tuple[str | None, str | None]]]:
        """Return old and new of what differs, by agent and field."""
        return {
            one.agent: {each.field: (each.old, each.new) for each in one.differences}
            for one in self.diff().agents
            if one.differences
        }

    def scale(self, *, dry_run: bool = False, **targets: int) -> list[Outcome]:
        """Stop or start agents."""
        return scaling.scale(self.fleet, targets, Options(120, dry_run=dry_run))

    def restart(self, *names: str, **options: Any) -> list[restarting.Row]:
        """Restart agents."""
        return restarting.restart(self.fleet, STACK, names, restarting.Options(**{"timeout": 120, **options}))

    def push(self, **options: Any) -> pushing.Pushed:
        """Make what the stack file names."""
        return pushing.push(self.fleet, STACK, Options(120, **options))

    def rollback(self, number: int | None = None, **options: Any) -> Outcome:
        """Go back."""
        return rollbacks.go_back(self.fleet, STACK, number, Options(120, **options))

    def upgrade(self, image: str, agent: str | None = None, **options: Any) -> Outcome:
        """Move to another image."""
        return upgrades.upgrade(self.fleet, STACK, agent, image, Options(**{"timeout": 120, **options}))

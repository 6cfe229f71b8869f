"""Failure at every step of a deploy (guarantee 8.4): the same command succeeds after, and nothing is lost or left."""

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from mosaic_fleet.db.database import Database
from mosaic_fleet.errors import DatabaseFailure, RuntimeFailure
from mosaic_fleet.fleet import deploying
from tests.postgres.team import Fault, FaultyDatabase, FaultyRuntime, Team, halved


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the Swarm more often: the one in memory needs no time."""
    monkeypatch.setattr(deploying, "_POLL_SECONDS", 0.001)


@pytest.fixture
def team(database: Database) -> Team:
    """Return a team of two that nobody deployed yet."""
    team = Team.at(database)
    team.add("anna", "ben")
    return team


class Season:
    """Changes the team round by round so that a deploy creates, updates, keeps, prunes and cleans up."""

    def __init__(self, team: Team) -> None:
        self.team = team
        self.round = 0
        team.add("guest0")
        for _ in range(2):
            self.next()
            team.deploy(prune=True)

    def next(self) -> None:
        """A guest leaves, another comes, and Anna changes in everything."""
        self.team.drop(f"guest{self.round}")
        self.round += 1
        self.team.add(f"guest{self.round}")
        self.team.set("anna", personality=f"{self.round}\n", primary_model=f"zai/m{self.round % 2 + 1}")

    def check(self) -> None:
        """All that the roster says runs, the record ends healthy, and nothing is there that nobody names."""
        team = self.team
        assert team.services == ["team_anna", "team_ben", f"team_guest{self.round}"]
        assert team.plan.is_empty
        assert team.record[-1] == "healthy"
        assert "started" not in team.record
        assert team.deployments[-1].stack_text == team.plan.rendered.text
        assert team.objects.keys() == team.named
        assert set(team.nodes.values()) == {"node1"}


def suffer(team: Team, broken: Callable[[int], dict[str, Any]], error: type[BaseException]) -> list[str]:
    """Break a deploy at step 1, 2, 3 … until it passes, each time then deploy well; return how each was recorded."""
    season, statuses = Season(team), []
    for step in count(1):
        season.next()
        rows = {row.id: row.stack_text for row in team.deployments}
        try:
            team.deploy(prune=True, **broken(step))
        except error:
            statuses += team.record[len(rows) :] or ["unrecorded"]
        else:
            break
        outcome = team.deploy(prune=True)
        assert {state.verdict for state in outcome.states.values()} == {"healthy"}
        season.check()
        assert rows.items() <= {row.id: row.stack_text for row in team.deployments}.items()
    season.check()
    return statuses


def refusal() -> RuntimeFailure:
    return RuntimeFailure("docker does not answer: broken on purpose")


@pytest.mark.parametrize("late", [False, True])
def test_docker_fails_at_every_step(late: bool, team: Team) -> None:
    """A call that Docker refuses, or does without its answer coming through: the same command succeeds after."""
    statuses = suffer(
        team, lambda step: {"runtime": FaultyRuntime(team.runtime, step, Fault(refusal, late))}, RuntimeFailure
    )
    assert len(statuses) > 25
    assert set(statuses) == {"unrecorded", "failed", "healthy"}


@pytest.mark.parametrize("late", [False, True])
def test_somebody_presses_ctrl_c_at_every_step(late: bool, team: Team) -> None:
    """It is recorded as interrupted, unless all was done already; the same command succeeds after."""
    fault = Fault(KeyboardInterrupt, late)
    statuses = suffer(team, lambda step: {"runtime": FaultyRuntime(team.runtime, step, fault)}, KeyboardInterrupt)
    assert set(statuses) == {"unrecorded", "interrupted", "healthy"}


@pytest.mark.parametrize("when", ["begin", "commit", "answer", "down"])
def test_postgres_fails_at_every_step(when: str, team: Team) -> None:
    """Before a transaction, at its commit, after it, or for good: the same command succeeds after."""
    statuses = suffer(team, lambda step: {"db": FaultyDatabase(team.db.url, step, when)}, DatabaseFailure)
    assert len(statuses) >= 8


@pytest.mark.parametrize("services", [0, 1, 2, 3])
def test_a_stack_file_that_docker_carried_out_by_half(services: int, team: Team) -> None:
    """`docker stack deploy` goes service by service: cut off anywhere, the same command does the rest."""
    season = Season(team)

    class Halfway(FaultyRuntime):
        def deploy_stack(self, stack: str, text: str) -> None:
            team.runtime.deploy_stack(stack, halved(text, services))
            raise refusal()

    season.next()
    with pytest.raises(RuntimeFailure):
        team.deploy(runtime=Halfway(team.runtime, 0, Fault(refusal)), prune=True)
    team.deploy(prune=True)
    season.check()

"""No agent is started with an empty memory unasked, and nobody waits for a node that takes no agent."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mosaic_fleet.db.database import Database
from mosaic_fleet.errors import RuntimeFailure
from mosaic_fleet.fleet import deploying, removing
from tests.postgres.changes import Operator
from tests.postgres.team import STACK, Team

BEN = "team_ben-state"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the Swarm more often: the one in memory needs no time."""
    monkeypatch.setattr(deploying, "_POLL_SECONDS", 0.001)


@pytest.fixture
def team(database: Database) -> Team:
    """Return a team of two that is deployed."""
    team = Team.at(database)
    team.add("anna", "ben")
    team.deploy()
    return team


def lose_volume(team: Team) -> None:
    """Take ben's volume away as `docker volume prune` does while he is stopped."""
    team.runtime._volumes.pop(BEN)
    team.runtime.changes.clear()


STARTS: dict[str, Callable[[Team, Operator], object]] = {
    "deploy": lambda team, _: team.deploy(),
    "dry run": lambda team, _: team.deploy(dry_run=True),
    "scale": lambda _, operator: operator.scale(ben=1),
    "push": lambda _, operator: operator.push(),
    "rollback": lambda _, operator: operator.rollback(1),
}


@pytest.mark.parametrize("start", STARTS)
def test_a_volume_that_is_gone_stops_who_would_start_it(start: str, team: Team) -> None:
    """It is named with its node and the way out, before anything is changed."""
    operator = Operator(team)
    operator.scale(ben=0)
    lose_volume(team)
    if start != "scale":
        team.set("ben", replicas=1, personality="Another.\n")
    with pytest.raises(RuntimeFailure, match=f'agent "ben": its volume {BEN} is gone from node fake') as caught:
        STARTS[start](team, operator)
    assert "--fresh ben" in str(caught.value.hint)
    assert [one for one in team.runtime.changes if "ben" in one] == []


def test_a_restart_without_a_volume_is_refused(team: Team) -> None:
    """The task that runs is left alone."""
    lose_volume(team)
    with pytest.raises(RuntimeFailure, match=f"its volume {BEN} is gone"):
        Operator(team).restart("ben")
    assert team.runtime.changes == []


def test_one_may_start_anew_when_it_is_said(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """The volume is made and its folder is the agent's own; that it was empty is told, and the next deploy is quiet."""
    operator, said = Operator(team), []
    operator.scale(ben=0)
    lose_volume(team)
    monkeypatch.setattr(type(operator.fleet.report), "step", lambda _, text: said.append(text))
    team.set("ben", replicas=1)
    team.deploy(fresh=frozenset({"ben"}))
    assert "the volume of ben was gone: it starts with an empty memory" in said
    assert f"make folder /home/node/.openclaw/workspace in {BEN}" in team.runtime.changes
    assert set(team.actions().values()) == {"unchanged"}


def test_a_stack_that_was_taken_down_has_its_memory_still(team: Team) -> None:
    """Removed and deployed again it is itself; without its volume it is refused, unless the removal took that too."""
    removing.remove(team.db, team.runtime, STACK, removing.Options())
    lose_volume(team)
    with pytest.raises(RuntimeFailure, match=f"its volume {BEN} is gone"):
        team.deploy()
    team.deploy(fresh=frozenset({"ben"}))
    removing.remove(team.db, team.runtime, STACK, removing.Options(volumes=True))
    assert set(team.actions().values()) == {"create"}


def test_a_state_that_was_given_up_is_not_missed(team: Team) -> None:
    """An agent that was moved to another node starts there anew."""
    operator = Operator(team)
    operator.scale(ben=0)
    lose_volume(team)
    here = team.runtime.nodes()[0]
    team.runtime.nodes = lambda: [here, replace(here, id="node2", hostname="other")]
    team.runtime.swarm = replace(team.runtime.swarm, node_id="node2")
    team.set("ben", replicas=1, node_id="node2")
    assert team.actions()["ben"] == "update"


# Nodes ----------------------------------------------------------------------------------------------------------------


def away(team: Team, **how: Any) -> None:
    """Let the node take nobody, and nobody get ready there."""
    here = team.runtime.nodes()[0]
    team.runtime.nodes = lambda: [replace(here, **how)]
    team.runtime.polls_to_running = 10**9


@pytest.mark.parametrize(("how", "word"), [({"availability": "drain"}, "drained"), ({"state": "down"}, "down")])
def test_nobody_waits_for_a_node_that_takes_nobody(how: dict[str, str], word: str, team: Team) -> None:
    """The deploy ends at once with the reason; the record is partial, and the same command is content later."""
    team.set("anna", personality="Another.\n")
    away(team, **how)
    with pytest.raises(RuntimeFailure, match=f"anna: its node fake is {word}; it waits for it"):
        team.deploy(timeout=10**6)
    assert team.record == ["healthy", "partial"]
    del team.runtime.nodes
    team.runtime.polls_to_running = 1
    assert set(team.actions().values()) == {"unchanged"}
    assert team.record == ["healthy", "healthy"]


def test_who_runs_on_a_paused_node_is_not_replaced(team: Team) -> None:
    """Nothing would start it again: the deploy is refused before it changes anything."""
    team.set("anna", personality="Another.\n")
    away(team, availability="pause")
    team.runtime.changes.clear()
    with pytest.raises(RuntimeFailure, match="keeps its state on node fake, which is paused"):
        team.deploy()
    assert team.runtime.changes == []

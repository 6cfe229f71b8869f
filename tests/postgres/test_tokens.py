"""New gateway tokens: one agent after the other, carried out by deploys, ended by the next run when it breaks off."""

from datetime import UTC, datetime, timedelta

import pytest

from mosaic_fleet.db.database import Database
from mosaic_fleet.db.tables import place
from mosaic_fleet.errors import Conflict, DatabaseFailure, NotFound, RuntimeFailure
from mosaic_fleet.fleet import agents, tokens
from mosaic_fleet.fleet.deploying import Fleet
from mosaic_fleet.fleet.tokens import Wanted
from tests.postgres.machine import JARVIS, Machine
from tests.postgres.team import Fault, FaultyDatabase, FaultyRuntime, Silent, Team

ALL = Wanted()


@pytest.fixture
def team(database: Database) -> Team:
    team = Team.at(database)
    team.add("one", "two")
    team.deploy()
    return team


def rotate(team: Team, wanted: Wanted = ALL, db: Database | None = None, runtime: object = None) -> list[str]:
    fleet = Fleet(db or team.db, team.box, runtime or team.runtime, Silent())
    return [f"{turn.action} {turn.agent}" for turn in tokens.rotate(fleet, wanted, timeout=120)]


def planned(team: Team, wanted: Wanted = ALL) -> list[str]:
    fleet = Fleet(team.db, team.box, team.runtime, Silent())
    return [f"{turn.action} {turn.agent}" for turn in tokens.turns(fleet, wanted)]


def stored(team: Team) -> dict[str, str]:
    """Return the tokens of the roster."""
    with team.db.transaction(system=True) as session:
        rows = [agents.get(session, name) for name in ("one", "two")]
        return {
            row.name: team.box.open(place(row, "gateway_token"), row.gateway_token).get_secret_value() for row in rows
        }


def running(team: Team) -> dict[str, str]:
    """Return the tokens that the services name, as Docker has them."""
    found = {}
    for service in team.runtime.services("team"):
        names = [one["SecretName"] for one in service.spec["TaskTemplate"]["ContainerSpec"]["Secrets"]]
        (name,) = [name for name in names if "-token-" in name]
        found[service.name.removeprefix("team_")] = team.runtime.contents[name].decode()
    return found


def test_every_agent_gets_another_token(team: Team) -> None:
    """All agents run with new tokens, each in a deploy of its own; a later deploy changes nothing."""
    before = running(team)
    assert planned(team) == ["renew one", "renew two"]
    assert running(team) == before
    assert rotate(team) == ["renew one", "renew two"]
    assert running(team) == stored(team)
    assert not set(running(team).values()) & set(before.values())
    assert team.record == ["healthy"] * 3
    assert team.actions() == {"one": "unchanged", "two": "unchanged"}


def test_one_agent_leaves_the_others_alone(team: Team) -> None:
    """Only the named agent's token and service change."""
    before = running(team)
    assert rotate(team, Wanted(["two"])) == ["renew two"]
    assert running(team)["one"] == before["one"]
    assert running(team)["two"] == stored(team)["two"] != before["two"]


def test_an_unknown_agent_changes_nothing(team: Team) -> None:
    """The agents beside it keep their tokens."""
    before = stored(team)
    with pytest.raises(NotFound, match='no agent "nobody"'):
        rotate(team, Wanted(["one", "nobody"]))
    assert stored(team) == before


def test_only_old_tokens(team: Team) -> None:
    """With a limit only tokens set before it are renewed: what an earlier run did stays."""
    rotate(team, Wanted(["one"]))
    limit = datetime.now(UTC)
    assert planned(team, Wanted(set_before=limit - timedelta(days=1))) == []
    assert planned(team, Wanted(set_before=limit)) == ["renew one", "renew two"]
    rotate(team, Wanted(["two"]))
    assert planned(team, Wanted(set_before=limit)) == ["renew one"]


def test_a_roster_that_is_ahead_is_deployed_first(team: Team) -> None:
    """Nothing but tokens is carried out on the way: other changes are named, and no token is made."""
    before = stored(team)
    team.set("two", role="other")
    with pytest.raises(Conflict, match="ahead of what runs: two") as refused:
        rotate(team)
    assert refused.value.hint == "mosaic fleet deploy --stack team"
    assert stored(team) == before
    team.deploy()
    assert rotate(team) == ["renew one", "renew two"]


def test_what_does_not_run_gets_its_token_stored(database: Database) -> None:
    """Agents of a stack that was never deployed are not started by it."""
    team = Team.at(database)
    team.add("one", "two")
    before = stored(team)
    assert rotate(team) == ["store one", "store two"]
    assert not set(stored(team).values()) & set(before.values())
    assert team.services == []


def test_an_agent_that_fails_ends_it(team: Team) -> None:
    """The agents behind one that does not become healthy keep their tokens; the next run begins with that one."""
    before = running(team)
    with pytest.raises(RuntimeFailure):
        rotate(team, runtime=FaultyRuntime(team.runtime, 12, Fault(lambda: RuntimeFailure("broken on purpose"))))
    assert running(team)["two"] == before["two"] == stored(team)["two"]
    rotate(team)
    assert running(team) == stored(team)
    assert not set(running(team).values()) & set(before.values())


@pytest.mark.parametrize("when", ["begin", "commit", "answer"])
def test_whatever_fails_the_next_run_ends_it(team: Team, when: str) -> None:
    """With each transaction failing in turn the next run leaves each agent with the token of its row."""
    failures, at = 0, 0
    while at == failures:
        at += 1
        try:
            rotate(team, Wanted(["one"]), db=FaultyDatabase(team.db.url, at, when))
        except DatabaseFailure:
            failures += 1
            rotate(team, Wanted(["one"]))
        assert running(team) == stored(team)
    assert failures > 5


def test_whose_tokens_is_said(mosaic: Machine) -> None:
    """Neither an agent nor --all, both, and a span that is none are mistakes of the caller."""
    mosaic("agent", "import", JARVIS)
    rotate_tokens = ("secrets", "rotate-tokens")
    assert mosaic(*rotate_tokens).error[0] == 2
    assert mosaic(*rotate_tokens, "--all", "--agent", "jarvis-main").error[0] == 2
    for span in ("soon", "0d", "1000000d"):
        assert mosaic(*rotate_tokens, "--all", "--older-than", span).error[0] == 2

"""What is hidden in what agents wrote: their secrets by the roster, and by the record of deploys."""

import pytest
from pydantic import SecretStr

from mosaic_fleet.db.database import Database
from mosaic_fleet.db.reads import SYSTEM_OWNER, read
from mosaic_fleet.errors import RuntimeFailure
from mosaic_fleet.fleet import agents, masking, providers
from mosaic_fleet.fleet.masking import Known, held
from tests.fakes import Failure
from tests.postgres.team import STACK, Team

FIRST = "planted-provider-key"


@pytest.fixture
def team(database: Database) -> Team:
    team = Team.at(database)
    team.add("one", "two")
    return team


def known(team: Team) -> Known:
    with read(team.db.url) as reads:
        return masking.known(reads, team.box, [STACK])


def token(team: Team, agent: str) -> str:
    with team.db.transaction(system=True) as session:
        return agents.token(team.box, agents.get(session, agent)).get_secret_value()


def change_key(team: Team, key: str) -> None:
    with team.db.transaction(system=True) as session:
        providers.set(session, team.box, SYSTEM_OWNER, "zai", {"api_key": SecretStr(key)})


def failing(team: Team, line: str) -> str:
    """Let agent `one` fail at its next deploy with a line; return the error."""
    team.set("one", role="another")
    team.runtime.failures = {"team_one": Failure("failed", "task: non-zero exit (1)", 1)}
    team.runtime.stderr["team_one"] = f"{line}\n"
    with pytest.raises(RuntimeFailure) as caught:
        team.deploy()
    return caught.value.message


def test_the_roster_s_secrets_are_known_before_any_deploy(team: Team) -> None:
    """Each agent's token and keys, also of one that is switched off, and of no other agent."""
    team.set("two", is_active=False)
    assert known(team) == {name: {token(team, name), FIRST} for name in ("one", "two")}


def test_what_was_deployed_stays_known(team: Team) -> None:
    """After new tokens, a new key, and an agent that left the roster, what containers were given is still hidden."""
    first = {name: token(team, name) for name in ("one", "two")}
    team.deploy()
    with team.db.transaction(system=True) as session:
        agents.renew_token(session, team.box, "one")
    change_key(team, "another-provider-key")
    team.drop("two")
    second = token(team, "one")
    assert known(team) == {
        "one": {first["one"], second, FIRST, "another-provider-key"},
        "two": {first["two"], FIRST},
    }


def test_deploys_with_the_same_secrets_are_read_once(team: Team) -> None:
    """However many there are, they push no older secret out; the newest come first."""
    for role in ("a", "b", "c"):
        team.set("one", role=role)
        team.deploy()
    change_key(team, "another-provider-key")
    team.deploy()
    assert len(team.deployments) == 4
    with read(team.db.url) as reads:
        rows = reads.deployed_secrets(STACK)
        assert reads.deployed_secrets("other") == []
    opened = [team.box.look(row.secrets_place, row.docker_secrets).get_secret_value() for row in rows]
    assert ["another-provider-key" in text for text in opened] == [True, False]


def test_a_secret_is_hidden_as_it_is_spelled(team: Team) -> None:
    """In JSON and in an address a key may be spelled otherwise; one that is too short would garble everything."""
    change_key(team, 'k3y/of"mine')
    assert {'k3y/of"mine', 'k3y/of\\"mine', "k3y%2Fof%22mine"} <= {*known(team)["one"]}
    change_key(team, "abc")
    assert known(team)["one"] == {token(team, "one")}


def test_docker_secrets_are_told_apart_by_agent() -> None:
    """Hyphens in the names of stack and agent confuse nobody."""
    secrets = {
        "a-b-c-token-0123": "t1",
        "a-b-c-keys-4567": '{"zai": "k1", "x-y": "k2"}',
        "a-b-token-89ab": "t2",
    }
    assert held("a", secrets) == {
        "b-c": {"token b-c": "t1", "provider zai": "k1", "provider x-y": "k2"},
        "b": {"token b": "t2"},
    }


def test_the_error_of_a_deploy_hides_what_the_agent_knows(team: Team) -> None:
    """Its token and its older key are stars in its last lines."""
    team.deploy()
    change_key(team, "another-provider-key")
    said = failing(team, f"bare {token(team, 'one')} {FIRST} another-provider-key")
    assert "(last lines: bare *** *** ***)" in said


def test_a_secret_that_the_error_of_a_deploy_would_cut_is_hidden(team: Team) -> None:
    """The lines are cut after they were redacted, so no half of a secret is left."""
    said = failing(team, f"{token(team, 'one')}{'x' * 490}")
    assert said.endswith(f"(last lines: ***{'x' * 490})")


def test_without_knowing_the_secrets_no_line_is_shown(team: Team) -> None:
    """A record that does not open takes the last lines away, and not the reason."""
    team.deploy()
    with team.db.transaction(system=True) as session:
        row = agents.get(session, "two")
        row.gateway_token = team.box.seal("elsewhere", "x")
        row.is_active = False
    said = failing(team, "a line")
    assert "task: non-zero exit (1)" in said
    assert "a line" not in said

"""A roster that is read quickly says what the ORM's says."""

from dataclasses import replace

from pydantic import SecretStr

from mosaic_fleet.db.database import Database
from mosaic_fleet.db.reads import SYSTEM_OWNER, read
from mosaic_fleet.fleet import members, providers, stack
from mosaic_fleet.fleet.stack import Agent, Roster
from tests.postgres.team import STACK, Team


def test_both_readings_are_the_same(database: Database) -> None:
    """Every column of agents, providers, settings and the stack counts, and every sealed value opens."""
    team = Team.at(database)
    with team.db.transaction(system=True) as session:
        ollama = {"type": "ollama", "base_url": "http://llm:11434", "models": [{"id": "cogito", "maxTokens": 7}]}
        login = {"type": "anthropic", "auth": "login", "models": [{"id": "c"}]}
        keyed = {"type": "custom", "base_url": "http://llm/v1", "api_key": SecretStr("another-planted-key")}
        for name, values in {"ollama": ollama, "anthropic": login, "own": keyed}.items():
            providers.add(session, team.box, SYSTEM_OWNER, name, values)
    team.add("anna", personality="Anna.\n", fallback_models=["ollama/cogito"], providers=["own", "anthropic"])
    team.add("ben", image="other:1", cpu_limit=1.5, node_id="node1", volume="old", schedules=True, replicas=0)
    team.add("carl", memory_limit=1 << 30, memory_reservation=1 << 20, role="Röle $x")
    team.add("gone", is_active=False)
    team.configure("fleet.stop_grace", "60")
    with read(team.db.url) as reads:
        quick = members.read(reads, team.box, STACK)
    assert opened(quick) == opened(team.roster)
    assert [one.name for one in quick.agents] == ["anna", "ben", "carl"]


def opened(roster: Roster) -> Roster:
    """Return a roster with its secrets opened, in whatever they were."""
    return replace(roster, agents=tuple(map(_opened, roster.agents)))


def _opened(agent: Agent) -> Agent:
    accounts = [replace(one, key=one.key and SecretStr(one.key.get_secret_value())) for one in agent.gateway.providers]
    gateway = replace(agent.gateway, providers=tuple(accounts))
    return replace(agent, gateway=gateway, token=SecretStr(agent.token.get_secret_value()))


def test_what_is_wanted_is_what_is_rendered(database: Database) -> None:
    """Comparing needs no file written: the services are the rendered ones, and the files by name too."""
    team = Team.at(database)
    team.add("anna", personality="Anna.\n")
    team.add("ben")
    rendered = stack.render(team.roster, team.box)
    assert stack.want(team.roster, team.box).services == rendered.services
    files = {**rendered.docker_configs, **rendered.docker_secrets}
    assert stack.contents(team.roster, team.box, ["anna", "ben"]) == files
    assert stack.contents(team.roster, team.box, ["ben"]).keys() == {name for name in files if "-ben-" in name}

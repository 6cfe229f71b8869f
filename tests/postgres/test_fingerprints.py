"""Fingerprints: which agent runs on which key, since when, and which keys a deploy would replace."""

from dataclasses import replace

import pytest
from pydantic import SecretStr

from mosaic_fleet.db.database import Database
from mosaic_fleet.db.reads import SYSTEM_OWNER
from mosaic_fleet.errors import ConfigurationError, RuntimeFailure
from mosaic_fleet.fleet import agents, providers, pushing, removing, stack
from mosaic_fleet.fleet.deploying import Fleet
from mosaic_fleet.fleet.fingerprints import Fingerprint, fingerprint, fingerprints, users_of
from mosaic_fleet.fleet.holdings import look
from mosaic_fleet.fleet.options import Options
from mosaic_fleet.runtimes.base import Task
from tests.fakes import Failure, FakeRuntime
from tests.postgres.team import STACK, Silent, Team
from tests.rosters import BOX


class Showing:
    """A Swarm that shows these tasks."""

    def __init__(self, runtime: FakeRuntime, tasks: list[Task]) -> None:
        self.services = runtime.services
        self.tasks = lambda _: tasks


@pytest.fixture
def team(database: Database) -> Team:
    team = Team.at(database)
    team.add("one", "two")
    return team


def seen(team: Team) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return who runs on what, by what it is and its state."""
    return {(one.what, one.state): one.agents for one in listed(team)}


def listed(team: Team) -> list[Fingerprint]:
    mounted = look(team.runtime, team.roster.install, [STACK])
    with team.db.transaction(system=True) as session:
        return fingerprints(session, team.box, mounted)


def by_record(team: Team) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return what `seen` returns, where Docker does not answer."""
    with team.db.transaction(system=True) as session:
        return {(one.what, one.state): one.agents for one in fingerprints(session, team.box, None)}


def change_key(team: Team, key: str) -> None:
    with team.db.transaction(system=True) as session:
        providers.set(session, team.box, SYSTEM_OWNER, "zai", {"api_key": SecretStr(key)})


def test_before_a_deploy_nothing_is_used(team: Team) -> None:
    """Keys and tokens that no agent runs on yet are unused."""
    assert seen(team) == {("provider zai", "unused"): (), ("token one", "unused"): (), ("token two", "unused"): ()}


def test_a_changed_key_is_stale_where_it_runs(team: Team) -> None:
    """Agents run on the old key until a deploy has carried the new one out."""
    team.deploy()
    assert seen(team)["provider zai", "current"] == ("one", "two")
    change_key(team, "another-key")
    found = seen(team)
    assert found["provider zai", "stale"] == ("one", "two")
    assert found["provider zai", "unused"] == ()
    team.deploy()
    assert seen(team) == {
        ("provider zai", "current"): ("one", "two"),
        ("token one", "current"): ("one",),
        ("token two", "current"): ("two",),
    }


def test_a_service_that_was_rolled_back_by_hand_is_stale(team: Team) -> None:
    """What counts is what runs: `docker service rollback` brings a leaked key back, whatever the record says."""
    team.deploy()
    before = team.runtime.services(STACK)[0].spec
    change_key(team, "another-key")
    team.deploy()
    assert seen(team)["provider zai", "current"] == ("one", "two")
    team.runtime.edit("team_one", lambda said: said.update(before))
    found = seen(team)
    assert (found["provider zai", "stale"], found["provider zai", "current"]) == (("one",), ("two",))
    assert by_record(team)["provider zai", "current"] == ("one", "two")
    team.deploy()
    assert seen(team)["provider zai", "current"] == ("one", "two")


def test_a_deploy_that_nobody_waited_for_counts(team: Team) -> None:
    """After `deploy --detach` the services name the new key, though no record says that they are healthy."""
    team.deploy()
    change_key(team, "another-key")
    team.deploy(detach=True)
    found = seen(team)
    assert found["provider zai", "current"] == ("one", "two")
    assert ("provider zai", "stale") not in found


def test_a_container_that_still_ends_its_work_has_the_old_key(team: Team) -> None:
    """While an update waits for the old task to stop, its agent is told with both keys."""
    team.deploy()
    change_key(team, "another-key")
    team.deploy()
    one = team.runtime.services(STACK)[0].id
    draining = [
        replace(task, state="running") if task.service_id == one else task for task in team.runtime.tasks(STACK)
    ]
    mounted = look(Showing(team.runtime, draining), team.roster.install, [STACK])
    with team.db.transaction(system=True) as session:
        found = {(row.what, row.state): row.agents for row in fingerprints(session, team.box, mounted)}
    assert (found["provider zai", "stale"], found["provider zai", "current"]) == (("one",), ("one", "two"))


def test_what_was_removed_uses_nothing(team: Team) -> None:
    """After `fleet rm` no agent has a key, though each was healthy with one."""
    team.deploy()
    removing.remove(team.db, team.runtime, STACK, removing.Options())
    assert {state: agents for (_, state), agents in seen(team).items()} == {"unused": ()}


def test_an_agent_that_left_the_roster_and_runs_is_told(team: Team) -> None:
    """Without --prune it keeps running: on a key that others use too, and with a token that nobody wants."""
    team.deploy()
    team.drop("two")
    team.deploy()
    found = seen(team)
    assert found["provider zai", "current"] == ("one", "two")
    assert found["token two", "stale"] == ("two",)


def test_what_was_only_pushed_is_known_until_it_changes(team: Team) -> None:
    """Of `docker stack deploy` there is no record: the roster says what its agents have, and later nobody does."""
    pushing.push(Fleet(team.db, team.box, team.runtime, Silent()), STACK, Options())
    team.runtime.deploy_stack(STACK, stack.render(team.roster, team.box).text)
    assert seen(team)["provider zai", "current"] == ("one", "two")
    change_key(team, "another-key")
    found = seen(team)
    assert (found["keys one", "unknown"], found["keys two", "unknown"]) == (("one",), ("two",))
    assert found["provider zai", "unused"] == ()


def test_somebody_else_s_docker_secret_is_no_key(team: Team) -> None:
    """One that was added to a service by hand is left out."""
    team.deploy()
    other = {"SecretName": "other-1234", "SecretID": "x", "File": {"Name": "other"}}
    team.runtime.edit("team_one", lambda said: said["TaskTemplate"]["ContainerSpec"]["Secrets"].append(other))
    assert {state for _, state in seen(team)} == {"current"}


def test_a_stopped_agent_has_what_it_would_start_with(team: Team) -> None:
    """Its service names the key, though no task does."""
    team.deploy()
    team.set("two", replicas=0)
    team.deploy()
    change_key(team, "another-key")
    assert seen(team)["provider zai", "stale"] == ("one", "two")


def test_where_docker_does_not_answer_the_record_counts(team: Team) -> None:
    """By the last deployment in which each agent was healthy: one was taken back to the old key."""
    team.deploy()
    assert by_record(team)["provider zai", "current"] == ("one", "two")
    change_key(team, "another-key")
    team.runtime.failures = {"team_two": Failure("failed", "task: non-zero exit (1)", 1)}
    with pytest.raises(RuntimeFailure, match="two: taken back by Swarm"):
        team.deploy()
    for found in (by_record(team), seen(team)):
        assert (found["provider zai", "current"], found["provider zai", "stale"]) == (("one",), ("two",))


def test_an_agent_whose_deploy_was_refused_runs_on_the_old_key(team: Team) -> None:
    """A deploy that ended before it changed anything gave nobody a key."""
    team.deploy()
    change_key(team, "another-key")
    team.set("two", primary_model="zai/odd")
    team.runtime.refused.add("zai/odd")
    with pytest.raises(ConfigurationError, match="refuses"):
        team.deploy()
    assert seen(team)["provider zai", "stale"] == ("one", "two")


def test_a_removed_provider_is_stale_where_it_runs(team: Team) -> None:
    """A key that is gone from the database and that agents still run on is shown."""
    team.deploy()
    with team.db.transaction(system=True) as session:
        providers.set(session, team.box, SYSTEM_OWNER, "zai", {"api_key": None, "auth": "login"})
    assert seen(team)["provider zai", "stale"] == ("one", "two")


def test_a_key_is_as_old_as_its_last_change(team: Team) -> None:
    """The time is that of the key, not of the provider's or the agent's other changes."""
    first = {one.what: one.since for one in listed(team)}
    with team.db.transaction(system=True) as session:
        providers.set(session, team.box, SYSTEM_OWNER, "zai", {"display_name": "other"})
        agents.set(session, "one", {"role": "other"})
    assert {one.what: one.since for one in listed(team)} == first
    change_key(team, "another-key")
    later = {one.what: one.since for one in listed(team)}
    assert later["token one"] == first["token one"]
    assert str(later["provider zai"]) > str(first["provider zai"])


def test_a_token_that_an_import_brought_is_as_old_as_that(team: Team) -> None:
    """An imported token counts as a change like one that Mosaic made; other imported values do not."""
    first = {one.what: one.since for one in listed(team)}
    with team.db.transaction(system=True) as session:
        agents.set(session, "two", {"role": "imported"})
        agents.put_token(session, team.box, "one", SecretStr("a-token-from-before"))
    later = {one.what: one.since for one in listed(team)}
    assert str(later["token one"]) > str(first["token one"])
    assert later["token two"] == first["token two"]


def test_a_fingerprint_is_four_digits() -> None:
    """It tells two keys apart and nothing about them."""
    prints = {fingerprint(BOX, key) for key in ("a", "b", "c")}
    assert len(prints) == 3
    assert all(len(one) == 5 and one[0] == "#" for one in prints)


def test_users_of_a_provider_are_named_by_stack(team: Team) -> None:
    """Agents that use it, by stack; nobody uses another one."""
    with team.db.transaction(system=True) as session:
        assert users_of(session, "zai") == {"team": ["one", "two"]}
        assert users_of(session, "other") == {}

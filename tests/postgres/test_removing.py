"""Taking a stack off the Swarm, step by step: only what is ours, memory only when asked, and after whatever fails."""

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from sqlmodel import col, select

from mosaic_fleet.db.database import Database
from mosaic_fleet.db.tables import Audit
from mosaic_fleet.errors import Conflict, DatabaseFailure, NotFound, RuntimeFailure
from mosaic_fleet.fleet import deploying, removing
from mosaic_fleet.fleet.removing import Options, Removed
from mosaic_fleet.runtimes.base import DockerObject
from tests.fakes import FAKE_IMAGE, FakeRuntime
from tests.postgres.team import STACK, Fault, FaultyDatabase, FaultyRuntime, Team, end_locks

VOLUMES = ["team_anna-state", "team_ben-state"]
FREE = {"anna": None, "ben": None}
PINNED = {"anna": "node1", "ben": "node1"}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the Swarm more often: the one in memory needs no time."""
    monkeypatch.setattr(deploying, "_POLL_SECONDS", 0.001)
    monkeypatch.setattr(removing, "_POLL_SECONDS", 0.001)


@pytest.fixture
def team(database: Database) -> Team:
    """Return a team of two that runs."""
    team = Team.at(database)
    team.add("anna", personality="Anna.\n")
    team.add("ben")
    team.deploy()
    team.runtime.changes.clear()
    return team


def remove(team: Team, *, db: Database | None = None, runtime: Any = None, **options: Any) -> Removed:
    """Remove the stack, on a broken database or runtime if one is given."""
    return removing.remove(db or team.db, runtime or team.runtime, STACK, Options(**{"timeout": 120, **options}))


def left(team: Team) -> tuple[list[str], list[str], list[str]]:
    """Return what is there of the stack: services, Docker objects, volumes."""
    return team.services, sorted(team.objects), team.runtime.volumes(team.marks)


def test_services_and_docker_objects_go_and_memory_stays(team: Team) -> None:
    """It names what it took, keeps volumes, roster, pins and the record of deploys; a deploy brings all back."""
    objects = sorted(team.objects)
    removed = remove(team)
    assert (removed.services, sorted(removed.docker_objects), removed.volumes) == (
        ["team_anna", "team_ben"],
        objects,
        [],
    )
    assert left(team) == ([], [], VOLUMES)
    assert (team.nodes, team.record) == (PINNED, ["healthy"])
    assert team.actions() == {"anna": "create", "ben": "create"}
    assert sorted(team.objects) == objects


def test_memory_goes_only_when_asked(team: Team) -> None:
    """With --volumes the volumes go too, and who has no memory any more is free to start on another node."""
    assert remove(team, volumes=True).volumes == VOLUMES
    assert left(team) == ([], [], [])
    assert team.nodes == FREE


def test_an_inactive_agent_is_freed_too(team: Team) -> None:
    """Its volume goes with the others, so nothing holds it to its node any more."""
    team.set("ben", is_active=False)
    assert remove(team, volumes=True).volumes == VOLUMES
    assert team.nodes == FREE


def test_memory_of_a_stack_that_was_taken_off_before(team: Team) -> None:
    """--volumes also works when nothing but volumes is left."""
    remove(team)
    assert remove(team, volumes=True) == Removed([], [], VOLUMES)
    assert (left(team), team.nodes) == (([], [], []), FREE)


def test_an_adopted_volume_goes_by_its_name(team: Team) -> None:
    """It has no label of ours: the roster names it, so it goes with --volumes only, and the agent is free of it."""
    team.runtime.create_volume("old_state", labels={})
    team.set("anna", volume="old_state")
    team.deploy()
    assert remove(team).volumes == []
    assert team.runtime.volume_labels("old_state") == {}
    assert sorted(remove(team, volumes=True).volumes) == ["old_state", *VOLUMES]
    assert team.runtime.volume_labels("old_state") is None
    assert team.nodes == FREE
    assert [change.agent for change in team.deploy().changes if change.action == "create"] == ["anna", "ben"]
    assert team.runtime.volumes(team.marks) == VOLUMES


@pytest.mark.parametrize("volumes", [False, True])
def test_a_dry_run_does_nothing(volumes: bool, team: Team) -> None:
    """It names what it would take."""
    before = left(team)
    found = remove(team, volumes=volumes, dry_run=True)
    assert (found.services, sorted(found.docker_objects)) == before[:2]
    assert found.volumes == (VOLUMES if volumes else [])
    assert (team.runtime.changes, left(team), team.nodes) == ([], before, PINNED)


@pytest.mark.parametrize("volumes", [False, True])
def test_a_second_removal_changes_nothing(volumes: bool, team: Team) -> None:
    """It finds nothing, does nothing, and leaves no second entry in the audit."""
    remove(team, volumes=volumes)
    team.runtime.changes.clear()
    entries = audit(team)
    assert remove(team, volumes=volumes).is_empty
    assert (team.runtime.changes, audit(team)) == ([], entries)


def audit(team: Team) -> list[str]:
    """Return the verbs of the audit."""
    with team.db.transaction(system=True) as session:
        return list(session.exec(select(Audit.verb).order_by(col(Audit.id))))


@pytest.mark.parametrize("install", [{}, {"com.mosaic.install": "ffffffffffff"}])
def test_what_others_made_is_left_alone(install: dict[str, str], team: Team) -> None:
    """A service, Docker config or volume of this stack's name that another made stays as it is."""
    marks = {**install, "com.mosaic.stack": STACK}
    words = ", ".join(f"{key}: '{value}'" for key, value in marks.items())
    FakeRuntime.deploy_stack(
        team.runtime, STACK, f"services: {{other: {{image: {FAKE_IMAGE}, deploy: {{labels: {{{words}}}}}}}}}"
    )
    team.runtime.create_docker_object("docker_config", "team-other-conf-1", b"x", labels=marks)
    team.runtime.create_volume("team_other-state", labels=marks)
    remove(team, volumes=True)
    assert left(team) == (["team_other"], [], [])
    assert team.runtime.docker_object("docker_config", "team-other-conf-1")
    assert team.runtime.volume_labels("team_other-state") == marks


def test_who_left_the_roster_is_taken_too(team: Team) -> None:
    """A service and a volume of an agent that is no longer in the roster are the stack's all the same."""
    team.drop("anna")
    removed = remove(team, volumes=True)
    assert (removed.services, removed.volumes) == (["team_anna", "team_ben"], VOLUMES)
    assert left(team) == ([], [], [])


def test_memory_on_another_node_is_neither_seen_nor_forgotten(team: Team) -> None:
    """This engine has not that volume: its agent stays pinned, or it would start without its memory."""
    team.set("ben", node_id="node2")
    team.runtime.remove_service(next(one.id for one in team.runtime.services(STACK) if one.name == "team_ben"))
    assert team.runtime.remove_volume("team_ben-state")
    assert remove(team, volumes=True).volumes == ["team_anna-state"]
    assert team.nodes == {"anna": None, "ben": "node2"}


def test_it_waits_for_a_deploy(team: Team) -> None:
    """While the stack is deployed it is refused and touches nothing."""
    with team.db.lock("deploy", f"stack {STACK}"), pytest.raises(Conflict, match="mosaic deploy stack team"):
        remove(team)
    assert team.runtime.changes == []


def test_an_unknown_stack_is_named(team: Team) -> None:
    """There is nothing to remove of a stack that is not in the roster."""
    with pytest.raises(NotFound, match='no stack "other"'):
        removing.remove(team.db, team.runtime, "other", Options())


# Draining -------------------------------------------------------------------------------------------------------------


class Draining(FakeRuntime):
    """Says "in use" of Docker objects or volumes for so many looks, as Swarm does while a gateway drains."""

    busy: dict[str, int]

    @classmethod
    def around(cls, team: Team, **busy: int) -> "Draining":
        """Put it in front of a team's runtime."""
        draining = cls.__new__(cls)
        draining.__dict__ = team.runtime.__dict__
        draining.busy = busy
        return draining

    def remove_docker_object(self, item: DockerObject) -> bool:
        """Remove it unless it is in use."""
        return not self._looked(item.kind) and super().remove_docker_object(item)

    def remove_volume(self, name: str) -> bool:
        """Remove it unless it is in use."""
        return not self._looked("volume") and super().remove_volume(name)

    def _looked(self, kind: str) -> bool:
        self.busy[kind] = self.busy.get(kind, 0) - 1
        return self.busy[kind] >= 0


@pytest.mark.parametrize("kind", ["docker_config", "docker_secret", "volume"])
def test_it_waits_until_gateways_have_finished(kind: str, team: Team) -> None:
    """What is in use is tried again until it is not."""
    remove(team, runtime=Draining.around(team, **{kind: 10}), volumes=True)
    assert (left(team), team.nodes) == (([], [], []), FREE)


@pytest.mark.parametrize("kind", ["docker_config", "docker_secret", "volume"])
def test_what_is_still_in_use_at_the_timeout_is_named(kind: str, team: Team) -> None:
    """It fails with the names and the command to type, and that command goes on where this one stopped."""
    with pytest.raises(RuntimeFailure, match=r"^still in use: .*team.anna") as caught:
        remove(team, runtime=Draining.around(team, **{kind: 10**6}), volumes=True, timeout=0.01)
    assert caught.value.hint == "mosaic fleet rm --stack team --volumes   (again, it goes on)"
    assert team.services == []
    remove(team, volumes=True)
    assert (left(team), team.nodes) == (([], [], []), FREE)


def test_a_volume_that_stays_in_use_alone(team: Team) -> None:
    """The first volume goes at once, the second with the next command: both agents are free in the end."""
    draining = Draining.around(team)
    draining.remove_volume = lambda name: "ben" not in name and FakeRuntime.remove_volume(team.runtime, name)
    with pytest.raises(RuntimeFailure, match=r"^still in use: team_ben-state$"):
        remove(team, runtime=draining, volumes=True, timeout=0.01)
    del draining.remove_volume
    remove(team, volumes=True)
    assert (left(team), team.nodes) == (([], [], []), FREE)


@pytest.mark.parametrize(("what", "tried"), [("service", 1), ("docker_object", 7), ("volume", 2)])
def test_a_lock_that_is_lost_ends_the_removal(what: str, tried: int, team: Team) -> None:
    """Another command may have begun since: what was still in use is not tried again, and the same command goes on."""
    draining, calls = Draining.around(team), []

    def busy(thing: object) -> bool:
        end_locks(team.db.url)
        calls.append(thing)
        return False

    setattr(draining, f"remove_{what}", busy)
    with pytest.raises(DatabaseFailure, match="the connection that held the lock was lost"):
        remove(team, runtime=draining, volumes=True, timeout=120)
    assert len(calls) == tried
    delattr(draining, f"remove_{what}")
    remove(team, volumes=True)
    assert (left(team), team.nodes) == (([], [], []), FREE)


# Failure at every step (guarantee 8.4) --------------------------------------------------------------------------------


def suffer(team: Team, broken: Callable[[int], dict[str, Any]], error: type[BaseException]) -> int:
    """Break a removal at step 1, 2, 3 … until it passes, each time then remove well; return how many steps it has."""
    for step in count(1):
        try:
            remove(team, volumes=True, **broken(step))
        except error:
            remove(team, volumes=True)
            passed = False
        else:
            passed = True
        assert (left(team), team.nodes) == (([], [], []), FREE)
        if passed:
            return step
        team.deploy()
    raise AssertionError


def refusal() -> RuntimeFailure:
    return RuntimeFailure("docker does not answer: broken on purpose")


@pytest.mark.parametrize("error", [refusal, KeyboardInterrupt])
@pytest.mark.parametrize("late", [False, True])
def test_docker_fails_or_ctrl_c_comes_at_every_step(late: bool, error: Any, team: Team) -> None:
    """Before a call takes effect or after it: the same command ends with nothing left and everybody free."""
    raised = RuntimeFailure if error is refusal else KeyboardInterrupt
    steps = suffer(team, lambda step: {"runtime": FaultyRuntime(team.runtime, step, Fault(error, late))}, raised)
    assert steps > 10


@pytest.mark.parametrize("when", ["begin", "commit", "answer", "down"])
def test_postgres_fails_at_every_step(when: str, team: Team) -> None:
    """Before a transaction, at its commit, after it, or for good: the same command ends with everybody free."""
    assert suffer(team, lambda step: {"db": FaultyDatabase(team.db.url, step, when)}, DatabaseFailure) >= 4

"""Scale, restart, push, rollback and upgrade on a Swarm in memory: what they do, and after whatever fails."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from sqlmodel import select

from mosaic_fleet.db.database import Database
from mosaic_fleet.db.tables import User, UserContainer
from mosaic_fleet.errors import ConfigurationError, Conflict, DatabaseFailure, NotFound, PartialFailure, RuntimeFailure
from mosaic_fleet.fleet import agents, deploying, removing, restarting
from mosaic_fleet.fleet.deploying import Change
from mosaic_fleet.runtimes.base import Finished, Image
from tests.fakes import FAKE_IMAGE, Failure
from tests.postgres.changes import Operator
from tests.postgres.team import STACK, Team, end_locks

NEXT = "openclaw:next"
NEWER = Image("sha256:" + "cd" * 32, "2026.9.7", None)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the Swarm more often: the one in memory needs no time."""
    for module, name in ((deploying, "_POLL_SECONDS"), (restarting, "_POLL_SECONDS"), (restarting, "_BUSY_SECONDS")):
        monkeypatch.setattr(module, name, 0.001)


@pytest.fixture
def team(database: Database) -> Team:
    """Return a team of two that is deployed; a newer image is there."""
    team = Team.at(database)
    team.add("anna", personality="Anna.\n")
    team.add("ben")
    team.deploy()
    team.runtime.images[NEXT] = NEWER
    return team


def running(team: Team) -> dict[str, str]:
    """Return the ids of the tasks that run, by service."""
    names = {one.id: one.name.partition("_")[2] for one in team.runtime.services(STACK)}
    return {names[task.service_id]: task.id for task in team.runtime.tasks(STACK) if task.state == "running"}


def images(team: Team) -> dict[str, str]:
    """Return the image of each service."""
    return {
        one.name.partition("_")[2]: one.spec["TaskTemplate"]["ContainerSpec"]["Image"]
        for one in team.runtime.services(STACK)
    }


# Scale ----------------------------------------------------------------------------------------------------------------


def test_scale_is_kept_and_touches_nothing_else(team: Team) -> None:
    """The agent stops, its neighbour and the roster's other changes are left alone, a deploy leaves it stopped."""
    operator, before = Operator(team), running(team)
    team.set("ben", personality="Later.\n")
    operator.scale(anna=0)
    assert running(team) == {"ben": before["ben"]}
    assert operator.differences().keys() == {"ben"}
    assert team.actions() == {"anna": "unchanged", "ben": "update"}
    assert running(team).keys() == {"ben"}
    operator.scale(anna=1)
    assert running(team).keys() == {"anna", "ben"}


def test_a_second_scale_changes_nothing(team: Team) -> None:
    """No change in Docker and no deployment."""
    operator = Operator(team)
    operator.scale(anna=0)
    team.runtime.changes.clear()
    [outcome] = operator.scale(anna=0)
    assert {change.action for change in outcome.changes} == {"unchanged"}
    assert (team.runtime.changes, team.record) == ([], ["healthy", "healthy"])


def test_a_second_gateway_is_refused(team: Team) -> None:
    """With the reason and another way, before anything is written, for the good targets beside it too."""
    with pytest.raises(ConfigurationError, match="ben keeps its state in one volume; a second gateway would refuse it"):
        Operator(team).scale(anna=0, ben=2)
    with pytest.raises(NotFound, match='no agent "carl"'):
        Operator(team).scale(anna=0, carl=0)
    assert team.plan.is_empty
    assert team.record == ["healthy"]


def test_scale_of_what_is_not_deployed_is_kept(team: Team) -> None:
    """Nothing is done on the Swarm; the next deploy knows."""
    team.add("carl")
    [outcome] = Operator(team).scale(carl=0)
    assert outcome.changes == [Change("carl", "save", ("replicas",))]
    [outcome] = Operator(team).scale(carl=0)
    assert outcome.changes == [Change("carl", "unchanged")]
    team.deploy()
    assert running(team).keys() == {"anna", "ben"}


def test_scale_tells_of_those_who_are_deployed_and_not(team: Team) -> None:
    """One who stops and one whose number is only kept are both told, each as what it is."""
    team.add("carl")
    [outcome] = Operator(team).scale(anna=0, carl=0)
    assert [(one.agent, one.action) for one in outcome.changes] == [
        ("anna", "update"),
        ("ben", "unchanged"),
        ("carl", "save"),
    ]


def test_a_dry_scale_of_what_is_not_deployed_keeps_nothing(team: Team) -> None:
    """It says that the number would be kept, and the roster has the old one."""
    team.add("carl")
    [outcome] = Operator(team).scale(dry_run=True, carl=0)
    assert outcome.changes == [Change("carl", "save", ("replicas",))]
    assert {agent.name: agent.replicas for agent in team.roster.agents}["carl"] == 1


# Restart --------------------------------------------------------------------------------------------------------------


def test_restart_replaces_the_tasks_one_by_one(team: Team) -> None:
    """Each gets another task, the other one's turn comes when it is healthy, and nothing differs afterwards."""
    before = running(team)
    rows = Operator(team).restart()
    assert [(row.agent, row.result) for row in rows] == [("anna", "restarted"), ("ben", "restarted")]
    after = running(team)
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())
    assert Operator(team).diff().is_empty
    assert set(team.actions().values()) == {"unchanged"}


def test_restart_stops_at_the_first_failure(team: Team) -> None:
    """The rest is not tried and runs on; there is a row for each."""
    before = running(team)
    team.runtime.failures = {"team_anna": Failure("failed", "task: non-zero exit (1)", 1)}
    with pytest.raises(PartialFailure, match="anna: taken back by Swarm") as caught:
        Operator(team).restart()
    assert [(row.agent, row.result) for row in caught.value.rows] == [("anna", "failed"), ("ben", "not tried")]
    assert running(team)["ben"] == before["ben"]
    with pytest.raises(RuntimeFailure, match="anna: taken back"):
        Operator(team).restart("anna")


def test_restart_waits_for_a_busy_agent(team: Team) -> None:
    """It is asked again until its work is done; with --now it is not asked at all."""
    answers = iter([busy("chat"), busy("chat"), Finished(0, json.dumps({"status": "ready", "blockers": []}), "")])
    asked: list[int] = []

    def gateway(_: Sequence[str], __: bytes) -> Finished:
        asked.append(sum(change.startswith("restart") for change in team.runtime.changes))
        return next(answers)

    team.runtime.programs["node"] = gateway
    Operator(team).restart("anna")
    assert asked == [0, 0, 0]
    Operator(team).restart("anna", now=True)
    assert len(asked) == 3


def busy(kind: str) -> Finished:
    return Finished(0, json.dumps({"status": "busy", "blockers": [kind]}), "")


def test_an_agent_that_stays_busy_is_left_alone(team: Team) -> None:
    """After the timeout the restart ends, naming the work and the way around; nothing was restarted."""
    team.runtime.programs["node"] = lambda *_: busy("embedded-run")
    before = running(team)
    with pytest.raises(RuntimeFailure, match=r"still busy after 0.01 s: embedded-run") as caught:
        Operator(team).restart("anna", timeout=0.01)
    assert "--now" in str(caught.value.hint)
    assert running(team) == before


def test_a_lock_that_is_lost_while_it_waits_ends_the_restart(team: Team) -> None:
    """Another command may have begun since: nothing is restarted."""

    def gateway(_: Sequence[str], __: bytes) -> Finished:
        end_locks(team.db.url)
        return Finished(0, json.dumps({"status": "ready", "blockers": []}), "")

    team.runtime.programs["node"] = gateway
    before = running(team)
    with pytest.raises(DatabaseFailure, match="the connection that held the lock was lost"):
        Operator(team).restart("anna")
    assert running(team) == before


def test_what_does_not_run_is_not_restarted(team: Team) -> None:
    """A stopped agent is told, one that was never deployed is not found, and a deploy under way is named."""
    operator = Operator(team)
    operator.scale(anna=0)
    assert [row.result for row in operator.restart("anna")] == ["stopped"]
    with pytest.raises(NotFound, match='agent "carl" is not deployed'):
        operator.restart("carl")
    with team.db.lock("deploy", f"stack {STACK}"), pytest.raises(Conflict, match="mosaic deploy stack team"):
        operator.restart()


@pytest.mark.parametrize(
    ("away", "word"),
    [({"availability": "drain"}, "drained"), ({"availability": "pause"}, "paused"), ({"state": "down"}, "down")],
)
def test_nobody_is_stopped_on_a_node_that_starts_nobody(away: dict[str, str], word: str, team: Team) -> None:
    """Restart, upgrade and rollback are refused before anything stops; stopping for good is not."""
    team.set("anna", personality="Another.\n")
    team.deploy()
    operator, before = Operator(team), running(team)
    here = team.runtime.nodes()
    team.runtime.nodes = lambda: [replace(here[0], **away)]
    for change in (operator.restart, operator.rollback, lambda: operator.upgrade(NEXT)):
        with pytest.raises((RuntimeFailure, PartialFailure), match=f"on node fake, which is {word}"):
            change()
    assert running(team) == before
    operator.scale(anna=0)
    assert running(team).keys() == {"ben"}
    with pytest.raises(RuntimeFailure, match=f"which is {word}"):
        operator.scale(anna=1)


# Push -----------------------------------------------------------------------------------------------------------------


def test_push_makes_what_the_file_names(database: Database) -> None:
    """Pins come first, then objects and volumes; what is deployed from it by hand differs in nothing."""
    team = Team.at(database)
    team.add("anna", personality="Anna.\n")
    operator = Operator(team)
    assert len(operator.push(dry_run=True).docker_objects) == 4
    assert (team.runtime.changes, team.nodes) == ([], {"anna": None})
    pushed = operator.push()
    assert (pushed.docker_objects, pushed.volumes) == (list(team.objects), ["team_anna-state"])
    assert team.nodes == {"anna": "node1"}
    assert "make folder /home/node/.openclaw/workspace in team_anna-state with SOUL.md" in team.runtime.changes
    team.runtime.changes.clear()
    assert operator.push().is_empty
    assert team.runtime.changes == []
    team.runtime.deploy_stack(STACK, team.plan.rendered.text)
    assert operator.diff().is_empty
    assert team.actions() == {"anna": "unchanged"}
    assert team.record == ["healthy"]
    operator.scale(anna=0)
    assert running(team) == {}


# Rollback -------------------------------------------------------------------------------------------------------------


def test_a_rollback_goes_back_and_the_roster_is_ahead(team: Team) -> None:
    """The last deploy that was another is applied as a new one; diff and deploy know what is ahead."""
    operator = Operator(team)
    first = team.deployments[0]
    team.set("anna", personality="Another.\n")
    team.add("carl")
    team.deploy()
    outcome = operator.rollback()
    assert {change.agent: change.action for change in outcome.changes} == {
        "anna": "update",
        "ben": "unchanged",
        "carl": "keep",
    }
    newest = team.deployments[-1]
    assert (newest.number, newest.applies, newest.stack_text) == (3, 1, first.stack_text)
    assert newest.seen_at == first.seen_at
    found = operator.diff()
    assert (found.applies, [one.agent for one in found.agents if one.action != "unchanged"]) == (1, ["anna"])
    assert team.actions()["anna"] == "update"


def test_a_rollback_makes_removed_objects_again(team: Team) -> None:
    """Under the same names and with the same contents, from the sealed record."""
    first = {name: team.runtime.contents[name] for name in team.objects}
    for text in ("b\n", "c\n", "d\n"):
        team.set("anna", personality=text)
        team.deploy()
    assert not first.keys() <= team.objects.keys()
    Operator(team).rollback(1)
    assert first.items() <= team.runtime.contents.items()
    assert Operator(team).rollback(1).number is None


def test_a_rollback_starts_nobody_who_was_stopped(team: Team) -> None:
    """Scale is kept, and an earlier deploy that differs only in that is nothing to go back to."""
    operator = Operator(team)
    operator.scale(anna=0)
    with pytest.raises(NotFound, match="no earlier healthy deploy"):
        operator.rollback()
    team.set("ben", personality="Another.\n")
    team.deploy()
    operator.rollback(1)
    assert running(team).keys() == {"ben"}


def test_a_rollback_across_releases_is_refused(team: Team) -> None:
    """The state may have been migrated; nothing is changed."""
    operator = Operator(team)
    operator.upgrade(NEXT)
    team.runtime.changes.clear()
    with pytest.raises(ConfigurationError, match=r"deploy 1 ran OpenClaw 2026.9.6, anna has run 2026.9.7 since"):
        operator.rollback(1)
    assert team.runtime.changes == []


def test_a_rollback_to_a_moved_tag_is_refused(team: Team) -> None:
    """It would run something new, and call it old."""
    team.set("anna", personality="Another.\n")
    team.deploy()
    team.runtime.images[FAKE_IMAGE] = Image("sha256:" + "ab" * 32, "2026.9.6", None)
    with pytest.raises(ConfigurationError, match="is another one now than deploy 1 ran"):
        Operator(team).rollback(1)


def test_what_cannot_be_rolled_back_to(team: Team) -> None:
    """A number that there is not, a deploy that failed, and the first deploy of all."""
    operator = Operator(team)
    with pytest.raises(NotFound, match="has no deploy 7"):
        operator.rollback(7)
    with pytest.raises(NotFound, match="no earlier healthy deploy"):
        operator.rollback()
    team.set("anna", personality="Another.\n")
    team.runtime.failures = {"team_anna": Failure("failed", "x", 1)}
    with pytest.raises(RuntimeFailure):
        team.deploy()
    with pytest.raises(ConfigurationError, match="deploy 2 was itself partial"):
        operator.rollback(2)


# An older OpenClaw ----------------------------------------------------------------------------------------------------


def deploy_detached(team: Team) -> None:
    """Nobody waits for the newer release."""
    team.configure("fleet.image", NEXT)
    team.deploy(detach=True)


def deploy_slowly(team: Team) -> None:
    """The newer release is healthy when nobody waits for it any more."""
    team.configure("fleet.image", NEXT)
    team.runtime.polls_to_running = 10**9
    with pytest.raises(RuntimeFailure, match="not healthy after"):
        team.deploy(timeout=0)
    team.runtime.polls_to_running = 1


def deploy_and_take_off(team: Team) -> None:
    """Nobody waits for the newer release, and it is taken off the Swarm."""
    deploy_detached(team)
    take_off(team)


def deploy_and_stop(team: Team) -> None:
    """Nobody waits for the newer release, and it is stopped for good."""
    deploy_detached(team)
    Operator(team).scale(anna=0)


def break_an_upgrade(team: Team) -> None:
    """The command dies when the first agent is healthy, before the roster follows."""

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agents, "set", die)
        with pytest.raises(KeyboardInterrupt):
            Operator(team).upgrade(NEXT)


def take_off(team: Team, *, volumes: bool = False) -> None:
    removing.remove(team.db, team.runtime, STACK, removing.Options(volumes=volumes))


@pytest.mark.parametrize(
    "newer", [deploy_detached, deploy_slowly, deploy_and_take_off, deploy_and_stop, break_an_upgrade]
)
def test_an_older_release_than_may_have_run_is_refused(newer: Callable[[Team], None], team: Team) -> None:
    """Whether anybody saw it healthy or not: deploy, rollback and upgrade name both, and change nothing."""
    newer(team)
    team.configure("fleet.image", FAKE_IMAGE)
    team.runtime.changes.clear()
    with pytest.raises(ConfigurationError, match=r"deploy 1 ran OpenClaw 2026.9.6, anna has run 2026.9.7 since"):
        Operator(team).rollback(1)
    for dry_run in (True, False):
        with pytest.raises(ConfigurationError, match=r"is OpenClaw 2026.9.6, anna has run 2026.9.7") as caught:
            team.deploy(dry_run=dry_run)
    assert str(caught.value.hint).endswith("(to 2026.9.7 or later; or --downgrade anna)")
    if newer is not deploy_and_take_off:
        with pytest.raises(ConfigurationError, match=r"is OpenClaw 2026.9.6, anna has run 2026.9.7"):
            Operator(team).upgrade(FAKE_IMAGE)
    assert team.runtime.changes == []
    team.deploy(downgrade=frozenset({"anna", "ben"}))
    assert set(images(team).values()) == {FAKE_IMAGE}


def test_an_older_release_that_is_healthy_counts_alone(team: Team) -> None:
    """Once the state is known to suit it, nothing stands in the way of another deploy of it."""
    deploy_detached(team)
    team.configure("fleet.image", FAKE_IMAGE)
    team.deploy(downgrade=frozenset({"anna", "ben"}))
    team.set("anna", personality="Another.\n")
    team.deploy()
    Operator(team).rollback(1)
    assert team.record[-2:] == ["healthy", "healthy"]


def take_back(team: Team) -> None:
    """Swarm takes the newer release back."""
    team.configure("fleet.image", NEXT)
    team.runtime.failures = {f"{STACK}_{name}": Failure("failed", "x", 1) for name in ("anna", "ben")}
    with pytest.raises(RuntimeFailure, match="taken back by Swarm"):
        team.deploy()
    team.runtime.failures = {}


def refuse(team: Team) -> None:
    """The newer release does not take the config, and everything is taken off the Swarm."""
    team.configure("fleet.image", NEXT)
    team.runtime.refused, refused = {"zai/m1"}, team.runtime.refused
    with pytest.raises(ConfigurationError, match="OpenClaw refuses"):
        team.deploy()
    team.runtime.refused = refused
    take_off(team)


def lose_all(team: Team) -> None:
    """The newer release ran, and its state was taken away."""
    deploy_detached(team)
    take_off(team, volumes=True)


@pytest.mark.parametrize("newer", [take_back, refuse, lose_all])
def test_a_release_that_left_nothing_behind_counts_nothing(newer: Callable[[Team], None], team: Team) -> None:
    """The older one is deployed again without a question."""
    newer(team)
    team.configure("fleet.image", FAKE_IMAGE)
    team.set("anna", personality="Another.\n")
    team.set("ben", personality="Another.\n")
    team.deploy()
    assert set(images(team).values()) == {FAKE_IMAGE}


# Upgrade --------------------------------------------------------------------------------------------------------------


def test_an_upgrade_goes_one_first_and_becomes_the_default(team: Team) -> None:
    """Two deployments, validated once; the setting follows, no agent has an image of its own, nothing differs."""
    operator = Operator(team)
    team.runtime.runs.clear()
    outcome = operator.upgrade(NEXT)
    assert [(one.agent, one.action, one.parts) for one in outcome.changes] == [
        ("anna", "update", ("image",)),
        ("ben", "update", ("image",)),
    ]
    assert outcome.number == 3
    assert set(images(team).values()) == {NEXT}
    assert len(team.runtime.validated) == 1
    assert {agent.image for agent in team.roster.agents} == {NEXT}
    assert team.roster.settings["fleet.image"] == NEXT
    assert operator.diff().is_empty
    assert set(team.actions().values()) == {"unchanged"}
    assert team.record == ["healthy"] * 3
    team.runtime.changes.clear()
    assert {one.action for one in operator.upgrade(NEXT).changes} == {"unchanged"}
    assert team.runtime.changes == []


def test_an_upgrade_is_a_change_for_users_gateways(team: Team) -> None:
    """They run the setting's image too: one that runs is marked as stale, by another upgrade to it none."""

    def is_stale() -> bool:
        with team.db.transaction(system=True) as session:
            row = session.exec(select(UserContainer)).one()
            was, row.is_stale = row.is_stale, False
            return was

    with team.db.transaction(system=True) as session:
        user = User(name="ann", email="ann@example.org")
        session.add(user)
        session.flush()
        session.add(UserContainer(user_id=user.id, container_name="one", gateway_token="", status="running"))
    Operator(team).upgrade(NEXT)
    assert is_stale()
    Operator(team).upgrade(NEXT)
    assert not is_stale()


def test_an_upgrade_of_one_agent_stays_with_it(team: Team) -> None:
    """Its image is its own from then on; the next deploy leaves both as they are."""
    Operator(team).upgrade(NEXT, "ben")
    assert images(team) == {"anna": FAKE_IMAGE, "ben": NEXT}
    assert set(team.actions().values()) == {"unchanged"}
    assert team.roster.settings["fleet.image"] == FAKE_IMAGE
    team.configure("fleet.image", NEXT)
    Operator(team).upgrade(NEXT, "anna")
    team.configure("fleet.image", FAKE_IMAGE)
    assert {agent.name: agent.image for agent in team.roster.agents} == {"anna": FAKE_IMAGE, "ben": NEXT}


def test_an_upgrade_that_is_not_healthy_is_taken_back(team: Team) -> None:
    """The second agent never saw the image, the first runs the old one again, and the roster asks for nothing."""
    before = running(team)
    team.runtime.failures = {"team_anna": Failure("failed", "task: non-zero exit (1)", 1)}
    with pytest.raises(RuntimeFailure, match="taken back: anna"):
        Operator(team).upgrade(NEXT)
    assert images(team) == {"anna": FAKE_IMAGE, "ben": FAKE_IMAGE}
    assert running(team)["ben"] == before["ben"]
    team.runtime.failures = {}
    assert Operator(team).diff().is_empty
    assert set(team.actions().values()) == {"unchanged"}


def test_an_upgrade_that_hangs_is_taken_back(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """Swarm goes on waiting; when the time is over the old image is put back all the same."""
    operator, said = Operator(team), []

    def step(_: object, text: str) -> None:
        said.append(text)
        team.runtime.polls_to_running = 1 if "taking it back" in said else 10**9

    monkeypatch.setattr(type(operator.fleet.report), "step", step)
    with pytest.raises(RuntimeFailure, match=r"not healthy after 5 s: .*; taken back: anna"):
        operator.upgrade(NEXT, timeout=5)
    assert images(team) == {"anna": FAKE_IMAGE, "ben": FAKE_IMAGE}
    assert running(team).keys() == {"anna", "ben"}
    assert operator.diff().is_empty


def test_an_upgrade_whose_rest_fails_keeps_who_is_well(team: Team) -> None:
    """The first stays new, the second is taken back; the roster says the same, and the same command goes on."""
    team.runtime.failures = {"team_ben": Failure("failed", "task: non-zero exit (1)", 1)}
    with pytest.raises(RuntimeFailure, match="taken back: ben"):
        Operator(team).upgrade(NEXT)
    assert images(team) == {"anna": NEXT, "ben": FAKE_IMAGE}
    assert Operator(team).diff().is_empty
    team.runtime.failures = {}
    Operator(team).upgrade(NEXT)
    assert set(images(team).values()) == {NEXT}
    assert Operator(team).diff().is_empty


def refused_config(team: Team) -> None:
    team.runtime.refused = {"zai/m1"}


def older_image(team: Team) -> None:
    team.runtime.images[NEXT] = Image("sha256:" + "cd" * 32, "2026.9.5", None)


def no_image(team: Team) -> None:
    del team.runtime.images[NEXT]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (refused_config, "OpenClaw refuses"),
        (older_image, r"anna has run 2026.9.6: its state may have been migrated"),
        (no_image, "docker pull openclaw:next failed"),
    ],
)
def test_an_upgrade_that_cannot_work_changes_nothing(spoil: Callable[[Team], None], words: str, team: Team) -> None:
    """It is refused before any agent is touched."""
    spoil(team)
    team.runtime.changes.clear()
    with pytest.raises((ConfigurationError, RuntimeFailure), match=words):
        Operator(team).upgrade(NEXT)
    assert team.runtime.changes == []
    assert team.record == ["healthy"]

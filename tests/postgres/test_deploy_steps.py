"""A whole deploy, step by step: what it leaves in Docker and in the database, and after whatever fails."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import yaml

from mosaic_fleet.db.database import Database
from mosaic_fleet.db.tables import place
from mosaic_fleet.errors import ConfigurationError, Conflict, DatabaseFailure, MosaicError, RuntimeFailure
from mosaic_fleet.fleet import agents, deploying
from mosaic_fleet.runtimes.base import SPEC_LABEL, Finished, Image, Network
from tests.fakes import FAKE_IMAGE, Failure, FakeRuntime
from tests.postgres.team import NETWORK, STACK, Fault, FaultyDatabase, FaultyRuntime, Team

NEXT_IMAGE = "openclaw:next"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the Swarm more often: the one in memory needs no time."""
    monkeypatch.setattr(deploying, "_POLL_SECONDS", 0.001)


@pytest.fixture
def team(database: Database) -> Team:
    """Return a team of two that nobody deployed yet."""
    team = Team.at(database)
    team.add("anna", personality="Anna.\n")
    team.add("ben")
    return team


# What a deploy does ---------------------------------------------------------------------------------------------------


def test_a_first_deploy_creates_and_records_everything(team: Team) -> None:
    """Services run, and the row holds what Docker got: stack file, configs, and the secrets, sealed."""
    outcome = team.deploy()
    assert {change.agent: change.action for change in outcome.changes} == {"anna": "create", "ben": "create"}
    assert {state.verdict for state in outcome.states.values()} == {"healthy"}
    [row] = team.deployments
    assert (outcome.number, row.number, row.status, row.actor) == (1, 1, "healthy", "test")
    assert (row.image, row.image_id) == (FAKE_IMAGE, team.runtime.images[FAKE_IMAGE].id)
    assert row.finished_at
    assert team.services == ["team_anna", "team_ben"]
    pushed = {name: team.runtime.contents[name].decode() for name in team.objects}
    assert row.docker_configs == {name: text for name, text in pushed.items() if name not in row.secret_names}
    assert json.loads(team.box.open(place(row, "docker_secrets"), row.docker_secrets).get_secret_value()) == {
        name: pushed[name] for name in row.secret_names
    }
    assert {kind.split("-")[2] for kind in row.secret_names} == {"token", "keys"}
    assert "planted-provider-key" not in row.model_dump_json()
    ran = {"image_id": row.image_id, "version": "2026.9.6", "network_id": team.runtime.network(NETWORK).id}
    assert row.outcome == {
        agent: {"verdict": "healthy", "reason": "", "spec": digest(team, agent)} | ran for agent in ("anna", "ben")
    }


def digest(team: Team, agent: str) -> str:
    """Return the digest that an agent's service carries on the Swarm."""
    return next(one.labels[SPEC_LABEL] for one in team.runtime.services(STACK) if one.name == f"{STACK}_{agent}")


def test_a_second_deploy_changes_nothing(team: Team) -> None:
    """Neither Docker nor the record, but for when it was last seen: no change, no container, no row."""
    team.deploy()
    before = team.deployments
    team.runtime.changes.clear()
    team.runtime.runs.clear()
    outcome = team.deploy()
    assert outcome.number is None
    assert {change.action for change in outcome.changes} == {"unchanged"}
    assert {state.verdict for state in outcome.states.values()} == {"healthy"}
    assert (team.runtime.changes, team.runtime.runs) == ([], [])
    after = team.deployments
    assert [one.model_dump(exclude={"seen_at"}) for one in after] == [
        one.model_dump(exclude={"seen_at"}) for one in before
    ]
    assert after[-1].seen_at > before[-1].seen_at


def test_another_network_is_an_update(team: Team) -> None:
    """A stack that moves to another network has every agent's service changed."""
    team.deploy()
    team.runtime.create_network("elsewhere", labels={})
    with team.db.transaction(system=True) as session:
        agents.put_stack(session, STACK, "elsewhere")
    assert {change.action for change in team.deploy().changes} == {"update"}


def test_only_what_changed_is_updated(team: Team) -> None:
    """One agent changes, one comes, one stays; the plan and the record say so."""
    team.deploy()
    team.set("anna", personality="Another.\n")
    team.add("carl")
    assert team.actions() == {"anna": "update", "ben": "unchanged", "carl": "create"}
    assert team.record == ["healthy", "healthy"]
    assert team.plan.is_empty


@pytest.mark.parametrize(("prune", "left"), [(False, ["team_anna", "team_ben"]), (True, ["team_ben"])])
def test_who_left_the_roster_runs_until_pruned(prune: bool, left: list[str], team: Team) -> None:
    """It is kept unless asked, and its volume even then; its Docker objects go once two healthy deploys forgot it."""
    team.deploy()
    team.drop("anna")
    assert team.actions(prune=prune)["anna"] == ("remove" if prune else "keep")
    assert team.services == left
    assert "team_anna-state" in team.runtime.volumes(team.marks)
    for personality in ("one\n", "two\n"):
        team.set("ben", personality=personality)
        team.deploy()
    named = {name for name in team.objects if name.startswith("team-anna")}
    assert len(named) == (0 if prune else 4)


def test_a_dry_run_does_nothing(team: Team) -> None:
    """It plans: no change in Docker, no pin, no row; and it needs no lock."""
    with team.db.lock("deploy", f"stack {STACK}"):
        assert team.actions(dry_run=True) == {"anna": "create", "ben": "create"}
    assert (team.runtime.changes, team.runtime.runs, team.deployments) == ([], [], [])
    assert set(team.nodes.values()) == {None}


def test_nobody_waits_for_a_detached_deploy(team: Team) -> None:
    """It ends while the agents still start, with nothing cleaned away; the next deploy sees them healthy."""
    for personality in ("one\n", "two\n"):
        team.set("anna", personality=personality)
        team.deploy()
    team.set("anna", personality="three\n")
    before, team.runtime.polls_to_running = team.objects.keys(), 10**9
    outcome = team.deploy(detach=True)
    assert (outcome.number, outcome.states, team.record[-1]) == (3, {}, "started")
    assert {one["verdict"] for one in team.deployments[-1].outcome.values()} == {"started"}
    assert before <= team.objects.keys()
    assert team.deploy(detach=True).number is None
    assert team.record[-1] == "started"
    team.runtime.polls_to_running = 1
    assert set(team.actions().values()) == {"unchanged"}
    assert (len(team.record), team.record[-1]) == (3, "healthy")
    assert team.objects.keys() == team.named


def test_two_deploys_at_once(team: Team) -> None:
    """The second is refused and touches nothing."""
    with team.db.lock("deploy", f"stack {STACK}"), pytest.raises(Conflict, match="mosaic deploy stack team"):
        team.deploy()
    assert (team.runtime.changes, team.deployments) == ([], [])


def test_old_docker_objects_go_and_the_last_healthy_ones_stay(team: Team) -> None:
    """After each healthy deploy exactly the objects of the two newest healthy ones are there."""
    for number in range(4):
        team.set("anna", personality=f"{number}\n")
        team.deploy()
        assert team.objects.keys() == team.named
    assert len([name for name in team.objects if "-soul-" in name]) == 2


# Nodes ----------------------------------------------------------------------------------------------------------------


def test_pins_are_there_before_the_first_spec(team: Team) -> None:
    """The node is recorded before Docker changes, and the very first stack file has the constraint."""
    seen: list[Any] = []
    team.runtime.programs["node"] = lambda *_: seen.append(team.nodes) or Finished(1, "", "stop here")
    with pytest.raises(RuntimeFailure, match="stop here"):
        team.deploy()
    assert (seen, team.runtime.changes) == ([{"anna": "node1", "ben": "node1"}], [])
    specs = yaml.safe_load(team.deployments[0].stack_text)["services"].values()
    assert [one["deploy"]["placement"]["constraints"] for one in specs] == [["node.id == node1"]] * 2


def test_a_pin_stays(team: Team) -> None:
    """Deployed through another manager later, an agent stays where its volume is."""
    team.deploy()
    here = team.runtime.nodes()
    team.runtime.nodes = lambda: [*here, replace(here[0], id="node2")]
    team.runtime.swarm = replace(team.runtime.swarm, node_id="node2")
    assert set(team.actions().values()) == {"unchanged"}
    assert set(team.nodes.values()) == {"node1"}


# Validation -----------------------------------------------------------------------------------------------------------


def test_an_accepted_config_is_not_asked_about_again(team: Team) -> None:
    """Validated once per image id: a new config is, a known one is not, and all are again when the image changes."""
    team.deploy()
    [first] = team.runtime.validated
    assert len(first) == 1  # both agents have the same text
    team.set("anna", personality="Another.\n", memory_limit=1 << 30)
    team.deploy()
    assert len(team.runtime.validated) == 1
    team.set("ben", primary_model="zai/m2")
    team.deploy()
    assert [[name.split("-")[1] for name in one] for one in team.runtime.validated[1:]] == [["ben"]]
    team.runtime.images[FAKE_IMAGE] = Image("sha256:" + "ab" * 32, "2026.9.7", None)
    team.set("anna", role="another")
    team.deploy()
    assert [[name.split("-")[1] for name in one] for one in team.runtime.validated[2:]] == [["anna", "ben"]]


def test_what_was_accepted_counts_even_when_the_deploy_failed(team: Team) -> None:
    """A deploy that failed later does not validate the same configs again."""
    team.runtime.failures = {"team_anna": Failure("rejected", "no room")}
    with pytest.raises(RuntimeFailure, match="no room"):
        team.deploy()
    team.runtime.failures = {}
    team.set("anna", personality="Another.\n")
    team.deploy()
    assert len(team.runtime.validated) == 1


@pytest.mark.parametrize("image", [FAKE_IMAGE, NEXT_IMAGE])
def test_a_refused_config_changes_nothing(team: Team, image: str) -> None:
    """It is found, with OpenClaw's words, before any change; what runs runs on, and the mended roster deploys."""
    team.deploy()
    ran = team.runtime.tasks(STACK)
    team.runtime.images[NEXT_IMAGE] = Image("sha256:" + "ab" * 32, "2026.9.7", None)
    team.configure("fleet.image", image)
    team.set("anna", primary_model="zai/odd")
    team.runtime.refused = {"zai/odd"}
    team.runtime.changes.clear()
    with pytest.raises(ConfigurationError, match=r"^OpenClaw refuses team-anna-conf-\w+: too odd$"):
        team.deploy(prune=True)
    assert team.runtime.changes == []
    assert team.runtime.tasks(STACK) == ran
    assert team.record == ["healthy", "failed"]
    team.set("anna", primary_model="zai/m2")
    assert team.actions()["anna"] == "update"
    assert team.record == ["healthy", "failed", "healthy"]


# What is refused before anything is done ------------------------------------------------------------------------------


def old_image(team: Team) -> None:
    team.runtime.images[FAKE_IMAGE] = Image("sha256:" + "ab" * 32, "2026.8.1", None)


def old_image_without_label(team: Team) -> None:
    team.runtime.images[FAKE_IMAGE] = Image("sha256:" + "ab" * 32, "", None)
    team.runtime.programs["openclaw"] = lambda *_: Finished(0, "OpenClaw 2026.8.1 (abc)\n", "")


def no_image(team: Team) -> None:
    team.configure("fleet.image", "far/away:1")


def unknown_node(team: Team) -> None:
    team.set("anna", node_id="gone")


def foreign_service(team: Team) -> None:
    FakeRuntime.deploy_stack(team.runtime, STACK, f"services: {{anna: {{image: {FAKE_IMAGE}}}}}")


def foreign_volume(team: Team) -> None:
    team.runtime.create_volume("team_ben-state", labels={"com.mosaic.install": "ffffffffffff"})


def worker(team: Team) -> None:
    team.runtime.swarm = replace(team.runtime.swarm, is_manager=False)


def no_swarm(team: Team) -> None:
    team.runtime.swarm = replace(team.runtime.swarm, swarm="inactive")


def no_overlay(team: Team) -> None:
    team.runtime._networks[NETWORK] = Network("n", NETWORK, "bridge", False, {})


def no_network(team: Team) -> None:
    team.runtime._networks.clear()


def too_big(team: Team) -> None:
    team.set("ben", memory_limit=25 << 30)


REFUSALS: list[tuple[Callable[[Team], None], type[MosaicError], str]] = [
    (old_image, ConfigurationError, "OpenClaw 2026.8.1, Mosaic needs 2026.8.2"),
    (old_image_without_label, ConfigurationError, "OpenClaw 2026.8.1, Mosaic needs 2026.8.2"),
    (no_image, RuntimeFailure, "docker pull far/away:1 failed"),
    (unknown_node, RuntimeFailure, 'agent "anna" keeps its state on node gone'),
    (foreign_service, Conflict, 'service "team_anna" is not Mosaic\'s'),
    (foreign_volume, Conflict, 'volume "team_ben-state" is another Mosaic installation\'s'),
    (worker, RuntimeFailure, "this docker is a worker"),
    (no_swarm, RuntimeFailure, "docker is not part of a swarm"),
    (no_overlay, ConfigurationError, "is a bridge network"),
    (no_network, RuntimeFailure, f'network "{NETWORK}" is not there'),
    (too_big, ConfigurationError, 'agent "ben" may use 25G'),
]


@pytest.mark.parametrize(("spoil", "error", "words"), REFUSALS)
def test_what_cannot_work_is_refused_first(
    spoil: Callable[[Team], None], error: type[MosaicError], words: str, team: Team
) -> None:
    """Docker is not changed, nobody is pinned, nothing is recorded, and the lock is free again."""
    spoil(team)
    pins = team.nodes
    team.runtime.changes.clear()
    with pytest.raises(error, match=words):
        team.deploy()
    assert (team.runtime.changes, team.deployments, team.nodes) == ([], [], pins)
    with team.db.lock("deploy", f"stack {STACK}"):
        pass


def test_an_image_without_a_version_label_is_asked(team: Team) -> None:
    """`openclaw --version` answers instead."""
    team.runtime.images[FAKE_IMAGE] = Image("sha256:" + "ab" * 32, "", None)
    team.runtime.programs["openclaw"] = lambda *_: Finished(0, "OpenClaw 2026.9.6\n", "")
    team.deploy()
    assert [run["command"] for run in team.runtime.runs if run["command"][0] == "openclaw"] == [
        ["openclaw", "--version"]
    ]


# What becomes of the record -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("failing", "status"), [(["team_anna"], "partial"), (["team_anna", "team_ben"], "failed")])
def test_agents_that_fail_make_it_partial_or_failed(failing: list[str], status: str, team: Team) -> None:
    """Swarm takes their update back; the record says how each is, and the same command works once it is mended."""
    team.deploy()
    for name in ("anna", "ben"):
        team.set(name, personality="Another.\n")
    team.runtime.failures = {name: Failure("failed", "task: non-zero exit (1)", 1) for name in failing}
    with pytest.raises(RuntimeFailure, match="anna: taken back by Swarm"):
        team.deploy()
    assert team.record == ["healthy", status]
    verdicts = {agent: one["verdict"] for agent, one in team.deployments[-1].outcome.items()}
    assert verdicts == {name: "failed" if f"team_{name}" in failing else "healthy" for name in ("anna", "ben")}
    team.runtime.failures = {}
    assert team.actions()["anna"] == "update"
    assert team.record == ["healthy", status, "healthy"]


def test_an_update_that_was_interrupted_is_watched_to_its_end(team: Team) -> None:
    """The deploy that finds it under way is not content with a task that runs and is still being watched."""
    team.deploy()
    team.runtime.polls_to_running = 3
    team.set("anna", personality="Another.\n")
    with pytest.raises(KeyboardInterrupt):
        team.deploy(runtime=Interrupted(team.runtime, 0, Fault(KeyboardInterrupt)))
    assert team.record == ["healthy", "interrupted"]
    assert updates(team) == {"", "updating"}
    assert team.actions() == {"anna": "unchanged", "ben": "unchanged"}
    assert updates(team) == {"", "completed"}
    assert team.record == ["healthy", "healthy"]


class Interrupted(FaultyRuntime):
    """Is told Ctrl-C as soon as the stack file is handed over."""

    def deploy_stack(self, stack: str, text: str) -> None:
        """Take it."""
        self._runtime.deploy_stack(stack, text)
        raise KeyboardInterrupt


def updates(team: Team) -> set[str]:
    """Return Swarm's words for how the services' updates are."""
    return {one.update_state for one in team.runtime.services(STACK)}


def test_a_killed_deploy_whose_roster_was_taken_back_is_closed(team: Team) -> None:
    """The record does not say for ever that it has started."""
    team.deploy()
    team.set("anna", primary_model="zai/m2")
    with pytest.raises(DatabaseFailure):
        team.deploy(db=FaultyDatabase(team.db.url, 7, "down"))
    assert team.record == ["healthy", "started"]
    team.set("anna", primary_model="zai/m1")
    assert team.actions() == {"anna": "unchanged", "ben": "unchanged"}
    assert team.record == ["healthy", "interrupted"]

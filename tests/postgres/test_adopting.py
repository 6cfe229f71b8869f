"""Taking a running hand-made fleet over: nothing of its memory is lost, whatever fails."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mosaic_fleet.db.database import Database
from mosaic_fleet.errors import ConfigurationError, Conflict, MosaicError, NotFound, RuntimeFailure
from mosaic_fleet.fleet import adopting, deploying
from mosaic_fleet.fleet.deploying import Fleet, Outcome
from mosaic_fleet.fleet.handmade import reading
from mosaic_fleet.fleet.handmade.reading import HandMade
from mosaic_fleet.fleet.options import Options
from mosaic_fleet.runtimes.base import INSTALL_LABEL, Image
from tests.fakes import FAKE_IMAGE, FakeRuntime
from tests.postgres.team import NETWORK, STACK, Fault, FaultyDatabase, FaultyRuntime, Silent, Team

ANNA = "old_anna"
KEPT = f"{ANNA}-before-mosaic"
MEMORY = {"agents/main.sqlite": b"memory", "workspace/OLD.md": b"old"}
WORK = {"/home/node/workspace/NOTES.md": b"notes", "/home/node/workspace/deep/x": b"x"}
CONFIG = "{agents: {defaults: {model: 'zai/m1', workspace: '%s'}}}"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the Swarm more often: the one in memory needs no time."""
    monkeypatch.setattr(deploying, "_POLL_SECONDS", 0.001)
    monkeypatch.setattr(adopting, "_POLL_SECONDS", 0.001)


@pytest.fixture
def team(database: Database) -> Team:
    """Return a team whose two agents run by hand: anna works outside of her volume, ben inside of his."""
    team = Team.at(database)
    run_by_hand(team)
    team.runtime.files |= {ANNA: dict(MEMORY), "team_ben-state": {"workspace/B.md": b"ben"}, "team_anna": dict(WORK)}
    team.runtime.changes.clear()
    return team


@pytest.fixture
def made(tmp_path: Path) -> HandMade:
    """Return the team as its folder says it."""
    folder = tmp_path / STACK
    folder.mkdir()
    (folder / "compose.yml").write_text(json.dumps(compose()))
    for name, workspace in (("anna", "/home/node/workspace"), ("ben", "/home/node/.openclaw/workspace")):
        (folder / f"{name}.json").write_text(CONFIG % workspace)
    return reading.read(folder)


def compose(**overrides: Any) -> dict[str, Any]:
    service = {"image": FAKE_IMAGE, "networks": ["net"]}
    mounts = {"anna": "anna", "ben": "ben-state"}
    state = {"type": "volume", "target": "/home/node/.openclaw"}
    services = {name: {**service, "volumes": [{**state, "source": key}], **overrides} for name, key in mounts.items()}
    return {
        "services": services,
        "networks": {"net": {"external": True, "name": NETWORK}},
        "volumes": {"anna": {"name": ANNA}, "ben-state": {}},
    }


def run_by_hand(team: Team, **overrides: Any) -> None:
    """Deploy the compose file as an operator does, and let it run."""
    FakeRuntime.deploy_stack(team.runtime, STACK, json.dumps(compose(**overrides)))
    for _ in range(3):
        team.runtime.tasks(STACK)


def adopt(team: Team, made: HandMade, runtime: Any = None, db: Database | None = None) -> Outcome:
    with team.db.transaction(system=True) as session:
        reading.load(session, team.box, made)
    fleet = Fleet(db or team.db, team.box, runtime or team.runtime, Silent())
    return adopting.adopt(fleet, made, Options(timeout=120))


def texts(team: Team, made: HandMade) -> list[str]:
    return [text for one in adopting.look(team.db, team.runtime, made) for text, _ in one.steps()]


def check_whole(team: Team, *agents: str) -> None:
    """See that these agents, or both, run as Mosaic's, on their old volumes, with all their memory."""
    volumes = {"anna": ANNA, "ben": "team_ben-state"}
    services = {one.name: one for one in team.runtime.services(STACK)}
    assert services.keys() == {"team_anna", "team_ben"}
    for name in agents or volumes:
        volume = volumes[name]
        service = services[f"team_{name}"]
        assert service.labels[INSTALL_LABEL] == team.marks[INSTALL_LABEL]
        assert (service.running, service.desired) == (1, 1)
        assert service.spec["TaskTemplate"]["ContainerSpec"]["Mounts"][0]["Source"] == volume
    files = team.runtime.files[ANNA]
    assert files["agents/main.sqlite"] == b"memory"
    assert (files["workspace/NOTES.md"], files["workspace/deep/x"]) == (b"notes", b"x")
    assert files["workspace/OLD.md"] == b"old"
    assert team.runtime.files["team_ben-state"]["workspace/B.md"] == b"ben"
    assert team.nodes == dict.fromkeys(agents or volumes, "node1")
    assert team.record[-1] == "healthy"


def test_a_running_fleet_is_taken_over(team: Team, made: HandMade) -> None:
    """The same services run on the same volumes as Mosaic's; what was there is set aside, and nothing is lost."""
    ids = {one.id for one in team.runtime.services(STACK)}
    outcome = adopt(team, made)
    assert {agent: state.verdict for agent, state in outcome.states.items()} == {"anna": "healthy", "ben": "healthy"}
    assert {one.id for one in team.runtime.services(STACK)} == ids
    check_whole(team)
    kept = team.runtime.files[KEPT]
    assert (kept["state/agents/main.sqlite"], kept["state/workspace/OLD.md"]) == (b"memory", b"old")
    assert kept["workspace/NOTES.md"] == b"notes"
    assert (team.runtime.volume_labels(KEPT) or {}).items() >= team.marks.items()
    assert team.runtime.files["team_ben-state-before-mosaic"]["state/workspace/B.md"] == b"ben"


def test_what_is_written_while_it_stops_is_not_lost(team: Team, made: HandMade) -> None:
    """A gateway that writes at its very end finds it in its memory again, and in the copy that was set aside."""
    halt = team.runtime.halt_service

    def writing(service_id: str) -> None:
        halt(service_id)
        team.runtime.files["team_anna"]["/home/node/workspace/LAST.md"] = b"last words"
        team.runtime.files[ANNA]["agents/last.sqlite"] = b"last"

    team.runtime.halt_service = writing
    adopt(team, made)
    assert team.runtime.files[ANNA]["workspace/LAST.md"] == b"last words"
    assert team.runtime.files[KEPT]["workspace/LAST.md"] == b"last words"
    assert team.runtime.files[KEPT]["state/agents/last.sqlite"] == b"last"
    check_whole(team)


def test_the_state_is_set_aside_before_it_is_changed(team: Team, made: HandMade) -> None:
    """What is copied comes first, then the service stops, then its volume is written to, then it is marked."""
    adopt(team, made)
    anna = [change for change in team.runtime.changes if "anna" in change]
    order = [
        next(index for index, change in enumerate(anna) if change.startswith(start))
        for start in (
            f"create volume {KEPT}",
            "copy ct",
            "halt service team_anna",
            f"copy {ANNA}: to {KEPT}:state",
            f"copy {KEPT}:workspace to {ANNA}:workspace",
        )
    ]
    assert order == sorted(order)
    assert "update service team_anna" in anna[order[-1] + 1 :]


def test_a_second_run_changes_nothing(team: Team, made: HandMade) -> None:
    """What is Mosaic's already is left as it is."""
    adopt(team, made)
    team.runtime.changes.clear()
    assert texts(team, made) == []
    outcome = adopt(team, made)
    assert {change.action for change in outcome.changes} == {"unchanged"}
    assert team.runtime.changes == []


def test_each_step_is_told(team: Team, made: HandMade) -> None:
    """The plan has a line for each step, names what is touched, and changes nothing."""
    assert texts(team, made) == [
        "anna: copies /home/node/workspace out of its container",
        "anna: stops service team_anna",
        "anna: copies what it wrote there until its end",
        f"anna: sets a copy of volume {ANNA} aside as {KEPT}",
        f"anna: puts the copy of /home/node/workspace into the workspace of volume {ANNA}",
        f"anna: takes over service team_anna with volume {ANNA}",
        "ben: stops service team_ben",
        "ben: sets a copy of volume team_ben-state aside as team_ben-state-before-mosaic",
        "ben: takes over service team_ben with volume team_ben-state",
    ]
    assert team.runtime.changes == []


class Breaking(FaultyRuntime):
    """Fails at the so manieth change that an adoption makes itself."""

    def __getattr__(self, name: str) -> Any:
        changing = name in ("create_volume", "make_folder", "copy_folder", "update_service", "halt_service")
        return super().__getattr__(name) if changing else getattr(self._runtime, name)


FAULTS = {
    "docker-refuses": lambda team, at: {"runtime": Breaking(team.runtime, at, Fault(refusal))},
    "docker-answer-lost": lambda team, at: {"runtime": Breaking(team.runtime, at, Fault(refusal, late=True))},
    "ctrl-c": lambda team, at: {"runtime": Breaking(team.runtime, at, Fault(KeyboardInterrupt, late=True))},
    "postgres-commit": lambda team, at: {"db": FaultyDatabase(team.db.url, at, "commit")},
    "postgres-down": lambda team, at: {"db": FaultyDatabase(team.db.url, at, "down")},
}


def refusal() -> RuntimeFailure:
    return RuntimeFailure("broken on purpose")


@pytest.mark.parametrize("fault", FAULTS)
def test_after_a_failure_at_any_step_the_same_command_succeeds(team: Team, made: HandMade, fault: str) -> None:
    """Docker or Postgres fails, or Ctrl-C comes, at step 1, 2, 3 …: the next run ends with everything there."""
    anna = {"anna": made.roster.agents["anna"]}
    alone = HandMade(replace(made.roster, agents=anna), {"anna": made.members["anna"]}, ())
    for at in range(1, 40):
        try:
            adopt(team, alone, **FAULTS[fault](team, at))
        except (MosaicError, KeyboardInterrupt):
            pass
        else:
            assert at > 7
            return
        adopt(team, alone)
        check_whole(team, "anna")
        begin_anew(team)
    pytest.fail("it never passed")


def begin_anew(team: Team) -> None:
    """The agents leave the roster, and the fleet runs by hand on a fresh Swarm."""
    for name in team.nodes:
        team.drop(name)
    accepted = team.runtime.accepted
    team.runtime.__init__()  # a fresh Swarm in the same object; the record of what images accepted stays
    team.runtime.accepted = accepted
    team.runtime.create_network(NETWORK, labels={})
    run_by_hand(team)
    team.runtime.files |= {ANNA: dict(MEMORY), "team_ben-state": {"workspace/B.md": b"ben"}, "team_anna": dict(WORK)}


def test_a_workspace_that_was_copied_survives_its_container(team: Team, made: HandMade) -> None:
    """Stopped, and its container gone before the copy was complete: what was copied of the workspace is brought in."""

    class Gone(FakeRuntime):
        def make_folder(self, volume: str, folder: str, *, image: str, at: str) -> None:
            if folder == "state":
                raise RuntimeFailure("broken on purpose")
            team.runtime.make_folder(volume, folder, image=image, at=at)

    broken = FaultyRuntime(team.runtime, 0, Fault(RuntimeError))
    broken.make_folder = Gone.make_folder.__get__(broken)
    with pytest.raises(RuntimeFailure, match="broken on purpose"):
        adopt(team, made, broken)
    team.runtime._ends.clear()  # Swarm keeps only so many
    assert "anna: has no container any more" in texts(team, made)[0]
    adopt(team, made)
    check_whole(team)


def test_a_complete_copy_is_never_touched(team: Team, made: HandMade) -> None:
    """An operator went back to the old fleet and comes again: the second copy has a name of its own."""
    adopt(team, made)
    for service in team.runtime.services(STACK):
        team.runtime.remove_service(service.id)
    run_by_hand(team)
    team.runtime.files[ANNA]["agents/main.sqlite"] = b"later"
    adopt(team, made)
    assert team.runtime.files[KEPT]["state/agents/main.sqlite"] == b"memory"
    assert team.runtime.files[f"{KEPT}-2"]["state/agents/main.sqlite"] == b"later"


def test_volumes_that_were_left_behind_are_taken_over(team: Team, made: HandMade) -> None:
    """The services were removed by hand, their volumes are there: new services run on them, once."""
    for service in team.runtime.services(STACK):
        team.runtime.remove_service(service.id)
    del team.runtime.files["team_anna"]
    assert texts(team, made)[:2] == [
        f"anna: sets a copy of volume {ANNA} aside as {KEPT}",
        f"anna: takes over volume {ANNA}",
    ]
    adopt(team, made)
    assert team.runtime.files[ANNA]["agents/main.sqlite"] == b"memory"
    assert len(team.services) == 2
    for service in team.runtime.services(STACK):
        team.runtime.remove_service(service.id)
    assert texts(team, made) == []


def refused_config(team: Team) -> None:
    team.runtime.refused.add("zai/m1")


def small_node(team: Team) -> None:
    team.runtime.swarm = replace(team.runtime.swarm, memory_bytes=1 << 30)


def paused_node(team: Team) -> None:
    team.runtime.availability = "pause"


def no_image(team: Team) -> None:
    team.configure("fleet.image", "openclaw:absent")


def old_image(team: Team) -> None:
    team.runtime.images[FAKE_IMAGE] = Image("sha256:" + "ab" * 32, "2025.1.1", None)


def no_network(team: Team) -> None:
    team.runtime._networks.clear()


def a_strangers_service(team: Team) -> None:
    """One of the roster that the folder does not have."""
    team.add("carl")
    text = json.dumps({"services": {"carl": {"image": FAKE_IMAGE}}})
    FakeRuntime.deploy_stack(team.runtime, STACK, text)
    team.runtime.tasks(STACK)


@pytest.mark.parametrize(
    ("spoil", "message", "hint"),
    [
        (refused_config, "OpenClaw refuses", "mosaic fleet render"),
        (small_node, 'agent "anna" may use 2G, node fake has 1G', "mosaic agent set anna --memory …"),
        (paused_node, "on node fake, which is paused", "docker node update --availability active fake"),
        (no_image, "docker pull openclaw:absent failed", "mosaic config set fleet.image …"),
        (old_image, "is OpenClaw 2025.1.1, Mosaic needs", "mosaic config set fleet.image …"),
        (no_network, f'network "{NETWORK}" is not there', "mosaic fleet deploy --stack team --create-network"),
        (a_strangers_service, 'service "team_carl" is not Mosaic\'s', "docker service inspect team_carl"),
    ],
)
def test_what_cannot_run_under_mosaic_is_not_stopped(
    spoil: Callable[[Team], None], message: str, hint: str, team: Team, made: HandMade
) -> None:
    """What a deploy would refuse is told, with what to do, while the old fleet still runs."""
    spoil(team)
    team.runtime.changes.clear()
    with pytest.raises(MosaicError, match=message) as caught:
        adopt(team, made)
    assert caught.value.hint == hint
    assert {one.running for one in team.runtime.services(STACK)} == {1}
    assert team.runtime.changes == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"volumes": [{"type": "bind", "source": "/srv/anna", "target": "/home/node/.openclaw"}]},
            'service "team_anna" keeps its state in the host\'s folder',
        ),
        ({"volumes": []}, 'service "team_anna" keeps its state in its container'),
    ],
)
def test_state_outside_of_a_volume_is_refused(
    team: Team, made: HandMade, overrides: dict[str, Any], message: str
) -> None:
    """A folder of the host, or none: told with what to do, and nothing is touched."""
    run_by_hand(team, **overrides)
    team.runtime.changes.clear()
    with pytest.raises(ConfigurationError) as caught:
        adopt(team, made)
    assert caught.value.message.startswith(message)
    assert team.runtime.changes == []


def test_another_installations_fleet_is_refused(team: Team, made: HandMade) -> None:
    """What another Mosaic runs is not a hand-made fleet."""
    run_by_hand(team, deploy={"labels": {INSTALL_LABEL: "ffffffffffff"}})
    with pytest.raises(Conflict, match="another Mosaic installation's"):
        texts(team, made)


def test_a_fleet_that_is_not_there_is_told(team: Team, made: HandMade) -> None:
    """A wrong stack name finds neither services nor volumes."""
    for service in team.runtime.services(STACK):
        team.runtime.remove_service(service.id)
    for volume in (ANNA, "team_ben-state"):
        team.runtime.remove_volume(volume)
    with pytest.raises(NotFound, match='nothing of a stack "team" is on this Swarm'):
        texts(team, made)

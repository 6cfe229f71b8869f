"""`fleet diff`, and that a deploy repairs what it shows."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr

from mosaic_fleet.db.database import Database
from mosaic_fleet.db.reads import SYSTEM_OWNER
from mosaic_fleet.fleet import deploying, providers
from mosaic_fleet.runtimes.base import Image
from tests.fakes import FAKE_IMAGE
from tests.postgres.changes import Operator
from tests.postgres.team import Team

NONE: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the Swarm more often: the one in memory needs no time."""
    monkeypatch.setattr(deploying, "_POLL_SECONDS", 0.001)


@pytest.fixture
def team(database: Database) -> Team:
    """Return a team of two that is deployed."""
    team = Team.at(database)
    team.add("anna", personality="Anna.\n")
    team.add("ben")
    team.deploy()
    return team


def container(**parts: Any) -> Callable[[dict[str, Any]], None]:
    """Change a service's container by hand."""
    return lambda spec: spec["TaskTemplate"]["ContainerSpec"].update(parts)


def limits(**parts: Any) -> Callable[[dict[str, Any]], None]:
    """Change a service's limits by hand."""
    return lambda spec: spec["TaskTemplate"]["Resources"]["Limits"].update(parts)


BY_HAND: list[tuple[Callable[[dict[str, Any]], object], dict[str, tuple[str | None, str | None]]]] = [
    (lambda spec: spec["Mode"]["Replicated"].update(Replicas=0), {"replicas": ("0", "1")}),
    (container(Image="other:1"), {"image": ("other:1", FAKE_IMAGE)}),
    (limits(MemoryBytes=1 << 30), {"limits.memory": ("1G", "2G")}),
    (limits(NanoCPUs=10**9), {"limits.cpus": ("1", None)}),
    (lambda spec: spec["Labels"].update(x="y"), {"labels.x": ("y", None)}),
    (container(User="0"), {"user": ("0", "1000:1000")}),
    (container(ReadOnly=False), {"read_only": (None, "True")}),
    (container(CapabilityAdd=["CAP_NET_ADMIN"]), {"cap_add": ("CAP_NET_ADMIN", None)}),
    (
        lambda spec: spec["EndpointSpec"].update(Ports=[{"PublishedPort": 80}]),
        {"ports": ("{'PublishedPort': 80}", None)},
    ),
    (container(StopGracePeriod=9 * 10**9), {"stop_grace_period": ("9s", "330s")}),
    (
        lambda spec: spec["TaskTemplate"]["ContainerSpec"]["Env"].append("ZAI_API_KEY=very-secret"),
        {"env.ZAI_API_KEY": ("(hidden)", None)},
    ),
    (
        lambda spec: spec["TaskTemplate"]["ContainerSpec"]["Mounts"].append(
            {"Type": "bind", "Source": "/", "Target": "/x"}
        ),
        {"mounts./x": ("bind /", None)},
    ),
]


@pytest.mark.parametrize(("change", "seen"), BY_HAND)
def test_a_change_by_hand_is_shown_and_repaired(
    change: Callable[[dict[str, Any]], None], seen: dict[str, Any], team: Team
) -> None:
    """It shows by its name, old and new, as made by hand; a deploy takes it back, and the next one changes nothing."""
    operator = Operator(team)
    assert operator.diff().is_empty
    team.runtime.edit("team_anna", change)
    found = next(one for one in operator.diff().agents if one.agent == "anna").differences
    assert {one.field: (one.old, one.new) for one in found} == seen
    assert {one.by_hand for one in found} == {True}
    assert team.actions() == {"anna": "update", "ben": "unchanged"}
    assert operator.diff().is_empty
    team.runtime.changes.clear()
    assert set(team.actions().values()) == {"unchanged"}
    assert team.runtime.changes == []


def test_changes_of_the_roster_are_not_by_hand(team: Team) -> None:
    """What the roster changed since the last deploy is shown with old and new, new agents and leaving ones too."""
    operator = Operator(team)
    team.set("anna", memory_limit=3 << 30)
    team.add("carl")
    team.drop("ben")
    found = operator.diff()
    assert [(one.agent, one.action) for one in found.agents] == [("anna", "change"), ("carl", "add"), ("ben", "remove")]
    by_field = {one.field: (one.old, one.new, one.by_hand) for one in found.agents[0].differences}
    assert by_field["limits.memory"] == ("2G", "3G", False)
    assert (found.number, found.status, found.count("unchanged")) == (1, "healthy", 0)


def test_a_config_and_a_key_are_shown_by_their_places_only(team: Team) -> None:
    """Of a changed openclaw.json the key paths, of a changed key the ends of keyed hashes, and never a value."""
    operator = Operator(team)
    with team.db.transaction(system=True) as session:
        providers.set(session, team.box, SYSTEM_OWNER, "zai", {"api_key": SecretStr("another-planted-key")})
    team.set("anna", primary_model="zai/m2")
    found = {one.agent: {each.field: each for each in one.differences} for one in operator.diff().agents}
    assert found["anna"]["openclaw.json"].details == ("agents.defaults.model.primary changed",)
    [detail] = found["ben"]["keys"].details
    marks = {team.box.name("fingerprint", key)[-4:] for key in ("planted-provider-key", "another-planted-key")}
    assert detail.startswith("models.providers.zai.apiKey changed: #")
    assert set(detail.partition(": ")[2].replace("#", "").split(" → ")) == marks
    assert "planted" not in str(found)


def test_a_moved_tag_is_drift(team: Team) -> None:
    """The same name, another image: it is shown, a deploy restarts everybody once, and then nothing differs."""
    operator = Operator(team)
    team.runtime.images[FAKE_IMAGE] = Image("sha256:" + "ab" * 32, "2026.9.7", None)
    assert operator.differences()["anna"] == {"image": (f"{FAKE_IMAGE} {'fa' * 6}", f"{FAKE_IMAGE} {'ab' * 6}")}
    ran = {task.id for task in team.runtime.tasks("team") if task.state == "running"}
    assert set(team.actions().values()) == {"update"}
    assert not ran & {task.id for task in team.runtime.tasks("team") if task.state == "running"}
    assert operator.diff().is_empty
    assert set(team.actions().values()) == {"unchanged"}
    assert team.deployments[-1].outcome["anna"]["image_id"] == "sha256:" + "ab" * 32


def test_a_service_that_is_gone_is_to_be_added(team: Team) -> None:
    """Half a stack removed by hand, and a Docker secret with it: shown as new, and the deploy makes both again."""
    operator, runtime = Operator(team), team.runtime
    service = runtime.service("team_anna")
    assert service
    runtime.remove_service(service.id)
    secret = next(item for item in team.objects.values() if item.name.startswith("team-anna-token"))
    runtime.remove_docker_object(secret)
    assert [(one.agent, one.action) for one in operator.diff().agents] == [("anna", "add"), ("ben", "unchanged")]
    assert team.actions() == {"anna": "create", "ben": "unchanged"}
    assert secret.name in team.objects
    assert operator.diff().is_empty


def test_a_secret_that_is_gone_while_its_service_names_it(team: Team) -> None:
    """As Swarm's own rollback leaves it: diff shows it where the agent does not run, and a deploy makes it again."""
    operator, runtime = Operator(team), team.runtime
    secret = next(item for item in team.objects.values() if item.name.startswith("team-anna-token"))
    runtime.lose(secret)
    assert operator.differences() == {"anna": {"token": (None, secret.name)}}
    assert team.actions() == {"anna": "update", "ben": "unchanged"}
    assert secret.name in team.objects
    assert operator.diff().is_empty


def test_a_diff_takes_two_calls_of_docker(team: Team) -> None:
    """However many agents there are: one for the services, one for the image."""
    for number in range(20):
        team.add(f"more{number}")
    team.deploy()
    calls: list[str] = []

    class Counting:
        def __getattr__(self, name: str) -> Any:
            calls.append(name)
            return getattr(team.runtime, name)

    assert Operator(team, runtime=Counting()).diff().is_empty
    assert calls == ["services", "image"]


def test_a_network_changed_by_hand_is_shown(team: Team) -> None:
    """By the id that it has now and the name that it should have."""
    other = team.runtime.create_network("elsewhere", labels={})
    team.runtime.edit("team_ben", lambda spec: spec["TaskTemplate"]["Networks"][0].update(Target=other.id))
    assert Operator(team).differences() == {"ben": {"network": (other.id, "mosaic-stack_internal")}}
    assert team.actions() == {"anna": "unchanged", "ben": "update"}

"""What a deploy is about to do, computed before it does anything."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from mosaic_fleet.db.database import Database
from mosaic_fleet.fleet.deploying import Change, Fleet, Plan, changes, ours, plan
from mosaic_fleet.fleet.openclaw import Gateway
from mosaic_fleet.fleet.options import Options
from mosaic_fleet.fleet.stack import Roster, render
from tests.fakes import FAKE_IMAGE, FakeRuntime
from tests.rosters import BOX, agent, jarvis, provider

NAMES = ["jarvis-main", "jarvis-research"]


class Silent:
    """Reports to nobody."""

    def step(self, text: str) -> None:
        """Take a line."""

    def states(self, states: Any) -> None:
        """Take states."""


def roster(**options: Any) -> Roster:
    """Make a roster of two agents; options change the first."""
    return jarvis(agent(NAMES[0], **options), agent(NAMES[1]), **{"fleet.image": FAKE_IMAGE})


@pytest.fixture
def runtime() -> FakeRuntime:
    """Return a Swarm that runs the roster as it is."""
    runtime, rendered = FakeRuntime(), render(roster(), BOX)
    runtime.create_network(roster().network, labels={})
    for name, content in rendered.docker_configs.items():
        runtime.create_docker_object("docker_config", name, content.encode(), labels={})
    for name, content in rendered.docker_secrets.items():
        runtime.create_docker_object("docker_secret", name, content.encode(), labels={})
    runtime.deploy_stack("jarvis", rendered.text)
    runtime.changes.clear()
    return runtime


def planned(runtime: FakeRuntime, wanted: Roster, *, prune: bool = False) -> Plan:
    """Plan a deploy with a database that nobody may reach."""
    fleet = Fleet(Database("postgresql://nobody@127.0.0.1:1/none", actor="test"), BOX, runtime, Silent())
    return plan(fleet, wanted, Options(prune=prune))


def test_a_first_deploy_creates_every_agent() -> None:
    """Nothing runs: everything is created."""
    intended = planned(FakeRuntime(), roster())
    assert intended.changes == [Change(name, "create") for name in NAMES]
    assert not intended.is_empty


def test_a_second_deploy_changes_nothing(runtime: FakeRuntime) -> None:
    """The same roster again is an empty plan."""
    intended = planned(runtime, roster())
    assert intended.changes == [Change(name, "unchanged") for name in NAMES]
    assert intended.is_empty


def test_a_plan_changes_nothing(runtime: FakeRuntime) -> None:
    """Planning only looks: no object, service or network is touched, and no database."""
    planned(runtime, roster(personality="another"), prune=True)
    assert runtime.changes == []
    assert runtime.runs == []


CONFIG = Gateway("zai/glm-5", schedules=True, providers=(provider("zai"), provider("ollama")))
KEYS = Gateway("zai/glm-5", providers=(replace(provider("zai"), key=SecretStr("new")), provider("ollama")))
KEYLESS = Gateway("ollama/cogito", providers=(provider("ollama"),))


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"gateway": CONFIG}, ("openclaw.json",)),
        ({"personality": "another"}, ("personality",)),
        ({"personality": None}, ("personality",)),
        ({"token": SecretStr("another")}, ("token",)),
        ({"gateway": KEYS}, ("keys",)),
        ({"gateway": KEYLESS}, ("openclaw.json", "keys")),
        ({"replicas": 0}, ("replicas",)),
        ({"memory_limit": 3 << 30}, ("limits.memory", "env.NODE_OPTIONS")),
        ({"cpu_limit": 0.5}, ("limits.cpus",)),
        ({"node_id": None}, ("placement.constraints",)),
        ({"role": "another"}, ("labels.com.mosaic.role", "container_labels.com.mosaic.role")),
        (
            {"gateway": CONFIG, "personality": "x", "token": SecretStr("y"), "replicas": 0},
            ("openclaw.json", "personality", "token", "replicas"),
        ),
    ],
)
def test_an_update_names_what_changes(change: dict[str, Any], parts: tuple[str, ...], runtime: FakeRuntime) -> None:
    """Only the agent that was changed is updated, and the plan says in which parts."""
    wanted = roster(**change)
    assert planned(runtime, wanted).changes == [Change(NAMES[0], "update", parts), Change(NAMES[1], "unchanged")]


def test_another_image_updates_everybody(runtime: FakeRuntime) -> None:
    """The image is the fleet's, so all agents are updated."""
    wanted = jarvis(*roster().agents, **{"fleet.image": "openclaw:next"})
    assert planned(runtime, wanted).changes == [Change(name, "update", ("image",)) for name in NAMES]


def test_a_setting_updates_everybody(runtime: FakeRuntime) -> None:
    """A setting that shapes the services shows as a change of each."""
    wanted = jarvis(*roster().agents, **{"fleet.image": FAKE_IMAGE, "fleet.stop_grace": 60})
    assert planned(runtime, wanted).changes == [Change(name, "update", ("stop_grace_period",)) for name in NAMES]


def by_hand(runtime: FakeRuntime, **parts: Any) -> dict[str, Any]:
    """Return the services as they are after somebody changed the first by hand, its labels left alone."""
    live: dict[str, Any] = dict(ours(runtime, roster()))
    spec = live[NAMES[0]].spec
    template = spec["TaskTemplate"]
    container = template["ContainerSpec"] | parts.pop("container", {})
    live[NAMES[0]] = replace(
        live[NAMES[0]], spec=spec | {"TaskTemplate": template | {"ContainerSpec": container}} | parts
    )
    return live


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({"container": {"Image": "other:1"}}, ("image",)),
        ({"container": {"Configs": None}}, ("openclaw.json", "personality")),
        ({"container": {"Secrets": []}}, ("token", "keys")),
        ({"Mode": {"Replicated": {"Replicas": 3}}}, ("replicas",)),
        ({"container": {"CapabilityAdd": ["CAP_NET_ADMIN"]}}, ("cap_add",)),
        ({"container": {"Something": {"New": True}}}, ("TaskTemplate.ContainerSpec.Something.New",)),
        ({"EndpointSpec": {"Mode": "vip"}}, ("endpoint_mode",)),
    ],
)
def test_a_change_by_hand_is_taken_back(parts: dict[str, Any], named: tuple[str, ...], runtime: FakeRuntime) -> None:
    """What somebody changed behind the roster's back is found although the digest label still fits."""
    found = changes(render(roster(), BOX), by_hand(runtime, **parts), prune=False)
    assert found == [Change(NAMES[0], "update", named), Change(NAMES[1], "unchanged")]


@pytest.mark.parametrize("name", ["extra", "a-b", "some-other-conf-thing"])
def test_a_foreign_docker_config_does_not_confuse(name: str, runtime: FakeRuntime) -> None:
    """Somebody else's Docker config on the service, whatever its name, does not break the comparison."""
    foreign = [
        *ours(runtime, roster())[NAMES[0]].spec["TaskTemplate"]["ContainerSpec"]["Configs"],
        {"ConfigName": name},
    ]
    found = changes(render(roster(), BOX), by_hand(runtime, container={"Configs": foreign}), prune=False)
    assert [change.agent for change in found] == NAMES


def test_a_digest_on_the_image_is_the_same_image(runtime: FakeRuntime) -> None:
    """Swarm adds the digest it resolved; that is no change."""
    live = by_hand(runtime, container={"Image": f"{FAKE_IMAGE}@sha256:{'a' * 64}"})
    assert changes(render(roster(), BOX), live, prune=False)[0] == Change(NAMES[0], "unchanged")


@pytest.mark.parametrize(("prune", "action", "empty"), [(False, "keep", True), (True, "remove", False)])
def test_an_agent_that_left_the_roster(prune: bool, action: str, empty: bool, runtime: FakeRuntime) -> None:
    """It is named in the plan, and removed only when asked."""
    intended = planned(runtime, jarvis(agent(NAMES[0]), **{"fleet.image": FAKE_IMAGE}), prune=prune)
    assert intended.changes == [Change(NAMES[0], "unchanged"), Change(NAMES[1], action)]
    assert intended.is_empty == empty


def test_a_new_agent_beside_old_ones(runtime: FakeRuntime) -> None:
    """Only the new one is created."""
    wanted = jarvis(*roster().agents, agent("jarvis-projects"), **{"fleet.image": FAKE_IMAGE})
    assert [change.action for change in planned(runtime, wanted).changes] == ["unchanged", "unchanged", "create"]


def test_services_of_another_installation_are_not_ours(runtime: FakeRuntime) -> None:
    """Another installation's id, or no agent label, and a service is never part of a plan."""
    assert sorted(ours(runtime, roster())) == NAMES
    assert ours(runtime, replace(roster(), install="ffffffffffff")) == {}
    runtime.deploy_stack(
        "jarvis",
        f"services: {{x: {{image: {FAKE_IMAGE}, deploy: {{labels: {{com.mosaic.install: '0123456789ab'}}}}}}}}",
    )
    assert sorted(ours(runtime, roster())) == NAMES

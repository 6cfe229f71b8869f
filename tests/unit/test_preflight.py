"""What must be so before a deploy changes anything."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mosaic_fleet.errors import ConfigurationError, Conflict, MosaicError, NotFound, RuntimeFailure
from mosaic_fleet.fleet import preflight
from mosaic_fleet.fleet.options import Options
from mosaic_fleet.fleet.preflight import Site
from mosaic_fleet.fleet.stack import Roster
from mosaic_fleet.runtimes.base import Finished, Image, Network
from tests.fakes import FAKE_IMAGE, FakeRuntime
from tests.rosters import INSTALL, agent, jarvis

NETWORK = "mosaic-stack_internal"


def roster(image: str = FAKE_IMAGE, **options: Any) -> Roster:
    """Make a roster of one agent."""
    return jarvis(agent("jarvis-main", **options), **{"fleet.image": image})


@pytest.fixture
def runtime() -> FakeRuntime:
    """Return a Swarm with the network."""
    runtime = FakeRuntime()
    runtime.create_network(NETWORK, labels={})
    runtime.changes.clear()
    return runtime


def check(runtime: FakeRuntime, wanted: Roster | None = None, *, create_network: bool = False) -> Site:
    """Check a roster, reporting to nobody."""
    return preflight.check(runtime, wanted or roster(), lambda _: None, Options(create_network=create_network))


def test_a_good_site_is_described_and_left_alone(runtime: FakeRuntime) -> None:
    """Engine, nodes and image are returned; nothing was changed."""
    site = check(runtime)
    assert (site.engine, [*site.nodes], site.images) == (
        runtime.swarm,
        ["node1"],
        {FAKE_IMAGE: runtime.images[FAKE_IMAGE]},
    )
    assert runtime.changes == []


@pytest.mark.parametrize(
    ("engine", "message", "hint"),
    [
        ({"swarm": "inactive"}, "docker is not part of a swarm (it is inactive)", "docker swarm init"),
        ({"swarm": "locked"}, "docker is not part of a swarm (it is locked)", "docker swarm init"),
        ({"is_manager": False}, "this docker is a worker of its swarm", "point DOCKER_HOST at a manager"),
    ],
)
def test_docker_must_manage_a_swarm(engine: dict[str, Any], message: str, hint: str, runtime: FakeRuntime) -> None:
    """Without a Swarm, or on a worker, nothing can be deployed, and the hint says what to do."""
    runtime.swarm = replace(runtime.swarm, **engine)
    with pytest.raises(RuntimeFailure) as caught:
        check(runtime)
    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_a_missing_network_is_named() -> None:
    """The network belongs to the core stack: it is made only when asked for."""
    runtime = FakeRuntime()
    with pytest.raises(RuntimeFailure) as caught:
        check(runtime)
    assert caught.value.message == f'network "{NETWORK}" is not there'
    assert caught.value.hint == "mosaic fleet deploy --stack jarvis --create-network"
    assert runtime.changes == []


def test_a_missing_network_is_made_when_asked() -> None:
    """It carries this installation's id; one that is there stays."""
    runtime = FakeRuntime()
    check(runtime, create_network=True)
    check(runtime, create_network=True)
    assert runtime.changes == [f"create network {NETWORK}"]
    assert runtime.network(NETWORK).labels == {"com.mosaic.install": INSTALL}


def test_the_network_must_be_an_overlay() -> None:
    """A bridge of that name cannot carry a stack."""

    class Bridged(FakeRuntime):
        """Has a bridge of every name."""

        def network(self, name: str) -> Network:
            """Find a bridge."""
            return Network("n", name, "bridge", False, {})

    with pytest.raises(ConfigurationError) as caught:
        check(Bridged())
    assert caught.value.message == f'network "{NETWORK}" is a bridge network, agents need an overlay'
    assert "docker network ls --filter driver=overlay" in str(caught.value.hint)


def test_dockers_own_overlay_is_refused(runtime: FakeRuntime) -> None:
    """Swarm takes no service into `ingress`, so nothing is begun."""
    runtime.create_network("ingress", labels={})
    with pytest.raises(ConfigurationError) as caught:
        check(runtime, replace(roster(), network="ingress"))
    assert caught.value.message == 'network "ingress" is Docker\'s own, agents cannot join it'
    assert "mosaic agent import FILE" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("labels", "whose"),
    [({}, "not Mosaic's"), ({"com.mosaic.install": "ffffffffffff"}, "another Mosaic installation's (ffffffffffff)")],
)
def test_a_foreign_service_is_named_and_left_alone(labels: dict[str, str], whose: str, runtime: FakeRuntime) -> None:
    """A service of that name which this installation did not make stops the deploy."""
    marks = ", ".join(f"{key}: '{value}'" for key, value in labels.items())
    runtime.deploy_stack(
        "jarvis", f"services: {{jarvis-main: {{image: {FAKE_IMAGE}, deploy: {{labels: {{{marks}}}}}}}}}"
    )
    with pytest.raises(Conflict) as caught:
        check(runtime)
    assert caught.value.message == f'service "jarvis_jarvis-main" is {whose}'
    assert caught.value.hint == "docker service inspect jarvis_jarvis-main"


def test_a_foreign_service_outside_of_the_stack_is_named(runtime: FakeRuntime) -> None:
    """One made by hand under that name, without a stack, would let Swarm refuse the stack halfway."""
    service = f"{{image: {FAKE_IMAGE}, deploy: {{labels: {{com.docker.stack.namespace: by-hand}}}}}}"
    runtime.deploy_stack("jarvis", f"services: {{jarvis-main: {service}}}")
    assert runtime.services("jarvis") == []
    runtime.changes.clear()
    with pytest.raises(Conflict) as caught:
        check(runtime)
    assert caught.value.message == 'service "jarvis_jarvis-main" is not Mosaic\'s'
    assert runtime.changes == []


@pytest.mark.parametrize(
    ("labels", "whose", "hint"),
    [
        ({}, "not Mosaic's", "docker volume inspect jarvis_jarvis-main-state"),
        (
            {"com.mosaic.install": "ffffffffffff"},
            "another Mosaic installation's (ffffffffffff)",
            "mosaic init --install ffffffffffff   (if that one's database is gone for good)",
        ),
    ],
)
def test_a_foreign_volume_is_named_and_left_alone(
    labels: dict[str, str], whose: str, hint: str, runtime: FakeRuntime
) -> None:
    """Another agent's memory is never mounted by accident of its name."""
    runtime.create_volume("jarvis_jarvis-main-state", labels=labels)
    with pytest.raises(Conflict) as caught:
        check(runtime)
    assert (caught.value.message, caught.value.hint) == (f'volume "jarvis_jarvis-main-state" is {whose}', hint)


def test_an_adopted_volume_needs_no_label(runtime: FakeRuntime) -> None:
    """A volume that was there before Mosaic is the agent's because the roster says so."""
    runtime.create_volume("old_state", labels={})
    runtime.create_volume("jarvis_jarvis-main-state", labels={})
    check(runtime, roster(volume="old_state"))


def test_our_own_service_and_volume_are_fine(runtime: FakeRuntime) -> None:
    """What this installation made is found again."""
    runtime.create_volume("jarvis_jarvis-main-state", labels={"com.mosaic.install": INSTALL})
    labels = f"{{com.mosaic.install: '{INSTALL}'}}"
    runtime.deploy_stack("jarvis", f"services: {{jarvis-main: {{image: {FAKE_IMAGE}, deploy: {{labels: {labels}}}}}}}")
    assert check(runtime).engine.node_id == "node1"


def test_other_services_of_a_foreign_stack_do_not_matter(runtime: FakeRuntime) -> None:
    """Only names that the roster needs are looked at."""
    runtime.deploy_stack("jarvis", f"services: {{other: {{image: {FAKE_IMAGE}}}}}")
    assert check(runtime).engine.node_id == "node1"


def test_an_agent_bigger_than_its_node_is_refused(runtime: FakeRuntime) -> None:
    """A limit that the node cannot give is refused before anything is done."""
    with pytest.raises(ConfigurationError) as caught:
        check(runtime, roster(memory_limit=25 << 30))
    assert caught.value.message == 'agent "jarvis-main" may use 25G, node fake has 24G'
    assert caught.value.hint == "mosaic agent set jarvis-main --memory …"


def test_an_agent_with_more_cpus_than_its_node_is_refused(runtime: FakeRuntime) -> None:
    """Docker would refuse each of its containers."""
    with pytest.raises(ConfigurationError) as caught:
        check(runtime, roster(cpu_limit=12.5))
    assert caught.value.message == 'agent "jarvis-main" may use 12.5 CPUs, node fake has 12'
    assert caught.value.hint == "mosaic agent set jarvis-main --cpus …"


@pytest.mark.parametrize(
    "options",
    [
        {"memory_limit": 24 << 30, "cpu_limit": 12},
        {"memory_limit": 25 << 30, "cpu_limit": 64, "replicas": 0},
        {"cpu_limit": None},
    ],
)
def test_an_agent_that_fits_or_does_not_run_is_fine(options: dict[str, Any], runtime: FakeRuntime) -> None:
    """The whole node's memory may be given; a stopped agent needs none."""
    assert check(runtime, roster(**options)).engine.node_id == "node1"


def test_an_agent_whose_node_has_gone_is_named(runtime: FakeRuntime) -> None:
    """It would start elsewhere without its memory, so it does not start at all."""
    with pytest.raises(RuntimeFailure) as caught:
        check(runtime, roster(node_id="gone"))
    assert caught.value.message == 'agent "jarvis-main" keeps its state on node gone, which is not in this swarm'


def test_an_agent_without_a_node_is_measured_by_the_one_it_will_get(runtime: FakeRuntime) -> None:
    """Before its first deploy an agent is compared with the engine's own node."""
    with pytest.raises(ConfigurationError, match="node fake has 24G"):
        check(runtime, roster(node_id=None, memory_limit=25 << 30))


def test_a_missing_image_is_pulled() -> None:
    """An image that is not here is pulled, which is said."""

    class Registry(FakeRuntime):
        """Has the image only after a pull."""

        def pull(self, ref: str, *, report: Callable[[str], None]) -> Image:
            """Pull it."""
            report("layer 1/1")
            self.images[ref] = Image("sha256:" + "b" * 64, "2026.9.6", None)
            return self.images[ref]

    runtime, lines = Registry(), []
    runtime.create_network(NETWORK, labels={})
    site = preflight.check(runtime, roster("far/openclaw:1"), lines.append, Options())
    assert site.images["far/openclaw:1"].id == "sha256:" + "b" * 64
    assert lines == ["pulling far/openclaw:1", "layer 1/1"]


def test_an_image_that_cannot_be_pulled_stops_the_deploy(runtime: FakeRuntime) -> None:
    """Swarm would stop the running task first and then find no image; so it is asked before."""
    with pytest.raises(RuntimeFailure, match=r"^docker pull no/such:1 failed: manifest unknown$") as caught:
        check(runtime, roster("no/such:1"))
    assert caught.value.hint == "mosaic config set fleet.image …"


@pytest.mark.parametrize("hint", [None, "docker context ls"])
def test_an_image_that_docker_cannot_look_for_is_named(hint: str | None) -> None:
    """A reference that Docker does not understand is named with its setting; a hint of the runtime's own stays."""

    class Refusing(FakeRuntime):
        """Refuses to look for an image that is none."""

        def image(self, ref: str) -> Image | None:
            """Refuse, or look."""
            if ref == "a:b:c":
                raise RuntimeFailure("docker refused: invalid reference format", hint=hint)
            return super().image(ref)

    runtime = Refusing()
    runtime.create_network(NETWORK, labels={})
    with pytest.raises(RuntimeFailure) as caught:
        check(runtime, roster("a:b:c"))
    assert caught.value.message == "image a:b:c: docker refused: invalid reference format"
    assert caught.value.hint == (hint or "mosaic config set fleet.image …")


@pytest.mark.parametrize(
    ("label", "says", "refused"),
    [
        ("2026.9.6", "", None),
        ("2026.8.2", "", None),
        ("2026.8.1", "", "2026.8.1"),
        ("v2026.2.26", "", "2026.2.26"),
        ("2025.12.30", "", "2025.12.30"),
        ("2026.10.0", "", None),
        ("", "OpenClaw 2026.9.6 (abc)\n", None),
        ("", "2026.2.26\n", "2026.2.26"),
        ("", "no version", None),
        ("12", "", None),
    ],
)
def test_an_old_openclaw_is_refused(label: str, says: str, refused: str | None, runtime: FakeRuntime) -> None:
    """By its label, else by its own word; numbers are compared as numbers, an unknown version is let through."""
    runtime.images["some:image"] = Image("sha256:" + "c" * 64, label, None)
    runtime.programs["openclaw"] = lambda *_: Finished(0, says, "")
    problem = None
    try:
        check(runtime, roster("some:image"))
    except MosaicError as error:
        problem = error.message
    message = f"image some:image is OpenClaw {refused}, Mosaic needs 2026.8.2 or later"
    assert problem == (message if refused else None)


@pytest.mark.parametrize("name", ["node1", "fake"])
def test_a_node_is_found_by_id_or_hostname(name: str, runtime: FakeRuntime) -> None:
    """Both names of a node are good."""
    assert preflight.find_node(runtime, name).id == "node1"


def test_an_unknown_node_names_those_there_are(runtime: FakeRuntime) -> None:
    """The hint lists the Swarm's nodes."""
    with pytest.raises(NotFound) as caught:
        preflight.find_node(runtime, "other")
    assert (caught.value.message, caught.value.hint) == ('no node "other"', "one of fake")

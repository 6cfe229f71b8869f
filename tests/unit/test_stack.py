"""The stack file of a roster: golden, hardened, named by content, and without secrets."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from mosaic_fleet.fleet.openclaw import Gateway
from mosaic_fleet.fleet.stack import Agent, Rendered, render, service_name, volume_name
from mosaic_fleet.sealing import Box, Ring
from tests.golden import check_golden
from tests.rosters import BOX, SENTINEL, agent, jarvis, provider


def service(one: Agent, **settings: Any) -> dict[str, Any]:
    """Return an agent's service as Docker would read it from the file."""
    parsed = yaml.safe_load(render(jarvis(one, **settings), BOX).text)
    return parsed["services"][one.name]


@pytest.fixture(scope="module")
def rendered() -> Rendered:
    """Return the rendered jarvis stack."""
    return render(jarvis(), BOX)


def test_the_stack_file_is_the_golden_one(rendered: Rendered) -> None:
    """The jarvis roster renders to the reviewed bytes."""
    check_golden("jarvis", "fleet.yml", rendered.text)


def test_a_second_render_is_the_same(rendered: Rendered) -> None:
    """The same roster gives the same bytes and the same names, so a second deploy changes nothing."""
    again = render(jarvis(), BOX)
    assert again.text == rendered.text
    assert again.docker_configs == rendered.docker_configs
    assert again.docker_secrets == rendered.docker_secrets


def test_stacks_whose_names_run_together_share_no_object() -> None:
    """Stack `a` with agent `b-c` and stack `a-b` with agent `c` name their Docker objects apart, equal as they are."""
    one = agent("jarvis-main", token=SecretStr("t"))
    rendered = [
        render(replace(jarvis(replace(one, name=name)), stack=stack), BOX)
        for stack, name in (("a", "b-c"), ("a-b", "c"))
    ]
    names = [{*each.docker_configs, *each.docker_secrets} for each in rendered]
    assert len(names[0] | names[1]) == len(names[0]) + len(names[1])


def test_no_secret_is_in_the_file(rendered: Rendered) -> None:
    """Tokens and keys are in Docker secrets only: not in the stack file, the Docker configs or a repr."""
    assert SENTINEL not in rendered.text
    assert not [name for name, text in rendered.docker_configs.items() if SENTINEL in text]
    assert SENTINEL not in repr(rendered)
    assert SENTINEL not in repr(jarvis())
    assert all(SENTINEL in content for content in rendered.docker_secrets.values())


def test_each_agent_gets_its_own_secrets(rendered: Rendered) -> None:
    """An agent sees its own token and the keys of the providers it uses, nobody else's."""
    for name, one in rendered.services.items():
        mounted = {item["target"]: rendered.docker_secrets[item["source"]] for item in one["secrets"]}
        assert mounted.pop("/run/secrets/gateway_token") == f"{SENTINEL}-token-{name}"
        keys = '{"zai": "planted-secret-key-zai"}'
        assert mounted == ({} if name == "jarvis-operations" else {"/run/secrets/provider_keys": keys})


def test_docker_objects_are_named_by_a_keyed_hash_of_their_content(rendered: Rendered) -> None:
    """`<stack>-<agent>-<kind>-<12 hex>`, at most 64 characters, and each is declared as external."""
    declared = yaml.safe_load(rendered.text)
    for section, contents in (("configs", rendered.docker_configs), ("secrets", rendered.docker_secrets)):
        assert declared[section] == {name: {"external": True} for name in contents}
        for name, content in contents.items():
            match = re.fullmatch(r"jarvis-(jarvis-[a-z]+)-(conf|soul|token|keys)-([0-9a-f]{12})", name)
            assert match
            says = json.dumps(json.loads(content)) if match[2] == "conf" else content  # however it is laid out
            assert match[3] == BOX.name(f"jarvis/{match[1]}/{match[2]}", says)
            assert len(name) <= 64


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"personality": "Somebody else.\n"}, "soul"),
        ({"token": SecretStr("another")}, "token"),
        ({"gateway": Gateway("zai/glm-5", schedules=True, providers=(provider("zai"), provider("ollama")))}, "conf"),
    ],
)
def test_new_content_gets_a_new_name(change: dict[str, Any], kind: str) -> None:
    """Docker never lets content change in place: another content is another object, the others keep their names."""
    before, after = (render(jarvis(one), BOX) for one in (agent("jarvis-main"), agent("jarvis-main", **change)))
    names = [{*one.docker_configs, *one.docker_secrets} for one in (before, after)]
    assert [name.split("-")[3] for name in names[0] - names[1]] == [kind]
    assert [name.split("-")[3] for name in names[1] - names[0]] == [kind]


def test_another_installation_names_the_same_content_otherwise() -> None:
    """Without the key for names nobody can tell from a name what is in it."""
    other = Box(lambda: Ring("k1", {"k1": AESGCM(b"k" * 32)}, b"m" * 32))
    one = jarvis(agent("jarvis-main"))
    assert not render(one, BOX).docker_secrets.keys() & render(one, other).docker_secrets.keys()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("user", "1000:1000"),
        ("init", True),
        ("read_only", True),
        ("cap_drop", ["ALL"]),
        ("stop_grace_period", "330s"),
        ("hostname", "jarvis-main"),
        ("networks", {"fleet": {"aliases": ["jarvis-main"]}}),
        ("logging", {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}}),
        (
            "volumes",
            [
                {"type": "volume", "source": "jarvis-main-state", "target": "/home/node/.openclaw"},
                {"type": "tmpfs", "target": "/tmp", "tmpfs": {"size": 268_435_456}},
            ],
        ),
        (
            "command",
            ["openclaw", "gateway", "run", "--bind", "lan", "--port", "18789", "--auth", "token"],
        ),
    ],
)
def test_a_gateway_is_walled_in(key: str, value: Any) -> None:
    """User, capabilities, root, temporary files, logs and grace are these, whatever the roster says."""
    assert service(agent("jarvis-main"))[key] == value


def test_a_gateway_has_no_way_out_of_its_walls() -> None:
    """No published port, no host namespace, no device, no added capability, no privilege."""
    assert set(service(agent("jarvis-main"))) == {
        "image",
        "command",
        "hostname",
        "user",
        "init",
        "read_only",
        "cap_drop",
        "environment",
        "configs",
        "secrets",
        "volumes",
        "networks",
        "healthcheck",
        "stop_grace_period",
        "logging",
        "labels",
        "deploy",
    }


def test_how_a_gateway_is_deployed() -> None:
    """Stop first, roll back, restart for ever after a delay, pinned to the node that has its state."""
    deploy = service(agent("jarvis-main", cpu_limit=1.5))["deploy"]
    deploy.pop("labels")
    assert deploy == {
        "replicas": 1,
        "endpoint_mode": "dnsrr",
        "resources": {
            "limits": {"memory": "2147483648", "pids": 512, "cpus": "1.5"},
            "reservations": {"memory": "536870912"},
        },
        "restart_policy": {"condition": "any", "delay": "10s"},
        "update_config": {"parallelism": 1, "order": "stop-first", "monitor": "5s", "failure_action": "rollback"},
        "rollback_config": {"parallelism": 1, "order": "stop-first", "monitor": "5s", "failure_action": "pause"},
        "placement": {"constraints": ["node.id == node1"]},
    }


def test_the_probe_looks_at_the_answers_body() -> None:
    """Every five seconds, with patience for a slow start, by curl or else by node."""
    probe = service(agent("jarvis-main"))["healthcheck"]
    kind, command = probe.pop("test")
    assert probe == {"interval": "5s", "timeout": "10s", "retries": 6, "start_period": "180s"}
    assert kind == "CMD-SHELL"
    assert "curl -fsS http://127.0.0.1:18789/healthz | grep -q '\"ok\":true'; else node -e" in command


def test_secret_files_are_the_agents_own() -> None:
    """OpenClaw takes a file only from its own user and without rights for others."""
    one = service(agent("jarvis-main"))
    for item in [*one["configs"], *one["secrets"]]:
        assert (item["uid"], item["gid"], item["mode"]) == ("1000", "1000", 0o400)


def test_what_is_mounted_where() -> None:
    """Config and personality are Docker configs, token and keys Docker secrets, each at its place."""
    one = service(agent("jarvis-main"))
    assert [item["target"] for item in one["configs"]] == [
        "/run/mosaic/openclaw.json",
        "/home/node/.openclaw/workspace/SOUL.md",
    ]
    assert [item["target"] for item in one["secrets"]] == ["/run/secrets/gateway_token", "/run/secrets/provider_keys"]


def test_an_agent_without_personality_has_no_soul_file() -> None:
    """Nothing is mounted over the agent's own SOUL.md unless there is something to say."""
    one = service(agent("jarvis-main", personality=None))
    assert [item["target"] for item in one["configs"]] == ["/run/mosaic/openclaw.json"]


def test_the_environment_holds_no_secret_and_both_directories() -> None:
    """An agent can print its environment: it has places and switches, and the heap fits the memory limit."""
    assert service(agent("jarvis-main"))["environment"] == {
        "OPENCLAW_CONFIG_PATH": "/run/mosaic/openclaw.json",
        "OPENCLAW_STATE_DIR": "/home/node/.openclaw",
        "OPENCLAW_CONFIG_READONLY": "1",
        "OPENCLAW_DISABLE_BONJOUR": "1",
        "OPENCLAW_NO_AUTO_UPDATE": "1",
        "XDG_CACHE_HOME": "/home/node/.openclaw/cache",
        "NODE_OPTIONS": "--max-old-space-size=1536",
    }


def test_an_agent_without_a_node_is_not_constrained() -> None:
    """Before the first deploy has chosen a node the file names none."""
    assert "placement" not in service(agent("jarvis-main", node_id=None))["deploy"]


def test_an_agent_without_a_cpu_limit_has_none() -> None:
    """Cores are limited only where the roster says so."""
    assert service(agent("jarvis-main"))["deploy"]["resources"]["limits"] == {"memory": "2147483648", "pids": 512}


def test_a_stopped_agent_stays_stopped() -> None:
    """A scale of 0 is in the file, so a deploy does not bring it back."""
    assert service(agent("jarvis-main", replicas=0))["deploy"]["replicas"] == 0


def test_settings_shape_the_services() -> None:
    """Image, probe, restart, grace and monitor come from the settings."""
    one = service(
        agent("jarvis-main"),
        **{
            "fleet.image": "openclaw-local:1",
            "fleet.health.interval": 1,
            "fleet.health.timeout": 2,
            "fleet.health.retries": 3,
            "fleet.health.start_period": 4,
            "fleet.restart.delay": 5,
            "fleet.stop_grace": 6,
            "fleet.update.monitor": 7,
        },
    )
    probe, deploy = one["healthcheck"], one["deploy"]
    assert one["image"] == "openclaw-local:1"
    assert [probe[key] for key in ("interval", "timeout", "retries", "start_period")] == ["1s", "2s", 3, "4s"]
    assert deploy["restart_policy"]["delay"] == "5s"
    assert one["stop_grace_period"] == "6s"
    assert deploy["update_config"]["monitor"] == deploy["rollback_config"]["monitor"] == "7s"


def test_the_service_and_its_volume_say_whose_they_are(rendered: Rendered) -> None:
    """Installation, stack and agent are labels of the service, its containers and its volume."""
    parsed = yaml.safe_load(rendered.text)
    marks = {
        "com.mosaic.install": "0123456789ab",
        "com.mosaic.stack": "jarvis",
        "com.mosaic.agent": "jarvis-main",
    }
    one = parsed["services"]["jarvis-main"]
    assert one["labels"] == marks | {"com.mosaic.role": "orchestrator"}
    assert one["deploy"]["labels"].items() >= one["labels"].items()
    assert parsed["volumes"]["jarvis-main-state"] == {"name": "jarvis_jarvis-main-state", "labels": marks}


def test_the_network_is_the_rosters() -> None:
    """The network is named, and expected to be there."""
    parsed = yaml.safe_load(render(jarvis(), BOX).text)
    assert parsed["networks"] == {"fleet": {"external": True, "name": "mosaic-stack_internal"}}


@pytest.mark.parametrize(
    "change",
    [
        {"memory_limit": 3 << 30},
        {"memory_reservation": 1 << 20},
        {"cpu_limit": 2.0},
        {"replicas": 0},
        {"node_id": "node2"},
        {"role": "another"},
        {"personality": "another"},
        {"token": SecretStr("another")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_change_changes_the_spec_digest(change: dict[str, Any]) -> None:
    """The digest tells the new spec from the old one, whatever was changed; unchanged, it stays."""
    digests = [
        service(one)["deploy"]["labels"]["com.mosaic.spec"]
        for one in (agent("jarvis-main"), agent("jarvis-main"), agent("jarvis-main", **change))
    ]
    assert digests[0] == digests[1] != digests[2]
    assert re.fullmatch(r"[0-9a-f]{12}", digests[0])


def test_names_are_those_swarm_makes(rendered: Rendered) -> None:
    """Services and volumes are found again by the names that a deploy gives them."""
    assert service_name("jarvis", "jarvis-main") == "jarvis_jarvis-main"
    assert volume_name("jarvis", "jarvis-main") == "jarvis_jarvis-main-state"
    name = rendered.config_name("jarvis-main")
    assert name.startswith("jarvis-jarvis-main-conf-")
    assert rendered.docker_configs[name].startswith("{\n")


def test_an_adopted_volume_keeps_its_name() -> None:
    """It is mounted as it is called, made by nobody, named on the service, and another one is another service."""
    one = agent("jarvis-main", volume="old_state")
    parsed = yaml.safe_load(render(jarvis(one), BOX).text)
    assert parsed["volumes"] == {"jarvis-main-state": {"external": True, "name": "old_state"}}
    assert parsed["services"]["jarvis-main"]["volumes"][0]["source"] == "jarvis-main-state"
    assert parsed["services"]["jarvis-main"]["labels"]["com.mosaic.volume"] == "old_state"
    digests = {service(replace(one, volume=name))["deploy"]["labels"]["com.mosaic.spec"] for name in (None, "a", "b")}
    assert len(digests) == 3
    assert volume_name("jarvis", "jarvis-main", "old_state") == "old_state"


@settings(max_examples=20)
@given(st.text(max_size=40))
def test_any_role_and_personality_survive(text: str) -> None:
    """What a user writes reaches the label and SOUL.md as it is; dollars are doubled for Docker only in the file."""
    one = agent("jarvis-main", role=text, personality=text or None)
    result = render(jarvis(one), BOX)
    label = yaml.safe_load(result.text)["services"]["jarvis-main"]["labels"]["com.mosaic.role"]
    assert label.replace("$$", "$") == text
    assert [content for name, content in result.docker_configs.items() if "-soul-" in name] == ([text] if text else [])

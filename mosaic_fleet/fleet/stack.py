"""A roster's stack: what Swarm is to run, as a pure function of rows, named by content."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from mosaic_fleet import configuration
from mosaic_fleet.db.reads import SYSTEM_OWNER
from mosaic_fleet.fleet import openclaw
from mosaic_fleet.rendering import collector_paused, parse_yaml, render_yaml
from mosaic_fleet.runtimes.base import (
    AGENT_LABEL,
    INSTALL_LABEL,
    ROLE_LABEL,
    SPEC_LABEL,
    STACK_LABEL,
    VOLUME_LABEL,
)
from mosaic_fleet.sealing import Box, Secret

if TYPE_CHECKING:
    from sqlmodel import Session

    from mosaic_fleet.db.tables import SystemContainer

CONFIG_FILE = "/run/mosaic/openclaw.json"
_NETWORK = "fleet"
_PIDS = 512
_TMP_BYTES = 256 << 20
# By curl, or by node where the image has none; the body is checked, because an unknown path may answer 200 too.
_PROBE = (
    "if command -v curl >/dev/null; "
    "then curl -fsS http://127.0.0.1:18789/healthz | grep -q '\"ok\":true'; "
    "else node -e \"fetch('http://127.0.0.1:18789/healthz').then(r=>r.json())"
    '.then(j=>process.exit(j.ok===true?0:1)).catch(()=>process.exit(1))"; fi'
)


@dataclass(frozen=True)
class Placement:
    """What an agent needs of its node; sizes are bytes, `image` is a reference, `volume` names an adopted one."""

    name: str
    image: str
    memory_limit: int
    cpu_limit: float | None
    replicas: int
    node_id: str | None
    volume: str | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Agent(Placement):
    """An agent with everything its service is made from."""

    role: str
    gateway: openclaw.Gateway
    token: Secret
    personality: str | None
    memory_reservation: int


@dataclass(frozen=True)
class Place:
    """A stack, its network and whose it is, the settings, and who is to run there; when that was read."""

    stack: str
    network: str
    install: str
    settings: Mapping[str, Any]
    agents: tuple[Placement, ...]
    read_at: datetime = field(default_factory=lambda: datetime.now(UTC), compare=False)


@dataclass(frozen=True)
class Roster(Place):
    """A stack as the roster has it."""

    agents: tuple[Agent, ...]


@dataclass(frozen=True)
class Wanted:
    """The services of a stack by agent, in the words of a stack file, and their network."""

    network: str
    services: Mapping[str, Mapping[str, Any]]

    def config_name(self, agent: str) -> str:
        """Return the name of an agent's openclaw.json."""
        return str(self.services[agent]["configs"][0]["source"])

    def image(self, agent: str) -> str:
        """Return the reference of an agent's image."""
        return str(self.services[agent]["image"])


@dataclass(frozen=True)
class Rendered(Wanted):
    """A stack file and the Docker configs and Docker secrets it names (name → content)."""

    text: str
    docker_configs: Mapping[str, str]
    docker_secrets: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True)
class _File:
    """A file of an agent: where it lies, what it says (which names it), and how it is written."""

    section: str
    path: str
    says: str = field(repr=False)
    write: Callable[[], str]


def frame(session: "Session", stack: str | None) -> Place:
    """Read a stack without its agents."""
    from mosaic_fleet.fleet import agents

    row = agents.get_stack(session, stack)
    return Place(row.name, row.network, configuration.install_id(session), configuration.values(session), ())


def load(session: "Session", box: Box, stack: str | None) -> Roster:
    """Read a stack's roster and open its secrets.

    Raises NotFound when there is no such stack or no agent, ConfigurationError when an agent cannot run as it is.
    """
    from mosaic_fleet.fleet import agents, members, providers

    row = agents.get_stack(session, stack)
    active = agents.of_stack(session, row)
    members.check_any(row.name, active)
    shared, settings = providers.all_of(session, SYSTEM_OWNER), configuration.values(session)
    image, opened = str(settings["fleet.image"]), _opener(box)
    return Roster(
        stack=row.name,
        network=row.network,
        install=configuration.install_id(session),
        settings=settings,
        agents=tuple(members.agent(agent, shared, image, opened) for agent in active),
    )


def agent(session: "Session", box: Box, row: "SystemContainer") -> Agent:
    """Make an agent of its row and open its secrets; raises ConfigurationError when it cannot run as it is."""
    from mosaic_fleet.fleet import members, providers

    image = str(configuration.values(session)["fleet.image"])
    return members.agent(row, providers.all_of(session, SYSTEM_OWNER), image, _opener(box))


@collector_paused()
def want(roster: Roster, box: Box) -> Wanted:
    """Say what a roster wants without writing any file: enough to compare."""
    services = {agent.name: _service(roster, agent, _named(roster, box, agent)) for agent in roster.agents}
    return Wanted(roster.network, {name: _stamped(service, roster.network) for name, service in services.items()})


@collector_paused()
def render(roster: Roster, box: Box) -> Rendered:
    """Render a roster: the same roster gives the same bytes. The stack file holds no secret."""
    files = {agent.name: _named(roster, box, agent) for agent in roster.agents}
    services = {agent.name: _service(roster, agent, files[agent.name]) for agent in roster.agents}
    contents = {name: file.write() for named in files.values() for name, file in named.items()}
    return assemble(services, roster.network, contents)


def contents(roster: Roster, box: Box, agents: Collection[str]) -> dict[str, str]:
    """Write the files of some agents, by the names of their Docker configs and Docker secrets."""
    some = [agent for agent in roster.agents if agent.name in agents]
    return {name: file.write() for agent in some for name, file in _named(roster, box, agent).items()}


def assemble(services: Mapping[str, Mapping[str, Any]], network: str, contents: Mapping[str, str]) -> Rendered:
    """Make the stack file of services, each stamped with the digest of what it is; `contents` has what they name."""
    stamped = {name: _stamped(service, network) for name, service in services.items()}
    named = {
        section: {one["source"]: contents[one["source"]] for service in stamped.values() for one in service[section]}
        for section in ("configs", "secrets")
    }
    stack = {
        "version": "3.9",
        "services": stamped,
        **{section: {name: {"external": True} for name in names} for section, names in named.items()},
        "volumes": {_volume_key(name): volume(service) for name, service in stamped.items()},
        "networks": {_NETWORK: {"external": True, "name": network}},
    }
    text = render_yaml("stack/fleet.yml.j2", stack)
    return Rendered(network, stamped, text, named["configs"], named["secrets"])


def services(text: str) -> dict[str, Any]:
    """Read the services of a stack file back that render() or assemble() wrote."""
    return dict(parse_yaml(text)["services"])


def read(text: str, contents: Mapping[str, str]) -> Rendered:
    """Read such a stack file back whole; `contents` has what it names."""
    parsed = parse_yaml(text)
    network = str(parsed["networks"][_NETWORK]["name"])
    configs, secrets = ({name: contents[name] for name in parsed[section]} for section in ("configs", "secrets"))
    return Rendered(network, parsed["services"], text, configs, secrets)


def placement(name: str, service: Mapping[str, Any]) -> Placement:
    """Say what a service of a stack file needs of its node."""
    deploy = service["deploy"]
    limits = deploy["resources"]["limits"]
    constraints = deploy.get("placement", {}).get("constraints", [])
    return Placement(
        name=name,
        image=service["image"],
        memory_limit=int(limits["memory"]),
        cpu_limit=float(limits["cpus"]) if "cpus" in limits else None,
        replicas=deploy["replicas"],
        node_id=constraints[0].rpartition(" ")[2] if constraints else None,
        volume=service["labels"].get(VOLUME_LABEL),
    )


def service_name(stack: str, agent: str) -> str:
    """Name an agent's service as Swarm does."""
    return f"{stack}_{agent}"


def volume_name(stack: str, agent: str, adopted: str | None = None) -> str:
    """Name the volume that holds an agent's state: an adopted one keeps the name it had."""
    return adopted or f"{stack}_{agent}-state"


def marks(place: Place) -> dict[str, str]:
    """Return the labels of all that a stack of this installation has in Docker."""
    return {INSTALL_LABEL: place.install, STACK_LABEL: place.stack}


def labels(roster: Place, agent: str) -> dict[str, str]:
    """Return the labels that say whose a Docker object is."""
    return {**marks(roster), AGENT_LABEL: agent}


def volume(service: Mapping[str, Any]) -> dict[str, Any]:
    """Return the volume of a service as a stack file declares it; its labels tell whose it is.

    An adopted one is external: it was there before Mosaic, and a volume's labels cannot be changed.
    """
    if adopted := service["labels"].get(VOLUME_LABEL):
        return {"external": True, "name": adopted}
    marks = {key: str(service["labels"][key]) for key in (INSTALL_LABEL, STACK_LABEL, AGENT_LABEL)}
    return {"name": volume_name(marks[STACK_LABEL], marks[AGENT_LABEL]), "labels": marks}


def _opener(box: Box) -> Callable[[Any], Secret]:
    """Open what the rows of the ORM hold."""
    from mosaic_fleet.db.tables import SystemContainer, place

    def opened(row: Any) -> Secret:
        column = "gateway_token" if isinstance(row, SystemContainer) else "api_key"
        return box.open(place(row, column), getattr(row, column))

    return opened


def _files(agent: Agent) -> dict[str, _File]:
    """Return the files of an agent by their kinds; openclaw.json is named by what it says, however that is laid out."""
    says = openclaw.said(agent.gateway)
    files = {"conf": _File("configs", CONFIG_FILE, says, lambda: openclaw.laid_out(says))}
    if text := agent.personality:
        files["soul"] = _plain("configs", openclaw.SOUL_FILE, text)
    files["token"] = _plain("secrets", openclaw.TOKEN_FILE, agent.token.get_secret_value())
    keys = {one.name: one.key.get_secret_value() for one in agent.gateway.providers if one.key}
    if keys:
        files["keys"] = _plain("secrets", openclaw.KEYS_FILE, json.dumps(keys, sort_keys=True))
    return files


def _plain(section: str, path: str, text: str) -> _File:
    return _File(section, path, text, lambda: text)


def _named(roster: Roster, box: Box, agent: Agent) -> dict[str, _File]:
    """Name each of an agent's files by a keyed hash of what it says.

    Stack and agent are hashed too: `a-b` with agent `c` and `a` with agent `b-c` share the name's first part.
    """
    start = f"{roster.stack}-{agent.name}"
    return {
        f"{start}-{kind}-{box.name(f'{roster.stack}/{agent.name}/{kind}', file.says)}": file
        for kind, file in _files(agent).items()
    }


def _service(roster: Roster, agent: Agent, files: Mapping[str, _File]) -> dict[str, Any]:
    settings = roster.settings
    marks = labels(roster, agent.name) | {ROLE_LABEL: agent.role}
    marks |= {VOLUME_LABEL: agent.volume} if agent.volume else {}
    return {
        "image": agent.image,
        "command": ["openclaw", "gateway", "run", "--bind", "lan", "--port", str(openclaw.PORT), "--auth", "token"],
        "hostname": agent.name,
        "user": "1000:1000",
        "init": True,
        "read_only": True,
        "cap_drop": ["ALL"],
        "environment": _environment(agent),
        **{
            section: [_mounted(file.path, name) for name, file in files.items() if file.section == section]
            for section in ("configs", "secrets")
        },
        "volumes": [
            {"type": "volume", "source": _volume_key(agent.name), "target": openclaw.STATE_DIR},
            {"type": "tmpfs", "target": "/tmp", "tmpfs": {"size": _TMP_BYTES}},  # noqa: S108  # the container's
        ],
        "networks": {_NETWORK: {"aliases": [agent.name]}},
        "healthcheck": _healthcheck(settings),
        "stop_grace_period": f"{settings['fleet.stop_grace']}s",
        "logging": {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}},
        "labels": marks,
        "deploy": _deploy(settings, agent),
    }


def _stamped(service: Mapping[str, Any], network: str) -> dict[str, Any]:
    """Put the digest of a service on it: two are the same service when their digests are."""
    deploy = {key: value for key, value in service["deploy"].items() if key != "labels"}
    # The service names its network and its volume by keys of the file: what they stand for counts too.
    whole = [{**service, "deploy": deploy}, network, volume(service)]
    digest = sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:12]
    return {**service, "deploy": deploy | {"labels": service["labels"] | {SPEC_LABEL: digest}}}


def _mounted(path: str, name: str) -> dict[str, Any]:
    # OpenClaw takes a secret file only from its own user, without any right for group and others.
    return {"source": name, "target": path, "uid": "1000", "gid": "1000", "mode": 0o400}


def _environment(agent: Agent) -> dict[str, str]:
    return {
        "OPENCLAW_CONFIG_PATH": CONFIG_FILE,
        "OPENCLAW_STATE_DIR": openclaw.STATE_DIR,
        "OPENCLAW_CONFIG_READONLY": "1",
        "OPENCLAW_DISABLE_BONJOUR": "1",
        "OPENCLAW_NO_AUTO_UPDATE": "1",
        "XDG_CACHE_HOME": f"{openclaw.STATE_DIR}/cache",
        "NODE_OPTIONS": f"--max-old-space-size={agent.memory_limit * 3 // 4 >> 20}",
    }


def _healthcheck(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "test": ["CMD-SHELL", _PROBE],
        "interval": f"{settings['fleet.health.interval']}s",
        "timeout": f"{settings['fleet.health.timeout']}s",
        "retries": settings["fleet.health.retries"],
        "start_period": f"{settings['fleet.health.start_period']}s",
    }


def _deploy(settings: Mapping[str, Any], agent: Agent) -> dict[str, Any]:
    limits: dict[str, Any] = {"memory": str(agent.memory_limit), "pids": _PIDS}
    if agent.cpu_limit:
        limits["cpus"] = f"{agent.cpu_limit:g}"
    stop_first = {"parallelism": 1, "order": "stop-first", "monitor": f"{settings['fleet.update.monitor']}s"}
    deploy: dict[str, Any] = {
        "replicas": agent.replicas,
        "endpoint_mode": "dnsrr",
        "resources": {"limits": limits, "reservations": {"memory": str(agent.memory_reservation)}},
        "restart_policy": {"condition": "any", "delay": f"{settings['fleet.restart.delay']}s"},
        "update_config": stop_first | {"failure_action": "rollback"},
        "rollback_config": stop_first | {"failure_action": "pause"},
    }
    if agent.node_id:
        deploy["placement"] = {"constraints": [f"node.id == {agent.node_id}"]}
    return deploy


def _volume_key(agent: str) -> str:
    return f"{agent}-state"

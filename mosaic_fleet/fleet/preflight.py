"""What must be so before a deploy changes anything: Swarm, network, image, nodes, and whose services these are."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from mosaic_fleet.errors import ConfigurationError, Conflict, NotFound, RuntimeFailure
from mosaic_fleet.fleet.openclaw import OLDEST_VERSION
from mosaic_fleet.fleet.options import Options
from mosaic_fleet.fleet.stack import Place, Placement, service_name, volume_name
from mosaic_fleet.names import format_size
from mosaic_fleet.runtimes.base import INSTALL_LABEL, Engine, Image, Node, StackRuntime

_OTHER_NETWORK = "mosaic agent import FILE   (with a network: of docker network ls --filter driver=overlay)"
_OTHER_IMAGE = "mosaic config set fleet.image …"
_VERSION = re.compile(r"(\d{4})\.(\d+)\.(\d+)")


@dataclass(frozen=True)
class Site:
    """Where a stack goes: the engine that answers, its Swarm's nodes by id, the images by reference, the network's id.

    In a dry run an image that would be pulled is missing, and a network that would be made has no id.
    """

    engine: Engine
    nodes: Mapping[str, Node]
    images: Mapping[str, Image]
    network_id: str


def check(
    runtime: StackRuntime,
    place: Place,
    report: Callable[[str], None],
    options: Options,
    *,
    adopting: Collection[str] = (),
) -> Site:
    """Look at everything a deploy needs; makes the network when asked and pulls images that are not here.

    Whose the services of `adopting` are is not asked. Raises RuntimeFailure, ConfigurationError or Conflict, each with
    what to do about it.
    """
    engine = swarm(runtime)
    _check_owner(runtime, place, adopting)
    nodes = {node.id: node for node in runtime.nodes()}
    for agent in place.agents:
        _check_size(agent, nodes, engine)
    found = runtime.network(place.network)
    if found is None and options.create_network and options.dry_run:
        report(f"would make network {place.network}")
    else:
        network(runtime, place.network, place.install, create=options.create_network, stack=place.stack)
        found = runtime.network(place.network)
    refs = dict.fromkeys(agent.image for agent in place.agents)
    images = {ref: image for ref in refs if (image := _image(runtime, ref, report, pull=not options.dry_run))}
    return Site(engine, nodes, images, found.id if found else "")


def swarm(runtime: StackRuntime) -> Engine:
    """Return the engine if it manages a Swarm; raises RuntimeFailure."""
    engine = runtime.engine()
    if engine.swarm != "active":
        raise RuntimeFailure(f"docker is not part of a swarm (it is {engine.swarm})", hint="docker swarm init")
    if not engine.is_manager:
        raise RuntimeFailure("this docker is a worker of its swarm", hint="point DOCKER_HOST at a manager")
    return engine


def check_node(agent: str, node: Node | None) -> None:
    """Refuse to stop an agent on a node that would not start it again; raises RuntimeFailure."""
    if node and (node.availability != "active" or node.state != "ready"):
        what = node.state if node.state != "ready" else {"drain": "drained", "pause": "paused"}.get(node.availability)
        raise RuntimeFailure(
            f'agent "{agent}" keeps its state on node {node.hostname}, which is {what or node.availability}',
            hint=f"docker node update --availability active {node.hostname}",
        )


def find_node(runtime: StackRuntime, name: str) -> Node:
    """Find a node by its id or hostname; raises NotFound."""
    nodes = runtime.nodes()
    for node in nodes:
        if name in (node.id, node.hostname):
            return node
    raise NotFound(f'no node "{name}"', hint=f"one of {', '.join(node.hostname for node in nodes)}")


def network(runtime: StackRuntime, name: str, install: str, *, create: bool, stack: str | None = None) -> bool:
    """Make sure that the stack's overlay network is there; return True when it was made.

    Raises RuntimeFailure when it is absent and may not be made, ConfigurationError when agents cannot join it.
    """
    found = runtime.network(name)
    if found is None and not create:
        command = f"mosaic fleet deploy --stack {stack}" if stack else "mosaic fleet deploy"
        raise RuntimeFailure(f'network "{name}" is not there', hint=f"{command} --create-network")
    if found is None:
        runtime.create_network(name, labels={INSTALL_LABEL: install})
        return True
    if found.driver != "overlay":
        raise ConfigurationError(
            f'network "{name}" is a {found.driver} network, agents need an overlay', hint=_OTHER_NETWORK
        )
    if name == "ingress":
        raise ConfigurationError('network "ingress" is Docker\'s own, agents cannot join it', hint=_OTHER_NETWORK)
    return False


def read_version(text: str) -> tuple[int, ...] | None:
    """Find a release such as `2026.9.6` in a text."""
    match = _VERSION.search(text)
    return tuple(map(int, match.groups())) if match else None


def is_older(version: str, than: str) -> bool:
    """Tell whether a release is older than another one; False where either is not known."""
    new, old = read_version(version), read_version(than)
    return bool(new and old and new < old)


def _check_owner(runtime: StackRuntime, place: Place, adopting: Collection[str]) -> None:
    """Refuse services and volumes of that name which this installation did not make; raises Conflict."""
    stack = {service.name: service for service in runtime.services(place.stack)}
    for agent in (agent for agent in place.agents if agent.name not in adopting):
        name = service_name(place.stack, agent.name)
        # Names are unique in a Swarm: one made outside of the stack is in the way too.
        service = stack.get(name) or runtime.service(name)
        if service and service.labels.get(INSTALL_LABEL) != place.install:
            raise Conflict(f'service "{name}" is {_whose(service.labels)}', hint=f"docker service inspect {name}")
        if agent.volume:  # adopted: it has no labels of Mosaic's, the place says whose it is
            continue
        name = volume_name(place.stack, agent.name)
        labels = runtime.volume_labels(name)
        if labels is not None and labels.get(INSTALL_LABEL) != place.install:
            former = labels.get(INSTALL_LABEL)
            takes_over = f"mosaic init --install {former}   (if that one's database is gone for good)"
            hint = takes_over if former else f"docker volume inspect {name}"
            raise Conflict(f'volume "{name}" is {_whose(labels)}', hint=hint)


def _whose(labels: Mapping[str, str]) -> str:
    other = labels.get(INSTALL_LABEL)
    return f"another Mosaic installation's ({other})" if other else "not Mosaic's"


def _check_size(agent: Placement, nodes: Mapping[str, Node], engine: Engine) -> None:
    if agent.node_id and agent.node_id not in nodes:
        raise RuntimeFailure(
            f'agent "{agent.name}" keeps its state on node {agent.node_id}, which is not in this swarm',
            hint=f"bring the node back, or give the state up: mosaic agent set {agent.name} --node NODE",
        )
    node = nodes.get(agent.node_id or engine.node_id)
    if node and agent.replicas and agent.memory_limit > node.memory_bytes:
        raise ConfigurationError(
            f'agent "{agent.name}" may use {format_size(agent.memory_limit)}, '
            f"node {node.hostname} has {format_size(node.memory_bytes)}",
            hint=f"mosaic agent set {agent.name} --memory …",
        )
    if node and agent.replicas and agent.cpu_limit and agent.cpu_limit > node.cpus:
        raise ConfigurationError(
            f'agent "{agent.name}" may use {agent.cpu_limit:g} CPUs, node {node.hostname} has {node.cpus:g}',
            hint=f"mosaic agent set {agent.name} --cpus …",
        )


def _image(runtime: StackRuntime, ref: str, report: Callable[[str], None], *, pull: bool) -> Image | None:
    """Find or pull an image and refuse a release that Mosaic cannot configure; its version is in the answer."""
    try:
        image = runtime.image(ref)
        if image is None and not pull:
            report(f"would pull {ref}")
            return None
        image = image or _pull(runtime, ref, report)
    except RuntimeFailure as error:
        message = error.message if ref in error.message else f"image {ref}: {error.message}"
        raise RuntimeFailure(message, hint=error.hint or _OTHER_IMAGE) from error
    release = check_version(ref, image.version or _ask_version(runtime, ref))
    return replace(image, version=".".join(map(str, release)) if release else "")


def check_version(ref: str, text: str) -> tuple[int, ...] | None:
    """Return the release that a text names; raises ConfigurationError for one that Mosaic cannot configure."""
    release = read_version(text)
    if release and release < OLDEST_VERSION:
        floor = ".".join(map(str, OLDEST_VERSION))
        raise ConfigurationError(
            f"image {ref} is OpenClaw {'.'.join(map(str, release))}, Mosaic needs {floor} or later",
            hint=_OTHER_IMAGE,
        )
    return release


def _pull(runtime: StackRuntime, ref: str, report: Callable[[str], None]) -> Image:
    report(f"pulling {ref}")
    return runtime.pull(ref, report=report)


def _ask_version(runtime: StackRuntime, ref: str) -> str:
    return runtime.run_once(ref, ["openclaw", "--version"], labels={}).stdout

"""What a runtime for a roster's stack can do, as a protocol, and the values it speaks in."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Kind = Literal["docker_config", "docker_secret"]
Stream = Literal["stdout", "stderr"]
INSTALL_LABEL = "com.mosaic.install"
STACK_LABEL = "com.mosaic.stack"
AGENT_LABEL = "com.mosaic.agent"
ROLE_LABEL = "com.mosaic.role"
SPEC_LABEL = "com.mosaic.spec"
VOLUME_LABEL = "com.mosaic.volume"


@dataclass(frozen=True)
class Engine:
    """The Docker engine that answers: `swarm` is Docker's own word for the node's state (`active`, `inactive`, …).

    `no_new_privileges` is True when the engine says that containers have it by default; engine 20.10 never says.
    """

    version: str
    swarm: str
    node_id: str
    is_manager: bool
    memory_bytes: int
    no_new_privileges: bool


@dataclass(frozen=True)
class Node:
    """A Swarm node; `availability` is `active`, `pause` or `drain`, `state` is `ready`, `down`, …; `cpus` are cores."""

    id: str
    hostname: str
    state: str
    availability: str
    memory_bytes: int
    cpus: float


@dataclass(frozen=True)
class Image:
    """An image on the engine; `version` is its label `org.opencontainers.image.version`, "" without one."""

    id: str
    version: str
    digest: str | None


@dataclass(frozen=True)
class Network:
    """A Docker network."""

    id: str
    name: str
    driver: str
    attachable: bool
    labels: Mapping[str, str]


@dataclass(frozen=True)
class DockerObject:
    """A Docker config or Docker secret (its content is never read back)."""

    id: str
    name: str
    kind: Kind
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Service:
    """A Swarm service: what is wanted (`spec` is Docker's own) and how many tasks run."""

    id: str
    name: str
    labels: Mapping[str, str]
    spec: Mapping[str, Any]
    running: int
    desired: int
    update_state: str = ""
    update_message: str = ""
    update_started: str = ""


@dataclass(frozen=True)
class Task:
    """One attempt of Swarm to run a service; `spec` is Docker's own, times are ISO 8601 text."""

    id: str
    service_id: str
    node_id: str
    desired: str
    state: str
    since: str
    created: str
    message: str
    error: str
    exit_code: int | None
    container_id: str | None
    spec: Mapping[str, Any] = field(repr=False, default_factory=dict)


@dataclass(frozen=True)
class ContainerEnd:
    """How a container ended, or that it runs or is still to: Swarm's task does not say OOM, nor a failed probe."""

    started: bool
    running: bool
    exit_code: int
    oom_killed: bool
    health: str
    last_probe: str


@dataclass(frozen=True)
class Folder:
    """A folder of a volume ("" is all of it), or of a container, running or ended, where one is named."""

    path: str
    volume: str = ""
    container: str = ""


@dataclass(frozen=True)
class Finished:
    """What a command in a container left: its exit code and its output."""

    exit_code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class LogLine:
    """A line that a container wrote; `at` is ISO 8601 text in UTC, `cut` says that its end was too much to keep."""

    at: str
    stream: Stream
    text: str
    cut: bool = False


@dataclass(frozen=True)
class Streams:
    """File descriptors that a command in a container reads and writes."""

    stdin: int = 0
    stdout: int = 1
    stderr: int = 2


def by_agent(services: Iterable[Service], install: str) -> dict[str, Service]:
    """Pick an installation's services, by agent."""
    mine = [one for one in services if one.labels.get(INSTALL_LABEL) == install]
    return {one.labels[AGENT_LABEL]: one for one in mine if AGENT_LABEL in one.labels}


class StackRuntime(Protocol):
    """Runs a roster's stack. Every method raises RuntimeFailure when Docker refuses or cannot be reached."""

    def engine(self) -> Engine:
        """Describe the engine that answers."""

    def nodes(self) -> list[Node]:
        """List the Swarm's nodes."""

    def image(self, ref: str) -> Image | None:
        """Find an image on this engine, None when it is not there."""

    def pull(self, ref: str, *, report: Callable[[str], None]) -> Image:
        """Pull an image, reporting progress a line at a time."""

    def network(self, name: str) -> Network | None:
        """Find a network by its exact name."""

    def create_network(self, name: str, *, labels: Mapping[str, str]) -> Network:
        """Create an attachable overlay network; raises Conflict when there is one of that name."""

    def services(self, stack: str) -> list[Service]:
        """List a stack's services, whoever made them."""

    def service(self, name: str) -> Service | None:
        """Find a service by its exact name, in whichever stack or in none."""

    def tasks(self, stack: str) -> list[Task]:
        """List a stack's tasks, newest first, past ones included."""

    def docker_objects(self, labels: Mapping[str, str]) -> list[DockerObject]:
        """List the Docker configs and Docker secrets that carry all these labels."""

    def docker_object(self, kind: Kind, name: str) -> DockerObject | None:
        """Find a Docker config or Docker secret by its exact name."""

    def create_docker_object(self, kind: Kind, name: str, data: bytes, *, labels: Mapping[str, str]) -> DockerObject:
        """Create a Docker config or Docker secret; raises Conflict when there is one of that name."""

    def remove_docker_object(self, item: DockerObject) -> bool:
        """Remove it by id; False when a service still uses it, True when it is gone."""

    def deploy_stack(self, stack: str, text: str) -> None:
        """Hand a stack file to Swarm without waiting and without asking a registry about images.

        What the file says is what services have then, whatever was changed on them by hand.
        """

    def restart_service(self, service_id: str) -> None:
        """Have Swarm replace a service's task by another of the same spec, as an update, without waiting."""

    def update_service(self, service_id: str, *, labels: Mapping[str, str]) -> None:
        """Add labels to a service; no task is touched."""

    def halt_service(self, service_id: str) -> None:
        """End a service's task and let the next one wait for ever; the container that ended stays to be read.

        What is deployed later under its name runs again.
        """

    def remove_service(self, service_id: str) -> None:
        """Remove a service; its containers drain on. One that is gone already is no error."""

    def volumes(self, labels: Mapping[str, str]) -> list[str]:
        """List the names of this engine's volumes that carry all these labels."""

    def volume_labels(self, name: str) -> Mapping[str, str] | None:
        """Return a volume's labels, None when there is no such volume."""

    def create_volume(self, name: str, *, labels: Mapping[str, str]) -> None:
        """Create a local volume; one that is there already stays as it is."""

    def make_folder(self, volume: str, folder: str, *, image: str, at: str, file: str = "") -> None:
        """Make a folder of user 1000, mode 0700, in a volume that containers of `image` mount `at` a path.

        The volume itself gets that owner and mode too. What is in it stays; an empty `file` is made there, unless one
        of that name has content.
        """

    def has_folder(self, folder: Folder, *, image: str) -> bool:
        """Tell whether there is such a folder; `image` is any that is here."""

    def copy_folder(self, source: Folder, target: Folder, *, image: str) -> bool:
        """Copy a folder's contents into one of a volume that is there, owners and modes as they are.

        What is there of the same name is replaced, the rest stays. False when there is no such source. Nothing runs
        for it; `image` is any that is here.
        """

    def remove_volume(self, name: str) -> bool:
        """Remove a volume; False when a container still uses it, True when it is gone.

        What a killed make_folder() or copy_folder() left does not count, and goes first.
        """

    def container_end(self, container_id: str) -> ContainerEnd | None:
        """Tell how a container ended; None when it is not on this engine."""

    def memory(self, container_ids: Sequence[str]) -> dict[str, int]:
        """Tell how many bytes running containers use; those that are not on this engine are left out."""

    def logs(self, container_id: str, *, tail: int) -> str:
        """Return the last lines of a container's standard error."""

    def log_lines(self, container_id: str, *, after: str = "", follow: bool = False) -> Iterator[LogLine]:
        """Yield what a container wrote on both streams, oldest first, in bounded memory.

        `after` is the time of the last line already known; `follow` goes on until the container ends. Raises
        RuntimeFailure when the container is not on this engine.
        """

    def run_once(
        self,
        image: str,
        command: Sequence[str],
        *,
        labels: Mapping[str, str],
        stdin: bytes = b"",
    ) -> Finished:
        """Run a command in a throw-away hardened container without network, as user 1000.

        The root is read-only, `/tmp` is a tmpfs. The container is gone afterwards.
        """

    def exec(self, container_id: str, command: Sequence[str], *, stdin: bytes) -> Iterator[bytes]:
        """Run a command in a running container, feed it `stdin`, yield its standard output as it comes.

        Raises RuntimeFailure with its standard error when it ends with another code than 0, and when the
        container is not on this engine.
        """

    def attach(self, container_id: str, command: Sequence[str], streams: Streams, *, terminal: bool) -> int:
        """Run a command in a running container on these streams and return its exit code.

        With `terminal` the streams are one, and it gets one of the same size. When we end, it ends.
        """

"""What a runtime for users' gateways can do, as a protocol, and the values it speaks in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mosaic_fleet.runtimes.base import Engine, Image

OWNER_LABEL = "com.mosaic.owner"
KIND_LABEL = "com.mosaic.kind"
CONFIG_LABEL = "com.mosaic.config"
USER_GATEWAY = "user-gateway"


@dataclass(frozen=True)
class Limits:
    """What a gateway may use: bytes (no swap beyond them), cores, processes and open files."""

    memory: int
    cpus: float
    pids: int = 512
    files: int = 8192


@dataclass(frozen=True)
class Wanted:
    """A gateway's container as it is to be made; `image` is an id, `bridge` the name of its network.

    `volume` is mounted at `state_dir`; `run_dir` is a tmpfs of user 1000, mode 0700, for what comes on stdin.
    """

    name: str
    image: str
    bridge: str
    volume: str
    state_dir: str
    run_dir: str
    command: Sequence[str]
    environment: Mapping[str, str]
    limits: Limits
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Container:
    """A container as Docker knows it: `state` is Docker's word (`created running paused exited dead …`).

    `address` is its IP address on its first network, "" unless it runs; `started` and `ended` are ISO 8601 text.
    `memory_limit` and `swap_limit` (memory and swap together) are bytes, 0 in a list; they are the same, but while
    memory is being reclaimed. Where the kernel does not count swap Docker keeps no `swap_limit`: it is -1.
    """

    id: str
    name: str
    state: str
    labels: Mapping[str, str]
    address: str = ""
    exit_code: int = 0
    oom_killed: bool = False
    started: str = ""
    memory_limit: int = 0
    swap_limit: int = 0

    @property
    def is_squeezed(self) -> bool:
        """Tell whether it still has the low limit of a reclaim that broke off."""
        return self.memory_limit < self.swap_limit

    @property
    def lives(self) -> bool:
        """Tell whether its processes are there, so that its volume is taken."""
        return self.state in ("running", "paused", "restarting", "removing")


@dataclass(frozen=True)
class Bridge:
    """A network of this engine with its subnets; `interface` is the host's name for the bridge, "" when unknown."""

    id: str
    name: str
    interface: str
    subnets: Sequence[str]
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Memory:
    """The host's memory in bytes: all of it, and what could be used without swapping."""

    total: int
    available: int


@dataclass(frozen=True)
class Swap:
    """Where paused gateways' memory can go, in bytes; a compressed one (zram) holds it in the host's memory, packed.

    `obstacle` says why nothing can be given back on this host, None when it can.
    """

    total: int
    free: int
    is_compressed: bool = False
    obstacle: str | None = None


@dataclass(frozen=True)
class Answer:
    """What a gateway answered to a request."""

    status: int
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class Sent:
    """What is sent to a gateway."""

    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class GatewayRuntime(Protocol):
    """Runs users' gateways on one engine. Every method raises RuntimeFailure when Docker refuses or does not answer."""

    @property
    def is_local(self) -> bool:
        """Tell whether the engine is this machine's: its containers' addresses can be dialled."""

    def engine(self) -> Engine:
        """Describe the engine that answers."""

    def host_memory(self) -> Memory:
        """Look at the host's memory."""

    def swap(self) -> Swap:
        """Look where paused containers' memory can go, and whether it can."""

    def image(self, ref: str) -> Image | None:
        """Find an image on this engine, None when it is not there."""

    def bridges(self) -> list[Bridge]:
        """List the engine's networks, whoever made them."""

    def create_bridge(self, name: str, *, interface: str, subnet: str, labels: Mapping[str, str]) -> None:
        """Create a bridge network; raises Conflict when the name, the interface or the subnet is taken."""

    def remove_bridge(self, name: str) -> None:
        """Remove a network; one that is gone already is no error."""

    def volume_labels(self, name: str) -> Mapping[str, str] | None:
        """Return a volume's labels, None when there is no such volume."""

    def create_volume(self, name: str, *, labels: Mapping[str, str]) -> None:
        """Create a local volume; one that is there already stays as it is."""

    def remove_volume(self, name: str) -> bool:
        """Remove a volume; False when a container still uses it, True when it is gone."""

    def containers(self, labels: Mapping[str, str]) -> list[Container]:
        """List the containers that carry all these labels, ended ones too, in one call; exit codes are not in it."""

    def container(self, name: str) -> Container | None:
        """Find a container by its name or id."""

    def memory(self, container_ids: Sequence[str]) -> dict[str, int]:
        """Tell how many bytes living containers use, without what is in swap; ended ones are left out."""

    def create(self, wanted: Wanted) -> str:
        """Create a hardened container and return its id; raises Conflict when there is one of that name."""

    def start(self, container_id: str, *, stdin: bytes) -> None:
        """Start a created container and send it bytes on its standard input, which ends with them."""

    def terminate(self, container_id: str) -> None:
        """Ask a container's process to end (SIGTERM) without waiting; one that has ended is no error."""

    def kill(self, container_id: str) -> None:
        """End a container's process (SIGKILL) without waiting; one that has ended is no error."""

    def pause(self, container_id: str) -> None:
        """Freeze a running container; one that is paused already is no error."""

    def unpause(self, container_id: str) -> None:
        """Let a paused container go on with the memory limit it was made with; one that does is no error."""

    def reclaim(self, container_id: str) -> bool:
        """Push a paused container's memory out to swap and restore its limit; nothing is ever killed for it.

        False when nothing was given back: the host cannot, the kernel did not find the room, or it is not paused.
        """

    def remove(self, container_id: str) -> None:
        """Remove a container that has ended; its volume stays. One that is gone already is no error."""

    def logs(self, container_id: str, *, tail: int) -> str:
        """Return the last lines of a container's standard error."""

    def execs(self, container_id: str) -> list[str]:
        """Name the programs that Docker started in a container beside its own (`docker exec`) and that still run."""

    def get(self, address: str, path: str, *, port: int, timeout: float) -> Answer | None:
        """Ask a gateway over HTTP; None when nothing answers within `timeout` seconds in all."""

    def post(self, address: str, path: str, sent: Sent, *, port: int, timeout: float) -> Answer | None:
        """Send a gateway something over HTTP; None when nothing answers within `timeout` seconds in all."""


class Walls(Protocol):
    """The packet filter between an installation's user gateways and everything that is not theirs."""

    def apply(self, install: str, settings: Mapping[str, Any]) -> bool:
        """Put every rule into force; return False when they were already."""

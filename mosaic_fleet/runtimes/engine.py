"""`EngineRuntime`: users' gateways as hardened containers on one Docker Engine."""

import ipaddress
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mosaic_fleet.errors import Conflict, RuntimeFailure
from mosaic_fleet.runtimes import exchange
from mosaic_fleet.runtimes.endpoint import Refused
from mosaic_fleet.runtimes.gateway_base import Answer, Bridge, Container, Memory, Sent, Swap, Wanted
from mosaic_fleet.runtimes.swarm import SwarmRuntime

_INTERFACE = "com.docker.network.bridge.name"
_MEMINFO = Path("/proc/meminfo")
_SWAPS = Path("/proc/swaps")
# What is left to a paused gateway while it is reclaimed: of 900 MB of OpenClaw the rest goes to swap.
_SQUEEZED = 32 << 20
# Two gigabytes to a disk that writes ten megabytes a second.
_RECLAIM_SECONDS = 300.0
_TMP = "rw,noexec,nosuid,nodev,size=256m,mode=1777"
_PRIVATE = "rw,noexec,nosuid,nodev,size=8m,uid=1000,gid=1000,mode=0700"


class EngineRuntime(SwarmRuntime):
    """Docker at an endpoint, seen as one engine; implements GatewayRuntime.

    Images, volumes and logs are an engine's whether it is in a Swarm or not: they are inherited.
    """

    @property
    def is_local(self) -> bool:
        """Tell whether the engine is this machine's: its containers' addresses can be dialled."""
        return self._endpoint.host.startswith("unix://")

    def host_memory(self) -> Memory:
        """Look at the host's memory, which a container sees too."""
        sizes = _meminfo()
        return Memory(sizes["MemTotal"], sizes["MemAvailable"])

    def swap(self) -> Swap:
        """Look where paused containers' memory can go, and whether it can."""
        sizes, info = _meminfo(), self._endpoint.get("info")
        found = Swap(sizes.get("SwapTotal", 0), sizes.get("SwapFree", 0), is_compressed=_has_zram())
        return replace(found, obstacle=_obstacle(found, info) if self.is_local else "Docker is on another machine")

    def bridges(self) -> list[Bridge]:
        """List the engine's networks, whoever made them."""
        return [_bridge(item) for item in self._endpoint.get("networks")]

    def create_bridge(self, name: str, *, interface: str, subnet: str, labels: Mapping[str, str]) -> None:
        """Create a bridge network; raises Conflict when the name, the interface or the subnet is taken."""
        pool = {"Subnet": subnet, "Gateway": str(ipaddress.ip_network(subnet)[1])}
        body = {
            "Name": name,
            "Driver": "bridge",
            "CheckDuplicate": True,
            "EnableIPv6": False,
            "IPAM": {"Driver": "default", "Config": [pool]},
            "Options": {_INTERFACE: interface},
            "Labels": dict(labels),
        }
        try:
            self._create("networks", name, body)
        except Refused as refusal:
            if refusal.status == 403:  # Docker's answer to a subnet or an interface that another network has
                raise Conflict(refusal.message) from refusal
            raise

    def remove_bridge(self, name: str) -> None:
        """Remove a network; one that is gone already is no error."""
        self._endpoint.delete("networks", name)

    def containers(self, labels: Mapping[str, str]) -> list[Container]:
        """List the containers that carry all these labels, ended ones too, in one call; exit codes are not in it."""
        filters = {"label": [f"{key}={value}" for key, value in labels.items()]}
        return [_listed(item) for item in self._endpoint.get("containers", "json", all="1", filters=filters)]

    def container(self, name: str) -> Container | None:
        """Find a container by its name or id."""
        item = self._endpoint.find("containers", name, "json")
        return _container(item) if item else None

    def create(self, wanted: Wanted) -> str:
        """Create a hardened container and return its id; raises Conflict when there is one of that name."""
        try:
            answer = self._endpoint.post("containers", "create", name=wanted.name, body=_body(wanted))
        except Refused as refusal:
            if refusal.status == 409:
                raise Conflict(f"docker has a container named {wanted.name!r} already") from refusal
            raise
        return str(answer["Id"])

    def start(self, container_id: str, *, stdin: bytes) -> None:
        """Start a created container and send it bytes on its standard input, which ends with them.

        Attached before it is started, so that it cannot read from nobody.
        """
        with self._endpoint.attached("containers", container_id, "attach", stream="1", stdin="1") as send:
            self._endpoint.post("containers", container_id, "start", body={})
            send(stdin)

    def terminate(self, container_id: str) -> None:
        """Ask a container's process to end (SIGTERM) without waiting; one that has ended is no error.

        A paused one is let go on, or it would never hear it.
        """
        self.unpause(container_id)
        self._signal(container_id, "SIGTERM")

    def kill(self, container_id: str) -> None:
        """End a container's process (SIGKILL) without waiting; one that has ended is no error.

        Docker kills no paused one.
        """
        self.unpause(container_id)
        self._signal(container_id, "SIGKILL")

    def unpause(self, container_id: str) -> None:
        """Let a paused container go on with the memory limit it was made with; one that does is no error.

        The limit of a paused one is set whatever Docker's record says: a reclaim that broke off may have come later.
        Where the kernel does not count swap nothing is ever reclaimed, and Docker refuses the limit that it keeps.
        """
        seen = self.container(container_id)
        if seen and seen.swap_limit > 0 and (seen.state == "paused" or (seen.lives and seen.is_squeezed)):
            self._limit(seen, seen.swap_limit)
        with _allowed("not paused", "not running", "No such container"):
            self._endpoint.post("containers", container_id, "unpause", body={})

    def pause(self, container_id: str) -> None:
        """Freeze a running container; one that is paused already is no error."""
        with _allowed("already paused"):
            self._endpoint.post("containers", container_id, "pause", body={})

    def reclaim(self, container_id: str) -> bool:
        """Push a paused container's memory out to swap and restore its limit; nothing is ever killed for it.

        False when nothing was given back: the host cannot, the kernel did not find the room, or it is not paused.
        """
        seen = self.container(container_id)
        if seen is None or seen.state != "paused" or self.swap().obstacle:
            return False
        # Not on the connection that everybody shares: it takes as long as the swap does.
        with closing(EngineRuntime(self._endpoint.again(_RECLAIM_SECONDS))) as apart:
            try:
                apart._limit(seen, min(_SQUEEZED, seen.swap_limit))
                return True
            except Refused:  # control groups v1 refuse a limit that they cannot reach, and keep the old one
                return False
            finally:
                apart._limit(seen, seen.swap_limit)

    def _limit(self, seen: Container, memory: int) -> None:
        body = {"Memory": memory, "MemorySwap": seen.swap_limit}
        with _allowed("No such container"):
            self._endpoint.post("containers", seen.id, "update", body=body)

    def remove(self, container_id: str) -> None:
        """Remove a container that has ended; its volume stays. One that is gone already is no error."""
        with _allowed("already in progress"):
            self._endpoint.delete("containers", container_id)

    def execs(self, container_id: str) -> list[str]:
        """Name the programs that Docker started in a container beside its own (`docker exec`) and that still run."""
        item = self._endpoint.find("containers", container_id, "json") or {}
        found = [self._endpoint.find("exec", one, "json") for one in item.get("ExecIDs") or []]
        return [one["ProcessConfig"]["entrypoint"] for one in found if one and one["Running"]]

    def get(self, address: str, path: str, *, port: int, timeout: float) -> Answer | None:
        """Ask a gateway over HTTP; None when nothing answers within `timeout` seconds in all."""
        return exchange.answer("GET", (address, port), path, timeout)

    def post(self, address: str, path: str, sent: Sent, *, port: int, timeout: float) -> Answer | None:
        """Send a gateway something over HTTP; None when nothing answers within `timeout` seconds in all."""
        return exchange.answer("POST", (address, port), path, timeout, sent)

    def _signal(self, container_id: str, name: str) -> None:
        with _allowed("is not running", "No such container"):
            self._endpoint.post("containers", container_id, "kill", signal=name, body={})


def _meminfo() -> dict[str, int]:
    """Return the kernel's figures in bytes; raises RuntimeFailure where it tells none, as on a Mac."""
    try:
        lines = _MEMINFO.read_text("ascii").splitlines()
    except OSError as error:
        raise RuntimeFailure(f"this machine's memory is not known: {_MEMINFO}: {error.strerror}") from error
    return {name: int(rest.split()[0]) << 10 for name, _, rest in (line.partition(":") for line in lines)}


def _has_zram() -> bool:
    """Tell whether some swap is compressed memory; a kernel without swap has no such file."""
    return _SWAPS.exists() and "/zram" in _SWAPS.read_text("utf-8")


def _obstacle(swap: Swap, info: Mapping[str, Any]) -> str | None:
    """Say why a limit is not lowered here: without a place to go the memory stays, and control groups v2 may kill."""
    if not swap.total:
        return "this host has no swap"
    if str(info.get("CgroupVersion", "1")) != "1":
        return "this host has control groups v2, where a lowered limit may kill"
    return None if info.get("SwapLimit") else "this host's kernel does not count swap (swapaccount=1)"


@contextmanager
def _allowed(*words: str) -> Iterator[None]:
    """Let a refusal pass that says that there was nothing to do."""
    try:
        yield
    except Refused as refusal:
        if not any(word in refusal.message for word in words):
            raise


def _body(wanted: Wanted) -> dict[str, Any]:
    """Write a container as Docker wants it; nothing secret is in it."""
    return {
        "Image": wanted.image,
        "Hostname": "gateway",
        "User": "1000:1000",
        "Entrypoint": list(wanted.command),
        "Cmd": [],
        "Env": [f"{name}={value}" for name, value in wanted.environment.items()],
        "Labels": dict(wanted.labels),
        "AttachStdin": True,
        "OpenStdin": True,
        "StdinOnce": True,
        "StopSignal": "SIGTERM",
        "Healthcheck": {"Test": ["NONE"]},  # Mosaic asks over the network, for a hundredth of the price
        "HostConfig": _host(wanted),
    }


def _host(wanted: Wanted) -> dict[str, Any]:
    limits = wanted.limits
    return {
        "NetworkMode": wanted.bridge,
        "ReadonlyRootfs": True,
        "Init": True,
        "Privileged": False,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "Tmpfs": {"/tmp": _TMP, wanted.run_dir: _PRIVATE},  # noqa: S108  # the container's
        "Mounts": [{"Type": "volume", "Source": wanted.volume, "Target": wanted.state_dir}],
        "Memory": limits.memory,
        "MemorySwap": limits.memory,
        "NanoCpus": int(limits.cpus * 1e9),
        "PidsLimit": limits.pids,
        "Ulimits": [{"Name": "nofile", "Soft": limits.files, "Hard": limits.files}],
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "5m", "max-file": "2"}},
    }


def _bridge(item: dict[str, Any]) -> Bridge:
    pools = (item.get("IPAM") or {}).get("Config") or []
    subnets = tuple(pool["Subnet"] for pool in pools if pool.get("Subnet"))
    interface = (item.get("Options") or {}).get(_INTERFACE, "")
    return Bridge(item["Id"], item["Name"], interface, subnets, item.get("Labels") or {})


def _listed(item: dict[str, Any]) -> Container:
    return Container(
        id=item["Id"],
        name=item["Names"][0].removeprefix("/"),
        state=item["State"],
        labels=item["Labels"] or {},
        address=_address(item["NetworkSettings"]),
    )


def _container(item: dict[str, Any]) -> Container:
    state = item["State"]
    return Container(
        id=item["Id"],
        name=item["Name"].removeprefix("/"),
        state=state["Status"],
        labels=item["Config"]["Labels"] or {},
        address=_address(item["NetworkSettings"]),
        exit_code=state["ExitCode"],
        oom_killed=state["OOMKilled"],
        started=state["StartedAt"],
        memory_limit=item["HostConfig"]["Memory"],
        swap_limit=item["HostConfig"]["MemorySwap"],
    )


def _address(settings: dict[str, Any]) -> str:
    networks = (settings.get("Networks") or {}).values()
    return next((network["IPAddress"] for network in networks if network["IPAddress"]), "")

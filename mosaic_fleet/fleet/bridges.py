"""A network for each running gateway, cut from Mosaic's own pool."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Network, ip_network

from mosaic_fleet.errors import Conflict, RuntimeFailure
from mosaic_fleet.names import bridge_prefix
from mosaic_fleet.runtimes.base import INSTALL_LABEL
from mosaic_fleet.runtimes.gateway_base import Bridge, GatewayRuntime

# Docker's default pools end after 29 networks; a /16 holds 4,096 of these.
_PREFIX = 28
_SIZE = 1 << (32 - _PREFIX)
_INTERFACE = re.compile(r"mu[0-9a-f]*-(\d{1,7})", re.ASCII)
_MOST_REFUSED = 32


def make(
    runtime: GatewayRuntime,
    name: str,
    pool: IPv4Network,
    *,
    labels: Mapping[str, str],
    choose: Callable[[Collection[int]], int],
) -> None:
    """Make a network at a place that is chosen, given the places that Docker refused.

    Docker lists a network only when it is made, and others who use this engine choose places too: a refused place is
    passed by instead of asked for again. Raises Conflict when 32 were refused.
    """
    refused: set[int] = set()
    while True:
        index = choose(refused)
        bridge = interface(labels[INSTALL_LABEL], index)
        try:
            runtime.create_bridge(name, interface=bridge, subnet=subnet(pool, index), labels=labels)
            return
        except Conflict:
            refused.add(index)
            if len(refused) == _MOST_REFUSED:
                raise


def subnet(pool: IPv4Network, index: int) -> str:
    """Return the network at a place in the pool."""
    return str(IPv4Network((int(pool.network_address) + index * _SIZE, _PREFIX)))


def interface(install: str, index: int) -> str:
    """Name the host's bridge at a place in the pool; the installation's packet filter matches it by its beginning."""
    return f"{bridge_prefix(install)}{index}"


def free(pool: IPv4Network, taken: Iterable[int], bridges: Sequence[Bridge]) -> int:
    """Return the first place that neither the database nor a network of this engine has.

    Raises RuntimeFailure when there is none.
    """
    blocked = {*taken, *_occupied(pool, bridges)}
    for index in range(pool.num_addresses // _SIZE):
        if index not in blocked:
            return index
    raise RuntimeFailure(
        f"no network is free in the pool {pool}", hint="mosaic config set gateways.subnet_pool …   (a larger one)"
    )


def _occupied(pool: IPv4Network, bridges: Sequence[Bridge]) -> Iterable[int]:
    first, last = int(pool.network_address), int(pool.broadcast_address)
    for bridge in bridges:
        if found := _INTERFACE.fullmatch(bridge.interface):
            yield int(found[1])
        for network in map(ip_network, bridge.subnets):
            if isinstance(network, IPv4Network):
                low, high = max(first, int(network.network_address)), min(last, int(network.broadcast_address))
                yield from range((low - first) // _SIZE, (high - first) // _SIZE + 1) if low <= high else ()

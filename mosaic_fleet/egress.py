"""Which addresses Mosaic's own requests may reach: the public ones, and those that the setting `egress.allow` lists.

Pure. The address is judged, never the way it was spelled: whoever connects judges what the name resolved to.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal

from mosaic_fleet.errors import Invalid

Verdict = Literal["open", "private", "never"]
Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_LONGEST, _MOST = 10_000, 200  # characters, entries
_ENTRY = re.compile(r"(?:\[(?P<six>[0-9a-f:.]+(?:/\d{1,3})?)\]|(?P<four>[0-9.]+(?:/\d{1,2})?))(?::(?P<port>\d{1,5}))?")

# Never called, whatever is allowed: link-local, where clouds keep their metadata, and their other places for it
# (Alibaba, Azure, Oracle, AWS, Google); what means this host or many; and forms of IPv6 that hide an IPv4 address.
NEVER: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in (
        *("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"),
        *("100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32"),
        *("fe80::/10", "ff00::/8", "fd00:ec2::254/128", "fd20:ce::254/128"),
        *("::/128", "::ffff:0:0:0/96", "64:ff9b:1::/48", "2001::/32"),
    )
)
# Beyond what Python's `is_global` knows in every version (IANA's registries of special-purpose addresses).
_PRIVATE: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in ("100.64.0.0/10", "192.0.0.0/24", "198.18.0.0/15", "fec0::/10", "3fff::/20", "5f00::/16")
)
_LOOPBACK = IPv6Address("::1")
_COMPATIBLE, _NAT64, _SIX_TO_FOUR = (IPv6Network(text) for text in ("::/96", "64:ff9b::/96", "2002::/16"))
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)


@dataclass(frozen=True)
class Opening:
    """A network that may be called although it is private, on one port or on all."""

    network: Network
    port: int | None

    def covers(self, address: Address, port: int) -> bool:
        """Tell whether it allows an address and a port."""
        return address in self.network and self.port in (None, port)


def parse(text: str) -> tuple[Opening, ...]:
    """Read `egress.allow`: addresses or networks between commas, each with an optional port; raises Invalid.

    IPv6 stands in brackets: `10.1.1.42:11434, 192.168.0.0/16, [fd00::/8], [fd00::5]:443`.
    """
    entries = [entry.strip() for entry in text.split(",")] if text.strip() else []
    if len(text) > _LONGEST or len(entries) > _MOST:
        raise Invalid(f"must have at most {_MOST} entries and {_LONGEST} characters")
    return tuple(_opening(entry) for entry in entries)


def judge(text: str, port: int, allowed: Sequence[Opening]) -> Verdict:
    """Judge an address that a name was resolved to: `open`, `private` and not allowed, or `never` to be called."""
    try:
        address = ip_address(text)
    except ValueError:
        return "never"
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return "never"
        if address.ipv4_mapped:
            return judge(str(address.ipv4_mapped), port, allowed)
        inner = _embedded(address)
        if inner is not None and (inner in _COMPATIBLE or judge(str(inner), port, ()) != "open"):
            return "never"
    if any(address in network for network in NEVER) or _is_compatible(address):
        return "never"
    if _is_public(address) or any(opening.covers(address, port) for opening in allowed):
        return "open"
    return "private"


def where(url: str) -> str:
    """Shorten an address to what an error shows of it: `https://api.z.ai/…`."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}/…"


def _is_public(address: Address) -> bool:
    return address.is_global and not any(address in network for network in _PRIVATE)


def _is_compatible(address: Address) -> bool:
    return address in _COMPATIBLE and address != _LOOPBACK


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address at which a translator or a tunnel would deliver: NAT64, 6to4, ISATAP."""
    number = int(address)
    if address in _SIX_TO_FOUR:
        return IPv4Address(number >> 80 & 0xFFFF_FFFF)
    if address in _NAT64 or number >> 32 & 0xFFFF_FFFF in _ISATAP:
        return IPv4Address(number & 0xFFFF_FFFF)
    return None


def _opening(entry: str) -> Opening:
    match = _ENTRY.fullmatch(entry.lower()) if entry.isascii() else None
    wrong = Invalid(
        f"has the entry {entry[:60]!r}: write addresses or networks such as 10.1.1.42:11434, 10.1.0.0/16, [fd00::5]:80"
    )
    if match is None:
        raise wrong
    try:
        network = ip_network(match["six"] or match["four"])
    except ValueError:
        raise wrong from None
    port = int(match["port"]) if match["port"] else None
    if (network.version == 6) != bool(match["six"]) or port == 0 or (port or 0) > 65_535:
        raise wrong
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped:
        raise Invalid(f"has the entry {entry[:60]!r}: write the IPv4 address itself")
    # mypy does not see that both are of one version.
    if any(network.version == never.version and network.subnet_of(never) for never in NEVER):  # type: ignore[arg-type]
        raise Invalid(f"has the entry {entry[:60]!r}: link-local, metadata and reserved addresses are never called")
    return Opening(network, port)

"""What this machine's kernel says of its network: its addresses, and where all else goes."""

import fcntl
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

_SIOCGIFADDR = 0x8915
_ROUTES = Path("/proc/net/route")


def addresses() -> dict[str, str]:
    """Return the first IPv4 address of every interface but loopback, by its name."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asking, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue
            address = socket.inet_ntoa(answer[20:24])
            if not address.startswith("127."):
                found[name] = address
    return found


def has_route(address: str) -> bool:
    """Tell whether this machine would know where to send what is for an address; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect((address, 9))
        except OSError:
            return False
    return True


def default_gateways(routes: Path = _ROUTES) -> list[str]:
    """Return the routers to which this machine sends what is not its own network's."""
    try:
        return list(_gateways(routes.read_text("ascii")))
    except OSError:
        return []


def _gateways(table: str) -> Iterator[str]:
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) > 7 and words[1] == words[7] == "00000000" and words[2] != "00000000":
            yield socket.inet_ntoa(struct.pack("<L", int(words[2], 16)))

"""Calls forbidden addresses where nothing can leave: run in a network namespace of its own, without uplink.

`unshare --net python -m tests.docker.walled` gives the namespace's loopback the addresses that clouds use for metadata
and some private ones, listens on all of them, calls every spelling, and prints what was said and what was seen.
"""

import json
import socket
import subprocess
import threading

from mosaic_fleet import outbound
from mosaic_fleet.egress import parse
from mosaic_fleet.errors import MosaicError

ADDRESSES = [
    *("169.254.169.254/32", "169.254.170.2/32", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32"),
    *("10.1.1.42/32", "192.168.7.7/32", "fd00:ec2::254/128", "fd00::5/128", "fe80::a9fe:a9fe/64"),
    *("64:ff9b::a9fe:a9fe/128", "64:ff9b::a01:12a/128", "2002:a9fe:a9fe::1/128", "64:ff9b:1::a9fe:a9fe/128"),
]
# Spelled as people, browsers and old C libraries do; the listener is on every one of them.
SPELLINGS = [
    *("169.254.169.254", "2852039166", "0xa9fea9fe", "0xA9.0xFE.0xA9.0xFE", "0251.0376.0251.0376", "169.16689662"),
    *("169.254.43518", "0251.254.0xa9.254", "169.254.169.254.", "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]"),
    *("[0:0:0:0:0:ffff:a9fe:a9fe]", "[::169.254.169.254]", "[64:ff9b::169.254.169.254]", "[64:ff9b:1::a9fe:a9fe]"),
    *("[2002:a9fe:a9fe::1]", "[fe80::a9fe:a9fe%lo]", "[fe80::a9fe:a9fe%25lo]", "[fe80::a9fe:a9fe%251]"),
    *("１６９.２５４.１６９.２５４", "169。254。169。254", "①⑥⑨.②⑤④.①⑥⑨.②⑤④", "[fd00:ec2::254]", "169.254.170.2"),
    *("100.100.100.200", "168.63.129.16", "192.0.0.192", "0.0.0.0", "0", "[::]", "[::ffff:0.0.0.0]", "metadata.test"),
    *("rebinding.test", "[64:ff9b::10.1.1.42]"),
]
PRIVATE = [
    *("127.0.0.1", "127.1", "2130706433", "0x7f.1", "017700000001", "localhost", "[::1]", "[::ffff:127.0.0.1]"),
    *("10.1.1.42", "10.65834", "0xa01012a", "0xa.1.0x12a", "[::ffff:10.1.1.42]", "192.168.7.7", "[fd00::5]"),
]
UNGUARDED = ["169.254.169.254", "fd00:ec2::254", "64:ff9b::a9fe:a9fe", "127.0.0.1"]


def main() -> None:
    """Print one JSON document: what each call came to, and how many connections were seen."""
    for command in ("link set lo up", *(f"address add {address} dev lo nodad" for address in ADDRESSES)):
        subprocess.run(["ip", *command.replace("nodad", "nodad" if "::" in command else "").split()], check=True)
    seen: list[str] = []
    for family, anywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        _listen(family, anywhere, seen)
    said = {
        "never": {host: _call(host, "0.0.0.0/0, [::/0]") for host in SPELLINGS},
        "private": {host: _call(host, "") for host in PRIVATE},
    }
    allowed = _call("10.1.1.42", "10.1.1.42:80"), _call("[::ffff:10.1.1.42]", "10.1.1.42:80")
    # That the listeners would have seen them: the same addresses, called without the guard. Each listener takes its
    # callers in their order, so these answers also say that every caller before them has been written down.
    for address in UNGUARDED:
        with socket.create_connection((address, 80), timeout=60) as connection:
            connection.recv(1)
    print(json.dumps(said | {"allowed": allowed, "seen": seen}))


def _listen(family: socket.AddressFamily, anywhere: str, seen: list[str]) -> None:
    listener = socket.create_server((anywhere, 80), family=family)

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            seen.append(str(connection.getsockname()[0]))
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
            connection.close()

    threading.Thread(target=accept, daemon=True).start()


def _names(host: str, port: int) -> list[str]:
    """Resolve two names to what an attacker's DNS would say, and all else as the system does."""
    if host == "metadata.test":
        return ["169.254.169.254"]
    if host == "rebinding.test":
        return ["8.8.8.8", "169.254.169.254"]
    return list(outbound.addresses_of(host, port))


def _call(host: str, allowed: str) -> str:
    try:
        with (
            outbound.client(parse(allowed), timeout=60, resolve=_names) as http,
            outbound.answer(http, "GET", f"http://{host}/latest/meta-data/", headers={}) as reply,
        ):
            return f"answered {reply.status_code}"
    except MosaicError as error:
        return error.message


if __name__ == "__main__":
    main()

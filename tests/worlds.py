"""A namespace that stands in for the world outside: it has the addresses that a test wants, and answers at them."""

import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.docker_run import missing, wait_until

INTERNET = "203.0.113.1"


@contextmanager
def world(number: int, addresses: Sequence[str], port: int, *command: str) -> Iterator[None]:
    """Run a server of a port behind a veth pair of this number, to which these addresses are routed, until it answers.

    All is gone at the end.
    """
    if subprocess.run(["ip", "route", "get", "198.18.0.1"], capture_output=True, check=False).returncode == 0:
        missing("this machine has an uplink: other addresses are only tried in the sandbox")
    waiting = ["unshare", "--net", "sh", "-c", 'read -r go && exec "$@"', "sh", *command]
    server = subprocess.Popen(waiting, stdin=subprocess.PIPE)
    try:
        wait_until(lambda: _namespace(server.pid) != _namespace("self"))
        _connect(number, addresses, server.pid)
        assert server.stdin
        with server.stdin:
            server.stdin.write(b"\n")
        wait_until(lambda: _answers(addresses[0], port))
        yield
    finally:
        server.kill()
        server.wait()


def run(*words: str) -> None:
    """Run a command that must succeed."""
    subprocess.run(words, check=True, capture_output=True, timeout=120)


def _connect(number: int, addresses: Sequence[str], pid: int) -> None:
    near, far, name = f"198.51.100.{number * 4 + 1}", f"198.51.100.{number * 4 + 2}", f"world{number}"
    inside = ("nsenter", f"--net=/proc/{pid}/ns/net", "ip")
    run("ip", "link", "add", name, "type", "veth", "peer", "name", "up0", "netns", str(pid))
    run("ip", "addr", "add", f"{near}/30", "dev", name)
    run("ip", "link", "set", name, "up")
    run(*inside, "addr", "add", f"{far}/30", "dev", "up0")
    run(*inside, "link", "set", "up0", "up")
    run(*inside, "link", "set", "lo", "up")
    for address in addresses:
        run(*inside, "addr", "add", f"{address}/32", "dev", "lo")
        run("ip", "route", "replace", address, "via", far)


def _answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=10).close()
    except OSError:
        return False
    return True


def _namespace(pid: int | str) -> str:
    return str(Path(f"/proc/{pid}/ns/net").readlink())

"""The packet filter on real iptables, in a network namespace of its own: what is written is what is found."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docker_run import missing

# `make test` as root runs them in its sandbox; as another user it says that tests of walls are left out.
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace of its own needs root")

SCRIPT = """
import subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network
from pathlib import Path
from threading import Event
from mosaic_fleet import egress
from mosaic_fleet.errors import RuntimeFailure
from mosaic_fleet.runtimes import packet_filter
from mosaic_fleet.runtimes.packet_filter import PacketFilter

def iptables(*words):
    return subprocess.run(["iptables", "-w", "60", *words], check=True, capture_output=True, text=True).stdout

def make_networks():
    while not over.wait(0.2):
        iptables("-D", "FORWARD", "-j", "DOCKER-USER")
        over.wait(0.2)
        iptables("-I", "FORWARD", "-j", "DOCKER-USER")

def refused(settings):
    try:
        walls.check(settings)
    except RuntimeFailure as error:
        return error.message
    raise AssertionError("the walls stand")

for words in (["-N", "DOCKER-USER"], ["-A", "FORWARD", "-j", "DOCKER-USER"], ["-A", "DOCKER-USER", "-j", "RETURN"]):
    iptables(*words)
class Walls:
    def __init__(self, install):
        self.install, self.filter = install, PacketFilter(resolv=Path(sys.argv[1]))

    def check(self, settings):
        self.filter.check(self.install, settings)

    def apply(self, settings):
        return self.filter.apply(self.install, settings)

walls, other = Walls("0123456789ab"), Walls("fedcba987654")
closed, opened, wide = ({"egress.allow": egress.parse(text), "gateways.subnet_pool": ip_network("10.213.0.0/16")}
                        for text in ("", "10.1.1.42:11434, 192.168.7.0/24", "0.0.0.0/0:443, 0.0.0.0/0, [::/0]"))
assert "is not as it should be" in refused(closed)
assert [walls.apply(opened), walls.apply(opened)] == [True, False]
walls.check(opened)
assert "is not as it should be" in refused(closed)
assert [walls.apply(wide), walls.apply(wide)] == [True, False]
assert [walls.apply(closed), walls.apply(closed)] == [True, False]
assert "is not as it should be" in refused(opened)
assert [other.apply(opened), other.apply(opened)] == [True, False]
for one, settings in ((walls, closed), (other, opened), (walls, closed)):
    one.check(settings)
    assert not one.apply(settings)
    one.check(settings)
mine = [line for line in iptables("-S").splitlines() if line.startswith("-A MOSAIC-0123456789ab")]
for line in mine + [
    "-A INPUT -i mu01234-+ -j MOSAIC-0123456789ab-IN", "-A DOCKER-USER -i mu01234-+ -j MOSAIC-0123456789ab-FWD"
]:
    iptables("-D", *line.split()[1:])
    refused(closed)
    assert walls.apply(closed)
for _ in range(5):
    for line in [line for line in iptables("-S").splitlines() if "-i mu01234-+" in line]:
        iptables("-D", *line.split()[1:])
    refused(closed)
    with ThreadPoolExecutor(6) as pool:
        assert any(pool.map(walls.apply, [closed] * 6))
iptables("-I", "INPUT", "1", "-j", "ACCEPT")
assert "comes before MOSAIC-0123456789ab-IN" in refused(closed)
assert walls.apply(closed)
walls.check(closed)
iptables("-D", "INPUT", "-j", "ACCEPT")
iptables("-I", "FORWARD", "1", "-i", "lo", "-j", "ACCEPT")
walls.check(closed)
iptables("-I", "FORWARD", "1", "-j", "ACCEPT")
assert "comes before DOCKER-USER" in refused(closed)
assert [walls.apply(closed), walls.apply(closed)] == [True, False]
forward = ["-A FORWARD -j DOCKER-USER", "-A FORWARD -j ACCEPT", "-A FORWARD -i lo -j ACCEPT"]
assert iptables("-S", "FORWARD").splitlines()[1:] == forward
with ThreadPoolExecutor(1) as docker:
    over = Event()
    networks = docker.submit(make_networks)
    docker_waits, packet_filter._DOCKERS_SECONDS = packet_filter._DOCKERS_SECONDS, 120
    put_up = [walls.apply(closed) for _ in range(40)]
    packet_filter._DOCKERS_SECONDS = docker_waits
    over.set()
    networks.result()
assert put_up == [False] * 40
while iptables("-S", "FORWARD").count("-j DOCKER-USER"):
    iptables("-D", "FORWARD", "-j", "DOCKER-USER")
assert "FORWARD does not lead to DOCKER-USER" in refused(closed)
assert walls.apply(closed)
assert iptables("-S", "FORWARD").splitlines()[1:] == forward
iptables("-I", "FORWARD", "1", "-i", "lo", "-j", "RETURN")
iptables("-F", "MOSAIC-0123456789ab-IN")
assert walls.apply(closed)
assert iptables("-S", "FORWARD").splitlines()[1:] == ["-A FORWARD -i lo -j RETURN", *forward]
other.check(opened)
walls.check(closed)
assert iptables("-S", "DOCKER-USER").splitlines()[-1] == "-A DOCKER-USER -j RETURN"
"""


def run_apart(script: str, *words: str) -> None:
    """Run a script in a network namespace of its own; it fails where an assertion of the script does."""
    command = ["unshare", "--net", sys.executable, "-c", script, *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    except FileNotFoundError:
        missing("unshare is not installed")
    assert done.returncode == 0, done.stderr


def test_what_is_written_is_what_is_found(tmp_path: Path) -> None:
    """Rules are put up once, compared to the letter, mended whichever is taken away, by six at once.

    What others put there stays, another installation's walls with other openings too. Docker's own jump is put first
    only where a rule before it lets everything pass, or where it stays away: for every network it makes
    Docker takes it out for a moment.
    """
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("nameserver 10.0.0.2\n")
    run_apart(SCRIPT, str(resolv))


OPEN_CONNECTIONS = """
import os, subprocess, sys
from ipaddress import ip_network
from pathlib import Path
from mosaic_fleet import egress
from mosaic_fleet.runtimes.packet_filter import PacketFilter
from tests.docker_run import wait_until

ECHO = "import socket; c = socket.create_server(('', 7)).accept()[0]"
ECHO += "; [c.sendall(heard) for heard in iter(lambda: c.recv(9), b'')]"
CALL = "import socket, sys; c = socket.create_connection((sys.argv[1], 7), timeout=60)"
CALL += "; [(c.sendall(l.encode()), print(c.recv(9).decode(), end='', flush=True)) for l in sys.stdin]"

def do(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout

def start(*words):
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True)

class Machine:
    def __init__(self, link, network):
        self.process = start("unshare", "--net", "sh", "-c", "echo; exec sleep 600")
        self.process.stdout.readline()
        do("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(self.process.pid))
        do("ip", "address", "add", f"{network}.1/24", "dev", link)
        do("ip", "link", "set", link, "up")
        do(*self.inside("ip", "address", "add", f"{network}.2/24", "dev", "eth0"))
        do(*self.inside("ip", "link", "set", "eth0", "up"))
        do(*self.inside("ip", "route", "add", "default", "via", f"{network}.1"))

    def inside(self, *words):
        return ("nsenter", "-t", str(self.process.pid), "-n", *words)

    def listen(self):
        server = start(*self.inside(sys.executable, "-c", ECHO))
        wait_until(lambda: ":7 " in do(*self.inside("ss", "-tln")))
        return server

    def call(self, address):
        return Call(self.inside(sys.executable, "-c", CALL, address))

class Call:
    def __init__(self, words):
        self.process = start(*words)

    def say(self, text):
        print(text, file=self.process.stdin, flush=True)

    def hear(self):
        return self.process.stdout.readline().strip()

def refused():
    lines = do("iptables", "-w", "60", "-nvxL", "MOSAIC-0123456789ab-FWD").splitlines()
    return sum(int(line.split()[0]) for line in lines if "REJECT" in line)

Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
guest, lan = Machine("mu01234-x", "10.213.0"), Machine("lan0", "10.9.9")
for words in (["-N", "DOCKER-USER"], ["-A", "FORWARD", "-j", "DOCKER-USER"], ["-A", "DOCKER-USER", "-j", "RETURN"]):
    do("iptables", "-w", "60", *words)
walls = PacketFilter(resolv=Path(os.devnull))
closed, opened = ({"egress.allow": egress.parse(text), "gateways.subnet_pool": ip_network("10.213.0.0/16")}
                  for text in ("", "10.9.9.2:7"))
processes = [guest.process, lan.process]
try:
    assert walls.apply("0123456789ab", closed)
    processes.append(guest.listen())
    probe = Call((sys.executable, "-c", CALL, "10.213.0.2"))
    probe.say("probe")
    assert probe.hear() == "probe"
    for way in ("slipped through", "opened"):
        processes.append(lan.listen())
        if way == "opened":
            assert walls.apply("0123456789ab", opened)
        else:
            do("iptables", "-w", "60", "-D", "FORWARD", "-j", "DOCKER-USER")
        call = guest.call("10.9.9.2")
        call.say("first")
        assert call.hear() == "first"
        if way == "opened":
            assert walls.apply("0123456789ab", closed)
        else:
            do("iptables", "-w", "60", "-I", "FORWARD", "-j", "DOCKER-USER")
        walls.check("0123456789ab", closed)
        before = refused()
        call.say("second")
        wait_until(lambda: refused() > before)
        call.process.kill()
        assert call.process.communicate()[0] == "", way
        processes[-1].kill()
        processes.pop().wait()
    probe.say("again")
    assert probe.hear() == "again"
    probe.process.kill()
    probe.process.communicate()
finally:
    for process in processes:
        process.kill()
        process.communicate()
"""


def test_nothing_that_was_begun_lives_on_behind_the_walls() -> None:
    """A connection out is cut off with its next packet, however it was opened; answers to Mosaic itself pass.

    One was opened while Docker's jump was out, the other while `egress.allow` had it.
    """
    run_apart(OPEN_CONNECTIONS)

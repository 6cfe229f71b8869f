"""`mosaic doctor isolation` where every wall is taken down in turn: exactly its rows turn red.

The sandbox has no uplink. A namespace behind a veth stands in for the internet, the office's network and the metadata
address, and answers at all of them, so that a wall that is down is reached for real.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mosaic_fleet.runtimes import host
from mosaic_fleet.settings import Settings
from tests import worlds
from tests.docker.installation import Installation
from tests.servers import relaying, serving
from tests.worlds import INTERNET, run

pytestmark = pytest.mark.alone
RANGES = {
    "private 10.0.0.0/8": "10.255.255.254",
    "private 172.16.0.0/12": "172.31.255.254",
    "private 192.168.0.0/16": "192.168.255.254",
    "shared 100.64.0.0/10": "100.127.255.254",
    "link-local metadata": "169.254.169.254",
}
REJECT = "-j REJECT --reject-with icmp-admin-prohibited"
ANSWER = """
import socketserver
class Hello(socketserver.BaseRequestHandler):
    def handle(self): self.request.sendall(b"here I am")
socketserver.ThreadingTCPServer(("0.0.0.0", 80), Hello).serve_forever()
"""


@pytest.fixture(scope="module")
def world() -> Iterator[None]:
    """Make a namespace that is the internet, the office and the metadata service, and routes to it."""
    # The kernel would spread its refusals over seconds, here for a hundred attempts.
    Path("/proc/sys/net/ipv4/icmp_ratelimit").write_text("0")
    with worlds.world(0, [INTERNET, *RANGES.values()], 80, "python3", "-c", ANSWER):
        yield


def take_down(chain: str, *rules: str) -> None:
    """Take rules down; `mosaic init` puts them back."""
    for rule in rules:
        run("iptables", "-w", "5", "-D", chain, *rule.split())


def install(installation: Installation) -> str:
    """Return an installation's id."""
    return str(installation.document("status")["install"])


def bridges(installation: Installation) -> str:
    """Match the user bridges of an installation, as iptables does."""
    return f"mu{install(installation)[:5]}-+"


def holes(installation: Installation, *options: str) -> set[str]:
    """Run doctor isolation; return the walls that have a hole, and check the exit code."""
    done = installation.run("doctor", "isolation", "--json", *options)
    assert done.stdout, done.stderr
    found = {row["wall"] for row in json.loads(done.stdout)["walls"] if not row["holds"]}
    assert done.returncode == (9 if found else 0), done.stderr
    return found


@pytest.fixture
def walled(installation: Installation, world: None) -> Installation:
    """Return an installation whose walls stand."""
    installation.mosaic("init")
    return installation


def test_standing_walls_have_no_hole_and_nothing_stays(walled: Installation) -> None:
    """Every row holds, the internet is reached, and no probe, network or volume is left."""
    document = walled.document("doctor", "isolation")
    rows = {row["wall"]: row for row in document["walls"]}
    assert all(row["holds"] for row in rows.values()), rows
    assert {*RANGES, "mosaic itself", "another user's gateway", "another container", "capabilities"} <= rows.keys()
    assert sum(wall.startswith("the host, ") for wall in rows) >= 2
    assert holes(walled, "--try", f"{INTERNET}:80") == {f"as asked, {INTERNET}:80"}
    for kind in ("container", "network", "volume"):
        listing = [kind, "ls", "-q", *(["-a"] if kind == "container" else [])]
        assert walled.docker(*listing, "--filter", "label=com.mosaic.kind=probe") == ""


@pytest.mark.parametrize(
    ("walls", "rows"),
    [
        (["-o {bridges}", "-d 10.213.0.0/16", "-d 10.0.0.0/8"], {"private 10.0.0.0/8", "another user's gateway"}),
        (["-d 172.16.0.0/12"], {"private 172.16.0.0/12", "another container"}),
        (["-d 192.168.0.0/16"], {"private 192.168.0.0/16"}),
        (["-d 100.64.0.0/10"], {"shared 100.64.0.0/10"}),
        (["-d 169.254.0.0/16"], {"link-local metadata"}),
    ],
)
def test_a_wall_that_is_down_shows_as_its_rows(walled: Installation, walls: list[str], rows: set[str]) -> None:
    """Without the rules of a range exactly what lies in that range is a hole; init closes it again."""
    rules = [f"{wall.format(bridges=bridges(walled))} {REJECT}" for wall in walls]
    take_down(f"MOSAIC-{install(walled)}-FWD", *rules)
    assert holes(walled) == rows
    assert "made just now" in walled.mosaic("init")


def test_what_is_opened_is_shown_and_never_neighbours_or_metadata(walled: Installation) -> None:
    """With everything allowed the rest is told as opened; neighbours, metadata and the host are tried and hold."""
    walled.mosaic("config", "set", "egress.allow", "0.0.0.0/0")
    try:
        walled.mosaic("init")
        rows = walled.document("doctor", "isolation")["walls"]
    finally:
        walled.mosaic("config", "unset", "egress.allow")
        walled.mosaic("init")
    assert all(row["holds"] for row in rows), rows
    opened = {row["wall"] for row in rows if row["seen"] == "opened by egress.allow"}
    assert opened >= {*RANGES, "another container"} - {"link-local metadata"}
    refused = {row["wall"] for row in rows if row["seen"] == "refused at once"}
    assert {"another user's gateway", "link-local metadata", "postgres on the host", "the host, docker0"} <= refused


def test_an_open_host_shows_as_the_host(walled: Installation) -> None:
    """Without the wall before the host its addresses and services are holes, and nothing else."""
    take_down("INPUT", f"-i {bridges(walled)} -j MOSAIC-{install(walled)}-IN")
    found = holes(walled)
    walled.mosaic("init")
    assert {"postgres on the host", "docker on the host", "config endpoint on the host"} <= found
    assert all(wall.endswith("on the host") or wall.startswith("the host, ") for wall in found)


def test_postgres_elsewhere_is_walled_off_too(walled: Installation) -> None:
    """A Postgres that Mosaic reaches over TCP is tried there, and is a hole where the wall is down."""
    home = Settings.from_env(walled.env)
    path, docker0 = f"{home.socket_dir}/.s.PGSQL.5432", host.addresses()["docker0"]
    with serving(relaying(path), docker0) as relay:
        url = f"postgresql://mosaic@{docker0}:{relay.port}/mosaic"
        there = replace(walled, env={**walled.env, "DATABASE_URL": url})
        rows = {row["wall"]: row for row in there.document("doctor", "isolation")["walls"]}
        assert rows["mosaic's postgres"]["target"] == f"{docker0}:{relay.port}"
        take_down("INPUT", f"-i {bridges(walled)} -j MOSAIC-{install(walled)}-IN")
        assert "mosaic's postgres" in holes(there)
    walled.mosaic("init")


def test_a_hole_for_one_neighbour_shows_as_that(walled: Installation) -> None:
    """A rule that lets user bridges talk to each other is found, wherever it comes from."""
    hole = ("-i", bridges(walled), "-o", bridges(walled), "-j", "ACCEPT")
    run("iptables", "-w", "5", "-I", "DOCKER-USER", "1", *hole)
    try:
        assert holes(walled) == {"another user's gateway"}
    finally:
        run("iptables", "-w", "5", "-D", "DOCKER-USER", *hole)


def test_another_installation_leaves_these_walls_alone(walled: Installation, other_installation: Installation) -> None:
    """What one opens is open for its own gateways alone, and neither `mosaic init` undoes the other's walls."""
    attempt = ("--try", "10.255.255.254:80")
    other_installation.mosaic("config", "set", "egress.allow", "10.255.255.254:80")
    try:
        other_installation.mosaic("init")
        assert "in force" in walled.mosaic("init")
        assert "in force" in other_installation.mosaic("init")
        assert holes(walled) == set()
        assert holes(other_installation, *attempt) == {"as asked, 10.255.255.254:80"}
        assert holes(walled, *attempt) == set()
    finally:
        other_installation.mosaic("config", "unset", "egress.allow")

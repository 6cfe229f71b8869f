"""What counts as a wall in `mosaic doctor isolation`: a refusal, and nothing else."""

from ipaddress import ip_network

import pytest

from mosaic_fleet import egress
from mosaic_fleet.cli import isolation as door
from mosaic_fleet.errors import Invalid, RuntimeFailure
from mosaic_fleet.fleet import isolation
from mosaic_fleet.fleet.hosting import Hosting
from mosaic_fleet.fleet.isolation import Ground, Target
from tests.fake_gateways import Behaviour, FakeGateways
from tests.fakes import FAKE_IMAGE

TARGET = Target("link-local metadata", "169.254.169.254", 80)
SOUND = {
    "uid": 1000,
    "capabilities": "0000000000000000",
    "noNewPrivileges": "1",
    "rootWritable": False,
    "processes": 2,
    "sockets": [],
    "ipv6": False,
}


@pytest.mark.parametrize(
    ("seen", "ms", "holds", "words"),
    [
        ("EHOSTUNREACH", 2, True, "refused at once"),
        ("EHOSTUNREACH", 3050, False, "nobody there, but no wall after 3050 ms"),
        ("connected", 1, False, "REACHED after 1 ms"),
        ("ECONNREFUSED", 1, False, "reached, nobody listens after 1 ms"),
        ("timeout", 3000, False, "no answer, but no wall after 3000 ms"),
        ("ENETUNREACH", 1, False, "no route, but no wall after 1 ms"),
        ("EODD", 1, False, "EODD after 1 ms"),
    ],
)
def test_only_a_refusal_at_once_is_a_wall(seen: str, ms: int, holds: bool, words: str) -> None:
    """Silence, a missing route and a closed port are luck."""
    evidence = isolation._judge(TARGET, {"seen": seen, "ms": ms})
    assert (evidence.holds, evidence.seen, evidence.target) == (holds, words, "169.254.169.254:80")


@pytest.mark.parametrize(
    ("address", "allowed", "is_opened"),
    [
        ("192.168.255.254", "192.168.0.0/16", True),
        ("192.168.255.254", "0.0.0.0/0:80", True),
        ("192.168.255.254", "192.168.0.0/16:443, 10.0.0.0/8, [::/0]", False),
        ("10.213.0.2", "10.0.0.0/8, 10.213.0.2", False),
        ("169.254.169.254", "0.0.0.0/0", False),
        ("172.17.0.1", "172.16.0.0/12", False),
        ("172.17.0.1", "172.17.0.1:80", True),
    ],
)
def test_what_is_opened_is_what_the_packet_filter_opens(address: str, allowed: str, is_opened: bool) -> None:
    """No neighbour and no metadata whatever is allowed; of the host only a single address."""
    settings = {"egress.allow": egress.parse(allowed), "gateways.subnet_pool": ip_network("10.213.0.0/16")}
    assert isolation._is_opened(settings, Target("", address, 80), ["172.17.0.1"]) is is_opened


@pytest.mark.parametrize(
    ("postgres", "tried"),
    [
        (("10.1.1.7", 5433), [("10.1.1.7", 5433)]),
        (("127.0.0.1", 5432), []),
        (("fd00::7", 5432), []),
        (None, []),
    ],
)
def test_postgres_is_tried_where_it_is(postgres: tuple[str, int] | None, tried: list[tuple[str, int]]) -> None:
    """At the address that Mosaic dials; a socket or loopback is nothing that a container could reach."""
    assert [(one.address, one.port) for one in isolation._elsewhere(postgres)] == tried


def test_a_sound_process_has_no_hole() -> None:
    """User 1000 without capabilities, new privileges, a writable root, others' processes or Docker's socket."""
    assert all(row.holds for row in isolation._of_itself(SOUND))


@pytest.mark.parametrize(
    ("change", "wall"),
    [
        ({"uid": 0}, "user"),
        ({"capabilities": "00000000a80425fb"}, "capabilities"),
        ({"noNewPrivileges": "0"}, "no new privileges"),
        ({"rootWritable": True}, "read-only root"),
        ({"processes": 300}, "own processes only"),
        ({"sockets": ["/run/docker.sock"]}, "docker's socket"),
        ({"ipv6": True}, "no IPv6 beside"),
    ],
)
def test_each_weakness_of_a_process_is_its_own_row(change: dict[str, object], wall: str) -> None:
    """Exactly the row of what is missing is a hole."""
    assert [row.wall for row in isolation._of_itself(SOUND | change) if not row.holds] == [wall]


def probing(behaviour: Behaviour) -> Ground:
    """Return the ground of probes that behave so."""
    runtime = FakeGateways()
    runtime.behave = lambda *_: behaviour
    runtime.create_bridge("net", interface="net", subnet="10.213.0.0/28", labels={})
    return Ground(Hosting(None, None, runtime, None), "here", {"fleet.image": FAKE_IMAGE}, None, "nonce")


def test_a_neighbour_that_does_not_answer_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its container is removed, so its last words are in the failure."""
    monkeypatch.setattr(isolation, "_WAIT_SECONDS", 0)
    ground = probing(Behaviour(stderr="one\nEADDRINUSE\n"))
    neighbour = isolation._start(ground, "neighbour", "net", [])
    with pytest.raises(RuntimeFailure, match=r"does not answer this host \(last lines: one \| EADDRINUSE\)$"):
        isolation._control(ground, neighbour)


def test_a_probe_that_ends_at_once_is_quoted() -> None:
    """What it died of is in the failure too."""
    with pytest.raises(RuntimeFailure, match=r"the probe prober ended at once \(last lines: no such module\)$"):
        isolation._start(probing(Behaviour(ends=1, stderr="no such module\n")), "prober", "net", [])


@pytest.mark.parametrize("text", ["", "10.0.0.1", ":80", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:99999", "a:b"])
def test_an_address_to_try_has_a_port(text: str) -> None:
    """What is not ADDRESS:PORT is refused before anything is tried."""
    with pytest.raises(Invalid, match="write ADDRESS:PORT"):
        door._target(text)

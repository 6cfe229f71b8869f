"""The pure parts of users' gateways: places in the pool, shared starts, what is delivered, why one ended."""

import json
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from ipaddress import IPv4Network
from pathlib import Path
from threading import Barrier, Event
from uuid import uuid4

import pytest
from pydantic import SecretStr

from mosaic_fleet.errors import RuntimeFailure
from mosaic_fleet.fleet import bridges, delivery, endings, openclaw
from mosaic_fleet.fleet.flights import Flights
from mosaic_fleet.fleet.hosting import is_ok
from mosaic_fleet.runtimes import host
from mosaic_fleet.runtimes.gateway_base import Answer, Bridge, Container

POOL = IPv4Network("10.213.0.0/24")
ENDED = Container("c1", "mosaic-user-1", "exited", {})


def bridge(*subnets: str, interface: str = "") -> Bridge:
    """Return a network of somebody's."""
    return Bridge("n1", "other", interface, subnets, {})


def test_places_are_sixteen_addresses_apart() -> None:
    """Each place has a /28 of its own and a bridge whose name fits a Linux interface."""
    assert [bridges.subnet(POOL, index) for index in (0, 1, 15)] == [
        "10.213.0.0/28",
        "10.213.0.16/28",
        "10.213.0.240/28",
    ]
    assert len(bridges.interface("0123456789ab", (1 << 20) - 1)) <= 15


@pytest.mark.parametrize(
    ("taken", "there", "index"),
    [
        ([], [], 0),
        ([0, 1, 3], [], 2),
        ([0], [bridge("10.213.0.16/28")], 2),
        ([], [bridge("10.213.0.0/26")], 4),
        ([], [bridge("10.0.0.0/8", "fd00::/64"), bridge("10.213.0.0/29")], None),
        ([], [bridge("192.168.0.0/16", interface="mu01234-0"), bridge(interface="mufffff-1")], 2),
        ([], [bridge("10.213.0.17/32", interface="mu-x")], 0),
        (range(16), [], None),
    ],
)
def test_the_first_free_place_is_taken(taken: list[int], there: list[Bridge], index: int | None) -> None:
    """A place is free when neither the database, nor a network's addresses, nor a bridge's name has it."""
    if index is None:
        with pytest.raises(RuntimeFailure, match="no network is free"):
            bridges.free(POOL, taken, there)
    else:
        assert bridges.free(POOL, taken, there) == index


def test_who_asks_during_a_start_gets_its_outcome() -> None:
    """One start serves all who ask for the same user meanwhile; another user's is another."""
    flights: Flights[int] = Flights()
    user, entered, leave, starts = uuid4(), Event(), Event(), []

    def start() -> int:
        starts.append(user)
        entered.set()
        assert leave.wait(120)
        return 7

    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(flights.share, user, start)
        assert entered.wait(120)
        others = [pool.submit(flights.share, user, lambda: 8) for _ in range(3)]
        assert flights.share(uuid4(), lambda: 9) == 9
        leave.set()
        assert first.result() == 7
        assert {one.result() for one in others} <= {7, 8}
    assert len(starts) == 1
    assert flights.share(user, lambda: 10) == 10


def test_a_start_s_error_is_everybody_s() -> None:
    """Who waited for a start that failed gets its error, and the next one may try again."""
    flights: Flights[int] = Flights()
    user = uuid4()

    def fail() -> int:
        raise RuntimeFailure("did not start")

    with pytest.raises(RuntimeFailure, match="did not start"):
        flights.share(user, fail)
    assert flights.share(user, lambda: 1) == 1


def test_a_few_have_a_seat_at_once() -> None:
    """Of five the fifth waits for a seat, and looks meanwhile; who shares what needs none does not wait."""
    flights: Flights[int] = Flights(at_once=4)
    seated, leave, looked = Barrier(5), Event(), Event()

    def sit() -> None:
        with flights.seat(looked.set, every=0.001):
            seated.wait(120)
            assert leave.wait(120)

    def come_late() -> bool:
        with flights.seat(looked.set, every=0.001):
            return leave.is_set()

    with ThreadPoolExecutor(5) as pool:
        early = [pool.submit(sit) for _ in range(4)]
        seated.wait(120)
        assert not looked.is_set()
        late = pool.submit(come_late)
        assert looked.wait(120)
        assert flights.share(uuid4(), lambda: 9) == 9
        leave.set()
        assert late.result(120)
        for one in early:
            one.result(120)


def test_who_waits_for_a_seat_may_give_up() -> None:
    """What a look raises ends the waiting, and takes no seat."""
    flights: Flights[int] = Flights(at_once=1)

    def give_up() -> None:
        raise RuntimeFailure("not any more")

    with (
        flights.seat(give_up, every=0.001),
        pytest.raises(RuntimeFailure, match="not any more"),
        flights.seat(give_up, every=0.001),
    ):
        pass
    with flights.seat(give_up, every=0.001):
        pass


def package(personality: str | None = "Be kind.\n", key: str | None = "planted-provider-key") -> delivery.Package:
    """Return what a gateway is given."""
    secret = SecretStr(key) if key else None
    provider = openclaw.Provider("zai", "zai", "openai-completions", "https://llm.invalid", [{"id": "m"}], secret)
    gateway = openclaw.Gateway("zai/m", providers=[provider])
    return delivery.package(gateway, SecretStr("planted-gateway-token"), personality)


def test_a_package_names_files_instead_of_secrets() -> None:
    """openclaw.json holds no secret: it names the files on the tmpfs that do."""
    files = package().files
    config = json.loads(files["openclaw.json"])
    assert config["secrets"]["providers"]["token"]["path"] == "/run/mosaic/gateway/gateway_token"
    assert config["secrets"]["providers"]["keys"]["path"] == "/run/mosaic/gateway/provider_keys"
    assert "planted" not in files["openclaw.json"]
    assert "planted" not in repr(package())
    assert set(package(None, None).files) == {"openclaw.json", "gateway_token"}


def test_a_tar_is_readable_by_its_user_only() -> None:
    """Every file of the tar is user 1000's, 0400, and the same package is the same bytes."""
    packed = package().tar()
    assert packed == package().tar()
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        assert {(one.uid, one.gid, one.mode) for one in archive.getmembers()} == {(1000, 1000, 0o400)}


def test_no_secret_is_in_the_environment_or_the_command() -> None:
    """What Docker is told of a container is the same for every user."""
    told = json.dumps([delivery.command(), delivery.environment(2 << 30)])
    assert "planted" not in told
    assert delivery.environment(2 << 30)["NODE_OPTIONS"] == "--max-old-space-size=1536"


def test_a_killed_container_is_looked_at_until_docker_says_why() -> None:
    """That it was killed for want of memory Docker may say later than that it has ended; of others nothing is asked."""
    killed, starved = replace(ENDED, exit_code=137), replace(ENDED, exit_code=137, oom_killed=True)
    looks = iter([killed, killed, starved])
    assert endings.settled(lambda: next(looks)) == starved
    for end in (starved, replace(ENDED, exit_code=1), None):
        looks = iter([end])
        assert endings.settled(lambda looks=looks: next(looks)) == end


def test_a_container_that_somebody_killed_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """After some looks it is said as it is."""
    monkeypatch.setattr(endings, "_LOOK_SECONDS", 0)
    killed = replace(ENDED, exit_code=137)
    assert endings.settled(lambda: killed) == killed


@pytest.mark.parametrize(
    ("seen", "words", "said"),
    [
        (None, "", "its container is gone"),
        (replace(ENDED, exit_code=137, oom_killed=True), "x", "killed for using more memory than its limit (OOM)"),
        (replace(ENDED, exit_code=86), "mosaic: the volume is full\n", "the volume is full"),
        (replace(ENDED, exit_code=86), f"mosaic: {'x' * 999}\n", "x" * 500),
        (
            replace(ENDED, exit_code=78),
            "a\n\n b \n",
            "OpenClaw refused its config or its state (exit 78) (last lines: a | b)",
        ),
        (replace(ENDED, exit_code=1), "", "it ended with exit code 1"),
        (replace(ENDED, exit_code=84), "odd", "it ended with exit code 84 (last lines: odd)"),
    ],
)
def test_why_a_gateway_ended(seen: Container | None, words: str, said: str) -> None:
    """Exit code, Docker's finding and the last lines become one line."""
    assert endings.why(seen, words) == said


@pytest.mark.parametrize(
    ("answer", "ok"),
    [
        (None, False),
        (Answer(200, b'{"ok":true}'), True),
        (Answer(200, b'{"ok":"true"}'), False),
        (Answer(503, b'{"ok":true}'), False),
        (Answer(200, b"<html>"), False),
        (Answer(200, b"[]"), False),
        (Answer(200, b"\xff"), False),
        (Answer(200, b'{"ok":' * 10_000), False),
    ],
)
def test_a_probe_must_say_ok_in_its_body(answer: Answer | None, ok: bool) -> None:
    """A page that answers 200 is no healthy gateway."""
    assert is_ok(answer) is ok


def test_the_router_is_read_from_the_kernel_s_table(tmp_path: Path) -> None:
    """Only the default route names a router; without a table there is none."""
    table = tmp_path / "route"
    table.write_text(
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\n"
        "eth0\t00000000\t0102000A\t0003\t0\t0\t0\t00000000\t0\n"
        "eth0\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\n"
    )
    assert host.default_gateways(table) == ["10.0.2.1"]
    assert host.default_gateways(tmp_path / "none") == []
    assert all(not address.startswith("127.") for address in host.addresses().values())
    assert host.has_route("127.0.0.1")
    assert not host.has_route("255.255.255.255")

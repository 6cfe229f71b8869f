"""Messages against the reaper, over HTTP: gateways that speak the real protocol, and not one turn that is cut."""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import count

import pytest

from mosaic_fleet.db.database import Database
from mosaic_fleet.db.tables import now
from mosaic_fleet.fleet import admin_rpc, lifecycle, reaping, sleeping, starting, stopping
from mosaic_fleet.fleet.hosting import Running
from mosaic_fleet.runtimes.gateway_base import Memory, Sent
from tests.docker_run import wait_until
from tests.fake_openclaw import FakeOpenClaw
from tests.loopback_gateways import PORT, LoopbackGateways
from tests.postgres.guests import Guests

USERS, ROUNDS = 5, 100
_TRIES = 200


def untiring(token: str) -> FakeOpenClaw:
    """Make a gateway that may be asked as often as a reaper without pause does."""
    openclaw = FakeOpenClaw(token)
    openclaw.prepares = 1_000_000
    return openclaw


@pytest.fixture
def guests(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guests]:
    """Return an installation with users whose gateways listen on loopback."""
    for module in (starting, stopping):
        monkeypatch.setattr(module, "_POLL_SECONDS", 0.001)
    monkeypatch.setattr(sleeping, "_GRACE_SECONDS", 5)
    monkeypatch.setattr(admin_rpc, "_SECONDS", 120.0)  # all gateways share this process
    guests = Guests.at(database)
    guests.runtime = LoopbackGateways()
    guests.runtime.make_openclaw = untiring
    guests.runtime.host = Memory(64 << 30, 60 << 30)
    for number in range(USERS):
        guests.add(f"user-{number}")
    yield guests
    for name in guests.users:
        guests.stop(name, grace=5, force=True)


def send(guests: Guests, name: str, found: Running) -> bytes | None:
    """Send one message; None when the gateway takes nothing new or is gone."""
    address = found.url.removeprefix("http://").partition(":")[0]
    headers = {"Authorization": f"Bearer {found.token.get_secret_value()}"}
    sent = Sent(b'{"messages": []}', headers)
    answer = guests.runtime.post(address, "/v1/chat/completions", sent, port=PORT, timeout=30)
    return answer.body if answer and answer.status == 200 else None


def message(guests: Guests, name: str) -> bytes:
    """Send a message as a chat does: wake the gateway, and try again when it takes nothing new."""
    for _ in range(_TRIES):
        found = lifecycle.ensure_running(guests.hosting(), guests.users[name])
        if (said := send(guests, name, found)) is not None:
            return said
        time.sleep(0.01)
    raise AssertionError(f"{name} was never answered")


def test_five_hundred_races_of_message_and_reaper_cut_no_turn(guests: Guests) -> None:
    """Each message at the moment of a reap is answered whole, and every turn that a gateway began has ended.

    The reaper's clock goes on by a day with each round, so that time alone never keeps a gateway.
    """
    assert isinstance(guests.runtime, LoopbackGateways)
    outcomes: Counter[str] = Counter()

    def race(name: str) -> int:
        for number in range(ROUNDS):
            if number % 2:
                wait_until(lambda: guests.container(name) not in guests.runtime.running())
            time.sleep(number % 7 / 1000)
            assert message(guests, name).endswith(b"data: [DONE]\n\n")
        return ROUNDS

    def reaper() -> None:
        for day in count(1):
            if all(one.done() for one in racing):
                return
            for row in reaping.reap(guests.hosting(), now() + timedelta(days=day)) or []:
                outcomes[row.outcome] += 1
                assert row.outcome != "failed", row

    with ThreadPoolExecutor(USERS + 1) as pool:
        racing = [pool.submit(race, name) for name in guests.users]
        pool.submit(reaper).result()
        assert sum(one.result() for one in racing) == USERS * ROUNDS
    assert guests.runtime.cut == []
    assert outcomes["stopped"] >= USERS * ROUNDS // 2 - USERS

"""Naps of real OpenClaw: the first message after one is answered, nothing is forgotten, no stream is cut."""

import json
import time
from collections.abc import Iterator

import pytest

from mosaic_fleet.fleet import containers
from tests import napping
from tests.docker_run import DockerRun
from tests.gateways import Turn
from tests.openclaw.guests import Guests, ask, history, hosted

# OpenClaw lets a lease go by itself after two minutes.
_BEYOND_THE_LEASE = 125
# And closes an agent's database a minute after its last turn: no nap of Mosaic's begins before.
_DATABASE_CLOSED = 65
_FROZEN_SECONDS = 20


@pytest.fixture(scope="module")
def guests(docker: DockerRun, openclaw_image: str) -> Iterator[Guests]:
    """Make an installation with a user."""
    with hosted(docker, openclaw_image, "ann", world=3) as guests:
        yield guests


def state(guests: Guests, name: str) -> tuple[str, int, int]:
    """Return Docker's word for the state, and the limits of memory and of memory and swap."""
    seen = json.loads(guests.installation.docker("inspect", containers.name(guests.users[name])))[0]
    return seen["State"]["Status"], seen["HostConfig"]["Memory"], seen["HostConfig"]["MemorySwap"]


@pytest.mark.parametrize("seconds", [0, _BEYOND_THE_LEASE])
def test_the_first_message_after_a_nap_is_answered(guests: Guests, seconds: int) -> None:
    """Whether its lease still holds or ran out while it slept; the conversation goes on where it was (4.9)."""
    found = guests.wake("ann")
    assert ask(found, "remember the word courgette")[0] == 200
    before = state(guests, "ann")
    if seconds:
        time.sleep(_DATABASE_CLOSED)
    napping.nap(guests.mosaic.hosting, guests.users["ann"])
    assert state(guests, "ann") == ("paused", *before[1:])
    health = {row["user"]: row["health"] for row in guests.installation.document("gateway", "health")["gateways"]}
    assert health["ann"] == "paused"
    time.sleep(seconds)
    again = guests.wake("ann")
    assert (again.woken, again.url) == (True, found.url)
    assert ask(again, "which word?")[0] == 200
    assert state(guests, "ann") == before
    assert history(again).count("courgette") >= 1


def test_a_stream_that_is_frozen_for_a_while_ends_whole(guests: Guests) -> None:
    """Twenty seconds of pause in the middle of an answer cost time alone: it ends with `[DONE]`."""
    found = guests.wake("ann")
    turn = Turn(found.url, found.token, "sleep:8 hello")
    guests.installation.docker("pause", containers.name(guests.users["ann"]))
    time.sleep(_FROZEN_SECONDS)
    assert guests.wake("ann").woken
    assert turn.whole().rstrip().endswith("data: [DONE]")

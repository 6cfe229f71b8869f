"""Naps of users' gateways: on a real Postgres and an engine in memory, with a message or a death at every step."""

import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import pytest

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.cli import gateway as door
from mosaic_fleet.db.database import Database
from mosaic_fleet.db.tables import now
from mosaic_fleet.errors import Denied, MosaicError, RuntimeFailure
from mosaic_fleet.fleet import lifecycle, naps, reaping, rounds, starting, stopping
from mosaic_fleet.fleet.hosting import Hosting
from mosaic_fleet.fleet.rounds import Mended
from mosaic_fleet.runtimes.base import Image
from mosaic_fleet.runtimes.gateway_base import Answer, Container, Swap
from tests import napping
from tests.fake_gateways import Behaviour
from tests.fake_openclaw import LEASE_SECONDS, FakeOpenClaw
from tests.postgres.guests import Guests
from tests.postgres.machine import Machine
from tests.postgres.team import FaultyDatabase
from tests.postgres.test_lifecycle import Dying, Killed


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look more often: the engine in memory needs no time."""
    for module in (starting, stopping):
        monkeypatch.setattr(module, "_POLL_SECONDS", 0.001)


@dataclass
class Sleeper:
    """A user `ann` whose gateway runs and has nothing to do, on a clock that a test may set forward."""

    guests: Guests
    ahead: float = 0.0
    spare: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    @property
    def name(self) -> str:
        """Return the name of the container."""
        return self.guests.container("ann")

    @property
    def seen(self) -> Container:
        """Look at the container."""
        found = self.guests.runtime.container(self.name)
        assert found
        return found

    @property
    def openclaw(self) -> FakeOpenClaw:
        """Return the gateway in the container."""
        return self.guests.runtime.openclaw(self.name)

    def nap(self, hosting: Hosting | None = None) -> None:
        """Prove it idle and have it nap, as a round does."""
        napping.nap(hosting or self.guests.hosting(), self.guests.users["ann"])

    def meanwhile(self, action: Callable[[], Any]) -> "Future[Any]":
        """Do something in another thread."""
        return self.spare.submit(action)

    def answers(self) -> None:
        """Check that the next request is answered by the same gateway, with its own limit and no fence."""
        before = self.seen.id
        found = self.guests.wake("ann")
        assert found.url == f"http://{self.seen.address}:18789"
        assert (self.seen.state, self.seen.is_squeezed, self.seen.id) == ("running", False, before)
        assert self.guests.state("ann") == ("running", None)
        assert self.openclaw.begin()
        self.openclaw.end()


@pytest.fixture
def sleeper(database: Database) -> Sleeper:
    """Return an idle gateway that runs."""
    guests = Guests.at(database)
    guests.add("ann")
    sleeper = Sleeper(guests)
    guests.runtime.make_openclaw = lambda token: FakeOpenClaw(token, lambda: now().timestamp() + sleeper.ahead)
    guests.wake("ann")
    return sleeper


def test_a_nap_freezes_it_and_gives_its_memory_back(sleeper: Sleeper) -> None:
    """The container is paused, its memory in swap, its limit the one it was made with, and the row says paused."""
    before = sleeper.seen
    sleeper.nap()
    assert sleeper.seen == replace(before, state="paused")
    assert sleeper.guests.runtime.swapped == {sleeper.name}
    assert sleeper.guests.state("ann") == ("paused", None)


def test_the_next_request_wakes_it(sleeper: Sleeper) -> None:
    """It is the same container, takes new work at once although its lease holds, and nothing is started."""
    sleeper.nap()
    sleeper.guests.runtime.changes.clear()
    sleeper.answers()
    assert sleeper.guests.runtime.changes == [f"unpause container {sleeper.name}"]
    assert sleeper.guests.runtime.swapped == set()
    assert sleeper.guests.audited == [("gateway.start", "done")]


def test_a_wake_after_the_lease_ran_out_fences_nothing(sleeper: Sleeper) -> None:
    """A gateway that slept for longer than its lease is not asked for another one."""
    sleeper.nap()
    sleeper.ahead = LEASE_SECONDS + 1
    sleeper.answers()
    assert sleeper.openclaw.calls["gateway.suspend.prepare"] == 1


def test_one_whose_lease_has_lapsed_is_not_asked_to_lift_it(sleeper: Sleeper) -> None:
    """By its machine's own clock, that is: then a look at its health is all that a wake asks of it."""
    sleeper.nap()
    sleeper.ahead = LEASE_SECONDS
    sleeper.guests.age_row("ann", 3, lease_lapses_at=0.0)
    sleeper.openclaw.calls.clear()
    sleeper.answers()
    assert sleeper.openclaw.calls == {}


def test_what_is_known_of_an_earlier_lease_counts_for_nothing(
    sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A nap that broke off before it was one is under its own lease, and that is lifted."""

    def die(_: str) -> None:
        raise Killed

    sleeper.nap()
    sleeper.answers()
    sleeper.guests.age_row("ann", 3, lease_lapses_at=0.0)
    with monkeypatch.context() as patch, suppress(Killed):
        patch.setattr(sleeper.guests.runtime, "pause", die)
        sleeper.nap()
    assert (sleeper.guests.state("ann")[0], sleeper.openclaw.fenced) == ("dozing", True)
    sleeper.answers()


def test_a_wake_that_renewed_the_lease_and_died_leaves_no_fence(sleeper: Sleeper) -> None:
    """Killed before it gave the lease back that it had asked for anew: the next request lifts that one."""
    sleeper.nap()
    calls = sleeper.openclaw.calls["gateway.suspend.prepare"]
    for at in count(1):
        with suppress(Killed):
            sleeper.guests.wake(
                "ann", hosting=sleeper.guests.hosting(runtime=Dying(sleeper.guests.runtime, at, late=True))
            )
        if sleeper.openclaw.calls["gateway.suspend.prepare"] > calls:
            break
    assert (sleeper.seen.state, sleeper.guests.state("ann")[0], sleeper.openclaw.fenced) == ("running", "paused", True)
    sleeper.guests.age_row("ann", 3, lease_lapses_at=0.0)
    sleeper.answers()


def test_all_who_ask_get_the_one_that_napped(sleeper: Sleeper) -> None:
    """Twenty requests of four processes wake it once."""
    sleeper.nap()
    processes = [sleeper.guests.hosting() for _ in range(4)]
    sleeper.guests.runtime.changes.clear()
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda number: sleeper.guests.wake("ann", hosting=processes[number % 4]), range(20)))
    assert len({one.url for one in found}) == 1
    assert sleeper.guests.runtime.changes == [f"unpause container {sleeper.name}"]


@pytest.mark.parametrize(
    "room",
    [
        pytest.param(Swap(0, 0, obstacle="this host has no swap"), id="no swap"),
        pytest.param(Swap(8 << 30, 1 << 20), id="full swap"),
    ],
)
def test_without_room_its_memory_stays(sleeper: Sleeper, room: Swap) -> None:
    """Where nothing can be given back it is paused all the same."""
    sleeper.guests.runtime.room = room
    sleeper.nap()
    assert sleeper.guests.runtime.swapped == set()
    assert sleeper.guests.state("ann") == ("paused", None)
    sleeper.answers()


# A message in the middle of it ---------------------------------------------------------------------------------------


def test_who_asks_while_its_memory_goes_waits_and_wakes_it(sleeper: Sleeper) -> None:
    """A request that finds it paused gets it as soon as the nap is done."""
    asked: list[Future[Any]] = []

    def ask() -> None:
        asked.append(sleeper.meanwhile(lambda: sleeper.guests.wake("ann")))

    sleeper.guests.runtime.when_squeezed = ask
    sleeper.nap()
    assert asked[0].result(60).woken
    sleeper.answers()


def test_a_lease_that_ran_out_is_no_proof(sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the pause came too late the gateway goes on."""
    pause = sleeper.guests.runtime.pause

    def late(container_id: str) -> None:
        pause(container_id)
        later = now().fromtimestamp(now().timestamp() + LEASE_SECONDS + 1, now().tzinfo)
        monkeypatch.setattr(naps, "now", lambda: later)

    monkeypatch.setattr(sleeper.guests.runtime, "pause", late)
    with pytest.raises(RuntimeFailure, match="its lease has run out"):
        sleeper.nap()
    assert (sleeper.seen.state, sleeper.guests.state("ann")[0]) == ("running", "running")


# What goes wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [1, 2])
def test_a_nap_that_docker_refuses_leaves_it_awake(sleeper: Sleeper, at: int) -> None:
    """Neither paused nor fenced: the failure is told, and the gateway goes on as if nothing had been."""
    runtime = sleeper.guests.runtime
    runtime.break_at = len(runtime.changes) + at
    with pytest.raises(RuntimeFailure, match="broken on purpose"):
        sleeper.nap()
    runtime.break_at = None
    assert (sleeper.seen.state, sleeper.seen.is_squeezed) == ("running", False)
    assert sleeper.guests.state("ann") == ("running", None)
    assert not sleeper.openclaw.fenced
    sleeper.answers()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("at", range(1, 7))
@pytest.mark.parametrize("healer", ["request", "reconcile"])
def test_a_nap_that_is_killed_at_any_step_is_healed(sleeper: Sleeper, healer: str, at: int, late: bool) -> None:
    """kill -9 before or after the so manieth call of a nap: the next request or a round has it awake again."""
    with suppress(Killed):
        sleeper.nap(sleeper.guests.hosting(runtime=Dying(sleeper.guests.runtime, at, late=late)))
    if healer == "reconcile":
        rounds.reconcile(sleeper.guests.hosting())
        assert sleeper.seen.state == sleeper.guests.state("ann")[0]
        assert rounds.reconcile(sleeper.guests.hosting()) == []
    sleeper.answers()


@pytest.mark.parametrize("healer", ["request", "reconcile", "stop"])
def test_a_limit_that_a_killed_nap_left_low_is_restored(sleeper: Sleeper, healer: str) -> None:
    """kill -9 between reclaim and restore: whoever comes next gives it back the limit it was made with."""
    kill_while_squeezed(sleeper)
    assert sleeper.seen.is_squeezed
    if healer == "reconcile":
        found = rounds.reconcile(sleeper.guests.hosting())
        assert found == [Mended("ann", "goes on, its nap broke off")]
        assert (sleeper.seen.state, sleeper.seen.is_squeezed) == ("running", False)
    if healer == "stop":
        assert sleeper.guests.stop("ann") is True
        assert sleeper.guests.runtime.running() == []
    else:
        sleeper.answers()


def test_one_that_somebody_let_go_on_by_hand_has_its_limit_again(sleeper: Sleeper) -> None:
    """A container that runs with the low limit of a broken nap is not taken for awake before it has its own."""
    kill_while_squeezed(sleeper)
    one = sleeper.guests.runtime._found(sleeper.name)
    one.seen = replace(one.seen, state="running")
    sleeper.answers()


def kill_while_squeezed(sleeper: Sleeper) -> None:
    """Have a nap die while the limit is low."""

    def die() -> None:
        raise Killed

    sleeper.guests.runtime.when_squeezed = die
    with suppress(Killed):
        sleeper.nap()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("at", range(1, 7))
def test_a_wake_that_is_killed_at_any_step_is_healed(sleeper: Sleeper, at: int, late: bool) -> None:
    """A process that dies in the middle of a wake leaves what the next request brings to an end."""
    sleeper.nap()
    with suppress(Killed):
        sleeper.guests.wake("ann", hosting=sleeper.guests.hosting(runtime=Dying(sleeper.guests.runtime, at, late=late)))
    rounds.reconcile(sleeper.guests.hosting())
    assert sleeper.seen.state == sleeper.guests.state("ann")[0]
    sleeper.answers()


def test_a_wake_that_docker_refuses_is_healed_by_the_next_request(sleeper: Sleeper) -> None:
    """With each change of a wake failing in turn it is told, and the same gateway is awake after the next request."""
    runtime = sleeper.guests.runtime
    for step in count(1):
        sleeper.nap()
        runtime.break_at = len(runtime.changes) + step
        with suppress(RuntimeFailure):
            sleeper.guests.wake("ann")
        refused, runtime.break_at = len(runtime.changes) >= runtime.break_at, None
        sleeper.answers()
        if not refused:
            break
    assert step > 1


@pytest.mark.parametrize("when", ["begin", "commit", "answer", "down"])
@pytest.mark.parametrize("at", range(1, 7))
@pytest.mark.parametrize("step", ["nap", "wake"])
def test_a_nap_survives_the_database(sleeper: Sleeper, step: str, at: int, when: str) -> None:
    """Postgres failing at the so manieth transaction of a nap or a wake never leaves one that cannot be woken."""
    broken = sleeper.guests.hosting(db=FaultyDatabase(sleeper.guests.db.url, at, when))
    if step == "nap":
        with suppress(MosaicError):
            sleeper.nap(broken)
    else:
        sleeper.nap()
        with suppress(MosaicError):
            sleeper.guests.wake("ann", hosting=broken)
    sleeper.answers()


@pytest.mark.parametrize("lapsed", [False, True])
def test_one_that_does_not_answer_after_its_nap_is_waited_for(sleeper: Sleeper, lapsed: bool) -> None:
    """A gateway that cannot be told to take work is taken over as soon as it says that it has started."""
    sleeper.nap()
    get = sleeper.guests.runtime.get

    def mute(*values: Any, **named: Any) -> None:
        return None

    def mute_of_health(address: str, path: str, **named: Any) -> Answer | None:
        return None if path == "/healthz" else get(address, path, **named)

    sleeper.guests.runtime.post = mute
    if lapsed:
        sleeper.guests.age_row("ann", 3, lease_lapses_at=0.0)
        sleeper.guests.runtime.get = mute_of_health
    before = sleeper.seen.id
    assert sleeper.guests.wake("ann").woken
    assert (sleeper.seen.id, sleeper.guests.state("ann")) == (before, ("running", None))


def test_one_whose_container_ended_while_it_napped_is_made_again(sleeper: Sleeper) -> None:
    """After a restart of the daemon, which ends what is paused, the next request starts a new container."""
    sleeper.nap()
    before = sleeper.seen.id
    sleeper.guests.runtime.end(sleeper.name, 137)
    assert [one.health for one in rounds.health_check_all(sleeper.guests.hosting())] == ["gone"]
    assert sleeper.guests.wake("ann").woken
    assert sleeper.seen.id != before
    assert sleeper.guests.state("ann") == ("running", None)


# Stopping and looking at one that naps -------------------------------------------------------------------------------


def test_a_stop_ends_one_that_naps(sleeper: Sleeper) -> None:
    """It is let go on to end by itself; container and network go, the volume stays."""
    sleeper.nap()
    assert sleeper.guests.stop("ann") is True
    assert sleeper.guests.state("ann") == ("stopped", None)
    assert sleeper.guests.runtime.everything() == {
        "containers": [],
        "networks": [],
        "volumes": [f"{sleeper.name}-state"],
    }


def test_a_restart_makes_a_fresh_one_of_one_that_naps(sleeper: Sleeper) -> None:
    """An upgrade reaches a gateway that naps: another image, the same volume."""
    sleeper.nap()
    newer = Image("sha256:" + "fb" * 32, "2026.9.7", None)
    sleeper.guests.runtime.images["openclaw:newer"] = newer
    sleeper.guests.configure("fleet.image", "openclaw:newer")
    assert lifecycle.restart(sleeper.guests.hosting(), sleeper.guests.users["ann"]).woken
    assert sleeper.guests.row("ann").image_id == newer.id
    assert sleeper.guests.runtime.wanted(sleeper.name).volume == f"{sleeper.name}-state"
    sleeper.answers()


def test_one_that_naps_wakes_as_it_was(sleeper: Sleeper) -> None:
    """What its owner or an operator changed meanwhile waits for a restart, as it does with one that runs."""
    sleeper.nap()
    sleeper.guests.prefer("ann", primary_model="llm/crash")
    sleeper.guests.runtime.images.clear()
    sleeper.answers()


def test_a_wake_puts_up_the_walls_that_fell(sleeper: Sleeper) -> None:
    """What another program took away while it napped stands before it goes on."""
    sleeper.nap()
    sleeper.guests.walls.fall()
    sleeper.answers()
    assert sleeper.guests.walls.openings == []


def by_a_request(sleeper: Sleeper) -> str:
    """Ask for the gateway; return why that was refused."""
    with pytest.raises(RuntimeFailure) as raised:
        sleeper.guests.wake("ann")
    return raised.value.message


def by_a_round(sleeper: Sleeper) -> str:
    """Reap when a job of its schedules is due."""
    sleeper.guests.age("ann", 3, next_due_at=now())
    [row] = reaping.reap(sleeper.guests.hosting(), now()) or []
    assert row.outcome == "failed"
    return row.reason


def by_a_look(sleeper: Sleeper) -> str:
    """Look at all gateways when its nap broke off before its limit was restored."""
    one = sleeper.guests.runtime._found(sleeper.name)
    one.seen = replace(one.seen, memory_limit=1)
    [row] = rounds.reconcile(sleeper.guests.hosting())
    assert row.failed
    return row.what


@pytest.mark.parametrize("wake", [by_a_request, by_a_round, by_a_look])
def test_without_walls_it_naps_on(sleeper: Sleeper, wake: Callable[[Sleeper], str]) -> None:
    """A wake is refused as a start is where the walls cannot stand, whoever wakes, and works once they can."""
    sleeper.nap()
    sleeper.guests.walls.refusal = "the packet filter lacks a rule"
    assert wake(sleeper) == "the packet filter lacks a rule"
    assert (sleeper.seen.state, sleeper.guests.row("ann").status) == ("paused", "paused")
    sleeper.guests.walls.refusal = None
    sleeper.answers()


def test_a_deactivated_user_s_nap_is_not_ended_by_a_request(sleeper: Sleeper) -> None:
    """Who is deactivated wakes nothing, and their gateway is stopped like one that runs (4.4)."""
    sleeper.nap()
    sleeper.guests.deactivate("ann")
    with pytest.raises(Denied):
        sleeper.guests.wake("ann")
    assert sleeper.seen.state == "paused"
    assert sleeper.guests.stop("ann", grace=5, force=True) is True
    assert sleeper.guests.runtime.running() == []


def test_one_that_naps_is_well(sleeper: Sleeper) -> None:
    """It is neither unhealthy nor gone, is not asked how it is, and there is nothing to put right."""
    sleeper.nap()
    sleeper.guests.runtime._found(sleeper.name).behaviour = Behaviour(healthy=False)
    [seen] = rounds.health_check_all(sleeper.guests.hosting())
    assert (seen.status, seen.health, seen.is_well) == ("paused", "paused", True)
    sleeper.guests.runtime.changes.clear()
    assert rounds.reconcile(sleeper.guests.hosting()) == []
    assert sleeper.guests.runtime.changes == []


def told(mosaic: Machine, *options: str) -> tuple[str, str]:
    """Return mark and text of doctor's check of naps."""
    checks = json.loads(mosaic("doctor", "--json", *options).stdout)["checks"]
    [found] = [(one["mark"], one["text"]) for one in checks if one["check"] == "naps"]
    return found


def test_doctor_tells_what_naps_save(sleeper: Sleeper, mosaic: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many nap, what the others would hold asleep, and what is missing: swap, or enough of it."""
    guests = sleeper.guests
    monkeypatch.setattr(Mosaic, "hosting", property(lambda _: guests.hosting()))
    guests.add("ben")
    guests.wake("ben")
    sleeper.nap()
    assert told(mosaic) == ("ok", "1 of 2 gateways nap; asleep the others would hold 328M instead of 800M")
    guests.runtime.room = Swap(1 << 40, 1 << 40)
    assert told(mosaic) == ("ok", "1 of 2 gateways nap; asleep the others would hold 32M instead of 800M")
    guests.runtime.room = Swap(1 << 30, 1 << 20)
    assert told(mosaic)[1].endswith("instead of 800M, but the swap has room for 1M")
    assert told(mosaic)[0] == "warn"
    guests.runtime.room = Swap(0, 0, obstacle="this host has no swap")
    assert told(mosaic) == ("warn", "1 of 2 gateways nap and keep their memory: this host has no swap")
    for off in ("0", "0m"):
        guests.configure("nap.after", off)
        assert told(mosaic) == ("ok", "switched off: nap.after is 0")


def test_list_and_show_say_that_it_naps(sleeper: Sleeper, mosaic: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that naps is shown as paused, whatever its row was left at; `start` wakes it, `stop` ends it."""
    guests = sleeper.guests
    monkeypatch.setattr(Mosaic, "hosting", property(lambda _: guests.hosting()))
    monkeypatch.setattr(door, "_engine", lambda _: guests.runtime)
    sleeper.nap()
    assert mosaic("gateway", "list").stdout.startswith("ann\tpaused\tllm/m1\tcurrent")
    shown = mosaic("gateway", "show", "ann", "--json").document["gateway"]
    assert shown["status"] == "paused"
    assert shown["sleeps_at"]
    assert mosaic("gateway", "health").stdout == "ann\tpaused\tpaused\t\n"
    before = sleeper.seen.id
    assert mosaic("gateway", "start", "ann").stdout.startswith("ann started in ")
    assert sleeper.seen.id == before
    guests.runtime.pause(sleeper.name)
    assert mosaic("gateway", "list").stdout.startswith("ann\tpaused")
    assert mosaic("gateway", "stop", "ann").stdout == "ann stopped\n"


def test_a_round_sees_what_somebody_paused_or_let_go_on(sleeper: Sleeper) -> None:
    """A gateway paused behind Mosaic's back goes on; one that was let go on counts as running."""
    sleeper.guests.runtime.pause(sleeper.name)
    assert rounds.reconcile(sleeper.guests.hosting()) == [Mended("ann", "goes on, its nap broke off")]
    assert sleeper.seen.state == "running"
    sleeper.nap()
    sleeper.guests.runtime.unpause(sleeper.name)
    assert rounds.reconcile(sleeper.guests.hosting()) == [Mended("ann", "goes on, its nap broke off")]
    assert sleeper.guests.state("ann") == ("running", None)

"""Users' gateways from the first request to the last stop: on a real Postgres and an engine in memory."""

import json
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from threading import Barrier
from typing import Any
from uuid import uuid4

import pytest

from mosaic_fleet.db.database import Database
from mosaic_fleet.db.tables import now
from mosaic_fleet.errors import ConfigurationError, Conflict, Denied, MosaicError, NotFound, RuntimeFailure
from mosaic_fleet.fleet import containers, lifecycle, starting, stopping
from mosaic_fleet.runtimes.base import INSTALL_LABEL, Image
from mosaic_fleet.runtimes.gateway_base import CONFIG_LABEL, KIND_LABEL, OWNER_LABEL, Memory
from tests.fake_gateways import Behaviour
from tests.postgres.guests import KEY, Dying, Guests, Killed
from tests.postgres.team import FaultyDatabase

LONG = 60.0


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look more often: the engine in memory needs no time."""
    for module in (starting, stopping):
        monkeypatch.setattr(module, "_POLL_SECONDS", 0.001)
    monkeypatch.setattr(starting, "_UNDO_SECONDS", 0.01)
    monkeypatch.setattr(starting, "_OWNER_SECONDS", 0.01)
    monkeypatch.setattr(stopping, "LAST_SECONDS", 0.01)


@pytest.fixture
def guests(database: Database) -> Guests:
    """Return an installation with one user."""
    guests = Guests.at(database)
    guests.add("ann")
    return guests


def until(seen: Callable[[], object]) -> None:
    """Wait until something is seen."""
    end = time.monotonic() + LONG
    while not seen():
        assert time.monotonic() < end, "not seen in time"
        time.sleep(0.01)


def nothing_but(*volumes: str) -> dict[str, list[str]]:
    """Return what Docker has when no gateway runs."""
    return {"containers": [], "networks": [], "volumes": list(volumes)}


# Starting ------------------------------------------------------------------------------------------------------------


def test_the_first_request_makes_the_container(guests: Guests) -> None:
    """Network, volume and container are made and marked; the gateway gets its files; the row tells all of it."""
    found = guests.wake("ann")
    assert found.woken
    assert found.url == "http://10.213.0.2:18789"
    name = guests.container("ann")
    assert guests.runtime.everything() == {"containers": [name], "networks": [name], "volumes": [f"{name}-state"]}
    row, wanted = guests.row("ann"), guests.runtime.wanted(name)
    assert (row.status, row.reason, row.failures, row.subnet_index) == ("running", None, 0, 0)
    assert row.started_at
    assert row.image_id == wanted.image
    assert wanted.labels[CONFIG_LABEL] == row.config_hash
    assert set(wanted.labels) == {INSTALL_LABEL, KIND_LABEL, OWNER_LABEL, CONFIG_LABEL}
    assert str(guests.users["ann"]) not in wanted.labels[OWNER_LABEL]
    files = guests.runtime.files(name)
    assert files["gateway_token"] == found.token.get_secret_value()
    assert json.loads(files["provider_keys"]) == {"llm": KEY}
    assert json.loads(files["openclaw.json"]) == row.config
    assert guests.audited == [("gateway.start", "done")]


def test_no_secret_leaves_by_another_way(guests: Guests) -> None:
    """Neither what Docker is told of the container nor the row holds the key or the token."""
    token = guests.wake("ann").token.get_secret_value()
    told = repr(guests.runtime.wanted(guests.container("ann"))) + guests.row("ann").model_dump_json()
    assert KEY not in told
    assert token not in told


def test_the_next_request_finds_it_running(guests: Guests) -> None:
    """It changes nothing, and gives the same address and token."""
    first = guests.wake("ann")
    guests.runtime.changes.clear()
    second = guests.wake("ann")
    assert (second.url, second.token, second.woken) == (first.url, first.token, False)
    assert guests.runtime.changes == []


def test_fifty_first_requests_make_one_container(guests: Guests) -> None:
    """Ten processes with five threads each that all want it at once share one start (4.1)."""
    processes = [guests.hosting() for _ in range(10)]
    with ThreadPoolExecutor(50) as pool:
        found = list(pool.map(lambda number: guests.wake("ann", hosting=processes[number % 10]), range(50)))
    assert len({one.url for one in found}) == 1
    assert len({one.token.get_secret_value() for one in found}) == 1
    assert len([change for change in guests.runtime.changes if change.startswith("create container")]) == 1
    assert guests.audited == [("gateway.start", "done")]


def test_users_have_their_own(guests: Guests) -> None:
    """Two users have two containers, volumes, networks and tokens."""
    guests.add("ben")
    ann, ben = guests.wake("ann"), guests.wake("ben")
    assert ann.url != ben.url
    assert ann.token != ben.token
    assert {kind: len(names) for kind, names in guests.runtime.everything().items()} == {
        "containers": 2,
        "networks": 2,
        "volumes": 2,
    }
    assert guests.row("ben").subnet_index == 1


def test_many_users_at_once_get_different_networks(guests: Guests) -> None:
    """Twelve users waking in processes of their own each have a place in the pool."""
    guests.runtime.host = Memory(64 << 30, 60 << 30)
    names = [guests.add(f"user-{number}") and f"user-{number}" for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(guests.wake, names))
    assert len({one.url for one in found}) == 12


def test_a_taken_subnet_or_interface_is_passed_by(guests: Guests) -> None:
    """Networks of others in the pool, and others' bridges of that name, are left alone."""
    guests.runtime.create_bridge("other", interface="br-other", subnet="10.213.0.0/27", labels={})
    guests.runtime.create_bridge("third", interface="muabcde-2", subnet="10.99.0.0/28", labels={})
    guests.wake("ann")
    assert guests.row("ann").subnet_index == 3


def test_a_subnet_that_is_being_taken_is_passed_by(guests: Guests) -> None:
    """Docker refuses a place that somebody's unfinished network has, and does not list it: the next ones are tried."""
    guests.runtime.in_the_making = ["10.213.0.0/26", "10.213.0.64/28"]
    assert guests.wake("ann").url == "http://10.213.0.82:18789"
    assert guests.row("ann").subnet_index == 5


def test_a_docker_that_refuses_every_subnet_is_said_so(guests: Guests) -> None:
    """The search ends, with Docker's reason, and leaves nothing."""
    guests.runtime.in_the_making = ["10.213.0.0/16"]
    with pytest.raises(Conflict, match="Pool overlaps"):
        guests.wake("ann")
    assert guests.runtime.everything() == nothing_but()


def test_an_exhausted_pool_is_said_so(guests: Guests) -> None:
    """The third gateway in a pool for two is refused with the setting to change."""
    guests.configure("gateways.subnet_pool", "10.213.0.0/27")
    for name in ("ben", "cyd"):
        guests.add(name)
    guests.wake("ann")
    guests.wake("ben")
    with pytest.raises(RuntimeFailure, match=r"no network is free in the pool 10\.213") as raised:
        guests.wake("cyd")
    assert "gateways.subnet_pool" in str(raised.value.hint)
    guests.stop("ben")
    assert guests.wake("cyd").woken


def test_without_a_preference_the_first_model_is_taken(guests: Guests) -> None:
    """A user with a provider and no preferred model has its first model."""
    guests.add("ben", model=None)
    guests.wake("ben")
    config = guests.row("ben").config
    assert config["agents"]["defaults"]["model"]["primary"] == "llm/m1"


# Refusals ------------------------------------------------------------------------------------------------------------


def test_unknown_and_deactivated_users_have_none(guests: Guests) -> None:
    """Nobody's gateway is started, and nothing is recorded."""
    with pytest.raises(NotFound):
        lifecycle.ensure_running(guests.hosting(), uuid4())
    guests.deactivate("ann")
    with pytest.raises(Denied, match='user "ann" is deactivated'):
        guests.wake("ann")
    assert guests.runtime.changes == []


def test_who_is_deactivated_is_cut_while_another_process_starts_it(guests: Guests) -> None:
    """The start of a gateway that is not healthy for long ends at once, as denied, and nothing of it stays (4.4)."""
    guests.prefer("ann", primary_model="llm/never-healthy")
    with ThreadPoolExecutor(1) as pool:
        start = pool.submit(guests.wake, "ann")
        until(lambda: guests.runtime.running() or start.done())
        guests.deactivate("ann")
        assert lifecycle.cut(guests.hosting(), guests.users["ann"]) in (True, False)
        with pytest.raises((Denied, RuntimeFailure)):
            start.result(LONG)
    assert guests.runtime.everything() == nothing_but(f"{guests.container('ann')}-state")
    assert guests.state("ann") == ("stopped", None)


def test_who_is_deactivated_is_not_started_even_without_help(guests: Guests) -> None:
    """The start itself notices it, long before its time is over."""
    guests.prefer("ann", primary_model="llm/never-healthy")
    with ThreadPoolExecutor(1) as pool:
        start = pool.submit(guests.wake, "ann")
        until(lambda: guests.runtime.running() or start.done())
        guests.deactivate("ann")
        with pytest.raises(Denied):
            start.result(LONG)
    assert guests.runtime.running() == []
    assert guests.state("ann") == ("stopped", None)


def test_who_is_deactivated_is_cut_while_another_process_drains_it(guests: Guests) -> None:
    """A stop that waits for turns does not hold it up, and ends as if they had ended."""
    guests.prefer("ann", primary_model="llm/never-stops")
    guests.wake("ann")
    with ThreadPoolExecutor(1) as pool:
        stop = pool.submit(guests.stop, "ann", grace=600)
        until(lambda: guests.state("ann")[0] == "stopping" or stop.done())
        guests.deactivate("ann")
        lifecycle.cut(guests.hosting(), guests.users["ann"])
        assert stop.result(LONG)
    assert guests.runtime.running() == []
    assert guests.state("ann") == ("stopped", None)


def test_a_user_deactivated_while_it_starts_is_stopped(guests: Guests) -> None:
    """Who is deactivated during the start has no gateway at its end (4.4)."""
    behave = guests.runtime.behave

    def deactivate(*values: Any) -> Any:
        guests.deactivate("ann")
        return behave(*values)

    guests.runtime.behave = deactivate
    with pytest.raises(Denied):
        guests.wake("ann")
    assert guests.runtime.everything() == nothing_but(f"{guests.container('ann')}-state")


def foreign_container(guests: Guests) -> None:
    """Put another's container into the place of ann's."""
    guests.wake("ann")
    wanted = guests.runtime.wanted(guests.container("ann"))
    guests.stop("ann")
    guests.runtime.create_bridge(wanted.bridge, interface="br-x", subnet="10.99.0.0/28", labels={})
    made = guests.runtime.create(replace(wanted, labels={INSTALL_LABEL: "another"}))
    guests.runtime.start(made, stdin=b"")


def foreign_network(guests: Guests) -> None:
    """Put another's network into the place of ann's."""
    guests.runtime.create_bridge(guests.container("ann"), interface="br-x", subnet="10.99.0.0/28", labels={})


def foreign_volume(guests: Guests) -> None:
    """Put another's volume into the place of ann's."""
    guests.runtime.create_volume(f"{guests.container('ann')}-state", labels={})


@pytest.mark.parametrize(
    ("kind", "make"), [("container", foreign_container), ("network", foreign_network), ("volume", foreign_volume)]
)
def test_what_is_foreign_is_left_alone(guests: Guests, kind: str, make: Callable[[Guests], None]) -> None:
    """A container, network or volume of that name that another made is named and stays."""
    make(guests)
    before = guests.runtime.everything()
    guests.runtime.changes.clear()
    with pytest.raises(Conflict, match=f"{kind} .*is not this Mosaic's"):
        guests.wake("ann")
    assert (guests.runtime.changes, guests.runtime.everything()) == ([], before)
    assert guests.state("ann")[0] == "error"
    if kind == "container":
        with pytest.raises(Conflict):
            guests.stop("ann")
        assert guests.runtime.everything() == before


def no_provider(guests: Guests) -> None:
    """Give ann's place to a user without a provider."""
    guests.users["ann"] = guests.add("nobody", provider=False)


def no_memory(guests: Guests) -> None:
    """Fill the host's memory."""
    guests.runtime.host = Memory(24 << 30, 1 << 30)


def no_image(guests: Guests) -> None:
    """Take the image away."""
    guests.runtime.images.clear()


def old_image(guests: Guests) -> None:
    """Put a release there that Mosaic cannot configure."""
    guests.runtime.images = {"openclaw:fake": Image("sha256:" + "0" * 64, "2026.7.35", None)}


def no_walls(guests: Guests) -> None:
    """Take a rule of the packet filter away."""
    guests.walls.refusal = "the packet filter lacks a rule"


def a_model_that_is_gone(guests: Guests) -> None:
    """Prefer a model that the provider has not."""
    guests.prefer("ann", primary_model="llm/gone")


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (no_provider, ConfigurationError, "has no provider with a model"),
        (no_memory, RuntimeFailure, "not enough memory for a gateway: 2G needed, 1G of 24G available"),
        (no_image, RuntimeFailure, "the image openclaw:fake is not here"),
        (old_image, ConfigurationError, r"is OpenClaw 2026\.7\.35, Mosaic needs 2026\.8\.2 or later"),
        (no_walls, RuntimeFailure, "the packet filter lacks a rule"),
        (a_model_that_is_gone, ConfigurationError, "prefers llm/gone, which is not there"),
    ],
)
def test_what_cannot_start_says_why_and_changes_nothing(
    guests: Guests, spoil: Callable[[Guests], None], kind: type[MosaicError], words: str
) -> None:
    """State and reason are kept, with a hint, nothing is made, and it is tried again at the next request."""
    spoil(guests)
    for _ in range(4):
        with pytest.raises(kind, match=words) as raised:
            guests.wake("ann")
    assert raised.value.hint
    assert guests.state("ann") == ("error", raised.value.message)
    assert guests.row("ann").failures == 0
    assert guests.runtime.everything() == nothing_but()


def test_an_older_openclaw_is_refused_on_a_state_that_is_there(guests: Guests) -> None:
    """A newer one may have migrated it: asleep it stays so, and one as new as before starts."""
    older = Image("sha256:" + "0" * 64, "2026.9.5", None)
    guests.wake("ann")
    guests.stop("ann")
    guests.runtime.images["openclaw:older"] = older
    guests.configure("fleet.image", "openclaw:older")
    with pytest.raises(ConfigurationError, match=r"is OpenClaw 2026\.9\.5, gateway of \"ann\" has run 2026\.9\.6: "):
        guests.wake("ann")
    guests.runtime.images["openclaw:older"] = replace(older, version="2026.9.6")
    assert guests.wake("ann")


def begin(guests: Guests, name: str, seconds: float) -> None:
    """Have a user's gateway be starting for so many seconds, whatever its row said before."""
    with guests.db.transaction(system=True) as session:
        row = containers.claim(session, guests.box, guests.users[name])
        containers.begin(row, "digest", "sha256:0", now=now() - timedelta(seconds=seconds))


def test_a_gateway_that_starts_beside_needs_its_memory_too(guests: Guests) -> None:
    """Memory that another start will take is not given twice, also when that one was begun before and broke off."""
    guests.add("ben")
    guests.runtime.host = Memory(24 << 30, 3 << 30)
    for seconds in (9000, 1):
        begin(guests, "ben", seconds)
    with pytest.raises(RuntimeFailure, match=r"4G needed \(1 others are starting\)"):
        guests.wake("ann")


def test_a_start_that_was_killed_needs_no_memory_for_ever(guests: Guests) -> None:
    """A row that says starting for longer than a start may take counts no more, although nobody put it right."""
    guests.configure("gateways.start_timeout", "60")
    guests.add("ben")
    guests.runtime.host = Memory(24 << 30, 3 << 30)
    begin(guests, "ben", 61)
    assert guests.wake("ann").woken


def test_two_starts_at_once_do_not_share_memory_for_one(guests: Guests) -> None:
    """Both have looked at the host's memory before either begins: the second is refused."""
    guests.add("ben")
    for name in ("ann", "ben"):
        guests.prefer(name, primary_model="llm/never-healthy")
    meeting = Barrier(2)

    def both_look() -> Memory:
        meeting.wait(LONG)
        return Memory(24 << 30, 3 << 30)

    guests.runtime.host_memory = both_look
    with ThreadPoolExecutor(2) as pool:
        starts = {pool.submit(guests.wake, name): name for name in ("ann", "ben")}
        ended = wait(starts, LONG, FIRST_COMPLETED).done
        for name in starts.values():
            guests.deactivate(name)
        [refused] = ended
        with pytest.raises(RuntimeFailure, match=r"4G needed \(1 others are starting\)"):
            refused.result()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("crash", r"it ended with exit code 1 \(last lines: stand-in crashes as its model says\)"),
        ("hog", r"killed for using more memory than its limit \(OOM\)"),
        ("never-healthy", "not started after 1 s"),
    ],
)
def test_a_gateway_that_does_not_start_leaves_its_reason_and_nothing_else(
    guests: Guests, model: str, words: str
) -> None:
    """Container and network are gone, the volume stays, and the row says why."""
    guests.configure("gateways.start_timeout", "1")
    guests.prefer("ann", primary_model=f"llm/{model}")
    with pytest.raises(RuntimeFailure, match=words) as raised:
        guests.wake("ann")
    assert guests.state("ann") == ("error", raised.value.message)
    assert guests.runtime.everything() == nothing_but(f"{guests.container('ann')}-state")
    assert guests.audited == [("gateway.start", "failed")]


def test_what_no_row_can_hold_is_spelled_out(guests: Guests) -> None:
    """A gateway whose last words have control characters leaves its reason, and its failure counts."""
    guests.runtime.behave = lambda *_: Behaviour(1, stderr="one\x00\x1b[2J\ntwo\n")
    with pytest.raises(RuntimeFailure, match="did not start") as raised:
        guests.wake("ann")
    assert raised.value.message.endswith(r"(last lines: one\x00\x1b[2J | two)")
    assert guests.state("ann") == ("error", raised.value.message)
    assert guests.row("ann").failures == 1
    assert guests.audited == [("gateway.start", "failed")]


def test_after_three_failures_it_is_not_tried_for_a_while(guests: Guests) -> None:
    """The fourth request says why without touching Docker; who insists, or another model, is tried at once."""
    guests.prefer("ann", primary_model="llm/crash")
    for _ in range(3):
        with pytest.raises(RuntimeFailure, match="did not start"):
            guests.wake("ann")
    guests.runtime.changes.clear()
    with pytest.raises(RuntimeFailure, match=r"failed 3 times in a row: .*exit code 1"):
        guests.wake("ann")
    assert guests.runtime.changes == []
    with pytest.raises(RuntimeFailure, match="did not start"):
        guests.wake("ann", insist=True)
    guests.prefer("ann", primary_model="llm/m1")
    assert guests.wake("ann").woken
    assert guests.row("ann").failures == 0


def test_after_a_while_it_is_tried_again(guests: Guests) -> None:
    """Once the pause is over the next request tries."""
    guests.prefer("ann", primary_model="llm/crash")
    for _ in range(3):
        with pytest.raises(RuntimeFailure):
            guests.wake("ann")
    with guests.db.transaction(system=True) as session:
        row = containers.find(session, guests.users["ann"])
        assert row
        assert row.retry_at
        row.retry_at -= timedelta(minutes=5)
    guests.runtime.changes.clear()
    with pytest.raises(RuntimeFailure, match="did not start"):
        guests.wake("ann")
    assert guests.runtime.changes


# Stopping ------------------------------------------------------------------------------------------------------------


def test_a_stop_removes_all_but_the_volume(guests: Guests) -> None:
    """Container and network go, the volume stays; a second stop does nothing; the next request starts it again."""
    guests.wake("ann")
    assert guests.stop("ann") is True
    assert guests.state("ann") == ("stopped", None)
    assert guests.runtime.everything() == nothing_but(f"{guests.container('ann')}-state")
    assert guests.row("ann").subnet_index is None
    assert guests.stop("ann") is False
    assert guests.wake("ann").woken
    assert guests.audited == [("gateway.start", "done"), ("gateway.stop", "done"), ("gateway.start", "done")]


def test_who_never_had_one_has_nothing_to_stop(guests: Guests) -> None:
    """Stopping before the first start is no error."""
    assert guests.stop("ann") is False


def test_a_gateway_that_works_is_reported_and_ends_later(guests: Guests) -> None:
    """After the grace it is still stopping, and nothing is started beside it; the same command finishes the stop."""
    guests.prefer("ann", primary_model="llm/never-stops")
    guests.wake("ann")
    guests.configure("gateways.start_timeout", "1")
    with pytest.raises(RuntimeFailure, match="is still stopping"):
        guests.stop("ann", grace=0.05)
    assert guests.state("ann") == ("stopping", "it is still finishing its work after 0.05 s")
    with pytest.raises(RuntimeFailure, match="is still stopping"):
        guests.wake("ann")
    assert guests.state("ann")[0] == "stopping"
    assert guests.runtime.running() == [guests.container("ann")]
    guests.runtime.end(guests.container("ann"), 0)
    assert guests.stop("ann") is True
    assert guests.state("ann") == ("stopped", None)


def test_a_forced_stop_kills_after_the_grace(guests: Guests) -> None:
    """Who must be gone is gone."""
    guests.prefer("ann", primary_model="llm/never-stops")
    guests.wake("ann")
    assert guests.stop("ann", grace=0.05, force=True) is True
    assert guests.runtime.running() == []


def test_a_gateway_that_drains_is_waited_for(guests: Guests) -> None:
    """A request during a drain starts the next container after the old one has ended."""
    guests.prefer("ann", primary_model="llm/slow-stop")
    guests.wake("ann")
    with pytest.raises(RuntimeFailure):
        guests.stop("ann", grace=0)
    assert guests.wake("ann").woken


def test_a_restart_brings_fresh_config_to_the_same_volume(guests: Guests) -> None:
    """What the user changed is in the new container, the volume is the old one."""
    guests.wake("ann")
    before = guests.row("ann")
    guests.prefer("ann", primary_model="llm/m2", personality="Be kind.\n")
    found = lifecycle.restart(guests.hosting(), guests.users["ann"])
    assert found.woken
    row, files = guests.row("ann"), guests.runtime.files(guests.container("ann"))
    assert files["SOUL.md"] == "Be kind.\n"
    assert "llm/m2" in files["openclaw.json"]
    assert row.container_id != before.container_id
    assert row.config_hash != before.config_hash
    assert guests.runtime.everything()["volumes"] == [f"{guests.container('ann')}-state"]


# Healing -------------------------------------------------------------------------------------------------------------


def test_a_vanished_or_ended_container_is_made_again(guests: Guests) -> None:
    """A container that is gone, or that a reboot ended, is replaced by the next request."""
    guests.wake("ann")
    guests.runtime.vanish(guests.container("ann"))
    assert guests.wake("ann").woken
    guests.runtime.end(guests.container("ann"), 137)
    assert guests.wake("ann").woken
    assert guests.runtime.running() == [guests.container("ann")]


def test_a_paused_container_goes_on(guests: Guests) -> None:
    """The next request lets it go on: it is the same container."""
    guests.wake("ann")
    before = guests.row("ann").container_id
    guests.runtime.pause(guests.container("ann"))
    assert guests.wake("ann").woken
    assert guests.row("ann").container_id == before


def test_a_container_of_a_killed_start_is_taken_over(guests: Guests) -> None:
    """One that a command left running is not started twice, and keeps what it was started with."""
    guests.wake("ann")
    with guests.db.transaction(system=True) as session:
        row = containers.find(session, guests.users["ann"])
        assert row
        row.status, row.container_id = "starting", None
    guests.prefer("ann", primary_model="llm/m2")
    guests.runtime.changes.clear()
    assert guests.wake("ann").woken
    assert guests.runtime.changes == []
    wanted = guests.runtime.wanted(guests.container("ann"))
    assert guests.row("ann").config_hash == wanted.labels[CONFIG_LABEL]


@pytest.mark.parametrize("at", range(1, 13))
def test_a_start_that_fails_at_any_change_can_be_repeated(guests: Guests, at: int) -> None:
    """Docker failing at the so manieth change leaves a reason; the next request starts one gateway."""
    guests.runtime.break_at = at
    try:
        guests.wake("ann")
    except RuntimeFailure:
        assert guests.state("ann")[0] == "error"
    guests.runtime.break_at = None
    guests.wake("ann")
    name = guests.container("ann")
    assert guests.runtime.everything() == {"containers": [name], "networks": [name], "volumes": [f"{name}-state"]}
    assert guests.state("ann") == ("running", None)


@pytest.mark.parametrize("at", range(1, 6))
@pytest.mark.parametrize("verb", [lifecycle.stop, lifecycle.restart])
def test_a_stop_or_restart_that_fails_at_any_change_can_be_repeated(guests: Guests, at: int, verb: Any) -> None:
    """After Docker failed at the so manieth change the same command does what it was to do."""
    guests.wake("ann")
    guests.runtime.break_at = len(guests.runtime.changes) + at
    with suppress(RuntimeFailure):
        verb(guests.hosting(), guests.users["ann"])
    guests.runtime.break_at = None
    verb(guests.hosting(), guests.users["ann"])
    expected = "stopped" if verb is lifecycle.stop else "running"
    assert guests.state("ann") == (expected, None)
    assert len(guests.runtime.running()) == (0 if verb is lifecycle.stop else 1)


@pytest.mark.parametrize("when", ["begin", "commit", "answer", "down"])
@pytest.mark.parametrize("at", range(1, 10))
def test_a_start_survives_the_database(guests: Guests, at: int, when: str) -> None:
    """Postgres failing at the so manieth transaction never leaves two containers, nor one that nobody finds."""
    broken = FaultyDatabase(guests.db.url, at, when)
    with suppress(MosaicError):
        guests.wake("ann", hosting=guests.hosting(db=broken))
    assert len(guests.runtime.running()) <= 1
    guests.wake("ann")
    name = guests.container("ann")
    assert guests.runtime.everything() == {"containers": [name], "networks": [name], "volumes": [f"{name}-state"]}
    assert guests.stop("ann") is True
    assert guests.runtime.everything() == nothing_but(f"{name}-state")


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("at", range(1, 30))
def test_a_start_that_is_killed_at_any_step_is_healed(guests: Guests, at: int, late: bool) -> None:
    """A process that dies before or after the so manieth look or change leaves what the next request puts right."""
    dying = Dying(guests.runtime, at, late=late)
    with suppress(Killed):
        guests.wake("ann", hosting=guests.hosting(runtime=dying))
    guests.wake("ann")
    name = guests.container("ann")
    assert guests.runtime.everything() == {"containers": [name], "networks": [name], "volumes": [f"{name}-state"]}
    assert guests.state("ann") == ("running", None)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("at", range(1, 12))
@pytest.mark.parametrize("verb", [lifecycle.stop, lifecycle.restart])
def test_a_stop_or_restart_that_is_killed_at_any_step_is_healed(guests: Guests, verb: Any, at: int, late: bool) -> None:
    """A process that dies in the middle of a stop leaves what the next request and the next stop bring to an end."""
    guests.wake("ann")
    dying = Dying(guests.runtime, at, late=late)
    with suppress(Killed):
        verb(guests.hosting(runtime=dying), guests.users["ann"])
    guests.wake("ann")
    name = guests.container("ann")
    assert guests.runtime.everything() == {"containers": [name], "networks": [name], "volumes": [f"{name}-state"]}
    assert guests.state("ann") == ("running", None)
    guests.stop("ann")
    assert guests.runtime.everything() == nothing_but(f"{name}-state")

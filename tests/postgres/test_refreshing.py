"""A change of what a gateway runs with: carried out when it is idle, at once or later, and no turn is cut for it."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from sqlmodel import text

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.db.database import Database
from mosaic_fleet.db.tables import now
from mosaic_fleet.errors import KeyFailure, MosaicError, RuntimeFailure
from mosaic_fleet.fleet import containers, personal, preferences, providers, reaping, refreshing, starting, stopping
from mosaic_fleet.fleet.refreshing import Outcome
from mosaic_fleet.runtimes.base import Image
from mosaic_fleet.web.duties import TABLE, Duties
from tests.docker_run import wait_until
from tests.postgres.guests import Dying, Guests
from tests.postgres.machine import Machine
from tests.postgres.team import FaultyDatabase

STEPS = 40  # more than a restart has


@pytest.fixture
def guests(database: Database, monkeypatch: pytest.MonkeyPatch) -> Guests:
    """Return an installation with a user whose gateway runs, which the command line reaches too."""
    for module in (starting, stopping):
        monkeypatch.setattr(module, "_POLL_SECONDS", 0.001)
    monkeypatch.setattr(refreshing, "_TAKING_SECONDS", 0.1)
    guests = Guests.at(database)
    guests.add("ann")
    guests.wake("ann")
    monkeypatch.setattr(Mosaic, "hosting", property(lambda _: guests.hosting()))
    monkeypatch.setattr(Mosaic, "box", property(lambda _: guests.box))
    return guests


def prefer(guests: Guests, **values: Any) -> None:
    """Change ann's preferences as every door does."""
    with guests.db.transaction(system=True) as session:
        preferences.set(session, guests.users["ann"], values)


def refresh(guests: Guests, **options: Any) -> Outcome | None:
    """Have ann's gateway follow what was changed."""
    return refreshing.refresh(guests.hosting(**options), guests.users["ann"])


def model(guests: Guests) -> str:
    """Return the model that ann's container was given."""
    config = json.loads(guests.runtime.files(guests.container("ann"))["openclaw.json"])
    return str(config["agents"]["defaults"]["model"]["primary"])


def identity(guests: Guests) -> str:
    """Return the id of ann's container."""
    found = guests.runtime.container(guests.container("ann"))
    assert found
    return found.id


def is_stale(guests: Guests) -> bool:
    return guests.row("ann").is_stale


def test_an_idle_gateway_is_restarted_with_the_change(guests: Guests) -> None:
    """It gets the new config in a new container on the same volume, and is asked for a lease before."""
    before, openclaw = identity(guests), guests.runtime.openclaw(guests.container("ann"))
    volumes = guests.runtime.everything()["volumes"]
    prefer(guests, primary_model="llm/m2")
    assert is_stale(guests)
    assert refresh(guests) == Outcome("ann", "restarted")
    assert (model(guests), is_stale(guests)) == ("llm/m2", False)
    assert identity(guests) != before
    assert guests.runtime.everything()["volumes"] == volumes
    assert openclaw.calls["gateway.suspend.prepare"] == 1
    assert refresh(guests) is None


def test_a_busy_gateway_is_left_until_it_is_idle(guests: Guests) -> None:
    """Its turn goes on to its end and new ones are taken meanwhile; then serve's duty restarts it."""
    before, openclaw = identity(guests), guests.runtime.openclaw(guests.container("ann"))
    assert openclaw.begin()
    prefer(guests, personality="Be kind.\n")
    found = refresh(guests)
    assert found
    assert (found.result, "embedded-run" in found.reason) == ("busy", True)
    assert openclaw.begin()
    served(guests)
    assert (identity(guests), is_stale(guests), openclaw.fenced) == (before, True, False)
    openclaw.end()
    openclaw.end()
    served(guests)
    assert (openclaw.begun, openclaw.ended) == (2, 2)
    assert identity(guests) != before
    assert guests.runtime.files(guests.container("ann"))["SOUL.md"] == "Be kind.\n"
    assert not is_stale(guests)


def served(guests: Guests) -> list[str]:
    """Do one round of serve's duties; return those that failed."""
    duties = Duties(guests.hosting, lambda work: work(guests.db), table=TABLE)
    duties.round()
    return duties.failing


def reaped(guests: Guests, **options: Any) -> list[tuple[str, str, str]]:
    """Do what cron does."""
    rows = reaping.reap(guests.hosting(**options), now()) or []
    return [(row.user, row.outcome, row.reason) for row in rows]


def test_cron_restarts_a_busy_gateway_when_it_is_idle(guests: Guests) -> None:
    """Where nothing serves, a round of `mosaic reap` does it: kept while it works, restarted when that has ended."""
    before, openclaw = identity(guests), guests.runtime.openclaw(guests.container("ann"))
    assert openclaw.begin()
    prefer(guests, primary_model="llm/m2")
    old = "it runs with something that was changed"
    assert reaped(guests) == [("ann", "kept", f"{old}, but busy: embedded-run, root-request")]
    assert (identity(guests), is_stale(guests)) == (before, True)
    openclaw.end()
    at = now()
    [row] = reaping.reap(guests.hosting(), at) or []
    assert (row.user, row.outcome, row.reason) == ("ann", "restarted", old)
    assert at < (guests.row("ann").started_at or at)
    assert (model(guests), is_stale(guests)) == ("llm/m2", False)
    assert reaped(guests, runtime=Dying(guests.runtime, 1, late=False)) == [
        ("ann", "kept", "idle 0 of 30 min (last: start)")
    ]


def test_a_dry_run_of_cron_restarts_nothing(guests: Guests) -> None:
    """Neither Docker nor the gateway is asked, and it stays stale."""
    prefer(guests, primary_model="llm/m2")
    hosting = guests.hosting(runtime=Dying(guests.runtime, 1, late=False))
    [row] = reaping.reap(hosting, now(), dry_run=True) or []
    assert (row.outcome, is_stale(guests), model(guests)) == ("kept", True, "llm/m1")


def test_cron_stops_one_that_naps_with_something_old(guests: Guests) -> None:
    """It has nothing to do; the next request starts it with the change."""
    guests.age("ann", 3)
    assert [row[:2] for row in reaped(guests)] == [("ann", "napped")]
    prefer(guests, primary_model="llm/m2")
    assert reaped(guests) == [("ann", "stopped", "it was paused: the next request starts it")]
    assert guests.state("ann")[0] == "stopped"


def test_one_that_cannot_follow_sleeps_all_the_same(guests: Guests) -> None:
    """A round tells that its image is not here, which is a failure, and has it nap as it is."""
    guests.configure("fleet.image", "ghcr.io/openclaw/openclaw:2026.9.7")
    with guests.db.transaction(system=True) as session:
        containers.mark_stale(session)
    guests.age("ann", 3)
    [(user, outcome, reason)] = reaped(guests)
    assert (user, outcome, "is not here" in reason) == ("ann", "failed", True)
    assert guests.state("ann")[0] == "paused"


def test_a_server_s_reaper_leaves_that_to_its_own_duty(guests: Guests) -> None:
    """So a busy gateway is asked once a round, and a failure told once."""
    openclaw = guests.runtime.openclaw(guests.container("ann"))
    assert openclaw.begin()
    prefer(guests, primary_model="llm/m2")
    Duties(guests.hosting, lambda work: work(guests.db), table=[one for one in TABLE if one.name != "compare"]).round()
    assert openclaw.calls["gateway.suspend.prepare"] == 1


def test_only_what_is_marked_is_compared_every_minute(guests: Guests, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first round looks at every gateway, the next ones open nobody's secrets until something is marked."""
    opened, load = [0], personal.load

    def counting(*words: Any) -> Any:
        opened[0] += 1
        return load(*words)

    monkeypatch.setattr(refreshing.personal, "load", counting)
    duties = Duties(guests.hosting, lambda work: work(guests.db), table=TABLE)
    duties.round()
    assert opened == [1]
    for _ in range(3):
        duties.round()
    assert opened == [1]
    prefer(guests, primary_model="llm/m2")
    duties.round()
    assert (model(guests), is_stale(guests)) == ("llm/m2", False)


def test_a_change_that_nobody_marked_is_found_within_the_hour(guests: Guests) -> None:
    """What was changed in the database by hand is found by the look at all that comes every so many rounds."""
    table = [replace(one, every=3) if one.name == "compare" else one for one in TABLE]
    assert [one.every for one in TABLE if one.name == "compare"] == [60]
    duties = Duties(guests.hosting, lambda work: work(guests.db), table=table)
    duties.round()
    guests.prefer("ann", primary_model="llm/m2")
    for found in ("llm/m1", "llm/m1", "llm/m2"):
        duties.round()
        assert model(guests) == found


def test_a_mark_that_is_made_during_a_look_stays(guests: Guests, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who changes something while a gateway is compared is not overlooked: the mark comes after what the look says."""
    prefer(guests, primary_model="llm/m2")
    prefer(guests, primary_model="llm/m1")
    load, asked = personal.load, []
    with ThreadPoolExecutor(1) as pool:

        def changing(*words: Any) -> Any:
            found = load(*words)
            asked.append(pool.submit(prefer, guests, primary_model="llm/m2"))
            with guests.db.transaction(system=True) as session:
                waits = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
                wait_until(lambda: asked[0].done() or session.execute(waits).scalar())
            return found

        with monkeypatch.context() as patched:
            patched.setattr(refreshing.personal, "load", changing)
            assert refreshing.is_stale(guests.hosting(), guests.users["ann"]) is False
        asked[0].result(60)
    assert is_stale(guests)


@pytest.mark.parametrize("kind", ["background-exec", "terminal"])
def test_other_work_is_work_too(guests: Guests, kind: str) -> None:
    """Background work, and a program that somebody runs in the container, keep it from being restarted."""
    name, before = guests.container("ann"), identity(guests)
    if kind == "terminal":
        guests.runtime.attach(name, "sh")
    else:
        guests.runtime.openclaw(name).work[kind] = 1
    prefer(guests, primary_model="llm/m2")
    found = refresh(guests)
    assert found
    assert found.result == "busy"
    assert (identity(guests), guests.runtime.openclaw(name).fenced) == (before, False)


def test_a_change_that_changes_nothing_restarts_nothing(guests: Guests) -> None:
    """What was changed there and back, or is not in the config, makes nothing stale."""
    before = identity(guests)
    prefer(guests, primary_model="llm/m2")
    prefer(guests, primary_model="llm/m1")
    with guests.db.transaction(system=True) as session:
        providers.set(session, guests.box, guests.users["ann"], "llm", {"display_name": "My LLM"})
    assert is_stale(guests)
    assert refresh(guests) is None
    assert (is_stale(guests), identity(guests)) == (False, before)


def test_a_stopped_gateway_stays_stopped(guests: Guests) -> None:
    """Nothing is to be restarted; the next start has the change, and is not stale."""
    guests.stop("ann")
    prefer(guests, primary_model="llm/m2")
    guests.runtime.changes.clear()
    assert refresh(guests) is None
    assert (guests.runtime.changes, is_stale(guests)) == ([], False)
    guests.wake("ann")
    assert model(guests) == "llm/m2"


@pytest.mark.parametrize(
    ("due", "ends"),
    [(None, ("stopped", "stopped")), (timedelta(days=1), ("restarted", "running"))],
    ids=["no job", "job"],
)
def test_a_paused_gateway_is_stopped(guests: Guests, due: timedelta | None, ends: tuple[str, str]) -> None:
    """It has nothing to do, and nobody waits for it: the next request starts it. For a job ahead it is started now."""
    guests.runtime.pause(guests.container("ann"))
    with guests.db.transaction(system=True) as session:
        row = containers.find(session, guests.users["ann"])
        assert row
        row.status, row.next_due_at = "paused", due and now() + due
    prefer(guests, primary_model="llm/m2")
    found = refresh(guests)
    assert found
    assert (found.result, guests.state("ann")[0]) == ends
    guests.wake("ann")
    assert model(guests) == "llm/m2"


def test_a_change_during_a_start_is_found_afterwards(guests: Guests) -> None:
    """A gateway that is just being started is left to who starts it, and stale when it runs."""
    guests.stop("ann")
    look = guests.runtime.get

    def changing(*words: Any, **more: Any) -> Any:
        guests.runtime.get = look
        prefer(guests, primary_model="llm/m2")
        assert refresh(guests) is None
        return look(*words, **more)

    guests.runtime.get = changing
    guests.wake("ann")
    assert (model(guests), is_stale(guests)) == ("llm/m1", True)
    assert served(guests) == []
    assert model(guests) == "llm/m2"


@pytest.mark.parametrize("look", ["volume_labels", "image"])
def test_a_change_before_a_start_says_so_is_found_afterwards(guests: Guests, look: str) -> None:
    """What is changed between a start's look at it and its row marks nothing, and is followed all the same."""
    guests.stop("ann")
    found = getattr(guests.runtime, look)

    def changing(*words: Any) -> Any:
        setattr(guests.runtime, look, found)
        prefer(guests, primary_model="llm/m2")
        assert not is_stale(guests)
        return found(*words)

    setattr(guests.runtime, look, changing)
    guests.wake("ann")
    assert (model(guests), is_stale(guests)) == ("llm/m1", True)
    assert served(guests) == []
    assert (model(guests), is_stale(guests)) == ("llm/m2", False)


def test_a_change_there_and_back_during_a_start_is_none(guests: Guests) -> None:
    """What is marked during a start and is as it was at its end leaves no mark."""
    guests.stop("ann")
    look = guests.runtime.get

    def changing(*words: Any, **more: Any) -> Any:
        guests.runtime.get = look
        prefer(guests, primary_model="llm/m2")
        prefer(guests, primary_model="llm/m1")
        assert is_stale(guests)
        return look(*words, **more)

    guests.runtime.get = changing
    guests.wake("ann")
    assert not is_stale(guests)


def test_a_provider_that_goes_during_a_start_stops_it_afterwards(guests: Guests) -> None:
    """The gateway runs, stale, and serve stops it: nothing can be made from what is left."""
    guests.stop("ann")
    look = guests.runtime.get

    def changing(*words: Any, **more: Any) -> Any:
        guests.runtime.get = look
        prefer(guests, primary_model=None)
        with guests.db.transaction(system=True) as session:
            providers.remove(session, guests.users["ann"], "llm")
        return look(*words, **more)

    guests.runtime.get = changing
    guests.wake("ann")
    assert is_stale(guests)
    assert served(guests) == []
    assert guests.runtime.running() == []


def test_a_deactivated_user_s_gateway_is_not_started_again(guests: Guests) -> None:
    """It is left to be stopped."""
    prefer(guests, primary_model="llm/m2")
    guests.deactivate("ann")
    guests.runtime.changes.clear()
    assert refresh(guests) is None
    assert guests.runtime.changes == []


def test_who_works_on_it_is_not_disturbed(guests: Guests) -> None:
    """While another command has the lock it counts as busy, naming that command."""
    prefer(guests, primary_model="llm/m2")
    with guests.db.lock("backup", f"gateway {guests.users['ann']}"):
        found = refresh(guests)
    assert found
    assert found.result == "busy"
    assert "mosaic backup gateway" in found.reason


def missing_image(guests: Guests) -> None:
    guests.configure("fleet.image", "ghcr.io/openclaw/openclaw:2026.9.7")


def no_walls(guests: Guests) -> None:
    prefer(guests, primary_model="llm/m2")
    guests.walls.refusal = "the packet filter lacks a rule"


def no_answer(guests: Guests) -> None:
    prefer(guests, primary_model="llm/m2")
    guests.runtime.post = lambda *_, **__: None


@pytest.mark.parametrize(
    ("spoil", "reason", "status"),
    [
        (missing_image, "is not here", "running"),
        (no_walls, "lacks a rule", "running"),
        (no_answer, "does not answer gateway.suspend.prepare", "dozing"),
    ],
    ids=["image", "walls", "no answer"],
)
def test_what_could_not_start_again_is_left_running(
    guests: Guests, spoil: Callable[[Guests], None], reason: str, status: str
) -> None:
    """An image that is not here, walls that fell, a gateway that does not say whether it is idle: it goes on, stale.

    The last one may have promised to take nothing new: the next request makes sure that it does.
    """
    before = identity(guests)
    spoil(guests)
    found = refresh(guests)
    assert found
    assert (found.result, reason in found.reason) == ("failed", True)
    assert (identity(guests), guests.state("ann"), is_stale(guests)) == (before, (status, None), True)


def test_without_a_provider_it_is_stopped(guests: Guests) -> None:
    """A gateway does not go on with a key that its owner took away."""
    prefer(guests, primary_model=None)
    with guests.db.transaction(system=True) as session:
        providers.remove(session, guests.users["ann"], "llm")
    assert refresh(guests) == Outcome("ann", "stopped", 'user "ann" has no provider with a model')
    assert guests.runtime.running() == []


def test_one_that_does_not_start_again_says_so(guests: Guests) -> None:
    """With a config that OpenClaw does not start with it is stopped, and the reason is told and kept."""
    prefer(guests, primary_model="llm/crash")
    found = refresh(guests)
    assert found
    assert found.result == "failed"
    assert found.reason.startswith("it was stopped for it, and did not start: ")
    assert guests.state("ann")[0] == "error"
    assert served(guests) == []


def test_another_image_or_size_is_a_change(guests: Guests) -> None:
    """What gateways are run with is compared too."""
    guests.runtime.images["openclaw:new"] = Image("sha256:" + "cd" * 32, "2026.9.7", None)
    for key, value in {"fleet.image": "openclaw:new", "gateways.memory": "1G", "gateways.cpus": "1"}.items():
        guests.configure(key, value)
        assert refresh(guests) == Outcome("ann", "restarted")
    wanted = guests.runtime.wanted(guests.container("ann"))
    assert (wanted.image, wanted.limits.memory, wanted.limits.cpus) == ("sha256:" + "cd" * 32, 1 << 30, 1.0)


def test_without_the_key_nothing_is_stopped(guests: Guests, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong MOSAIC_SECRET_KEY is no config that lacks something: the gateway runs on."""
    prefer(guests, primary_model="llm/m2")

    def wrong(*_: object) -> None:
        raise KeyFailure("another key is needed")

    monkeypatch.setattr(guests.box, "open", wrong)
    assert refresh(guests) == Outcome("ann", "failed", "another key is needed")
    assert len(guests.runtime.running()) == 1


def test_whenever_docker_fails_nothing_is_lost(guests: Guests) -> None:
    """With each change to Docker failing in turn, the gateway is back with the change after the next wake or round."""
    for step in count(1):
        prefer(guests, primary_model=f"llm/m{1 + (model(guests) == 'llm/m1')}")
        guests.runtime.changes.clear()
        guests.runtime.break_at = step
        found = refresh(guests)
        guests.runtime.break_at = None
        if found and found.result == "restarted":
            break
        assert found
        assert (found.result, "broken on purpose" in found.reason) == ("failed", True)
        assert len(guests.runtime.running()) <= 1
        guests.wake("ann")
        served(guests)
        assert (is_stale(guests), guests.row("ann").status) == (False, "running")
    assert step > 5


@pytest.mark.parametrize("when", ["begin", "answer", "down"])
def test_whenever_the_database_is_lost_nothing_is_lost(guests: Guests, when: str) -> None:
    """With each transaction failing in turn, the gateway is back with the change after the next wake."""
    for step in range(1, STEPS):
        target = f"llm/m{1 + (model(guests) == 'llm/m1')}"
        prefer(guests, primary_model=target)
        found = refresh(guests, db=FaultyDatabase(guests.db.url, step, when))
        if found and found.result == "restarted":
            break
        assert len(guests.runtime.running()) <= 1
        guests.wake("ann")
        refresh(guests)
        assert (model(guests), is_stale(guests), guests.row("ann").status) == (target, False, "running")
    assert 5 < step < STEPS - 1


# The commands --------------------------------------------------------------------------------------------------------

SET = ("user", "set", "ann", "--model", "llm/m2")


def test_user_set_restarts_and_says_so(guests: Guests, mosaic: Machine) -> None:
    """The command that changed it restarts an idle gateway; a second time there is nothing to do."""
    said = mosaic(*SET)
    assert (said.stdout, said.stderr) == ("changed ann: primary_model\n", "gateway of ann: restarted with it\n")
    assert model(guests) == "llm/m2"
    assert mosaic(*SET, "--json").document["gateways"] == []


def test_user_set_leaves_a_busy_one_and_says_so(guests: Guests, mosaic: Machine) -> None:
    """The change is kept, exit 0; the note names who restarts it, even when quiet; the list says stale."""
    guests.runtime.openclaw(guests.container("ann")).begin()
    said = mosaic(*SET, "-q")
    assert (said.exit_code, said.stdout) == (0, "")
    assert (
        "gateway of ann: busy (embedded-run, root-request), mosaic serve or reap restarts it when it is idle"
        in said.stderr
    )
    assert "mosaic gateway restart ann" in said.stderr
    assert mosaic("gateway", "list").stdout.split("\t")[3] == "stale"


def test_other_changes_of_a_user_restart_nothing(guests: Guests, mosaic: Machine) -> None:
    """A display name is nothing that a gateway runs with."""
    before = identity(guests)
    assert mosaic("user", "set", "ann", "--display-name", "Ann").stderr == ""
    assert identity(guests) == before


def test_a_user_s_providers_are_carried_out_too(guests: Guests, mosaic: Machine) -> None:
    """Adding, changing and removing one each restart the gateway, which then has what is left."""
    new = ("--type", "custom", "--base-url", "http://other:1/v1", "--model", "x", "--no-test", "--user", "ann")
    for words in (
        ("add", "other", *new),
        ("set", "other", "--model", "y", "--user", "ann", "--no-test"),
        ("remove", "other", "--yes", "--user", "ann"),
    ):
        before = identity(guests)
        (found,) = mosaic("provider", *words, "--json").document["gateways"]
        assert found == {"user": "ann", "result": "restarted", "reason": ""}
        assert identity(guests) != before
    assert "other" not in guests.runtime.files(guests.container("ann"))["openclaw.json"]


def test_a_setting_is_carried_out_for_everybody(guests: Guests, mosaic: Machine) -> None:
    """Idle gateways are restarted and busy ones told; a setting that they do not run with restarts none."""
    guests.add("ben")
    guests.wake("ben")
    guests.runtime.openclaw(guests.container("ben")).begin()
    found = mosaic("config", "set", "gateways.cpus", "1", "--json").document["gateways"]
    assert {one["user"]: one["result"] for one in found} == {"ann": "restarted", "ben": "busy"}
    before = identity(guests)
    assert mosaic("config", "set", "gateways.stop_grace", "60", "--json").document["changed"] is True
    assert identity(guests) == before
    found = mosaic("config", "unset", "gateways.cpus", "--json").document["gateways"]
    assert {one["user"]: one["result"] for one in found} == {"ann": "restarted"}


def test_the_change_is_kept_when_docker_is_away(
    guests: Guests, mosaic: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 0 and a note; the gateway is stale."""

    def away(*_: object) -> Any:
        raise RuntimeFailure("docker does not answer")

    monkeypatch.setattr(guests.runtime, "container", away)
    said = mosaic(*SET)
    assert said.exit_code == 0
    assert said.stderr == "gateway of ann: not restarted: docker does not answer\n"
    assert is_stale(guests)


def test_without_a_gateway_neither_docker_nor_key_is_asked(
    guests: Guests, mosaic: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user whose gateway is stopped is changed by the database alone."""
    guests.stop("ann")

    def away(_: object) -> Any:
        raise MosaicError("not needed")

    for what in ("hosting", "box"):
        monkeypatch.setattr(Mosaic, what, property(away))
    assert mosaic(*SET).stderr == ""

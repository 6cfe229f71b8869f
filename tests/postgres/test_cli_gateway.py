"""`mosaic gateway` on a real Postgres and an engine in memory."""

import time
from datetime import timedelta
from typing import Any

import pytest

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.cli import gateway as door
from mosaic_fleet.db.database import Database
from mosaic_fleet.db.tables import now
from mosaic_fleet.errors import RuntimeFailure
from mosaic_fleet.fleet import starting, stopping
from mosaic_fleet.runtimes.gateway_base import Answer, Swap
from tests.postgres.guests import KEY, Guests
from tests.postgres.machine import Machine


@pytest.fixture
def guests(database: Database, monkeypatch: pytest.MonkeyPatch) -> Guests:
    """Return an installation with two users, which the command line reaches too."""
    guests = Guests.at(database)
    for name in ("ann", "ben"):
        guests.add(name)
    for module in (starting, stopping):
        monkeypatch.setattr(module, "_POLL_SECONDS", 0.001)
    monkeypatch.setattr(Mosaic, "hosting", property(lambda _: guests.hosting()))
    monkeypatch.setattr(door, "_engine", lambda _: guests.runtime)
    return guests


def test_start_show_stop(guests: Guests, mosaic: Machine) -> None:
    """A gateway is started once, shown without any secret, and stopped once; its token is never printed."""
    started = mosaic("gateway", "start", "ann")
    assert started.stdout.startswith("ann started in "), started
    again = mosaic("gateway", "start", "ann@example.org", "--json").document
    assert again == {"user": "ann", "changed": False, "url": "http://10.213.0.2:18789"}
    shown = mosaic("gateway", "show", "ann", "--json")
    assert shown.document["gateway"]["status"] == "running"
    assert shown.document["gateway"]["container"] == "running"
    assert shown.document["gateway"]["model"] == "llm/m1"
    assert KEY not in shown.stdout
    assert mosaic("gateway", "stop", "ann").stdout == "ann stopped\n"
    assert mosaic("gateway", "stop", "ann").stdout == "unchanged ann\n"
    assert mosaic("gateway", "show", "ann").stdout.splitlines()[1] == "status            stopped"


def shown(mosaic: Machine, name: str) -> dict[str, str]:
    """Return what `gateway show` prints, by its headings."""
    lines = mosaic("gateway", "show", name).stdout.splitlines()
    return {line[:18].strip(): line[18:] for line in lines}


def test_show_says_why_it_is_awake_and_when_it_sleeps(guests: Guests, mosaic: Machine) -> None:
    """Last activity with its source, own or common idle timeout, next job, and when it may be stopped."""
    guests.wake("ann")
    guests.age("ann", 12.5)
    said = shown(mosaic, "ann")
    assert said["since"] == "just now"
    assert said["reason"] == "idle 12 min (last: chat)"
    assert said["last active"] == "12 min ago (chat)"
    assert (said["idle timeout"], said["next job"]) == ("30m", "–")
    assert said["sleeps"] == "in 17m, if it has nothing to do then"
    guests.prefer("ann", schedules=True)
    mosaic("gateway", "restart", "ann")
    guests.age("ann", 12.5)
    openclaw = guests.openclaw("ann")
    openclaw.schedules, openclaw.next_wake = True, time.time() + 20.5 * 60
    assert shown(mosaic, "ann")["next job"] == "in 20m"
    assert shown(mosaic, "ann")["sleeps"] == "in 20m, if it has nothing to do then"
    openclaw.next_wake = time.time() - 30
    assert shown(mosaic, "ann")["next job"] == "now"
    openclaw.next_wake = time.time() - 2.5 * 3600
    assert shown(mosaic, "ann")["next job"] == "overdue for 2h"
    openclaw.broken = Answer(500, b"")
    assert shown(mosaic, "ann")["next job"] == "–"


def test_show_says_why_it_was_stopped(guests: Guests, mosaic: Machine) -> None:
    """A gateway that was put to sleep says why and since when, and when its next job was to come."""
    guests.wake("ann")
    guests.age("ann", 43)
    openclaw = guests.openclaw("ann")
    openclaw.schedules, openclaw.next_wake = True, time.time() + 7300
    assert mosaic("reap").exit_code == 0
    said = shown(mosaic, "ann")
    assert (said["status"], said["reason"]) == ("stopped", "idle 43 min (last: chat)")
    assert (said["since"], said["next job"], said["sleeps"]) == ("just now", "in 2h", "–")
    document = mosaic("gateway", "show", "ann", "--json").document["gateway"]
    assert (document["why"], document["timeout_min"], document["sleeps_at"]) == ("idle 43 min (last: chat)", 30, None)


def test_a_user_s_idle_timeout_is_set_and_unset(guests: Guests, mosaic: Machine) -> None:
    """Spans, 0 for never and nothing for the setting's are taken, twice changes nothing, and rubbish is refused."""
    guests.wake("ann")
    for given, told in (("2d", "2d"), ("45m", "45m"), ("0", "never sleeps"), ("", "30m")):
        assert mosaic("user", "set", "ann", "--idle-timeout", given).stdout == "changed ann: idle_timeout_min\n"
        assert mosaic("user", "set", "ann", "--idle-timeout", given).stdout == "unchanged ann\n"
        assert shown(mosaic, "ann")["idle timeout"] == told
    for wrong in ("soon", "-1", "9999d", "3w"):
        assert mosaic("user", "set", "ann", "--idle-timeout", wrong).error[0] == 2
    assert mosaic("user", "set", "ann", "--idle-timeout", "5m").stderr == ""
    assert "sleep between two messages" in mosaic("user", "set", "ann", "--idle-timeout", "30s").stderr


def test_an_idle_time_that_is_too_short_is_warned_of(guests: Guests, mosaic: Machine) -> None:
    """Half a minute of activity may be unwritten; the setting is made all the same, longer ones in silence."""
    key = "gateways.idle_timeout"
    assert "sleep between two messages" in mosaic("config", "set", key, "1").stderr
    assert mosaic("config", "get", key, "--json").document["value"] == "1"
    assert "sleep between two messages" in mosaic("config", "set", key, "1m").stderr
    for fine in ("2", "0", "60m", "0m"):
        assert mosaic("config", "set", key, fine).stderr == ""


def test_a_nap_is_never_after_a_minute(guests: Guests, mosaic: Machine) -> None:
    """OpenClaw frozen with a database open may answer with errors from then on: one minute is refused, with the why."""
    refused = mosaic("config", "set", "nap.after", "1")
    assert refused.error[0] == 2
    assert "puts its databases away" in refused.stderr


def test_reap_tells_what_it_did(guests: Guests, mosaic: Machine) -> None:
    """What was stopped is a line, with --explain every gateway that is awake; the sum is a note."""
    for name, minutes in (("ann", 43), ("ben", 12)):
        guests.wake(name)
        guests.age(name, minutes)
    dry = mosaic("reap", "--dry-run", "--explain")
    assert dry.stdout.splitlines() == [
        "would stop\tann\tidle 43 min (last: chat)\t",
        "would nap\tben\tidle 12 min (last: chat)\t",
    ]
    said = mosaic("reap")
    assert said.stdout.splitlines() == [
        "stopped\tann\tidle 43 min (last: chat), freed 800M\t",
        "napped\tben\tidle 12 min (last: chat), freed 771M\t",
    ]
    assert said.stderr.startswith("1 stopped, 1 napped, ")
    again = mosaic("reap", "--json").document
    assert (again["gateways"], again["changed"], again["another"], again["counts"]) == ([], False, False, {"kept": 1})
    assert guests.runtime.running() == [guests.container("ben")]


def test_reap_s_document_says_whether_anything_changed(guests: Guests, mosaic: Machine) -> None:
    """A nap, a wake and a stop are changes; what is kept, or only would be done, is none."""
    guests.prefer("ann", schedules=True)
    guests.wake("ann")
    openclaw = guests.openclaw("ann")
    openclaw.schedules, openclaw.next_wake = True, time.time() + 15 * 60
    guests.age("ann", 1)
    assert reaped(mosaic) == ("kept", False)
    guests.age("ann", 12)
    assert reaped(mosaic, "--dry-run") == ("would nap", False)
    assert reaped(mosaic) == ("napped", True)
    assert reaped(mosaic) == ("kept", False)
    guests.age("ann", 12, next_due_at=now() + timedelta(minutes=5))
    assert reaped(mosaic) == ("woken", True)
    guests.age("ann", 43)
    assert reaped(mosaic) == ("stopped", True)


def reaped(mosaic: Machine, *options: str) -> tuple[str, bool]:
    """Return what became of the only gateway, and whether that is called a change."""
    said = mosaic("reap", "--json", "--explain", *options).document
    [row] = said["gateways"]
    return row["outcome"], said["changed"]


def test_reap_tells_what_was_given_back(guests: Guests, mosaic: Machine) -> None:
    """In bytes in the document: all of it after a stop, a nap's share, nothing where it stays or is not known."""
    guests.wake("ann")

    def freed(minutes: float) -> tuple[str, int]:
        guests.age("ann", minutes)
        [row] = mosaic("reap", "--json").document["gateways"]
        return row["outcome"], row["freed"]

    def unknown(_: object) -> dict[str, int]:
        raise RuntimeFailure("docker does not answer")

    assert freed(3) == ("napped", 771 << 20)
    guests.wake("ann")
    guests.runtime.room = Swap(0, 0, obstacle="this host has no swap")
    assert freed(3) == ("napped", 0)
    guests.wake("ann")
    assert freed(43) == ("stopped", 800 << 20)
    guests.wake("ann")
    guests.runtime.memory = unknown
    assert freed(43) == ("stopped", 0)


def test_reap_is_silent_for_cron(guests: Guests, mosaic: Machine) -> None:
    """With -q nothing is printed and the code is 0: with nobody awake, with another reaper at it, after a stop."""
    assert mosaic("reap").stderr.startswith("no gateway is awake, ")
    guests.wake("ann")
    guests.age("ann", 43)
    with guests.db.lock("reap", "idle gateways"):
        assert mosaic("reap").stderr == "another reaper is at it\n"
        assert mosaic("reap", "--json").document["another"] is True
        other = mosaic("reap", "-q")
    for said in (other, mosaic("reap", "-q"), mosaic("reap", "-q")):
        assert (said.exit_code, said.stdout, said.stderr) == (0, "", "")
    assert guests.runtime.running() == []


def test_reap_ends_with_9_when_one_could_not_be_stopped(guests: Guests, mosaic: Machine) -> None:
    """The others are stopped all the same; -q leaves one line on standard error."""
    for name in ("ann", "ben"):
        guests.wake(name)
        guests.age(name, 43)
    guests.openclaw("ann").broken = Answer(500, b"")
    said = mosaic("reap", "-q")
    assert (said.exit_code, said.stdout) == (9, "")
    assert said.stderr.count("\n") == 1
    assert said.stderr.startswith("error: 1 gateways could not be put to sleep or restarted: ann: ")
    assert guests.runtime.running() == [guests.container("ann")]


def test_list_says_what_is(guests: Guests, mosaic: Machine) -> None:
    """One line for each gateway that was asked for; a container that is gone shows as that."""
    assert mosaic("gateway", "list").stdout == ""
    guests.wake("ann")
    guests.wake("ben")
    guests.runtime.vanish(guests.container("ben"))
    rows = [line.split("\t")[:4] for line in mosaic("gateway", "list").stdout.splitlines()]
    assert rows == [["ann", "running", "llm/m1", "current"], ["ben", "gone", "llm/m1", "current"]]
    assert mosaic("gateways", "ls", "-q").stdout == "ann\nben\n"


def test_a_dry_run_changes_nothing(guests: Guests, mosaic: Machine) -> None:
    """It says what would be done."""
    assert mosaic("gateway", "start", "ann", "--dry-run").stdout == "ann would start\n"
    assert mosaic("gateway", "stop", "ann", "--dry-run").stdout == "unchanged ann\n"
    assert mosaic("gateway", "restart", "ann", "--dry-run").stdout == "ann would restart\n"
    assert guests.runtime.changes == []


def test_a_failure_has_its_reason_hint_and_code(guests: Guests, mosaic: Machine) -> None:
    """A gateway that does not start ends with 7, one without a provider with 3, nobody with 4."""
    guests.prefer("ann", primary_model="llm/crash")
    code, message, hint = mosaic("gateway", "start", "ann").error
    assert (code, hint) == (7, "mosaic gateway start ann")
    assert message.startswith('gateway of "ann" did not start: it ended with exit code 1')
    assert "exit code 1" in mosaic("gateway", "list").stdout
    guests.add("cyd", provider=False)
    assert mosaic("gateway", "start", "cyd").error[0] == 3
    assert mosaic("gateway", "start", "nobody").error[0] == 4
    assert mosaic("gateway", "show", "ben").error[0] == 4


def test_a_gateway_that_works_on_is_reported(guests: Guests, mosaic: Machine) -> None:
    """After the time given it is still stopping, exit 7; with force it is killed."""
    guests.prefer("ann", primary_model="llm/never-stops")
    guests.wake("ann")
    code, message, hint = mosaic("gateway", "stop", "ann", "--timeout", "0").error
    assert code == 7
    assert "still stopping" in message
    assert hint
    assert mosaic("gateway", "stop", "ann", "--timeout", "0", "--force").stdout == "ann stopped\n"


def test_health_is_told_for_all_and_ends_with_9_when_one_is_not_well(guests: Guests, mosaic: Machine) -> None:
    """The table comes first; with --fix what a reboot left is cleared and nobody is ill any more."""
    guests.wake("ann")
    guests.wake("ben")
    assert mosaic("gateway", "health").stdout == "ann\trunning\tok\t\nben\trunning\tok\t\n"
    guests.runtime.end(guests.container("ben"), 137, oom_killed=True)
    said = mosaic("gateway", "health")
    assert said.exit_code == 9
    assert said.stdout.splitlines()[1].startswith("ben\trunning\tgone\tkilled for using more memory")
    assert "1 of 2 gateways are not well: ben" in said.stderr
    assert mosaic("gateway", "health", "--fix").exit_code == 0
    assert guests.state("ben")[0] == "stopped"


def test_what_health_cannot_put_right_ends_with_9_after_the_table(guests: Guests, mosaic: Machine) -> None:
    """The notes name what was put right and what was not and why, the table tells of all, and so does the error."""
    for name in ("ann", "ben"):
        guests.wake(name)
        guests.runtime.end(guests.container(name), 1)
    guests.runtime.break_at = len(guests.runtime.changes) + 1
    said = mosaic("gateway", "health", "--fix")
    (broken,) = [name for name in ("ann", "ben") if guests.state(name)[0] == "running"]
    assert said.exit_code == 9
    assert said.stdout.startswith(f"{broken}\trunning\tgone\t")
    assert len(said.stdout.splitlines()) == 1
    assert f"{broken}: not put right: docker does not answer" in said.stderr
    assert ": was running, it ended with exit code 1\n" in said.stderr
    assert f"error: 1 gateways could not be put right: {broken}: docker does not answer" in said.stderr


def test_without_docker_the_list_is_what_the_database_remembers(guests: Guests, mosaic: Machine) -> None:
    """Docker being away is a note, not an error."""
    guests.wake("ann")

    def away(_: object) -> None:
        raise RuntimeFailure("docker does not answer")

    guests.runtime.containers = away
    said = mosaic("gateway", "list")
    assert said.stdout.startswith("ann\trunning")
    assert "this is what the database remembers" in said.stderr


def test_a_deactivated_user_s_gateway_is_stopped(guests: Guests, mosaic: Machine, monkeypatch: Any) -> None:
    """`mosaic user disable` ends it, even one that works on; nobody can wake it; a second time changes nothing."""
    monkeypatch.setattr(stopping, "LAST_SECONDS", 0.01)
    guests.prefer("ann", primary_model="llm/never-stops")
    guests.wake("ann")
    assert mosaic("user", "disable", "ann").stdout == "disabled ann\n"
    assert guests.runtime.running() == []
    assert guests.state("ann") == ("stopped", None)
    assert mosaic("gateway", "start", "ann").error[0] == 6
    assert mosaic("user", "disable", "ann").stdout == "unchanged ann\n"

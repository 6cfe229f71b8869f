"""New tokens for users' gateways and for all: on a real Postgres and an engine in memory."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.db.database import Database
from mosaic_fleet.db.tables import SystemContainer, now, place
from mosaic_fleet.errors import RuntimeFailure
from mosaic_fleet.fleet import agents, containers, refreshing, renewing, starting, stopping
from mosaic_fleet.fleet.refreshing import Outcome
from tests.fake_openclaw import RPC
from tests.postgres.guests import Guests
from tests.postgres.machine import JARVIS, Machine
from tests.postgres.team import FaultyDatabase

STEPS = 40  # more than a renewal has


@pytest.fixture
def guests(database: Database, monkeypatch: pytest.MonkeyPatch) -> Guests:
    """Return an installation with a user whose gateway runs and one whose gateway is stopped; commands reach them."""
    for module in (starting, stopping):
        monkeypatch.setattr(module, "_POLL_SECONDS", 0.001)
    for module in (renewing, refreshing):
        monkeypatch.setattr(module, "_TAKING_SECONDS", 0.1)
    guests = Guests.at(database)
    for name in ("ann", "ben"):
        guests.add(name)
        guests.wake(name)
    guests.stop("ben")
    monkeypatch.setattr(Mosaic, "hosting", property(lambda _: guests.hosting()))
    monkeypatch.setattr(Mosaic, "box", property(lambda _: guests.box))
    return guests


def token(guests: Guests, name: str) -> str:
    """Return the token of a user's row."""
    row = guests.row(name)
    return guests.box.open(place(row, "gateway_token"), row.gateway_token).get_secret_value()


def set_row(guests: Guests, name: str, **values: Any) -> None:
    """Write into a user's row."""
    with guests.db.transaction(system=True) as session:
        row = containers.find(session, guests.users[name])
        assert row
        for column, value in values.items():
            setattr(row, column, value)


def answers(guests: Guests, name: str, bearer: str) -> int:
    """Return the status that a running gateway has for a token."""
    from mosaic_fleet.runtimes.gateway_base import Sent

    asked = Sent(b'{"method": "cron.status"}', {"Authorization": f"Bearer {bearer}"})
    return guests.runtime.openclaw(guests.container(name)).post(RPC, asked).status


def renew(guests: Guests, name: str = "ann", *, drain: bool = False, **options: Any) -> Outcome:
    """Renew a user's token."""
    return renewing.renew(guests.hosting(**options), guests.users[name], drain=drain)


def test_an_idle_gateway_runs_with_the_new_token_alone(guests: Guests) -> None:
    """The old token opens nothing any more, the new one does, and the next request is told the new one."""
    old = token(guests, "ann")
    assert answers(guests, "ann", old) == 200
    assert renew(guests) == Outcome("ann", "restarted")
    new = token(guests, "ann")
    assert [answers(guests, "ann", one) for one in (old, new)] == [401, 200]
    assert guests.wake("ann").token.get_secret_value() == new
    assert not guests.row("ann").is_stale
    assert ("gateway.token", "done") in guests.audited


def test_a_stopped_gateway_just_gets_one(guests: Guests) -> None:
    """Docker is not asked; the next start has it."""
    old = token(guests, "ben")

    class Away:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeFailure("docker does not answer")

    assert renew(guests, "ben", runtime=Away()) == Outcome("ben", "stored")
    assert token(guests, "ben") != old
    guests.wake("ben")
    assert answers(guests, "ben", token(guests, "ben")) == 200


def test_a_busy_gateway_is_left_with_its_token(guests: Guests) -> None:
    """A chat goes on to its end with the token that it began with; the next run renews it."""
    openclaw, old = guests.runtime.openclaw(guests.container("ann")), token(guests, "ann")
    assert openclaw.begin()
    found = renew(guests)
    assert (found.result, "embedded-run" in found.reason) == ("busy", True)
    assert (token(guests, "ann"), answers(guests, "ann", old), openclaw.fenced) == (old, 200, False)
    openclaw.end()
    assert renew(guests).result == "restarted"
    assert (openclaw.begun, openclaw.ended) == (1, 1)


def test_a_busy_gateway_is_drained_when_asked_to(guests: Guests, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its turn ends whole before the container does, nothing new is taken meanwhile, and then it has the new token."""
    openclaw, old, looks = guests.runtime.openclaw(guests.container("ann")), token(guests, "ann"), count()
    assert openclaw.begin()
    look = guests.runtime.container

    def looking(name: str) -> Any:
        if openclaw.closed and openclaw.turns and next(looks) == 3:
            assert not openclaw.begin()
            openclaw.end()
        return look(name)

    monkeypatch.setattr(guests.runtime, "container", looking)
    assert renew(guests, drain=True) == Outcome("ann", "restarted")
    assert (openclaw.begun, openclaw.ended) == (1, 1)
    assert answers(guests, "ann", old) == 401


def test_one_that_does_not_drain_in_time_is_ended_by_the_next_run(guests: Guests) -> None:
    """It is still stopping, keeps its token until then, and is never beside another container."""
    guests.configure("gateways.stop_grace", "1")
    openclaw, old = guests.runtime.openclaw(guests.container("ann")), token(guests, "ann")
    assert openclaw.begin()
    found = renew(guests, drain=True)
    assert (found.result, "still stopping" in found.reason) == ("failed", True)
    assert token(guests, "ann") == old
    openclaw.end()
    assert renew(guests) == Outcome("ann", "stored")
    assert guests.runtime.running() == []
    guests.wake("ann")
    assert answers(guests, "ann", token(guests, "ann")) == 200


def test_a_paused_gateway_is_stopped_for_it(guests: Guests) -> None:
    """The next request starts it with the new token."""
    guests.runtime.pause(guests.container("ann"))
    set_row(guests, "ann", status="paused")
    assert renew(guests) == Outcome("ann", "stored")
    guests.wake("ann")
    assert answers(guests, "ann", token(guests, "ann")) == 200


def test_a_paused_gateway_with_a_job_ahead_is_started_with_it(guests: Guests) -> None:
    """No request would start it in time for its job."""
    guests.runtime.pause(guests.container("ann"))
    set_row(guests, "ann", status="paused", next_due_at=now() + timedelta(days=1))
    assert renew(guests) == Outcome("ann", "restarted")
    assert answers(guests, "ann", token(guests, "ann")) == 200


def test_what_could_not_start_again_keeps_its_token(guests: Guests) -> None:
    """An image that is not here is found while the gateway still runs."""
    old = token(guests, "ann")
    guests.configure("fleet.image", "ghcr.io/openclaw/openclaw:2026.9.7")
    found = renew(guests)
    assert (found.result, "is not here" in found.reason) == ("failed", True)
    assert (token(guests, "ann"), answers(guests, "ann", old)) == (old, 200)


def test_a_leftover_with_the_old_token_is_not_taken_over(guests: Guests) -> None:
    """A container that lives although its row says stopped ends before the next one starts with the new token."""
    set_row(guests, "ann", status="stopped", container_id=None)
    assert renew(guests) == Outcome("ann", "stored")
    assert guests.wake("ann").woken
    assert answers(guests, "ann", token(guests, "ann")) == 200


def test_whenever_docker_fails_the_next_wake_has_one_token(guests: Guests) -> None:
    """With each change to Docker failing in turn, gateway and row have the same token afterwards."""
    for step in count(1):
        guests.runtime.changes.clear()
        guests.runtime.break_at = step
        found = renew(guests)
        guests.runtime.break_at = None
        if found.result == "restarted":
            break
        assert found.result == "failed"
        guests.wake("ann")
        assert answers(guests, "ann", token(guests, "ann")) == 200
    assert step > 5


@pytest.mark.parametrize("when", ["begin", "answer"])
def test_whenever_the_database_is_lost_the_next_wake_has_one_token(guests: Guests, when: str) -> None:
    """With each transaction failing in turn, gateway and row have the same token afterwards."""
    for step in range(1, STEPS):
        found = renew(guests, db=FaultyDatabase(guests.db.url, step, when))
        if found.result == "restarted":
            break
        guests.wake("ann")
        assert answers(guests, "ann", token(guests, "ann")) == 200
    assert 5 < step < STEPS - 1


# The command ---------------------------------------------------------------------------------------------------------

ROTATE = ("secrets", "rotate-tokens")


def results(document: dict[str, Any], kind: str = "users") -> dict[str, str]:
    """Map names to what became of them."""
    name, result = ("user", "result") if kind == "users" else ("agent", "action")
    return {one[name]: one[result] for one in document[kind]}


def agent_tokens(guests: Guests) -> dict[str, str]:
    """Return the tokens of the roster."""
    with guests.db.transaction(system=True) as session:
        rows: Sequence[SystemContainer] = [
            row
            for name in agents.stack_names(session)
            for row in agents.of_stack(session, agents.get_stack(session, name))
        ]
        return {
            row.name: guests.box.open(place(row, "gateway_token"), row.gateway_token).get_secret_value() for row in rows
        }


def test_one_user_leaves_the_others_alone(guests: Guests, mosaic: Machine) -> None:
    """Only the named user's token changes; the command says what became of it, and prints no token."""
    old = {name: token(guests, name) for name in ("ann", "ben")}
    said = mosaic(*ROTATE, "--user", "ann@example.org")
    assert (said.exit_code, said.stdout) == (0, "new token  gateway of ann\n")
    assert token(guests, "ben") == old["ben"]
    assert token(guests, "ann") not in said.stdout + said.stderr
    assert mosaic(*ROTATE, "--user", "nobody").error[0] == 4
    assert results(mosaic(*ROTATE, "--user", "ben", "--json").document) == {"ben": "stored"}


def test_all_needs_no_docker_where_nothing_runs(guests: Guests, mosaic: Machine) -> None:
    """Agents that were never deployed and users whose gateway is stopped get their tokens from the database alone."""
    mosaic("agent", "import", JARVIS)
    guests.stop("ann")
    old = agent_tokens(guests) | {name: token(guests, name) for name in ("ann", "ben")}
    found = mosaic(*ROTATE, "--all", "--json").document
    assert set(results(found, "agents").values()) == {"store"}
    assert results(found) == {"ann": "stored", "ben": "stored"}
    new = agent_tokens(guests) | {name: token(guests, name) for name in ("ann", "ben")}
    assert len(old) == 6
    assert not set(old.values()) & set(new.values())


def test_all_does_what_can_be_done_and_tells_the_rest(guests: Guests, mosaic: Machine) -> None:
    """A busy gateway, and a stack whose Docker is away, keep nobody else from a new token; exit 9 names them."""
    mosaic("agent", "import", JARVIS)
    mosaic("provider", "set", "zai", "--api-key-stdin", "--no-test", input="0123456789abcdef-key")
    with guests.db.transaction(system=True) as session:
        agents.get(session, "jarvis-main").node_id = "deployed-once"
    guests.runtime.openclaw(guests.container("ann")).begin()
    old = token(guests, "ben")
    said = mosaic(*ROTATE, "--all")
    assert said.exit_code == 9
    lines = said.stdout.splitlines()
    assert "stored     gateway of ben (it does not run)" in lines
    assert any(line.startswith("left       gateway of ann (busy: embedded-run") for line in lines)
    assert any(line.startswith("failed     jarvis-main (docker") for line in lines), lines
    assert "5 of 6 tokens were not renewed: jarvis-main" in said.stderr
    assert "--drain" in said.stderr
    assert token(guests, "ben") != old


def test_only_old_ones(guests: Guests, mosaic: Machine) -> None:
    """With --older-than the next run leaves out what an earlier one did."""
    set_row(guests, "ben", gateway_token_at=datetime.now(UTC) - timedelta(days=40))
    words = (*ROTATE, "--all", "--older-than", "30d")
    assert results(mosaic(*words, "--json").document) == {"ben": "stored"}
    assert mosaic(*words).stdout == "unchanged, there is no token to renew\n"


def test_a_dry_run_changes_no_token(guests: Guests, mosaic: Machine) -> None:
    """It lists whose turn would come and what would be done."""
    old = {name: token(guests, name) for name in ("ann", "ben")}
    assert mosaic(*ROTATE, "--all", "--dry-run").stdout.splitlines() == [
        "user\tann\t\trestart\t",
        "user\tben\t\tstore\t",
    ]
    assert results(mosaic(*ROTATE, "--all", "--dry-run", "--json").document) == {"ann": "restart", "ben": "store"}
    assert {name: token(guests, name) for name in old} == old


def test_status_tells_how_old_users_tokens_are(guests: Guests, mosaic: Machine) -> None:
    """All of them together: how many there are, how many run, and when the oldest was made; no user is named."""
    old = datetime.now(UTC).replace(microsecond=0) - timedelta(days=40)
    set_row(guests, "ben", gateway_token_at=old)
    told = mosaic("secrets", "status", "--json").document["user_tokens"]
    assert (told["count"], told["running"]) == (2, 1)
    assert datetime.fromisoformat(told["oldest"]) == old
    (line,) = [line for line in mosaic("secrets", "status").stdout.splitlines() if line.startswith("tokens of users")]
    assert line.split("\t")[3:] == ["current", "2 gateways, 1 running"]

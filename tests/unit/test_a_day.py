"""A day of rounds in fast time over a thousand gateways: who napped and who slept when, and that nobody flaps."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random

import pytest

from mosaic_fleet.fleet import idleness
from mosaic_fleet.fleet.idleness import Gateway, Rules

MIDNIGHT = datetime(2026, 11, 29, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
NAP = timedelta(minutes=2)
ROUNDS = 24 * 60


@dataclass
class Life:
    """A user's day: when they write, and what became of their gateway, minute by minute."""

    gateway: Gateway
    messages: list[int]
    log: list[tuple[int, str]] = field(default_factory=list)

    def write(self, minute: int) -> None:
        """Have its user write: it is started or woken for that, or runs."""
        now = MIDNIGHT + minute * MINUTE
        if self.gateway.status != "running":
            self.log.append((minute, "start" if self.gateway.status == "stopped" else "awake"))
        started = now if self.gateway.status == "stopped" else self.gateway.started_at
        self.gateway = replace(
            self.gateway, status="running", started_at=started, last_active_at=now, last_active_by="chat"
        )

    def settle(self, minute: int, rules: Rules) -> None:
        """Do what a round decides half a minute later."""
        if self.gateway.status == "stopped":
            return
        verdict = idleness.judge(self.gateway, rules, MIDNIGHT + (minute + 0.5) * MINUTE)
        states = {"nap": "paused", "stop": "stopped"}
        if verdict.action != "keep":
            self.log.append((minute, verdict.action))
            self.gateway = replace(self.gateway, status=states[verdict.action])


def lived(rules: Rules, many: int) -> list[Life]:
    """Have so many users write on up to four occasions, some messages each, and a round come every minute."""
    lives = [life(Random(number), number) for number in range(many)]  # the same day each time
    for minute in range(ROUNDS):
        for one in lives:
            if minute in one.messages:
                one.write(minute)
            one.settle(minute, rules)
    return lives


def life(chance: Random, number: int) -> Life:
    """Make up a user's day."""
    messages: set[int] = set()
    for _ in range(chance.randrange(5)):
        at = chance.randrange(ROUNDS)
        for _ in range(chance.randrange(1, 8)):
            messages.add(at)
            at += chance.randrange(1, 12)
    within = sorted(one for one in messages if one < ROUNDS)
    return Life(Gateway(f"u{number}", True, "stopped", MIDNIGHT), within)


def expected(messages: list[int], timeout: int, uptime: int) -> Iterator[tuple[int, str]]:
    """Tell what is to become of a gateway whose user writes at these minutes: a nap and a stop for each silence."""
    nap, started, state = int(NAP / MINUTE), 0, "stopped"
    for message, following in pairwise([*messages, ROUNDS]):
        if state != "running":
            yield message, "start" if state == "stopped" else "awake"
            started = message if state == "stopped" else started
        state = "running"
        stop = max(message + timeout, started + uptime) if timeout else ROUNDS
        if message + nap < min(following, stop):
            yield message + nap, "nap"
            state = "paused"
        if stop < following:
            yield stop, "stop"
            state = "stopped"


@pytest.mark.parametrize(
    ("timeout", "many"),
    [
        pytest.param(30, 1000, id="half an hour"),
        pytest.param(3 * 24 * 60, 200, id="three days"),
        pytest.param(0, 50, id="never"),
    ],
)
def test_a_day_has_one_nap_and_one_stop_for_each_long_silence(timeout: int, many: int) -> None:
    """Two minutes after its last message each gateway naps, at its timeout it is stopped, and nothing happens twice."""
    rules = Rules(timedelta(minutes=timeout), timedelta(minutes=5), NAP)
    lives = lived(rules, many)
    wrong = [one.gateway.user for one in lives if one.log != list(expected(one.messages, timeout, 5))]
    assert wrong == []
    naps = sum(what == "nap" for one in lives for _, what in one.log)
    starts = sum(what == "start" for one in lives for _, what in one.log)
    silences = sum(after - before > 2 for one in lives for before, after in pairwise([*one.messages, ROUNDS]))
    assert 0 < naps <= silences
    assert starts >= sum(bool(one.messages) for one in lives)
    if timeout != 30:
        assert starts == sum(bool(one.messages) for one in lives)
    for one in lives:
        assert all(before[1] != after[1] for before, after in pairwise(one.log)), one.log

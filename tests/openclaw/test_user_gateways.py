"""Users' gateways with real OpenClaw and the stub LLM: two users, each with their own, from first wake to restart."""

import json
import time
from collections.abc import Iterator

import pytest

from mosaic_fleet.fleet import containers, refreshing
from tests.docker_run import DockerRun, wait_until
from tests.openclaw.guests import Guests, ask, fingerprint, history, hosted


@pytest.fixture(scope="module")
def guests(docker: DockerRun, openclaw_image: str) -> Iterator[Guests]:
    """Make an installation with two users."""
    with hosted(docker, openclaw_image, "ann", "ben", world=1) as guests:
        yield guests


def test_a_chat_reaches_the_right_gateway_and_the_right_key(guests: Guests) -> None:
    """Each user's chat is answered by their own gateway, with their own key; the other's token opens nothing."""
    assert guests.asked() == []
    ann, ben = guests.wake("ann"), guests.wake("ben")
    for found in (ann, ben):
        assert ask(found, "hello")[0] == 200
    assert ask(ann, "hello", token=ben.token.get_secret_value())[0] == 401
    requests = [one for one in guests.asked() if "hello" in one["message"]]
    assert {one["key"]["sha256"] for one in requests} == {
        fingerprint(f"key-of-{name}-at-the-stub") for name in guests.users
    }


def test_replies_and_secrets_are_in_no_log(guests: Guests) -> None:
    """What OpenClaw answers is not in the container's log, and neither are token and key (4.8, 2.1)."""
    found = guests.wake("ann")
    status, answer = ask(found, "planted-question")
    assert status == 200
    container = containers.name(guests.users["ann"])
    seen = guests.installation.docker.log(container) + guests.installation.docker("inspect", container)
    for text in (answer, "planted-question", found.token.get_secret_value(), "key-of-ann-at-the-stub"):
        assert text
        assert text not in seen


def test_state_survives_stop_and_restart(guests: Guests) -> None:
    """Conversation and personality of before are there after a stop and a wake, in another container."""
    found = guests.wake("ann")
    assert ask(found, "remember the word aubergine")[0] == 200
    soul = "/home/node/.openclaw/workspace/SOUL.md"
    assert guests.exec("ann", "cat", soul) == "I serve ann."
    before = guests.exec("ann", "hostname", "-I")
    assert guests.installation.document("gateway", "stop", "ann", "--timeout", "300")["changed"] is True
    again = guests.wake("ann")
    assert again.woken
    assert history(again).count("aubergine") >= 1
    assert guests.exec("ann", "cat", soul) == "I serve ann."
    assert before
    guests.installation.mosaic("gateway", "restart", "ann", "--timeout", "300")
    assert history(guests.wake("ann")).count("aubergine") >= 1


def test_a_gateway_is_healthy_by_its_probes(guests: Guests) -> None:
    """`mosaic gateway health` says ok of the real one."""
    guests.wake("ben")

    def health() -> str:
        said = guests.installation.run("gateway", "health", "--json")  # fails for others that answer late
        return str({row["user"]: row["health"] for row in json.loads(said.stdout)["gateways"]}["ben"])

    assert wait_until(lambda: health() == "ok")


def test_a_change_and_a_new_token_reach_an_idle_gateway(guests: Guests) -> None:
    """OpenClaw itself says when it is idle: then it has the new personality, later a new token; it remembers."""
    first = guests.wake("ann")
    assert ask(first, "remember the word quince")[0] == 200
    words = ("user", "set", "ann", "--personality-file", "/dev/stdin")
    assert guests.installation.run(*words, stdin="I serve ann kindly.\n").returncode == 0
    for _ in range(100):  # OpenClaw takes 30 such questions a minute
        outcome = refreshing.refresh(guests.mosaic.hosting, guests.users["ann"])
        if outcome is None or outcome.result != "busy":
            break
        time.sleep(3)
    assert outcome is None or outcome.result == "restarted", outcome
    second = guests.wake("ann")
    assert guests.exec("ann", "cat", "/home/node/.openclaw/workspace/SOUL.md") == "I serve ann kindly."
    assert history(second).count("quince") >= 1
    document = guests.installation.document("secrets", "rotate-tokens", "--user", "ann", "--drain")
    assert document["users"] == [{"user": "ann", "result": "restarted", "reason": ""}]
    third = guests.wake("ann")
    assert ask(third, "hello", token=second.token.get_secret_value())[0] == 401
    assert history(third).count("quince") >= 1

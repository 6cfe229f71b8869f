"""Commands in an agent's container, and logins."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from mosaic_fleet.db.reads import ProviderRow
from mosaic_fleet.errors import NotFound, RuntimeFailure
from mosaic_fleet.fleet.consoles import LoggedIn, Login, container, login, login_provider
from mosaic_fleet.fleet.gateway import Address
from mosaic_fleet.runtimes.base import Finished, Streams, Task
from tests.fakes import FakeRuntime
from tests.unit.test_status import INSTALL, MAIN, deployed

TO = Address(INSTALL, "team", "main")
SAVED = {"id": "openai:default", "provider": "openai", "type": "oauth"}


@pytest.fixture
def streams() -> Iterator[Streams]:
    """Return streams that lead nowhere."""
    null = os.open(os.devnull, os.O_RDWR)
    yield Streams(null, null, null)
    os.close(null)


class OpenClaw:
    """The command `openclaw models auth`: `saves` become its profiles when somebody logs in, which ends with `code`."""

    def __init__(self, *before: dict[str, Any], saves: Sequence[dict[str, Any]] = (), code: int = 0) -> None:
        self.profiles, self.saves, self.code = [*before], [*saves], code
        self.words: list[str] = []

    def __call__(self, command: Sequence[str], _: bytes) -> Finished:
        """Run it."""
        if command[3] == "list":
            return Finished(0, "warning first\n" + json.dumps({"profiles": self.profiles}), "")
        self.words = [*command[4:]]
        self.profiles = self.saves
        return Finished(self.code, "", "")

    def login(self, wanted: Login, streams: Streams) -> LoggedIn:
        """Log in with this command in an agent's container."""
        runtime = deployed("main")
        runtime.programs["openclaw"] = self
        runtime.tasks("team")
        return login(runtime, container(runtime, TO), wanted, streams)


@pytest.mark.parametrize(
    ("command", "changed"),
    [
        (OpenClaw(saves=[SAVED]), True),
        (OpenClaw(saves=[SAVED], code=1), True),
        (OpenClaw(SAVED, saves=[SAVED]), False),
        (OpenClaw(SAVED, saves=[SAVED | {"expiresAt": "2027-01-01T00:00:00Z"}], code=1), True),
    ],
)
def test_a_login_that_is_in_the_state_counts(command: OpenClaw, changed: bool, streams: Streams) -> None:
    """Whatever OpenClaw's exit code: a profile that is new or other, and one that is there after a success."""
    done = command.login(Login("openai"), streams)
    assert (done.profiles, done.changed, done.exit_code) == (command.saves, changed, command.code)


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (OpenClaw(code=1), "there is no profile in the state"),
        (OpenClaw(code=0), "there is no profile in the state"),
        (OpenClaw(SAVED, saves=[SAVED], code=130), "the profiles are as they were"),
        (OpenClaw(SAVED | {"cooldownUntil": "x"}, saves=[SAVED], code=1), "the profiles are as they were"),
    ],
)
def test_a_login_that_left_nothing_fails(command: OpenClaw, why: str, streams: Streams) -> None:
    """No profile, or a failure that left those that were there: it says so, with OpenClaw's exit code."""
    with pytest.raises(RuntimeFailure, match=f"OpenClaw ended with {command.code}.*{why}"):
        command.login(Login("openai"), streams)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (Login(), ""),
        (Login("openai"), "--provider openai --method device-code"),
        (Login("openai", "oauth"), "--provider openai --method oauth"),
        (Login("xai", force=True), "--provider xai --force"),
    ],
)
def test_openclaw_gets_the_words_of_a_login(wanted: Login, words: str, streams: Streams) -> None:
    """Provider, method and force are OpenClaw's own; at OpenAI the way without a browser is the default."""
    command = OpenClaw(saves=[SAVED])
    command.login(wanted, streams)
    assert command.words == words.split()


def test_profiles_in_another_form_are_a_failure(streams: Streams) -> None:
    """What is no list of profiles is no login."""
    for profiles in (None, [1], "x"):
        command = OpenClaw()
        command.profiles = profiles
        with pytest.raises(RuntimeFailure, match="another form"):
            command.login(Login(), streams)


def test_the_login_provider_is_the_only_one() -> None:
    """The agent's own provider with a login is the default; of two, or none, OpenClaw asks."""
    now = datetime.now(UTC)
    row = ProviderRow("openai", "", "openai", None, "login", False, None, "", [], True, None, None, None, now)
    others = [replace(row, name="zai", auth="key"), replace(row, name="other")]
    agent = replace(MAIN, primary_model="zai/m", fallback_models=["openai/m"], providers=[])
    assert login_provider(agent, [row, *others]) == "openai"
    assert login_provider(replace(agent, fallback_models=[]), [row, *others]) is None
    assert login_provider(replace(agent, providers=["other"]), [row, *others]) is None


def test_a_container_is_that_of_the_running_task() -> None:
    """It is found at once or not at all: stopped, not there, not up yet, and elsewhere are told apart."""
    runtime = deployed("main")
    runtime.tasks("team")
    assert container(runtime, TO) == runtime.tasks("team")[0].container_id
    with pytest.raises(NotFound, match='agent "main" does not run'):
        container(deployed("main", replicas=0), TO)
    with pytest.raises(NotFound, match='agent "main" does not run'):
        container(FakeRuntime(), TO)
    starting = deployed("main")
    starting.polls_to_running = 9
    with pytest.raises(RuntimeFailure, match=r'agent "main" does not run$'):
        container(starting, TO)

    class Far(FakeRuntime):
        """Runs everything elsewhere."""

        def tasks(self, stack: str) -> list[Task]:
            """Move the tasks."""
            return [replace(task, node_id="node2") for task in super().tasks(stack)]

    far = deployed("main", make=Far)
    far.tasks("team")
    with pytest.raises(RuntimeFailure, match="runs on node node2"):
        container(far, TO)

"""Users' gateways on a real engine, with the stand-in for OpenClaw: what the one in memory cannot show."""

import json
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.db.tables import User, UserAgentConfig
from mosaic_fleet.fleet import containers, lifecycle, providers
from mosaic_fleet.fleet.hosting import Hosting, Running
from mosaic_fleet.settings import Settings
from mosaic_fleet.web.duties import Duties
from tests.docker.installation import Installation, interrupted, when
from tests.docker_run import DockerRun, wait_until
from tests.gateways import ask

KEY = "planted-provider-key-of-a-guest"
FAULTS = ("m1", "m2", "crash", "hog", "held", "held-answer", "slow-stop", "forgetful")
WORDS = " ".join(f"word{number}" for number in range(40))
GO = "/home/node/.openclaw/go"


@dataclass
class Guests:
    """Users of an installation; each has a provider whose models are the stand-in's faults."""

    installation: Installation
    docker: DockerRun
    mosaic: Mosaic
    users: list[str] = field(default_factory=list)

    @property
    def hosting(self) -> Hosting:
        """Return what gateways are run with."""
        return self.mosaic.hosting

    def add(self, model: str = "m1", **preferred: Any) -> str:
        """Add a user of a fresh name who prefers a model."""
        name = f"u{uuid4().hex[:8]}"
        with self.mosaic.db.transaction(system=True) as session:
            user = User(name=name, email=f"{name}@example.org")
            session.add(user)
            session.flush()
            values = {"type": "custom", "base_url": "http://llm:1/v1", "api_key": SecretStr(KEY)}
            models = {"models": [{"id": one} for one in FAULTS]}
            providers.add(session, self.mosaic.box, user.id, "llm", values | models)
            session.add(UserAgentConfig(user_id=user.id, primary_model=f"llm/{model}", **preferred))
        self.users.append(name)
        return name

    def id(self, name: str) -> Any:
        """Return a user's id."""
        with self.mosaic.reads() as reads:
            return reads.user(name).id

    def wake(self, name: str) -> Running:
        """Ensure that a user's gateway runs."""
        return lifecycle.ensure_running(self.hosting, self.id(name))

    def container(self, name: str) -> str:
        """Return the name of a user's container."""
        return containers.name(self.id(name))

    def logs(self, name: str) -> str:
        """Return what a user's container wrote, if it is there."""
        return self.docker.log(self.container(name))

    def exec(self, name: str, *words: str) -> str:
        """Run a command in a user's container."""
        return self.docker("exec", self.container(name), *words)


@contextmanager
def small(installation: Installation, docker: DockerRun, **settings: str) -> Iterator[Guests]:
    """Give an installation small gateways and settings of theirs; stop them and take these back at the end."""
    changed = {"memory": "256M", **settings}
    for key, value in changed.items():
        installation.mosaic("config", "set", f"gateways.{key}", value)
    guests = Guests(installation, docker, Mosaic(Settings.from_env(installation.env)))
    yield guests
    for name in guests.users:
        installation.run("gateway", "stop", name, "--timeout", "0", "--force")
    for key in changed:
        installation.mosaic("config", "unset", f"gateways.{key}")
    guests.hosting.runtime.close()


@pytest.fixture(scope="module")
def guests(installation: Installation, docker: DockerRun) -> Iterator[Guests]:
    """Return an installation whose gateways are small and have time."""
    with small(installation, docker, start_timeout="180", stop_grace="60") as guests:
        yield guests


def test_each_user_reaches_their_own_gateway_and_no_other(guests: Guests) -> None:
    """Two users have two gateways at two addresses; the token of one opens nothing at the other (4.6)."""
    ann, ben = guests.wake(guests.add()), guests.wake(guests.add())
    assert ask(ann, "I am ann") == (200, "you said: I am ann")
    assert ask(ben, "I am ben") == (200, "you said: I am ben")
    assert ask(ann, "hi", token=ben.token.get_secret_value()) == (401, None)


def test_no_secret_is_in_inspect_logs_or_processes(guests: Guests) -> None:
    """Key, token and personality are only in the container's memory, as files of user 1000 with mode 0400 (2.1)."""
    name = guests.add(personality="planted-personality\n")
    found = guests.wake(name)
    assert ask(found, "planted-question")[0] == 200
    container, token = guests.container(name), found.token.get_secret_value()
    seen = guests.docker("inspect", container) + guests.logs(name) + guests.docker("top", container)
    seen += guests.exec(name, "sh", "-c", "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' ' '")
    for secret in (KEY, token, "planted-personality", "planted-question"):
        assert secret not in seen
    listing = guests.exec(name, "sh", "-c", "cd /run/mosaic/gateway && stat -c '%n %a %u' *").splitlines()
    assert listing == [f"{one} 400 1000" for one in ("SOUL.md", "gateway_token", "openclaw.json", "provider_keys")]
    assert guests.exec(name, "cat", "/home/node/.openclaw/workspace/SOUL.md") == "planted-personality"


def test_state_survives_stop_and_restart(guests: Guests) -> None:
    """What a gateway wrote on its volume is there in the next container; the network and container are not kept."""
    name = guests.add()
    guests.wake(name)
    guests.exec(name, "sh", "-c", "echo remembered > /home/node/.openclaw/memory")
    container = guests.container(name)
    assert guests.installation.document("gateway", "stop", name)["changed"] is True
    assert guests.docker("ps", "-aq", "--filter", f"name={container}") == ""
    assert guests.docker("network", "ls", "-q", "--filter", f"name={container}") == ""
    assert guests.installation.document("gateway", "start", name)["changed"] is True
    assert guests.exec(name, "cat", "/home/node/.openclaw/memory") == "remembered"
    before = guests.docker("inspect", "-f", "{{.Id}}", container)
    guests.installation.mosaic("gateway", "restart", name)
    assert guests.docker("inspect", "-f", "{{.Id}}", container) != before
    assert guests.exec(name, "cat", "/home/node/.openclaw/memory") == "remembered"


@pytest.mark.parametrize(("model", "words"), [("crash", "exit code 1"), ("hog", "(OOM)")])
def test_a_gateway_that_does_not_start_leaves_nothing(guests: Guests, model: str, words: str) -> None:
    """Its reason is told and kept; no container and no network stay."""
    name = guests.add(model)
    assert words in guests.installation.refused(7, "gateway", "start", name)
    assert words in guests.installation.document("gateway", "show", name)["gateway"]["reason"]
    container = guests.container(name)
    assert guests.docker("ps", "-aq", "--filter", f"name={container}") == ""
    assert guests.docker("network", "ls", "-q", "--filter", f"name={container}") == ""


def test_processes_that_start_it_at_once_make_one_container(guests: Guests) -> None:
    """Six commands at the same time all succeed, and one of them has started it."""
    name = guests.add()
    commands = [guests.installation.start("gateway", "start", name, "--json") for _ in range(6)]
    said = [process.communicate(timeout=300) for process in commands]
    assert [process.returncode for process in commands] == [0] * 6, said
    assert sorted(json.loads(out)["changed"] for out, _ in said) == [False] * 5 + [True]


def test_a_killed_start_is_taken_over(guests: Guests) -> None:
    """kill -9 in the middle of a start leaves what the next command brings to an end."""
    name = guests.add("held")
    container = guests.container(name)
    process = guests.installation.start("gateway", "start", name)
    when(process, lambda: "sbin/openclaw" in guests.docker("top", container, check=False))
    interrupted(process, signal.SIGKILL)
    guests.exec(name, "touch", GO)
    assert guests.installation.document("gateway", "start", name)["changed"] is True
    assert len(guests.docker("ps", "-aq", "--filter", f"name={container}").split()) == 1


def test_a_gateway_that_drains_is_never_beside_another(guests: Guests) -> None:
    """A stop that gives up reports it; a start meanwhile waits for the old container's end."""
    name = guests.add("slow-stop")
    guests.wake(name)
    container = guests.container(name)
    before = guests.docker("inspect", "-f", "{{.Id}}", container)
    assert "still stopping" in guests.installation.refused(7, "gateway", "stop", name, "--timeout", "1")
    assert guests.installation.document("gateway", "start", name)["changed"] is True
    assert guests.docker("inspect", "-f", "{{.Id}}", container) != before


def test_health_tells_the_well_from_the_gone(guests: Guests) -> None:
    """A running gateway is ok; one whose container somebody removed is gone, until it is put right."""
    well, gone = guests.add(), guests.add()
    guests.wake(well)
    guests.wake(gone)
    guests.docker("rm", "-f", guests.container(gone))
    rows = guests.installation.run("gateway", "health", "--json")
    found = {row["user"]: row["health"] for row in json.loads(rows.stdout)["gateways"]}
    assert (found[well], found[gone], rows.returncode) == ("ok", "gone", 9)
    guests.installation.mosaic("gateway", "health", "--fix")
    listed = {row["user"]: row["status"] for row in guests.installation.document("gateway", "list")["gateways"]}
    assert (listed[well], listed[gone]) == ("running", "stopped")


def test_a_deactivated_user_s_gateway_ends_while_it_starts(guests: Guests) -> None:
    """The command that starts it is refused, and nothing of the gateway is left."""
    name = guests.add("held")
    container = guests.container(name)
    process = guests.installation.start("gateway", "start", name)
    when(process, lambda: guests.docker("ps", "-q", "--filter", f"name={container}"))
    assert guests.installation.mosaic("user", "disable", name) == f"disabled {name}\n"
    _, errors = process.communicate(timeout=300)
    assert process.returncode in (6, 7), errors
    assert guests.docker("ps", "-aq", "--filter", f"name={container}") == ""
    assert guests.docker("network", "ls", "-q", "--filter", f"name={container}") == ""
    assert "is deactivated" in guests.installation.refused(6, "gateway", "start", name)


@contextmanager
def chatting(guests: Guests, name: str, found: Running) -> Iterator[Callable[[], str]]:
    """Have a gateway hold its answer back; yield a function that has it go on and returns the whole stream."""
    body = {"messages": [{"role": "user", "content": WORDS}], "stream": True}
    headers = {"authorization": f"Bearer {found.token.get_secret_value()}"}
    request = urllib.request.Request(f"{found.url}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        first = response.readline()  # the answer has begun

        def whole() -> str:
            guests.docker("exec", guests.container(name), "touch", GO, check=False)  # it may end before that does
            return (first + response.read()).decode()

        yield whole


def is_whole(answer: str) -> bool:
    """Tell whether a streamed answer has all its words and its end."""
    parts = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith("data: {")]
    said = "".join(part["choices"][0]["delta"].get("content") or "" for part in parts)
    return said == f"you said: {WORDS}" and answer.rstrip().endswith("data: [DONE]")


def test_a_change_waits_for_a_chat_and_restarts_an_idle_gateway(guests: Guests) -> None:
    """A chat in progress ends whole; the command says so, and the next round of serve's duties brings the change."""
    name = guests.add("held-answer")
    found = guests.wake(name)
    guests.exec(name, "sh", "-c", "echo remembered > /home/node/.openclaw/memory")
    before = guests.docker("inspect", "-f", "{{.Id}}", guests.container(name))
    duties = Duties(lambda: guests.hosting, lambda work: work(guests.mosaic.db))
    with chatting(guests, name, found) as whole:
        said = guests.installation.run("user", "set", name, "--personality-file", "/dev/stdin", stdin="Be kind.\n")
        assert said.returncode == 0
        assert "busy (embedded-run), mosaic serve or reap restarts it when it is idle" in said.stderr
        duties.round()
        assert guests.docker("inspect", "-f", "{{.Id}}", guests.container(name)) == before
        assert is_whole(whole())
    wait_until(lambda: duties.round() or guests.docker("inspect", "-f", "{{.Id}}", guests.container(name)) != before)
    assert duties.failing == []
    assert guests.exec(name, "cat", "/home/node/.openclaw/workspace/SOUL.md") == "Be kind."
    assert guests.exec(name, "cat", "/home/node/.openclaw/memory") == "remembered"
    document = guests.installation.document("user", "set", name, "--model", "llm/m2")
    assert document["gateways"] == [{"user": name, "result": "restarted", "reason": ""}]
    assert guests.installation.document("gateway", "show", name)["gateway"]["is_stale"] is False
    assert ask(guests.wake(name), "still there?") == (200, "you said: still there?")


def test_a_new_token_kills_the_old_one_and_cuts_no_chat(guests: Guests) -> None:
    """A busy gateway is left, or drained: its chat ends whole; then the old token gets 401 and the new one answers."""
    name = guests.add("held-answer")
    found = guests.wake(name)
    rotate = ("secrets", "rotate-tokens", "--user", name)
    with chatting(guests, name, found) as whole:
        assert "1 of 1 tokens were not renewed" in guests.installation.refused(9, *rotate)
        rotating = guests.installation.start(*rotate, "--drain", "--json")
        when(rotating, lambda: "draining" in guests.logs(name))
        assert is_whole(whole())
    said, errors = rotating.communicate(timeout=120)
    assert rotating.returncode == 0, errors
    assert json.loads(said)["users"] == [{"user": name, "result": "restarted", "reason": ""}]
    new = guests.wake(name)
    assert ask(new, "hi", token=found.token.get_secret_value()) == (401, None)
    assert ask(new, "hi") == (200, "you said: hi")
    guests.installation.mosaic("gateway", "stop", name)
    assert "stored     gateway of" in guests.installation.mosaic(*rotate)
    assert ask(guests.wake(name), "hi", token=new.token.get_secret_value()) == (401, None)


@pytest.mark.alone
def test_no_gateway_starts_without_its_walls(guests: Guests) -> None:
    """A rule taken out of the packet filter is put back by the next wake; where that cannot be, nothing starts."""
    name = guests.add()
    install = guests.installation.document("status")["install"]
    rule = ("-i", f"mu{install[:5]}-+", "-j", f"MOSAIC-{install}-IN")
    subprocess.run(["iptables", "-w", "5", "-D", "INPUT", *rule], check=True)
    without = replace(guests.installation, env={**guests.installation.env, "PATH": "/nonexistent"})
    assert "iptables cannot be run" in without.refused(7, "gateway", "start", name)
    assert guests.docker("ps", "-aq", "--filter", f"name={guests.container(name)}") == ""
    assert guests.installation.document("gateway", "start", name)["changed"] is True
    assert "in force" in guests.installation.mosaic("init")


def test_running_gateways_follow_a_change_of_egress_allow(guests: Guests) -> None:
    """What is opened is open at once, and closed at once, while a gateway runs on; the next start needs no `init`."""
    allow = ("config", "set", "egress.allow")
    rule = "-d 10.99.0.7/32 -p tcp -m tcp --dport 8080 -j RETURN"
    guests.wake(guests.add())
    for words, there in (((*allow, "10.99.0.7:8080"), True), (("config", "unset", "egress.allow"), False)):
        assert "walls around users' gateways follow it" in guests.installation.run(*words).stderr
        filters = subprocess.run(["iptables", "-w", "60", "-S"], capture_output=True, text=True, check=True).stdout
        assert (rule in filters) is there
        assert guests.installation.document("gateway", "start", guests.add())["changed"] is True

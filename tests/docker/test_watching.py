"""Watching a fleet, and working inside of it: status, logs, exec and login, on a real Swarm."""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from tests.docker.installation import Fleet, Installation, fresh_stack, sql
from tests.docker.terminal import Terminal, on_terminal
from tests.docker_run import wait_until

SECRET = "abcdefgh-planted-in-a-log"


@pytest.fixture(scope="module")
def fleet(installation: Installation) -> Iterator[Fleet]:
    """Deploy two agents once for this module; its tests leave them running."""
    fleet = Fleet(installation, fresh_stack())
    fleet.load(one={}, two={})
    fleet.deploy()
    yield fleet
    fleet.remove()


def terminal(fleet: Fleet, *words: str, size: tuple[int, int] = (24, 80)) -> AbstractContextManager[Terminal]:
    """Run a command of mosaic on a terminal."""
    env = {**fleet.installation.env, "TERM": "xterm"}
    return on_terminal([sys.executable, "-m", "mosaic_fleet", *words], size=size, env=env)


def audited(fleet: Fleet, verb: str, thing: str) -> list[dict[str, Any]]:
    """Return outcome and details of what the audit has of a verb on a thing, oldest first."""
    query = "SELECT outcome, details FROM audit WHERE verb = %s AND object = %s ORDER BY id"
    return [{"outcome": outcome, **details} for outcome, details in sql(fleet.installation, query, verb, thing)]


def write(fleet: Fleet, name: str, script: str, *, stream: int = 2) -> None:
    """Let a script write into the log of an agent's container."""
    fleet.exec(name, "sh", "-c", f"{{ {script}; }} > /proc/1/fd/{stream}")


def lines(fleet: Fleet, *options: str) -> list[str]:
    """Return the lines of `fleet logs`."""
    return fleet.installation.mosaic("fleet", "logs", "--stack", fleet.stack, *options).splitlines()


def test_status_tells_memory_and_limit(fleet: Fleet) -> None:
    """A running agent has its memory beside its limit, on one screen; without containers there is none."""
    row = fleet.status("one")
    assert 1 << 20 < row["memory"] < row["limit"] == 256 << 20
    assert (row["health"], row["restarts"], row["config"]) == ("ok", 0, "current")
    text = fleet.installation.mosaic("fleet", "status", "--stack", fleet.stack)
    assert "M / 256M" in text.splitlines()[0]
    rows = fleet.installation.document("fleet", "status", "--stack", fleet.stack, "--no-memory")["agents"]
    assert [row["memory"] for row in rows] == [None, None]


def test_status_can_be_watched(fleet: Fleet) -> None:
    """On a terminal it is drawn anew until Ctrl-C, which is 130 and says nothing; --json gives a document a line."""
    with terminal(fleet, "fleet", "status", "--stack", fleet.stack, "--watch", "0.2") as screen:
        screen.until("MEM / LIMIT")
        assert "\x1b[2J" in screen.until("MEM / LIMIT")
        screen.type("\x03")
        assert screen.ended() == 130
    process = fleet.installation.start("fleet", "status", "--stack", fleet.stack, "--json", "--watch=2", "--no-memory")
    assert process.stdout
    documents = [json.loads(process.stdout.readline()) for _ in range(2)]
    assert [len(document["agents"]) for document in documents] == [2, 2]
    process.send_signal(signal.SIGINT)
    assert (process.wait(120), process.communicate()[1]) == (130, "")


def test_status_tells_why_an_agent_was_started_again(installation: Installation) -> None:
    """One that runs out of memory says OOM, one whose gateway ends says its last line, without secrets; both count."""
    fleet = Fleet(installation, fresh_stack())
    fleet.load(hog={"model": "echo/hog"}, crash={"model": "echo/crash"}, blab={"model": "echo/blab"})
    try:
        installation.run("fleet", "deploy", "--stack", fleet.stack, "--timeout", "5s")
        wait_until(lambda: "stand-in blabs ***" in fleet.status("blab")["restart_reason"])
        wait_until(lambda: fleet.status("hog")["restart_reason"] == "OOM")
        said = "stand-in crashes as its model says"
        crash = wait_until(
            lambda: (row := fleet.status("crash"))["restarts"] > 1 and said in row["restart_reason"] and row
        )
        assert crash["restart_reason"].startswith("task: non-zero exit (1): ")
        wait_until(lambda: "✗ OOM" in installation.mosaic("fleet", "status", "--stack", fleet.stack))
    finally:
        fleet.remove()


def test_logs_have_no_answers_and_no_secrets(fleet: Fleet) -> None:
    """Answers are left out and counted, secrets are stars, the rest is merged; with answers it is audited."""
    one, two = fleet.agent("one"), fleet.agent("two")
    question = "what is planted?"
    assert question in fleet.installation.mosaic("fleet", "ask", one, question)
    write(fleet, "one", f"echo password={SECRET}")
    token = fleet.exec("two", "cat", "/run/secrets/gateway_token").strip()
    write(fleet, "two", f"echo bare {token}")
    wait_until(lambda: {f"{one} | password=***", f"{two} | bare ***"} <= {*lines(fleet)})
    done = fleet.installation.run("fleet", "logs", "--stack", fleet.stack, "--tail", "0")
    assert f"{one} | password=***" in done.stdout.splitlines()
    assert '"message":"ready"' in done.stdout
    assert not [word for word in (question, SECRET, token) if word in done.stdout]
    assert done.stderr == "1 lines that may be answers are left out; --with-replies shows them, audited\n"
    assert audited(fleet, "fleet.logs", one) == []
    assert [line for line in lines(fleet, one, "--with-replies") if question in line]
    assert audited(fleet, "fleet.logs", one) == [{"outcome": "done", "replies": True}]
    documents = [json.loads(line) for line in lines(fleet, two, "--json", "--since", "10m")]
    assert {document["agent"] for document in documents} == {two}
    assert len(lines(fleet, "--tail", "1")) == 2


def test_following_goes_on_after_a_restart(fleet: Fleet) -> None:
    """The lines of the container that comes after are told too."""
    process = fleet.installation.start("fleet", "logs", fleet.agent("two"), "-f", "--tail", "1")
    assert process.stdout
    process.stdout.readline()
    fleet.installation.docker("kill", fleet.container("two"))
    wait_until(lambda: '"ready"' in process.stdout.readline())
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    wait_until(lambda: fleet.status("two")["health"] == "ok")


def test_following_hides_a_token_that_is_newer_than_it(fleet: Fleet) -> None:
    """A container that comes up with another token while its log is followed does not show it."""
    process = fleet.installation.start("fleet", "logs", fleet.agent("two"), "-f", "--tail", "1")
    assert process.stdout
    process.stdout.readline()
    fleet.installation.mosaic("secrets", "rotate-tokens", "--agent", fleet.agent("two"))
    token = fleet.exec("two", "cat", "/run/secrets/gateway_token").strip()
    write(fleet, "two", f"echo newer {token}")
    said = wait_until(lambda: "newer" in (line := process.stdout.readline()) and line)
    assert said == f"{fleet.agent('two')} | newer ***\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)


def test_exec_hands_streams_and_the_exit_code_on(fleet: Fleet) -> None:
    """Bytes in, bytes out, errors apart, the command's own options its own; the audit knows the program only."""
    agent = fleet.agent("one")
    done = fleet.installation.run(
        "fleet", "exec", agent, "--", "sh", "-c", "cat; echo wrong >&2; exit 7", stdin="caf\u00e9"
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "caf\u00e9", "wrong\n")
    assert fleet.installation.mosaic("fleet", "exec", agent, "echo", "-v", "--json", "--", "x") == "-v --json -- x\n"
    assert "not found" in fleet.installation.refused(127, "fleet", "exec", agent, "sh", "-c", f"no-{SECRET}")
    assert [row["program"] for row in audited(fleet, "fleet.exec", agent)][:2] == ["sh", "echo"]
    assert "cat" not in str(audited(fleet, "fleet.exec", agent))


def test_exec_on_a_terminal_ends_with_it(fleet: Fleet) -> None:
    """A shell has our size and our keys; when our terminal closes, it is gone from the container."""
    with terminal(fleet, "fleet", "exec", fleet.agent("one"), "bash", size=(33, 101)) as shell:
        shell.type("stty size; sleep 4321\n")
        shell.until("33 101")
        wait_until(lambda: "yes" in fleet.exec("one", *_LOOK))
    wait_until(lambda: "no" in fleet.exec("one", *_LOOK))
    with terminal(fleet, "fleet", "exec", fleet.agent("one"), "bash") as shell:
        shell.type("exit 5\n")
        assert shell.ended() == 5


def test_a_login_counts_when_it_is_saved(fleet: Fleet) -> None:
    """OpenClaw saves a login and fails for its config: it counts; one that is given up does not. Both are audited."""
    agent = fleet.agent("two")
    words = ("fleet", "login", agent, "--provider", "openai")
    with terminal(fleet, *words, size=(30, 90)) as wizard:
        wizard.until("openai by device-code on 30x90, code: ")
        wizard.type("\r")
        assert "not logged in" in wizard.until("there is no profile")
        assert wizard.ended() == 7
    with terminal(fleet, *words) as wizard:
        wizard.until("code: ")
        wizard.type("1234\r")
        wizard.until(f"{agent} is logged in: openai:default (token)")
        assert wizard.ended() == 0
    outcomes = [(row["outcome"], row["provider"]) for row in audited(fleet, "fleet.login", agent)]
    assert outcomes == [("failed", "openai"), ("done", "openai")]
    assert "needs a terminal" in fleet.installation.refused(2, *words)


_LOOK = ("sh", "-c", "grep -qs 432[1] /proc/[0-9]*/cmdline && echo yes || echo no")

"""What `mosaic fleet` refuses before it looks at a database or at Docker."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mosaic_fleet import cli
from mosaic_fleet.cli.fleet_watch import _columns
from mosaic_fleet.fleet.status import AgentStatus

TEXT = "write for instance 90s or 10m, 24h at most"


@pytest.mark.parametrize("text", ["", "0", "0s", "-1", "1.5h", "s", "ten", "25h", "86401", "9" * 400, "9" * 5000 + "m"])
@pytest.mark.parametrize("verb", [("deploy",), ("rm", "--yes"), ("ask", "anna", "hi")], ids=lambda words: words[0])
def test_a_timeout_has_bounds(verb: tuple[str, ...], text: str, run: Callable[..., Any]) -> None:
    """No time, more than a day, and what is no number are Invalid, however many digits it has."""
    done = run("fleet", *verb, f"--timeout={text}")
    assert (done.exit_code, TEXT in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("question", "error"),
    [
        (b"\xff\xfe\x00binary", "error: the question on standard input is not UTF-8 text\n"),
        (b" \n", "error: the question is empty\n"),
        (b"", "error: the question is empty\n"),
    ],
)
def test_a_question_on_standard_input_must_be_text(question: bytes, error: str, run: Callable[..., Any]) -> None:
    """Bytes that are no text, and nothing at all, are Invalid."""
    done = run("fleet", "ask", "anna", "-", input=question)
    assert (done.exit_code, done.stderr) == (2, error)


def test_a_closed_standard_input_is_no_question() -> None:
    """Without a standard input `-` is Invalid, with what to type."""
    command = f"exec {sys.executable} -m mosaic_fleet fleet ask anna - <&-"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        2,
        "error: standard input is closed, there is no question",
    )


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["logs", "--since", "tomorrow"], "--since 'tomorrow': write for instance 90s or 10m, 24h at most"),
        (["logs", "--tail", "-1"], "--tail -1: from 0, which is all, to 100,000 lines"),
        (["status", "--watch", "0"], "--watch 0: from 0.1 to 3600 seconds"),
        (["status", "--watch=1e9"], "--watch 1e+09: from 0.1 to 3600 seconds"),
        (["exec", "anna", "--"], "there is no command"),
        (["exec", "anna"], "missing argument"),
        (["login", "anna"], "a login is a conversation and needs a terminal"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(words: list[str], error: str, run: Callable[..., Any]) -> None:
    """Spans, counts, commands and terminals are checked before a database is needed."""
    done = run("fleet", *words)
    assert (done.exit_code, error in done.stderr) == (2, True)


@pytest.mark.parametrize("words", [["--watch"], ["--watch", "--json"], ["--watch", "1.5"], ["--watch=1", "-q"]])
def test_watching_needs_no_seconds(words: list[str], run: Callable[..., Any]) -> None:
    """`--watch` stands alone, before other options, or with its seconds: all of them get as far as the database."""
    assert run("fleet", "status", *words).exit_code == 8


@pytest.mark.parametrize(
    ("args", "own"),
    [
        (["fleet", "exec", "anna", "ls", "-v", "--json"], 3),
        (["--json", "fleet", "exec", "anna", "--", "-v"], 4),
        (["fleet", "-v", "exec", "anna"], 4),
        (["fleet", "exec"], 2),
        (["fleet", "logs", "anna", "-v"], 4),
        (["fleet", "ask", "exec", "-v"], 4),
        (["agent", "show", "--", "-v"], 2),
    ],
)
def test_the_words_of_a_command_to_run_are_not_ours(args: list[str], own: int) -> None:
    """What `fleet exec` hands on keeps its own -v and --json; everywhere else they are ours up to `--`."""
    assert cli._own_words(args) == own


def test_a_status_is_laid_out_for_people() -> None:
    """Marks, sizes, spans and restarts, as the interface shows them."""
    well = AgentStatus("main", "team", "first", "zai/m", 1, 1, "ok", "", 259_300.0, "current", 914 << 20, 2 << 30)
    rows = [
        well,
        replace(well, memory=(18 << 30) // 10, restarts=2, restart_reason="OOM", config="stale"),
        replace(well, health="failed", reason="OOM", memory=None, up=None, restarts=4, restart_reason="OOM"),
        replace(well, health="starting", reason="preparing", limit=None, up=61.0),
        replace(well, health="starting", memory=None),
        replace(well, health="stopped", running=0, desired=0),
    ]
    columns = _columns(rows)
    assert list(columns) == ["AGENT", "ROLE", "MODEL", "REPLICAS", "HEALTH", "MEM / LIMIT", "UP", "CONFIG"]
    assert [[get(row) for get in list(columns.values())[3:]] for row in rows] == [
        ["1/1", "ok", "914M / 2G", "3d", "current"],
        ["1/1", "ok", "1.8G / 2G", "3d", "stale, restarts 2 (OOM)"],
        ["1/1", "✗ OOM", None, None, "current, restarts 4+"],
        ["1/1", "! starting: preparing", "914M", "1m", "current"],
        ["1/1", "! starting", None, "3d", "current"],
        ["0/0", "stopped", "914M / 2G", "3d", "current"],
    ]
    assert "NODE" in _columns([replace(well, node="a"), replace(well, node="b")])
    assert "STACK" in _columns([well, replace(well, stack="other")])


@pytest.mark.parametrize(
    "target", ["anna", "anna=", "=1", "anna=-1", "anna=x", "anna=0x1", "anna=1.0", "anna=" + "9" * 5000]
)
def test_a_scale_is_an_agent_and_a_number(target: str, run: Callable[..., Any]) -> None:
    """What is no AGENT=N is Invalid, with how to write it; so are two numbers for one agent."""
    done = run("fleet", "scale", "--", target)
    assert (done.exit_code, "write AGENT=0 or AGENT=1" in done.stderr) == (2, True)
    done = run("fleet", "scale", "anna=0", "anna=1")
    assert (done.exit_code, "anna is to be 0 and 1" in done.stderr) == (2, True)


@pytest.mark.parametrize("words", [(), ("anna", "--all")])
def test_a_restart_names_agents_or_all(words: tuple[str, ...], run: Callable[..., Any]) -> None:
    """Neither and both are Invalid: nobody restarts everything by a slip."""
    done = run("fleet", "restart", *words)
    assert (done.exit_code, "name the agents to restart, or say --all" in done.stderr) == (2, True)


@pytest.mark.parametrize("image", ["", "UPPER", "-x", "a b", "x" * 401])
def test_an_upgrade_needs_an_image(image: str, run: Callable[..., Any]) -> None:
    """What no image can be called is Invalid."""
    done = run("fleet", "upgrade", "--image", image)
    assert (done.exit_code, "--image must be an image reference" in done.stderr) == (2, True)

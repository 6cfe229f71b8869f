"""Names at the press of TAB."""

import pytest

from tests.postgres.machine import Machine
from tests.processes import until


@pytest.fixture
def team(mosaic: Machine) -> Machine:
    """Return a machine with two agents, two providers and a stack."""
    for name in ("zai", "zulu"):
        mosaic("provider", "add", name, "--type", "zai", "--model", "glm-5")
    for name in ("jarvis-main", "jarvis-research"):
        mosaic("agent", "add", name, "--stack", "office")
    return mosaic


def offered(mosaic: Machine, line: str) -> list[str]:
    """Return what bash would offer at the end of a line."""
    words = line.split(" ")
    asking = {"_MOSAIC_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = mosaic.but(**asking).spawn()
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("mosaic agent show jar", ["jarvis-main", "jarvis-research"]),
        ("mosaic agent set jarvis-m", ["jarvis-main"]),
        ("mosaic agent remove ", ["jarvis-main", "jarvis-research"]),
        ("mosaic agent set jarvis-main --provider z", ["zai", "zulu"]),
        ("mosaic agent list --stack o", ["office"]),
        ("mosaic provider show za", ["zai"]),
        ("mosaic provider set z", ["zai", "zulu"]),
        ("mosaic provider remove zu", ["zulu"]),
        ("mosaic fleet ask jarvis-r", ["jarvis-research"]),
        ("mosaic fleet logs jarvis-main jarvis-r", ["jarvis-research"]),
        ("mosaic fleet exec jarvis-m", ["jarvis-main"]),
        ("mosaic fleet login jarvis-m", ["jarvis-main"]),
        ("mosaic fleet login jarvis-main --provider zu", ["zulu"]),
        ("mosaic fleet deploy --stack off", ["office"]),
        ("mosaic fleet status --stack off", ["office"]),
    ],
)
def test_names_are_completed(team: Machine, line: str, names: list[str]) -> None:
    """Agents, providers and stacks are offered by their beginning, wherever a command takes one."""
    assert until(lambda: offered(team, line)) == names  # again: on a busy machine it may give up after 300 ms


@pytest.mark.parametrize("line", ["mosaic agent show %", "mosaic agent show x", "mosaic agent add jar"])
def test_what_begins_with_no_name_has_no_offer(team: Machine, line: str) -> None:
    """Signs of a pattern are plain letters, and the name of a new agent is nobody's to offer."""
    assert offered(team, line) == []


def test_completion_is_silent_on_failure(mosaic: Machine) -> None:
    """A database that does not answer, is empty or has a wrong address: nothing is offered and nothing said."""
    for url in ("postgresql://127.0.0.1:1/none", "nonsense", None):
        assert offered(mosaic.but(DATABASE_URL=url), "mosaic agent show ") == []


def test_completion_does_not_start_a_database(fresh_mosaic: Machine) -> None:
    """An embedded Postgres that is not running stays so."""
    assert fresh_mosaic("init").exit_code == 0
    assert fresh_mosaic("db", "stop").exit_code == 0
    assert offered(fresh_mosaic, "mosaic agent show ") == []
    assert fresh_mosaic("db", "stop").stdout == "unchanged, it is stopped\n"

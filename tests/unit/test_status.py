"""How a fleet is: the rows of `fleet status`."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest

from mosaic_fleet.db.reads import AgentRow, StackRow
from mosaic_fleet.errors import ConfigurationError
from mosaic_fleet.fleet.masking import Knowing, Known
from mosaic_fleet.fleet.status import AgentStatus, Asked, status
from mosaic_fleet.runtimes.base import Node, StackRuntime, Task
from tests.fakes import FAKE_IMAGE, Failure, FakeRuntime

INSTALL = "0123456789ab"
EXIT_78 = "OpenClaw refused its config or its state (exit 78)"
EXIT_137 = "task: non-zero exit (137)"
Runtime = TypeVar("Runtime", bound=FakeRuntime)
DEPLOYED = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
STACK = StackRow("team", "net", 1, 1, "healthy", DEPLOYED, DEPLOYED, {"main": {"spec": "abc", "verdict": "healthy"}})
MAIN = AgentRow(
    name="main",
    stack="team",
    role="first",
    primary_model="zai/glm-5",
    fallback_models=[],
    providers=[],
    personality=None,
    schedules=False,
    image=None,
    memory_limit=2 << 30,
    memory_reservation=512 << 20,
    cpu_limit=None,
    replicas=1,
    node_id="node1",
    is_active=True,
    updated_at=DEPLOYED,
    changed_at=DEPLOYED - timedelta(minutes=1),
)


def deployed(
    *agents: str,
    install: str = INSTALL,
    replicas: int = 1,
    failure: Failure | None = None,
    image: str = FAKE_IMAGE,
    more: str = "",
    make: Callable[[], Runtime] = FakeRuntime,  # a default has no type of its own
) -> Runtime:
    """Return a Swarm that runs these agents; `more` is of each one's deploy section."""
    runtime = make()
    runtime.images["openclaw:other"] = runtime.images[FAKE_IMAGE]
    more = f", {more}" if more else ""
    labels = f"{{com.mosaic.install: '{install}', com.mosaic.spec: abc, com.mosaic.agent: "
    lines = [
        f"  {name}: {{image: '{image}', deploy: {{replicas: {replicas}, labels: {labels}{name}}}{more}}}}}"
        for name in agents
    ]
    runtime.failures = {f"team_{name}": failure for name in agents} if failure else {}
    runtime.deploy_stack("team", "\n".join(["services:", *lines]))
    return runtime


def rows(
    runtime: FakeRuntime,
    *roster: AgentRow,
    stack: StackRow = STACK,
    polls: int = 1,
    containers: bool = True,
    secrets: Knowing = dict,
) -> list[AgentStatus]:
    """Return the rows after Swarm has had time."""
    for _ in range(polls - 1):
        runtime.tasks("team")
    asked = Asked(INSTALL, datetime.now(UTC) + timedelta(seconds=90), secrets, containers)
    return status(runtime, stack, roster, asked)


def test_a_healthy_agent_has_a_whole_row() -> None:
    """Roster and Swarm side by side: what it is, that it runs, since when, and that its config is current."""
    [row] = rows(deployed("main"), MAIN, polls=2)
    assert row.up == pytest.approx(90, abs=30)
    assert replace(row, up=0) == AgentStatus(
        agent="main",
        stack="team",
        role="first",
        model="zai/glm-5",
        running=1,
        desired=1,
        health="ok",
        reason="",
        up=0,
        config="current",
        memory=64 << 20,
        limit=None,
        restarts=0,
        restart_reason="",
        node="fake",
    )


def test_an_agent_that_was_never_deployed() -> None:
    """In the roster and not in the Swarm: not deployed, with how many it would be."""
    [row] = rows(FakeRuntime(), MAIN)
    assert (row.health, row.config, row.running, row.desired, row.up) == ("not deployed", "new", 0, 1, None)


def test_an_agent_that_is_starting() -> None:
    """Before its first healthy probe an agent is starting, and not up."""
    runtime = deployed("main")
    runtime.polls_to_running = 9
    [row] = rows(runtime, MAIN)
    assert (row.health, row.reason, row.running, row.desired, row.up) == ("starting", "starting", 0, 1, None)


def test_an_agent_that_is_scaled_to_nothing() -> None:
    """A stopped agent is stopped, which is no failure."""
    [row] = rows(deployed("main", replicas=0), replace(MAIN, replicas=0))
    assert (row.health, row.reason, row.running, row.desired) == ("stopped", "", 0, 0)


@pytest.mark.parametrize(
    ("failure", "polls", "health", "reason"),
    [
        (Failure("rejected", "No such image: x"), 1, "failed", "task rejected: No such image: x"),
        (Failure("failed", "task: non-zero exit (137)", 137), 1, "failed", "task: non-zero exit (137)"),
        (
            Failure("failed", "task: non-zero exit (78)", 78),
            4,
            "failed",
            "OpenClaw refused its config or its state (exit 78)",
        ),
    ],
)
def test_an_agent_that_fails_says_why(failure: Failure, polls: int, health: str, reason: str) -> None:
    """The row of a failing agent has the reason that its task has."""
    [row] = rows(deployed("main", failure=failure), MAIN, polls=polls)
    assert (row.health, row.reason) == (health, reason)


@pytest.mark.parametrize(
    ("stack", "row", "config"),
    [
        (STACK, MAIN, "current"),
        (STACK, replace(MAIN, changed_at=DEPLOYED), "current"),
        (STACK, replace(MAIN, changed_at=DEPLOYED + timedelta(seconds=1)), "stale"),
        (replace(STACK, seen_at=None), MAIN, "stale"),
        (replace(STACK, outcome={"main": {"spec": "other"}}), MAIN, "changed outside"),
        (replace(STACK, outcome={}), MAIN, "changed outside"),
        (replace(STACK, outcome=None), MAIN, "changed outside"),
        (replace(STACK, outcome={"main": {"spec": "other"}}, status="interrupted"), MAIN, "behind deploy 1"),
        (replace(STACK, outcome={"main": {"spec": "other"}}, status="partial"), MAIN, "behind deploy 1"),
    ],
)
def test_the_config_is_compared_with_the_last_deploy(stack: StackRow, row: AgentRow, config: str) -> None:
    """Another spec than a healthy deploy's is a change outside, than a broken one's behind; a newer roster is stale."""
    assert [one.config for one in rows(deployed("main"), row, stack=stack)] == [config]


def test_an_agent_that_left_the_roster_is_shown() -> None:
    """What still runs of this installation is never hidden; it has no role and no model any more."""
    [gone, main] = rows(deployed("main", "gone"), MAIN)
    assert (gone.agent, gone.role, gone.model, gone.config) == ("gone", "", None, "not in the roster")
    assert main.agent == "main"


def test_a_deactivated_agent_counts_as_left() -> None:
    """An agent that is switched off and still runs is not in the roster; one that does not run is not shown."""
    off = replace(MAIN, is_active=False)
    assert [row.config for row in rows(deployed("main"), off)] == ["not in the roster"]
    assert rows(FakeRuntime(), off) == []


def test_services_of_others_are_not_ours() -> None:
    """A service of that name which another installation made is not shown as ours."""
    assert [row.health for row in rows(deployed("main", install="ffffffffffff"), MAIN)] == ["not deployed"]


def test_rows_are_sorted_by_name() -> None:
    """The same fleet is always listed the same."""
    roster = [replace(MAIN, name=name) for name in ("c", "a", "b")]
    assert [row.agent for row in rows(FakeRuntime(), *roster)] == ["a", "b", "c"]


class Counting(FakeRuntime):
    """Notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        super().__init__()

    def __getattribute__(self, name: str) -> Any:
        """Note the methods of the protocol."""
        if name in vars(StackRuntime):
            self.asked.append(name)
        return super().__getattribute__(name)


def test_status_asks_docker_three_things() -> None:
    """Services, tasks and nodes are all it reads without containers, however many agents there are and fail."""
    runtime = deployed("a", "b", failure=Failure("failed", "task: non-zero exit (78)", 78), make=Counting)
    runtime.tasks("team")
    runtime.asked.clear()
    rows(runtime, *(replace(MAIN, name=name) for name in ("a", "b", "c")), containers=False)
    assert runtime.asked == ["services", "tasks", "nodes"]


def test_memory_is_asked_for_all_at_once() -> None:
    """One call tells the memory of every agent that runs; the limit is the one that its service has."""
    runtime = deployed("a", "b", make=Counting)
    runtime.used = {"team_a": 900 << 20}
    runtime.tasks("team")
    runtime.asked.clear()
    found = rows(runtime, *(replace(MAIN, name=name) for name in ("a", "b", "c")))
    assert [(row.memory, row.limit) for row in found] == [(900 << 20, None), (64 << 20, None), (None, 2 << 30)]
    assert runtime.asked == ["services", "tasks", "nodes", "memory"]


@pytest.mark.parametrize(
    ("failure", "stderr", "containers", "reason"),
    [
        (Failure("failed", "task: non-zero exit (137)", 137, oom_killed=True), "a\n", True, "OOM"),
        (Failure("failed", "task: non-zero exit (137)", 137, oom_killed=True), "a\n", False, EXIT_137),
        (Failure("failed", "task: non-zero exit (137)", 137), "a\n", True, f"{EXIT_137}: a"),
        (Failure("failed", "", 78), "first\nlocked by pid 7\n\n", True, f"{EXIT_78}: locked by pid 7"),
        (Failure("failed", "", 78), '{"level":"error","message":"bad\\nkey"}\n', True, f"{EXIT_78}: bad key"),
        (Failure("failed", "", 78), "[" * 9999 + "\n", True, f"{EXIT_78}: {'[' * 200}"),
        (Failure("failed", "", 78), "token=abcdefgh12345\n", True, f"{EXIT_78}: token=***"),
        (Failure("failed", "", 78), "first\nlocked by pid 7\n", False, EXIT_78),
        (Failure("failed", "", 78), "", True, EXIT_78),
        (Failure("complete"), "a\n", True, "it was stopped for failing its health checks"),
        (Failure("rejected", "No such image: x"), "", True, "task rejected: No such image: x"),
    ],
)
def test_restarts_are_counted_and_say_why(failure: Failure, stderr: str, containers: bool, reason: str) -> None:
    """An agent that ends by itself has its restarts and the reason of the last: OOM, its own line, its probes."""
    runtime = deployed("main", failure=failure)
    runtime.stderr["team_main"] = stderr
    [row] = rows(runtime, MAIN, polls=3, containers=containers)
    assert (row.restarts, row.restart_reason) == (3, reason)
    assert (row.health, row.reason) == ("failed", reason)


def test_a_secret_in_the_last_line_is_hidden() -> None:
    """An agent's own secret is stars in the reason of its restart, also one that the row would cut in two."""
    for line in ("bare k3y-of-mine", f"{'x' * 190} k3y-of-mine"):
        runtime = deployed("main", failure=Failure("failed", "", 78))
        runtime.stderr["team_main"] = f"{line}\n"
        [row] = rows(runtime, MAIN, polls=3, secrets=lambda: {"main": ["k3y-of-mine"], "other": ["bare"]})
        assert row.restart_reason == row.reason == f"{EXIT_78}: {line.replace('k3y-of-mine', '***')}"


def test_a_last_line_whose_secrets_nobody_knows_is_not_shown() -> None:
    """Without the key there is the exit code alone; where no line would be shown nobody asks for secrets."""
    asked = []

    def unknown() -> Known:
        asked.append(True)
        raise ConfigurationError("MOSAIC_SECRET_KEY is not set")

    runtime = deployed("main", failure=Failure("failed", "", 78))
    assert [row.restart_reason for row in rows(runtime, MAIN, polls=3, secrets=unknown)] == [EXIT_78]
    runtime.stderr["team_main"] = "bare k3y-of-mine\n"
    rows(runtime, MAIN, containers=False, secrets=unknown)
    rows(deployed("main"), MAIN, polls=2, secrets=unknown)
    assert not asked
    assert [row.restart_reason for row in rows(runtime, MAIN, secrets=unknown)] == [EXIT_78]
    assert asked


def test_what_was_stopped_by_a_deploy_is_no_restart() -> None:
    """A task that an update shut down did not end by itself."""
    runtime = deployed("main")
    runtime.tasks("team")
    assert [row.restarts for row in rows(deployed("main", image="openclaw:other", make=lambda: runtime), MAIN)] == [0]
    assert "shutdown" in [task.state for task in runtime.tasks("team")]


@pytest.mark.parametrize(
    ("pinned", "changed", "reason"),
    [
        ("node1", {"availability": "drain"}, "its node fake is drained; it waits for it, its state lies there"),
        ("node1", {"availability": "pause"}, "its node fake is paused; it waits for it, its state lies there"),
        ("node1", {"state": "down"}, "its node fake is down; it waits for it, its state lies there"),
        ("node9", {}, "its node node9 has left the swarm; its state lies there"),
        ("node1", {}, "no suitable node (insufficient memory)"),
    ],
)
def test_a_node_that_takes_none_is_named(pinned: str, changed: dict[str, str], reason: str) -> None:
    """An agent that waits for its node says in plain words what is the matter with it."""

    class Waiting(FakeRuntime):
        """Has a task that fits on no node."""

        def nodes(self) -> list[Node]:
            """List the one node, as it is."""
            return [replace(node, **changed) for node in super().nodes()]

        def tasks(self, stack: str) -> list[Task]:
            """Leave tasks waiting."""
            error = "no suitable node (insufficient memory)"
            return [replace(task, state="pending", error=error, container_id=None) for task in super().tasks(stack)]

    placement = f"placement: {{constraints: [node.id == {pinned}]}}"
    [row] = rows(deployed("main", more=placement, make=Waiting), MAIN)
    assert (row.health, row.reason, row.node, row.memory) == ("failed", reason, None, None)

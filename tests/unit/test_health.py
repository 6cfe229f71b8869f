"""What became of a deployed agent, as a table of what Swarm shows."""

from datetime import UTC, datetime
from typing import Any

import pytest

from mosaic_fleet.fleet.health import end_reason, judge, replicas, runs_spec
from mosaic_fleet.runtimes.base import Service, Task

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
NEW = {"ContainerSpec": {"Image": "openclaw:2"}, "Resources": {"Limits": {"MemoryBytes": 1}}, "Placement": {}}
OLD = {"ContainerSpec": {"Image": "openclaw:1"}, "Resources": {"Limits": {"MemoryBytes": 1}}, "Placement": {}}
WANTED = {"spec": "new", "update_before": "t0"}
ROLLED_BACK = "update rolled back due to failure or early termination of task t1"


def service(*, spec: str = "new", wants: int = 1, state: str = "", started: str = "t0", message: str = "") -> Service:
    """Make an agent's service with a spec digest and an update status."""
    return Service(
        id="s1",
        name="jarvis_main",
        labels={"com.mosaic.spec": spec},
        spec={"TaskTemplate": NEW, "Mode": {"Replicated": {"Replicas": wants}}},
        running=0,
        desired=wants,
        update_state=state,
        update_message=message,
        update_started=started,
    )


def task(state: str, *, desired: str = "running", age: int = 0, spec: Any = NEW, **options: Any) -> Task:
    """Make a task of that service which has been in its state for `age` seconds."""
    since = datetime.fromtimestamp(NOW.timestamp() - age, UTC).isoformat()[:19] + ".123456789Z"
    values: dict[str, Any] = {"message": "", "error": "", "exit_code": None, "container_id": None} | options
    return Task("t", "s1", "node1", desired, state, since, since, spec=spec, **values)


def ended(state: str, error: str = "", code: int | None = None, **options: Any) -> Task:
    """Make a task that has ended."""
    return task(state, desired="shutdown", error=error, exit_code=code, **options)


RUNNING = task("running")
OLD_RUNNING = task("running", spec=OLD)
STARTING = task("starting")
CRASHED = ended("failed", "task: non-zero exit (1)", 1)
REFUSED = ended("failed", "task: non-zero exit (78)", 78)
KILLED = ended("failed", "task: non-zero exit (137)", 137)
REJECTED = ended("rejected", "No such image: openclaw:2")
UNHEALTHY = ended("complete", code=0)
STOPPED = ended("shutdown", code=0)
UPDATING = service(state="updating", started="t1")
NO_NODE = "no suitable node (scheduling constraints not satisfied on 1 node)"
REFUSED_WORDS = "OpenClaw refused its config or its state (exit 78)"

CASES: dict[str, tuple[Service | None, list[Task], str, str]] = {
    "running the new spec": (service(), [RUNNING], "healthy", ""),
    "running after an update": (service(state="completed", started="t1"), [RUNNING, OLD_RUNNING], "healthy", ""),
    "running after two crashes": (service(), [RUNNING, CRASHED, CRASHED], "healthy", ""),
    "running after four crashes": (service(), [RUNNING, *[CRASHED] * 4], "healthy", ""),
    "no task yet": (service(), [], "waiting", "no task yet"),
    "starting": (service(), [STARTING], "waiting", "starting"),
    "preparing": (service(), [task("preparing")], "waiting", "preparing"),
    "ready for its turn after a crash": (
        service(),
        [task("ready", desired="ready"), CRASHED],
        "waiting",
        "ready after: task: non-zero exit (1)",
    ),
    "only the old spec runs": (service(), [OLD_RUNNING], "waiting", "no task yet"),
    "new one starts while the old one runs": (service(), [STARTING, OLD_RUNNING], "waiting", "starting"),
    "update is watched": (UPDATING, [RUNNING], "waiting", "updating"),
    "update is under way": (UPDATING, [STARTING, OLD_RUNNING], "waiting", "updating"),
    "an update that another deploy began is watched": (service(state="updating"), [RUNNING], "waiting", "updating"),
    "an older update was rolled back": (service(state="rollback_completed"), [RUNNING], "healthy", ""),
    "an older update is called paused": (service(state="paused", message="old"), [RUNNING], "healthy", ""),
    "rejected": (service(), [REJECTED], "failed", "task rejected: No such image: openclaw:2"),
    "rejected and tried again": (
        service(),
        [task("pending"), REJECTED],
        "failed",
        "task rejected: No such image: openclaw:2",
    ),
    "config refused twice": (service(), [STARTING, REFUSED, REFUSED], "waiting", f"starting after: {REFUSED_WORDS}"),
    "config refused three times": (service(), [STARTING, REFUSED, REFUSED, REFUSED], "failed", REFUSED_WORDS),
    "crashed three times": (service(), [CRASHED, CRASHED, CRASHED], "failed", "task: non-zero exit (1)"),
    "killed once": (service(), [STARTING, KILLED], "failed", "task: non-zero exit (137)"),
    "unhealthy once": (
        service(),
        [STARTING, UNHEALTHY],
        "waiting",
        "starting after: it was stopped for failing its health checks",
    ),
    "unhealthy three times": (
        service(),
        [STARTING, UNHEALTHY, UNHEALTHY, UNHEALTHY],
        "failed",
        "it was stopped for failing its health checks",
    ),
    "stopped on purpose three times": (service(), [STARTING, STOPPED, STOPPED, STOPPED], "waiting", "starting"),
    "crashes of the old spec": (service(), [STARTING, *[ended("failed", spec=OLD)] * 4], "waiting", "starting"),
    "no node, just now": (service(), [task("pending", error=NO_NODE, age=5)], "waiting", "pending"),
    "no node, for long": (service(), [task("pending", error=NO_NODE, age=6)], "failed", NO_NODE),
    "pending for long without a reason": (service(), [task("pending", age=600)], "waiting", "pending"),
    "rolling back": (
        service(spec="old", state="rollback_started", started="t1"),
        [STARTING],
        "waiting",
        "rolling back",
    ),
    "rolling back, spec still new": (
        service(state="rollback_started", started="t1"),
        [STARTING],
        "waiting",
        "rollback started",
    ),
    "rolled back": (
        service(spec="old", state="rollback_completed", started="t1", message=ROLLED_BACK),
        [RUNNING, REFUSED],
        "failed",
        f"taken back by Swarm: {REFUSED_WORDS}",
    ),
    "rolled back, spec still new": (
        service(state="rollback_completed", started="t1", message=ROLLED_BACK),
        [RUNNING, CRASHED, REFUSED],
        "failed",
        "taken back by Swarm: task: non-zero exit (1)",
    ),
    "rolled back for its health": (
        service(spec="old", state="rollback_completed", started="t1"),
        [RUNNING, UNHEALTHY, STOPPED, ended("failed", "an old story", 1, spec=OLD)],
        "failed",
        "taken back by Swarm: it was stopped for failing its health checks",
    ),
    "rollback paused": (service(state="rollback_paused", started="t1"), [STARTING], "failed", "taken back by Swarm"),
    "update paused": (
        service(state="paused", started="t1", message="update paused due to failure"),
        [CRASHED],
        "failed",
        "the update was stopped: task: non-zero exit (1)",
    ),
    "changed by somebody": (service(spec="other"), [RUNNING], "failed", "the update was stopped"),
    "scaled to nothing": (service(wants=0), [STOPPED], "stopped", ""),
    "never ran, scaled to nothing": (service(wants=0), [], "stopped", ""),
    "stopping": (service(wants=0), [task("running", desired="shutdown")], "waiting", "stopping"),
    "scaled to nothing after crashes": (service(wants=0), [CRASHED, CRASHED, CRASHED], "stopped", ""),
    "vanished": (None, [RUNNING], "failed", "its service is gone"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_verdict(name: str) -> None:
    """Each thing that Swarm may show has one verdict, in words that say why."""
    one, tasks, verdict, reason = CASES[name]
    state = judge(one, tasks, WANTED, now=NOW)
    assert (state.verdict, state.reason) == (verdict, reason)
    assert state.settled == (verdict != "waiting")


@pytest.mark.parametrize(
    ("name", "culprit"),
    [
        ("rejected and tried again", REJECTED),
        ("config refused three times", REFUSED),
        ("killed once", KILLED),
        ("rolled back", REFUSED),
        ("update paused", CRASHED),
        ("running the new spec", RUNNING),
    ],
)
def test_the_task_that_tells_why_is_named(name: str, culprit: Task) -> None:
    """Its container's end and last lines explain the failure, so the task goes with the verdict."""
    one, tasks, _, _ = CASES[name]
    assert judge(one, tasks, WANTED, now=NOW).task is culprit


def test_tasks_of_other_services_do_not_count() -> None:
    """A neighbour that runs makes nobody healthy."""
    other = Task("t", "s2", "node1", "running", "running", "", "", "", "", None, None, NEW)
    assert judge(service(), [other], WANTED, now=NOW).verdict == "waiting"


@pytest.mark.parametrize(
    "part", ["ContainerSpec", "Resources", "Placement", "RestartPolicy", "Networks", "LogDriver", "ForceUpdate"]
)
def test_a_task_runs_the_spec_only_when_every_part_is_the_same(part: str) -> None:
    """Image, limits, node, restart policy, network, log or the count of restarts: one old part makes it an old task."""
    assert runs_spec(service(), task("running", spec=NEW | {"Runtime": "container"}))
    assert not runs_spec(service(), task("running", spec=NEW | {part: {"another": 1}}))


@pytest.mark.parametrize(
    ("mode", "count"),
    [({"Replicated": {"Replicas": 0}}, 0), ({"Replicated": {"Replicas": 1}}, 1), ({"Replicated": {}}, 1)],
)
def test_replicas_are_one_unless_said(mode: Any, count: int) -> None:
    """Docker leaves the number out where it is the default."""
    one = Service("s1", "x", {}, {"Mode": mode}, 0, 0)
    assert replicas(one) == count


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (REFUSED, REFUSED_WORDS),
        (UNHEALTHY, "it was stopped for failing its health checks"),
        (KILLED, "task: non-zero exit (137)"),
        (ended("failed", message="starting container failed"), "starting container failed"),
        (ended("orphaned"), "orphaned"),
    ],
)
def test_the_end_of_a_task_has_words(one: Task, words: str) -> None:
    """The error, else the message, else the state; OpenClaw's own exit code as what it means."""
    assert end_reason(one) == words

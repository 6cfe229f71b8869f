"""Failure at every step of an operator's verbs (guarantee 8.4): the same command succeeds after."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest

from mosaic_fleet.db.database import Database
from mosaic_fleet.errors import MosaicError, RuntimeFailure
from mosaic_fleet.fleet import deploying, restarting
from mosaic_fleet.runtimes.base import Image
from tests.fakes import FAKE_IMAGE
from tests.postgres.changes import Operator
from tests.postgres.team import STACK, Fault, FaultyDatabase, FaultyRuntime, Team

NEXT = "openclaw:next"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the Swarm more often: the one in memory needs no time."""
    for module in (deploying, restarting):
        monkeypatch.setattr(module, "_POLL_SECONDS", 0.001)


@pytest.fixture
def team(database: Database) -> Team:
    """Return a team of two that is deployed; a second image is the same release."""
    team = Team.at(database)
    team.add("anna", personality="Anna.\n")
    team.add("ben")
    team.runtime.images[NEXT] = Image("sha256:" + "cd" * 32, "2026.9.6", None)
    team.deploy()
    return team


@dataclass
class Change:
    """A change that is made again and again: `prepare` makes room for it, `done` says whether all of it is there."""

    act: Callable[[Operator, int], object]
    done: Callable[[Team, int], bool]
    prepare: Callable[[Team, int], object] = lambda *_: None


def containers(team: Team) -> dict[str, str | None]:
    """Return what runs, by service."""
    services = {one.id: one.name for one in team.runtime.services(STACK)}
    return {
        services[task.service_id]: task.container_id
        for task in team.runtime.tasks(STACK)
        if task.state == "running" and task.desired == "running"
    }


def image(number: int) -> str:
    """The two images take turns."""
    return NEXT if number % 2 else FAKE_IMAGE


def runs(team: Team, *names: str) -> bool:
    """Tell whether exactly these agents run, and nothing differs from the roster."""
    return containers(team).keys() == {f"{STACK}_{name}" for name in names} and team.plan.is_empty


def another(team: Team, number: int) -> None:
    """Change anna in the roster."""
    team.set("anna", personality=f"{number}\n")


def deploy_another(team: Team, number: int) -> None:
    """Change anna, and deploy."""
    another(team, number)
    team.deploy()


def upgraded(team: Team, number: int) -> bool:
    """Tell whether all run the image, and it is what the roster says."""
    return runs(team, "anna", "ben") and team.roster.settings["fleet.image"] == image(number)


def pushed(team: Team, _: int) -> bool:
    """Tell whether all that the rendered file names is there."""
    rendered = team.plan.rendered
    return {*rendered.docker_configs, *rendered.docker_secrets} <= team.objects.keys()


def rolled_back(team: Team, _: int) -> bool:
    """Tell whether the first deploy is the newest again, and anna's files are there."""
    newest = team.deployments[-1]
    text, here = team.deployments[0].stack_text, containers(team).keys()
    return newest.stack_text == text and here == {f"{STACK}_anna", f"{STACK}_ben"} and team.named <= team.objects.keys()


CHANGES = {
    "scale": Change(
        act=lambda operator, number: operator.scale(anna=1 - number % 2),
        done=lambda team, number: runs(team, *(["ben"] if number % 2 else ["anna", "ben"])),
    ),
    "restart": Change(act=lambda operator, _: operator.restart("anna"), done=lambda team, _: runs(team, "anna", "ben")),
    "push": Change(act=lambda operator, _: operator.push(), done=pushed, prepare=another),
    "rollback": Change(act=lambda operator, _: operator.rollback(1), done=rolled_back, prepare=deploy_another),
    "upgrade": Change(act=lambda operator, number: operator.upgrade(image(number)), done=upgraded),
}


def refusal() -> RuntimeFailure:
    return RuntimeFailure("docker does not answer: broken on purpose")


def docker(fault: Fault) -> Callable[[Team, int], dict[str, Any]]:
    """Let a call of Docker have a fault."""
    return lambda team, step: {"runtime": FaultyRuntime(team.runtime, step, fault)}


def postgres(when: str) -> Callable[[Team, int], dict[str, Any]]:
    """Let a transaction or lock fail; `down` is what a killed process leaves, too."""
    return lambda team, step: {"db": FaultyDatabase(team.db.url, step, when)}


FAULTS = {
    "docker-refuses": docker(Fault(refusal)),
    "docker-answer-lost": docker(Fault(refusal, late=True)),
    "ctrl-c": docker(Fault(KeyboardInterrupt, late=True)),
    "postgres-commit": postgres("commit"),
    "postgres-down": postgres("down"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("verb", CHANGES)
def test_after_a_failure_at_any_step_the_same_command_succeeds(verb: str, fault: str, team: Team) -> None:
    """Step 1, 2, 3 … fails until all pass; each time the same command then does all of it, and closes the record."""
    change, broken = CHANGES[verb], FAULTS[fault]
    for step in count(1):
        change.prepare(team, step)
        rows = {row.id: row.stack_text for row in team.deployments}
        try:
            change.act(Operator(team, **broken(team, step)), step)
        except (MosaicError, KeyboardInterrupt):
            change.act(Operator(team), step)
        else:
            break
        assert change.done(team, step), step
        assert "started" not in team.record
        assert rows.items() <= {row.id: row.stack_text for row in team.deployments}.items()
    assert change.done(team, step)
    assert step > 4


@pytest.mark.parametrize("fault", ["ctrl-c", "postgres-down"])
def test_a_rollback_without_a_number_goes_on_where_it_broke_off(fault: str, team: Team) -> None:
    """Cut short at step 1, 2, 3 … and typed again, it goes where it was going, not back to what was left."""
    for step in count(1):
        meant = team.deployments[-1].stack_text
        deploy_another(team, step)
        try:
            Operator(team, **FAULTS[fault](team, step)).rollback()
        except (MosaicError, KeyboardInterrupt):
            if (team.deployments[-1].stack_text, team.record[-1]) != (meant, "healthy"):
                Operator(team).rollback()
        else:
            break
        assert team.deployments[-1].stack_text == meant, step
        assert team.named <= team.objects.keys()
    assert step > 4

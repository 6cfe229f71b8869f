"""Deploys, against what the docker command and Swarm alone take for the same stack file."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.fleet import stack
from mosaic_fleet.fleet.stack import Rendered
from mosaic_fleet.runtimes.base import INSTALL_LABEL, STACK_LABEL, Kind
from mosaic_fleet.settings import Settings
from tests.bench.measuring import Line, against, at_most, interleaved, seconds
from tests.docker.installation import Fleet, Installation, fresh_stack
from tests.docker_run import wait_until

ROUNDS = 3
_NAMES = ("one", "two", "three", "four")


@contextmanager
def deployed(made: Installation, size: int) -> Iterator[Fleet]:
    """Deploy a stack of so many agents: its configs are validated and its volumes made from then on."""
    fleet = Fleet(made, fresh_stack())
    fleet.load(**{name: {"personality": f"You are {name}."} for name in _NAMES[:size]})
    fleet.deploy("--create-network")
    yield fleet
    _take_down(fleet)


def restarting(fleet: Fleet) -> Line:
    """Time the restart of one agent against the docker command's own; medians."""
    agent = fleet.agent("one")

    def ours() -> None:
        fleet.installation.mosaic("fleet", "restart", agent)

    def theirs() -> None:
        words = ("service", "update", "--force", "--quiet", "--no-resolve-image", f"{fleet.stack}_{agent}")
        fleet.installation.docker(*words)

    measured, base = map(median, interleaved(ROUNDS, partial(seconds, ours), partial(seconds, theirs)))
    return against("restart of 1 agent", measured, ("docker service update --force", base), times=1.05, plus=1)


def deploying(fleet: Fleet) -> Line:
    """Time a deploy against a bare `docker stack deploy` that waits, from nothing each time; medians."""
    mosaic = Mosaic(Settings.from_env(fleet.installation.env))
    rendered = _rendered(mosaic, fleet)
    measured, base = map(median, interleaved(ROUNDS, partial(_deploy, fleet), partial(_bare, mosaic, fleet, rendered)))
    size = len(rendered.services)
    what = f"deploy of {size} agent{'s' if size > 1 else ''}"
    return against(what, measured, ("docker stack deploy", base), times=1.05, plus=1)


def nothing_to_do(fleet: Fleet) -> Line:
    """Time deploys that change nothing; the median."""
    fleet.deploy()
    (times,) = interleaved(ROUNDS, partial(seconds, fleet.deploy))
    return at_most("deploy that changes nothing", median(times), 2)


def _deploy(fleet: Fleet) -> float:
    _take_down(fleet)
    return seconds(fleet.deploy)


def _bare(mosaic: Mosaic, fleet: Fleet, rendered: Rendered) -> float:
    """Deploy without Mosaic: what the stack file names is there, and nothing but health is waited for."""
    _take_down(fleet)
    _push(mosaic, fleet, rendered)

    def deploy() -> None:
        words = ("stack", "deploy", "--resolve-image", "never", "-c", "-", fleet.stack)
        fleet.installation.docker(*words, stdin=rendered.text)
        wait_until(lambda: _running(mosaic, fleet) == len(rendered.services))

    return seconds(deploy)


def _rendered(mosaic: Mosaic, fleet: Fleet) -> Rendered:
    with mosaic.db.transaction(system=True) as session:
        roster = stack.load(session, mosaic.box, fleet.stack)
    return stack.render(roster, mosaic.box)


def _push(mosaic: Mosaic, fleet: Fleet, rendered: Rendered) -> None:
    install = fleet.installation.document("status")["install"]
    contents: dict[Kind, dict[str, str]] = {
        "docker_config": {**rendered.docker_configs},
        "docker_secret": {**rendered.docker_secrets},
    }
    for kind, named in contents.items():
        for name, content in named.items():
            labels = {INSTALL_LABEL: install, STACK_LABEL: fleet.stack}
            mosaic.runtime.create_docker_object(kind, name, content.encode(), labels=labels)


def _running(mosaic: Mosaic, fleet: Fleet) -> int:
    """Count the services that Swarm calls running, which it does after the first healthy probe."""
    return len({task.service_id for task in mosaic.runtime.tasks(fleet.stack) if task.state == "running"})


def _take_down(fleet: Fleet) -> None:
    """Take the stack off the Swarm until no container of it is left; its volumes stay, and so it is warm."""
    fleet.installation.mosaic("fleet", "rm", "--stack", fleet.stack, "--yes")
    left = ("ps", "-aq", "--filter", f"label=com.docker.stack.namespace={fleet.stack}")
    wait_until(lambda: not fleet.installation.docker(*left))

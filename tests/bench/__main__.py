"""`make bench`: prints a table of ratios and figures taken in one run. It asserts nothing about time."""

import argparse
import os
import platform
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack

from tests.bench import (
    cells,
    commands,
    crowd,
    deploys,
    footprint,
    gateways,
    logs,
    memory,
    naps,
    people,
    providers,
    rotation,
    serving,
    site,
    sleep,
)
from tests.bench.measuring import Line, table
from tests.docker.installation import Installation


def main() -> None:
    """Take the figures and print them."""
    asked = _asked()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception, so that all is cleaned up
    docker = site.daemon()
    reason = site.obstacle(docker)
    lines = [] if asked.naps else [*memory.rendering(), *memory.sealing(), providers.probing()]
    with ExitStack() as stack:
        made = stack.enter_context(site.installation(docker))
        lines += [] if asked.naps else _without_docker(made)
        if reason is None:
            stack.enter_context(site.swarm(made))
            lines += [] if asked.naps else [*_fleet(made), *_gateways(made)]
            lines += _naps(made, asked.nap)
    print(table(lines))
    print(f"\n{_how()}")
    if reason:
        print(f"Left out are fleet status, the deploys, the logs, the wakes and the naps: {reason}.")


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=…", description=__doc__)
    parser.add_argument("--nap", type=float, default=15, metavar="SECONDS", help="how long a gateway naps (15)")
    parser.add_argument("--naps", action="store_true", help="take the figures of naps alone")
    return parser.parse_args()


def _without_docker(made: Installation) -> Iterator[Line]:
    yield from _reading(made)
    yield from people.people(made)
    yield from rotation.rotating(made)
    yield from serving.serving(made)
    yield footprint.remembering(made)
    yield from sleep.sleeping(made)


def _reading(made: Installation) -> Iterator[Line]:
    yield commands.reading(made.env, ["--help"], times=8)
    yield commands.reading(made.env, ["provider", "list"], times=25)
    with crowd.crowd(made) as many:
        for words in (["fleet", "status", "--no-memory"], ["fleet", "diff"]):
            yield commands.reading(many.env, words, ["--stack", crowd.STACK], times=35, of=f"{crowd.SIZE} agents")


def _fleet(made: Installation) -> Iterator[Line]:
    with deploys.deployed(made, 1) as fleet:
        yield deploys.deploying(fleet)
        fleet.deploy()
        yield logs.following(fleet)
    with deploys.deployed(made, 4) as fleet:
        yield deploys.deploying(fleet)
        yield deploys.nothing_to_do(fleet)
        yield commands.reading(made.env, ["fleet", "status"], ["--stack", fleet.stack], times=30)
        yield deploys.restarting(fleet)


def _gateways(made: Installation) -> Iterator[Line]:
    image = str(site.base_image(made.docker))
    with site.real(made, image), gateways.guest(made) as guest, cells.operator(made, image) as operator:
        yield from gateways.waking(guest, operator)
        yield gateways.finding(guest)


def _naps(made: Installation, slept: float) -> Iterator[Line]:
    image = str(site.base_image(made.docker))
    with site.real(made, image), naps.guests(made, image) as guests:
        yield from naps.first_tokens(guests, slept)


def _how() -> str:
    return (
        f"In one run on {os.cpu_count()} cores, Python {platform.python_version()}; measured and base in turns: "
        f"the quickest of {memory.ROUNDS} in memory\nand of {commands.ROUNDS} commands, the median of {deploys.ROUNDS} "
        f"deploys of a stand-in for OpenClaw, its configs validated,\nof {gateways.ROUNDS} wakes of the real one."
    )


if __name__ == "__main__":
    main()

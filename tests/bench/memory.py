"""What needs neither database nor Docker: rendering and sealing."""

from dataclasses import replace
from functools import partial

from pydantic import SecretStr

from mosaic_fleet.fleet import stack
from mosaic_fleet.fleet.stack import Roster
from mosaic_fleet.sealing import generate_token
from tests import rosters
from tests.bench.measuring import Line, against, at_least, at_most, interleaved, seconds

ROUNDS = 5
_MANY, _FEW = 1000, 250
_VALUES = 20_000


def rendering() -> list[Line]:
    """Time the rendering of a thousand agents and of a quarter of them."""
    timers = [partial(_render, _roster(size)) for size in (_MANY, _FEW)]
    many, few = map(min, interleaved(ROUNDS, *timers))
    base = (f"{_MANY // _FEW} × {_FEW} agents", few * _MANY / _FEW)
    return [
        at_most(f"render of {_MANY:,} agents", many, 1),
        against(f"render of {_MANY:,} agents: linear", many, base, times=1.2),
    ]


def sealing() -> list[Line]:
    """Time the sealing and the opening of tokens, one thread."""
    places = [f"system_container.gateway_token|{number}|shared" for number in range(_VALUES)]
    token = SecretStr(generate_token())
    sealed = [rosters.BOX.seal(place, token) for place in places]

    def seal() -> None:
        for place in places:
            rosters.BOX.seal(place, token)

    def open_all() -> None:
        for place, value in zip(places, sealed, strict=True):
            rosters.BOX.open(place, value)

    timers = [partial(seconds, action) for action in (seal, open_all)]
    rates = [_VALUES / min(times) for times in interleaved(ROUNDS, *timers)]
    return [at_least(what, rate, 100_000) for what, rate in zip(("seal", "open"), rates, strict=True)]


def _roster(size: int) -> Roster:
    """Make a roster of the shipped agents again and again; a name of their own makes no two alike."""
    shipped = [rosters.agent(name) for name in sorted(rosters.FILE.agents)]
    some = [replace(shipped[number % len(shipped)], name=f"agent-{number:04}") for number in range(size)]
    return rosters.jarvis(*some)


def _render(roster: Roster) -> float:
    return seconds(lambda: stack.render(roster, rosters.BOX))

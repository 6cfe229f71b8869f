"""Takes times, and lays out what was measured beside its base and its budget."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass

_HEADER = ("what", "measured", "base", "ratio", "budget", "")


@dataclass(frozen=True)
class Line:
    """A line of the table; every field is as it is printed."""

    what: str
    measured: str
    base: str
    ratio: str
    budget: str
    verdict: str


def seconds(action: Callable[[], object]) -> float:
    """Return how long an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def interleaved(rounds: int, *timers: Callable[[], float]) -> list[list[float]]:
    """Take times in turns, A B A B, so that what disturbs the machine disturbs all; one list for each timer."""
    taken = [[timer() for timer in timers] for _ in range(rounds)]
    return [list(times) for times in zip(*taken, strict=True)]


def against(what: str, measured: float, base: tuple[str, float], *, times: float, plus: float = 0) -> Line:
    """Lay out a time against a base, which is (what, seconds), and its budget: so many times the base, plus seconds."""
    title, reference = base
    more = measured - reference
    ratio = f"{measured / reference:.2f} ×" + (f", {more:+.2f} s" if plus else "")
    budget = f"≤ {times:g} ×" + (f" + {plus:g} s = {shown(times * reference + plus)}" if plus else "")
    reach = _verdict(measured <= times * reference + plus)
    return Line(what, shown(measured), f"{title}: {shown(reference)}", ratio, budget, reach)


def flat(what: str, measured: int, base: tuple[str, int], *, times: float) -> Line:
    """Lay out bytes against a base, which is (what, bytes), of which they may be so many times."""
    title, reference = base
    ratio, within = f"{measured / reference:.2f} ×", _verdict(measured <= times * reference)
    return Line(what, _megabytes(measured), f"{title}: {_megabytes(reference)}", ratio, f"≤ {times:g} ×", within)


def at_most(what: str, measured: float, limit: float) -> Line:
    """Lay out a time that has a budget of its own."""
    return Line(what, shown(measured), "", "", f"≤ {limit:g} s", _verdict(measured <= limit))


def at_least(what: str, rate: float, floor: int) -> Line:
    """Lay out a rate per second and the least it may be."""
    return Line(what, f"{rate:,.0f} /s", "", "", f"≥ {floor:,} /s", _verdict(rate >= floor))


def shown(span: float) -> str:
    """Write a time as people do: `21 ms`, `3.42 s`."""
    return f"{span * 1000:.0f} ms" if span < 1 else f"{span:.2f} s"


def _megabytes(size: int) -> str:
    return f"{size / 10**6:.0f} MB"


def table(lines: Sequence[Line]) -> str:
    """Lay lines out in columns: plain to read, and Markdown."""
    rows = [_HEADER, *(astuple(line) for line in lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    head, *body = [_row(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([head, _row("-" * width for width in widths), *body])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _verdict(within: bool) -> str:
    return "within" if within else "over"

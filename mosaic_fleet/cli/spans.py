"""Spans of time as people type and read them."""

from mosaic_fleet.cli.output import note
from mosaic_fleet.errors import Invalid

DAY = 86_400  # seconds
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": DAY}


def seconds(text: str, *, flag: str = "--timeout", longest: int = DAY) -> float:
    """Read a span such as 90s, 10m or 30d, of `longest` seconds at most; raises Invalid naming the flag."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "s")
    # The length first: Python refuses to read thousands of digits.
    span = int(number) * _UNITS[unit] if number.isdecimal() and len(number) <= 9 else 0
    if not 0 < span <= longest:
        raise Invalid(f"{flag} {text[:20]!r}: write for instance 90s or 10m, {longest // 3600}h at most")
    return float(span)


def spelled(span: float | None) -> str | None:
    """Write seconds as people do, in their largest unit: `3d`, `12m`."""
    if span is None:
        return None
    unit = next((unit for unit in ("d", "h", "m") if span >= _UNITS[unit]), "s")
    return f"{int(max(span, 0) // _UNITS[unit])}{unit}"


def warn_of_short(minutes: int | None) -> None:
    """Say of an idle time that half of it may be activity left unwritten; 0 is never, None somebody else's."""
    from mosaic_fleet.fleet import activity

    if minutes and minutes * 60 <= 2 * activity.INTERVAL.total_seconds():
        note("activity is written down twice a minute: with so short a time a gateway may sleep between two messages")

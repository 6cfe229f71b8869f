"""`mosaic doctor isolation`: the evidence that users' gateways are walled in."""

from typing import TYPE_CHECKING

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.cli.output import document, table
from mosaic_fleet.errors import Invalid, PartialFailure

if TYPE_CHECKING:
    from mosaic_fleet.fleet.isolation import Target


def examine(topic: str, attempts: list[str], *, json: bool, quiet: bool) -> None:
    """Try every wall and print a table; raises PartialFailure (exit 9) naming the holes."""
    from mosaic_fleet.fleet import isolation

    if topic != "isolation":
        raise Invalid(f"doctor knows no {topic!r}", hint="mosaic doctor, or mosaic doctor isolation")
    rows = isolation.examine(Mosaic.from_env().hosting, [_target(text) for text in attempts])
    columns = {
        "WALL": lambda row: row.wall,
        "TARGET": lambda row: row.target,
        "SEEN": lambda row: row.seen,
        "": lambda row: "✓" if row.holds else "✗",
    }
    if json:
        document({"walls": rows}, json=True)
    elif not quiet:
        table("walls", rows, columns)
    holes = [row.wall for row in rows if not row.holds]
    if holes:
        raise PartialFailure(
            f"{len(holes)} of {len(rows)} walls have a hole: {', '.join(holes)}", rows=rows, hint="mosaic init"
        )


def _target(text: str) -> "Target":
    from mosaic_fleet.fleet.isolation import Target

    address, _, port = text.rpartition(":")
    if not address or not port.isdecimal() or not 0 < int(port) < 65536:
        raise Invalid(f"--try {text!r}: write ADDRESS:PORT")
    return Target(f"as asked, {text}", address, int(port))

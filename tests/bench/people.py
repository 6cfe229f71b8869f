"""People in large numbers: an import, a page of a long list, and a walk along a long audit."""

from collections.abc import Iterator

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.db.database import Database
from mosaic_fleet.db.tables import User
from mosaic_fleet.identity import audit
from mosaic_fleet.settings import Settings
from tests.bench import commands
from tests.bench.measuring import Line, at_least, at_most, seconds
from tests.docker.installation import Installation

ROUNDS = 3
_IMPORTED, _PEOPLE, _ENTRIES = 10_000, 100_000, 100_000


def people(made: Installation) -> Iterator[Line]:
    """Time an import, a page out of many people, and the verification of an audit."""
    file = made.folder / "people.csv"
    rows = (f"user-{number},user-{number}@example.com,User {number}\n" for number in range(_IMPORTED))
    file.write_text("name,email,display_name\n" + "".join(rows))
    yield at_most(f"import of {_IMPORTED:,} users", seconds(lambda: made.mosaic("user", "import", str(file), "-q")), 10)
    mosaic = Mosaic(Settings.from_env(made.env))
    _fill(mosaic.db)
    page = str(_PEOPLE // 100)  # in the middle: neither end is quicker to find
    yield commands.reading(made.env, ["user", "list"], ["--page", page], times=25)
    yield commands.reading(made.env, ["user", "list", "--search", "user-77777"], times=25)
    yield at_least("audit verify", max(_rate(mosaic) for _ in range(ROUNDS)), 50_000)


def _fill(database: Database) -> None:
    """Make the list and the audit as long as they shall be."""
    with database.transaction(system=True) as session:
        numbers = range(_IMPORTED, _PEOPLE)
        session.add_all(User(name=f"user-{one}", email=f"user-{one}@example.com") for one in numbers)
        for number in range(_ENTRIES):
            audit.record(session, "user.add", f"user-{number}", email=f"user-{number}@example.com", role="member")


def _rate(mosaic: Mosaic) -> float:
    with mosaic.reads() as reads:
        walked: list[audit.Verdict] = []
        taken = seconds(lambda: walked.append(audit.verify(reads)))
    return walked[0].rows / taken

"""Users: called by name or e-mail, unique in any spelling, and an administrator always stays."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from sqlmodel import Session, select

from mosaic_fleet.db.database import Database
from mosaic_fleet.db.tables import Audit, BreakglassUser, User, now
from mosaic_fleet.errors import Conflict, Denied
from mosaic_fleet.identity import administrators, users
from tests.postgres.machine import Machine
from tests.processes import fork, until

ANN = ("user", "add", "ann", "--email", "Ann@Example.com")
HOSTILE = ["a\x1b[31m", "a\nb", "a\tb", "a\u202eb", "a\u200bb", "a\u0007", "a\u2028b", "a\ud800", "", " "]
LONG = "x" * 10_240


def add(database: Database, *names: str, role: str = "member") -> None:
    with database.transaction(system=True) as session:
        for name in names:
            users.add(session, name, {"email": f"{name}@example.com", "role": role})


def add_breakglass(database: Database, name: str = "ops") -> None:
    with database.transaction(system=True) as session:
        session.add(BreakglassUser(username=name, password_hash="x"))


def people(database: Database) -> dict[str, Any]:
    """Return (e-mail, role, active) of everybody but the reserved owner."""
    with database.transaction(system=True) as session:
        rows = session.exec(select(User).where(User.role != "system"))
        return {row.name: (row.email, row.role, row.deactivated_at is None) for row in rows}


def entries(database: Database) -> list[Any]:
    with database.transaction(system=True) as session:
        return [(row.verb, row.object, row.details) for row in session.exec(select(Audit).order_by(Audit.id))]


def test_a_user_is_added_shown_and_listed(mosaic: Machine, database: Database) -> None:
    """A new user is an active member with a folded e-mail, found by name and by e-mail in any case."""
    assert mosaic(*ANN).stdout == "added ann\n"
    assert people(database) == {"ann": ("ann@example.com", "member", True)}
    for name in ("ann", "ANN@example.COM"):
        shown = mosaic("user", "show", name, "--json").document["user"]
        assert (shown["name"], shown["display_name"], shown["is_local"]) == ("ann", "ann", True)
    assert "email         ann@example.com\n" in mosaic("user", "show", "ann").stdout
    assert mosaic("user", "list").stdout.startswith("ann\tann\tann@example.com\tmember\tyes\tyes\t")
    assert mosaic("user", "list", "-q").stdout == "ann\n"


@pytest.mark.parametrize(
    ("name", "email", "message"),
    [
        ("ann", "other@example.com", 'user "ann" already exists'),
        ("other", "aNN@example.com", 'e-mail "ann@example.com" belongs to "ann"'),
        ("shared", "other@example.com", 'user "shared" already exists'),
    ],
)
def test_a_taken_name_or_email_is_a_conflict(
    mosaic: Machine, database: Database, name: str, email: str, message: str
) -> None:
    """Names and e-mails are unique without case, the reserved owner's name is taken, and nothing is written."""
    mosaic(*ANN)
    before = people(database)
    assert mosaic("user", "add", name, "--email", email).error[:2] == (5, message)
    assert people(database) == before


def test_add_if_not_exists(mosaic: Machine) -> None:
    """With `--if-not-exists` the second run says so and changes nothing."""
    mosaic(*ANN)
    assert mosaic(*ANN, "--role", "admin", "--if-not-exists").stdout == "unchanged ann\n"
    assert mosaic("user", "show", "ann", "--json").document["user"]["role"] == "member"


@pytest.mark.parametrize("text", [*HOSTILE, LONG, "a\0b"])
@pytest.mark.parametrize("where", ["name", "email", "display-name", "role"])
def test_hostile_texts_are_refused(mosaic: Machine, database: Database, where: str, text: str) -> None:
    """What would move, hide or flood a terminal is refused with one clean line, in every column."""
    email = f"{text}@example.com" if where == "email" else "x@example.com"
    words = ["--email", email] + ([] if where in ("name", "email") else [f"--{where}", text])
    code, message, _ = mosaic("user", "add", *words, "--", text if where == "name" else "x").error
    assert code == 2
    assert message.isprintable()
    assert len(message) < 500
    assert people(database) == {}


@pytest.mark.parametrize("verb", ["show", "disable", "enable", "set"])
@pytest.mark.parametrize("name", [*HOSTILE, "shared", "bob", "bob@example.com", LONG[:5000], "a\0b"])
def test_nobody_of_that_name(mosaic: Machine, verb: str, name: str) -> None:
    """A name nobody has, and the reserved owner's, is told in one clean line."""
    mosaic(*ANN)
    code, message, _ = mosaic("user", verb, "--", name).error
    assert code in (2, 4)
    assert message.isprintable()


def test_set_changes_what_is_given(mosaic: Machine, database: Database) -> None:
    """`set` names the columns that changed, a second run changes nothing, a new name is the one to call."""
    mosaic(*ANN)
    words = ("user", "set", "ann@example.com", "--name", "anna", "--display-name", "Anna Ö.", "--not-local")
    assert mosaic(*words).stdout == "changed ann@example.com: name, display_name, is_local\n"
    assert mosaic("user", "set", "anna", "--display-name", "Anna Ö.").stdout == "unchanged anna\n"
    assert mosaic("user", "set", "anna", "--email", "ANNA@example.com", "--json").document["fields"] == ["email"]
    assert people(database) == {"anna": ("anna@example.com", "member", True)}
    assert entries(database)[1] == (
        "user.set",
        "ann",
        {"name": "anna", "display_name": "Anna Ö.", "is_local": False},
    )


def test_set_to_a_taken_name_is_a_conflict(mosaic: Machine, database: Database) -> None:
    """Nobody gets another's name or e-mail."""
    add(database, "ann", "bob")
    assert mosaic("user", "set", "bob", "--name", "ann").error[:2] == (5, 'user "ann" already exists')
    said = mosaic("user", "set", "bob", "--email", "ANN@example.com").error
    assert said[:2] == (5, 'e-mail "ann@example.com" belongs to "ann"')


def test_disable_and_enable(mosaic: Machine, database: Database) -> None:
    """A user goes and comes back, each once, and the audit has one entry for each change."""
    add(database, "ann")
    for verb, active in (("disable", False), ("enable", True)):
        assert mosaic("user", verb, "ann").stdout == f"{verb}d ann\n"
        assert mosaic("user", verb, "ANN@example.com").stdout == "unchanged ANN@example.com\n"
        assert people(database)["ann"][2] is active
    assert [verb for verb, _, _ in entries(database)] == ["user.add", "user.disable", "user.enable"]


@pytest.mark.parametrize("words", [["disable", "ann"], ["set", "ann", "--role", "member"]])
def test_the_last_administrator_stays(mosaic: Machine, database: Database, words: list[str]) -> None:
    """Without another active administrator, of either kind, the last one is neither disabled nor demoted."""
    add(database, "ann", role="admin")
    add(database, "bob")
    code, message, hint = mosaic("user", *words).error
    assert (code, message) == (5, '"ann" is the last active administrator')
    assert hint == "mosaic admin create-breakglass NAME"
    add(database, "cyd", role="admin")
    mosaic("user", "disable", "cyd")
    assert mosaic("user", *words).exit_code == 5
    add_breakglass(database)
    assert mosaic("user", *words).exit_code == 0


def demote(session: Session, by: Any) -> object:
    return users.set(session, "ann", {"role": "member"}, by=by)


def deactivate(session: Session, by: Any) -> object:
    return users.disable(session, "ann", now=now(), by=by)


@pytest.mark.parametrize("action", [demote, deactivate])
def test_nobody_goes_by_their_own_hand(database: Database, action: Callable[[Session, Any], object]) -> None:
    """Whoever asks to be demoted or deactivated is Denied, another administrator may do it."""
    add(database, "ann", "bob", role="admin")
    with database.transaction(system=True) as session:
        ann = users.get(session, "ann").id
        with pytest.raises(Denied):
            action(session, ann)
        assert action(session, uuid4())


def test_a_member_may_not_go_by_their_own_hand(database: Database) -> None:
    """Deactivating oneself is refused to members as well."""
    add(database, "ann")
    with database.transaction(system=True) as session, pytest.raises(Denied):
        deactivate(session, users.get(session, "ann").id)


def remove(database: Database, name: str) -> str:
    """Disable a user, and say how it went."""
    try:
        with database.transaction(system=True) as session:
            users.disable(session, name, now=now())
    except Conflict:
        return "refused"
    return "done"


def test_of_the_last_two_disabled_at_once_one_stays(database: Database) -> None:
    """Two processes that disable the last two administrators at once: one is done, one refused."""
    add(database, "ann", "bob", role="admin")
    with database.transaction(system=True) as session:
        administrators.hold(session)
        children = [fork(lambda name=name: remove(database, name)) for name in ("ann", "bob")]
        until(lambda: waiting(database) == 2)
    assert sorted(child.result() for child in children) == ["done", "refused"]
    assert sorted(active for _, _, active in people(database).values()) == [False, True]


def waiting(database: Database) -> int:
    """Count who waits for an advisory lock of this database."""
    query = """SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database
               WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()"""
    with psycopg.connect(database.url) as connection:
        row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0


def test_pages_never_run_past_the_last(mosaic: Machine, database: Database) -> None:
    """A page behind the last one is the last one, also after the list shrank, and an empty list has one page."""
    empty = mosaic("user", "list", "--page", "9", "--json").document
    assert (empty["users"], empty["page"], empty["pages"], empty["total"]) == ([], 1, 1, 0)
    names = [f"user-{number:02}" for number in range(25)]
    add(database, *names)
    seen = []
    for page in ("1", "2", "3"):
        seen += mosaic("user", "list", "--per-page", "10", "--page", page, "-q").stdout.split()
    assert seen == names
    for page in ("3", "4", str(10**30)):
        last = mosaic("user", "list", "--per-page", "10", "--page", page, "--json").document
        assert ([row["name"] for row in last["users"]], last["page"], last["pages"]) == (names[20:], 3, 3)
    said = mosaic("user", "list", "--per-page", "10", "--page", "7")
    assert len(said.stdout.splitlines()) == 5
    assert said.stderr == "page 3 of 3, 25 users: --page N shows another\n"


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("ANN", ["ann", "joanna"]),
        ("@example", ["ann", "bob", "joanna"]),
        ("öl", ["bob"]),
        ("%", []),
        ("shared", []),
        ("  ", ["ann", "bob", "joanna"]),
    ],
)
def test_search_finds_parts_of_any_name(mosaic: Machine, database: Database, search: str, found: list[str]) -> None:
    """A part of name, display name or e-mail is enough, in any case; signs mean themselves."""
    add(database, "ann", "bob", "joanna")
    mosaic("user", "set", "bob", "--display-name", "Bob ÖLsen")
    assert mosaic("user", "list", "--search", search, "-q").stdout.split() == found


def test_a_page_that_is_no_number_is_refused(mosaic: Machine) -> None:
    """Pages count from 1, and a page has at most a thousand users."""
    for words in (["--page", "0"], ["--page", "-1"], ["--per-page", "0"], ["--per-page", "1001"]):
        assert mosaic("user", "list", *words).error[0] == 2

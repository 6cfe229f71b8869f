"""`mosaic admin`: administrators who need the database and nothing else."""

import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from sqlmodel import col, select

from mosaic_fleet import passwords
from mosaic_fleet.db.database import Database
from mosaic_fleet.db.tables import Audit, BreakglassUser
from mosaic_fleet.identity import administrators
from tests.postgres.machine import Machine, finished
from tests.postgres.test_users import waiting
from tests.processes import until

PASSWORD = "the moon over tallinn"
CREATE = ("admin", "create-breakglass")


def hashes(database: Database) -> dict[str, str]:
    """Return the stored hashes by name."""
    with database.transaction(system=True) as session:
        return {row.username: row.password_hash for row in session.exec(select(BreakglassUser))}


def test_a_password_comes_in_on_standard_input(mosaic: Machine, database: Database) -> None:
    """The administrator is stored with a hash that matches the password, and is told in one line."""
    assert mosaic(*CREATE, "ops", "--password-stdin", input=PASSWORD + "\n").stdout == "added ops\n"
    assert passwords.verify(PASSWORD, hashes(database)["ops"])


def test_a_generated_password_is_shown_once(mosaic: Machine, database: Database) -> None:
    """The password of the JSON document matches the stored hash; no later command shows it."""
    document = mosaic(*CREATE, "ops", "--generate", "--json").document
    assert passwords.verify(document["password"], hashes(database)["ops"])
    assert document["password"] not in mosaic("admin", "list", "--json").stdout


def test_quiet_still_shows_a_generated_password(mosaic: Machine, database: Database) -> None:
    """With `-q` the password is the only output, else it were lost."""
    said = mosaic(*CREATE, "ops", "--generate", "-q")
    assert passwords.verify(said.stdout.strip(), hashes(database)["ops"])


@pytest.mark.parametrize("environ", [{"MOSAIC_SECRET_KEY": None}, {"MOSAIC_SECRET_KEY": "not a key"}])
def test_no_key_is_needed(environ: dict[str, str | None], mosaic: Machine) -> None:
    """Without a key, or with a wrong one, and without Docker an administrator is made and listed."""
    locked_out = mosaic.but(**environ)
    assert locked_out(*CREATE, "ops", "--generate").exit_code == 0
    assert locked_out("admin", "list", "-q").stdout == "ops\n"


def test_a_taken_name_is_a_conflict(mosaic: Machine, database: Database) -> None:
    """The second one of that name is refused, and the first one's password stays."""
    mosaic(*CREATE, "ops", "--password-stdin", input=PASSWORD)
    said = mosaic(*CREATE, "ops", "--password-stdin", input="another fine password")
    assert said.error == (
        5,
        'breakglass admin "ops" already exists',
        "mosaic admin set-password ops   (or add --if-not-exists)",
    )
    assert passwords.verify(PASSWORD, hashes(database)["ops"])


def test_if_not_exists_changes_nothing(mosaic: Machine, database: Database) -> None:
    """With `--if-not-exists` the second run says so, and neither row nor password changes."""
    mosaic(*CREATE, "ops", "--password-stdin", input=PASSWORD)
    before = hashes(database)
    assert mosaic(*CREATE, "ops", "--generate", "--if-not-exists").stdout == "unchanged ops\n"
    again = mosaic(*CREATE, "ops", "--generate", "--if-not-exists", "--json")
    assert again.document == {"admin": "ops", "changed": False}
    assert hashes(database) == before


@pytest.mark.parametrize(
    ("words", "given", "message"),
    [
        (("Ops", "--generate"), "", "username 'Ops': use lower-case letters"),
        (("ops", "--password-stdin"), "too short\n", "the password has 9 characters, it needs at least 15"),
        (("ops", "--password-stdin"), "passwordpassword\n", "the password is made of common words"),
        (("ops", "--password-stdin"), "", "--password-stdin: it is empty"),
        (("ops", "--password-stdin", "--generate"), PASSWORD, "exclude each other"),
        (("ops",), "", "Password: it was not given and there is nobody to ask"),
    ],
)
def test_bad_input_writes_nothing(
    words: tuple[str, ...], given: str, message: str, mosaic: Machine, database: Database
) -> None:
    """A bad name or password is exit code 2, names what is wrong, and leaves the table empty."""
    code, said, _ = mosaic(*CREATE, *words, input=given).error
    assert code == 2
    assert message in said
    assert hashes(database) == {}


def test_the_audit_tells_who_was_made_but_no_password(mosaic: Machine, database: Database) -> None:
    """Creating an administrator is one audited entry without secrets."""
    mosaic(*CREATE, "ops", "--password-stdin", input=PASSWORD)
    with database.transaction(system=True) as session:
        entries = [(row.verb, row.object, row.details) for row in session.exec(select(Audit))]
    assert entries == [("admin.create", "ops", {})]


def test_an_administrator_is_listed(mosaic: Machine) -> None:
    """The list has name and state, and never a hash."""
    mosaic(*CREATE, "ops", "--generate")
    (row,) = mosaic("admin", "list", "--json").document["admins"]
    assert (row["username"], row["is_active"]) == ("ops", True)
    assert row.keys() == {"username", "is_active", "created_at"}


NEEDS_NOTHING = [
    ["create-breakglass", "ops", "--generate"],
    ["create-breakglass", "ops", "--generate", "--if-not-exists"],
    ["create-breakglass", "dev", "--generate"],
    ["set-password", "ops", "--generate"],
    ["disable", "ops"],
    ["enable", "ops"],
    ["list"],
]


def test_the_key_is_never_read(mosaic: Machine, tmp_path: Path) -> None:
    """Every command works although the key's file is a pipe that nobody ever writes to: opening it would wait."""
    os.mkfifo(tmp_path / "key")
    machine = mosaic.but(MOSAIC_SECRET_KEY=None, MOSAIC_SECRET_KEY_FILE=str(tmp_path / "key"))
    for words in NEEDS_NOTHING:
        assert machine.spawn("admin", *words).exit_code == 0, words


def test_neither_docker_nor_cryptography_is_imported(mosaic: Machine) -> None:
    """All the commands in one interpreter import nothing that seals, and nothing that speaks to Docker."""
    script = f"""
import sys
from mosaic_fleet.cli import app
for words in {NEEDS_NOTHING!r}:
    app(["admin", *words], prog_name="mosaic", standalone_mode=False)
names = ("docker", "cryptography", "mosaic_fleet.sealing", "mosaic_fleet.keyring", "mosaic_fleet.runtimes")
print("imported:", [name for name in names if name in sys.modules])
"""
    environ = {**os.environ, **mosaic.environ}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environ)
    assert done.stdout.splitlines()[-1] == "imported: []"


@pytest.mark.parametrize(
    ("given", "same", "other"),
    [
        ("x" * 71 + "moon over tallinn", None, "x" * 71 + "m"),
        ("the moon over tallinn " * 4 + "a", None, "the moon over tallinn " * 4 + "b"),
        ("\U0001f981 lion \U0001f319 moon \U0001f30a sea", None, "\U0001f981 lion \U0001f319 moon \U0001f30b sea"),
        ("der Mönd über Tällinn", "NFD", "der Mond uber Tallinn"),
        ("  the moon over tallinn  ", None, "the moon over tallinn"),
    ],
    ids=["72 bytes", "longer", "emoji", "NFD", "spaces"],
)
def test_a_password_is_all_of_its_characters(
    mosaic: Machine, database: Database, given: str, same: str | None, other: str
) -> None:
    """Whatever is typed counts whole, composed or not; the hash that one process made verifies in another."""
    for verb in ("create-breakglass", "set-password"):
        typed = unicodedata.normalize("NFD", given) if same else given
        process = mosaic.start("admin", verb, "ops", "--password-stdin", stdin=subprocess.PIPE)
        stdout, _ = process.communicate(typed.encode(), timeout=240)
        assert (process.returncode, stdout) == (0, f"{'added' if verb[0] == 'c' else 'changed'} ops\n".encode())
        stored = hashes(database)["ops"]
        assert passwords.verify(given, stored)
        assert passwords.verify(typed, stored)
        assert not passwords.verify(other, stored)


@pytest.mark.parametrize("given", [b"the moon over\0tallinn", b"the moon over \xff tallinn", b"x" * 1025, b"a\nb"])
def test_what_is_no_password_is_refused(mosaic: Machine, database: Database, given: bytes) -> None:
    """A NUL, broken UTF-8, more than a kilobyte or a second line are refused, and the old password stays."""
    mosaic(*CREATE, "ops", "--password-stdin", input=PASSWORD)
    before = hashes(database)
    for name in (("create-breakglass", "dev"), ("set-password", "ops")):
        assert mosaic("admin", *name, "--password-stdin", input=given).error[0] == 2
    assert hashes(database) == before


def test_a_new_password_replaces_the_old(mosaic: Machine, database: Database) -> None:
    """After `set-password` only the new one matches; a made one is shown once; the audit has no password."""
    mosaic(*CREATE, "ops", "--password-stdin", input=PASSWORD)
    made = mosaic("admin", "set-password", "ops", "--generate", "--json").document
    assert made.keys() == {"admin", "changed", "password"}
    assert passwords.verify(made["password"], hashes(database)["ops"])
    assert not passwords.verify(PASSWORD, hashes(database)["ops"])
    with database.transaction(system=True) as session:
        entries = [(row.verb, row.object, row.details) for row in session.exec(select(Audit).order_by(col(Audit.id)))]
    assert entries == [("admin.create", "ops", {}), ("admin.set-password", "ops", {})]


@pytest.mark.parametrize("words", [["set-password", "--generate"], ["disable"], ["enable"]])
@pytest.mark.parametrize("name", ["nobody", "a\x1b[31m", "x" * 10_240])
def test_nobody_of_that_name(mosaic: Machine, words: list[str], name: str) -> None:
    """A name nobody has is exit code 4 and one clean line."""
    code, message, hint = mosaic("admin", *words, "--", name).error
    assert (code, hint) == (4, "mosaic admin list")
    assert message.isprintable()
    assert len(message) < 500


def test_disable_and_enable(mosaic: Machine) -> None:
    """An administrator goes and comes back, each once; the list tells who is active."""
    for name in ("ops", "dev"):
        mosaic(*CREATE, name, "--generate")
    for verb, active in (("disable", False), ("enable", True)):
        assert mosaic("admin", verb, "ops").stdout == f"{verb}d ops\n"
        assert mosaic("admin", verb, "ops").stdout == "unchanged ops\n"
        states = {row["username"]: row["is_active"] for row in mosaic("admin", "list", "--json").document["admins"]}
        assert states == {"ops": active, "dev": True}


def test_the_last_active_one_stays(mosaic: Machine, database: Database) -> None:
    """The last active breakglass administrator is not disabled, whoever else administers through the web."""
    mosaic(*CREATE, "ops", "--generate")
    mosaic(*CREATE, "dev", "--generate")
    mosaic("user", "add", "ann", "--email", "ann@example.com", "--role", "admin")
    mosaic("admin", "disable", "dev")
    said = mosaic("admin", "disable", "ops").error
    assert said == (5, '"ops" is the last active breakglass admin', "mosaic admin create-breakglass NAME")


def test_of_the_last_two_disabled_at_once_one_stays(mosaic: Machine, database: Database) -> None:
    """Two commands that disable the last two at once: one is done, the other a conflict."""
    for name in ("ops", "dev"):
        mosaic(*CREATE, name, "--generate")
    with database.transaction(system=True) as session:
        administrators.hold(session)
        commands = [mosaic.start("admin", "disable", name) for name in ("ops", "dev")]
        until(lambda: waiting(database) == 2)
    assert sorted(finished(command).exit_code for command in commands) == [0, 5]
    states = [row["is_active"] for row in mosaic("admin", "list", "--json").document["admins"]]
    assert sorted(states) == [False, True]


def test_two_made_at_once_are_one(mosaic: Machine, database: Database) -> None:
    """Two commands with `--if-not-exists` for one name at once make one administrator, and both succeed."""
    with database.transaction(system=True) as session:
        administrators.hold(session)
        commands = [mosaic.start(*CREATE, "ops", "--generate", "--if-not-exists") for _ in range(2)]
        until(lambda: waiting(database) == 2)
    said = [finished(command) for command in commands]
    assert [one.exit_code for one in said] == [0, 0]
    assert sorted(one.stdout.partition(" ")[0].strip() for one in said if "unchanged" in one.stdout) == ["unchanged"]
    assert mosaic("admin", "list", "-q").stdout == "ops\n"


def test_the_first_administrator_may_be_the_first_command(fresh_mosaic: Machine) -> None:
    """On a machine where nothing was made the database is made, and still no key."""
    assert fresh_mosaic(*CREATE, "ops", "--generate").exit_code == 0
    assert fresh_mosaic("admin", "list", "-q").stdout == "ops\n"

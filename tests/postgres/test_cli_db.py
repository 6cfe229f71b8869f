"""`mosaic db`: the embedded Postgres up and down, any other one only looked at."""

import pytest

from mosaic_fleet.db.migrations import HEAD
from tests.postgres.machine import Machine, Said


@pytest.fixture
def initialised(first_init: tuple[Machine, Said]) -> Machine:
    return first_init[0]


def test_the_embedded_one_stops_and_starts(initialised: Machine) -> None:
    """It is stopped and started once each; a command that finds it down starts it by itself."""
    said = [initialised("db", verb).stdout for verb in ("stop", "stop", "start", "start")]
    assert said == ["stopped\n", "unchanged, it is stopped\n", "started\n", "unchanged, it runs\n"]
    for words in (["provider", "list"], ["config", "unset", "fleet.image"]):
        assert initialised("db", "stop", "--json").document == {"changed": True}
        assert initialised(*words).exit_code == 0
        assert initialised("db", "start", "--json").document == {"changed": False}
    assert [initialised("db", verb, "-q").stdout for verb in ("stop", "start")] == ["", ""]


def test_check_tells_version_and_place(initialised: Machine, mosaic: Machine) -> None:
    """`check` says which Postgres answers, whose it is, and the schema."""
    document = initialised("db", "check", "--json").document
    assert (document["where"], document["schema_version"]) == ("embedded", HEAD)
    assert initialised("db", "check").stdout == f"postgres {document['postgres']} (embedded), schema {HEAD}\n"
    assert mosaic("db", "check", "--json").document == {**document, "where": "DATABASE_URL"}
    assert mosaic("db", "check", "-q").stdout == ""


def test_upgrade_tells_what_it_did(mosaic: Machine, database_url: str) -> None:
    """The first upgrade names both schemas, the second says `unchanged`."""
    machine = mosaic.but(DATABASE_URL=database_url)
    assert machine("db", "upgrade").stdout == f"schema empty → {HEAD}\n"
    assert machine("db", "upgrade").stdout == f"unchanged, schema {HEAD}\n"
    assert machine("db", "upgrade", "--json").document == {"before": HEAD, "after": HEAD, "changed": False}
    assert machine("db", "upgrade", "-q").stdout == ""


@pytest.mark.parametrize("verb", ["start", "stop"])
def test_another_postgres_is_not_started_or_stopped(mosaic: Machine, verb: str) -> None:
    """With DATABASE_URL there is nothing of ours to start or stop."""
    said = mosaic("db", verb).error
    assert said == (3, "DATABASE_URL names a Postgres that Mosaic does not start or stop", None)


def test_an_empty_database_is_told(mosaic: Machine, database_url: str) -> None:
    """A look at an empty database migrates nothing and says how to."""
    assert mosaic.but(DATABASE_URL=database_url)("db", "check").error == (8, "the database is empty", "mosaic init")

"""`mosaic provider … --user`: acts for an owner, leaves that in the audit, and never shows a key or its end."""

from collections.abc import Iterator

import pytest

from mosaic_fleet.db.database import Database
from tests.postgres.machine import Machine
from tests.postgres.test_audit import rows
from tests.vendors import KEY, Vendor, keyed, vendor

VERBS = [["show"], ["set", "--display-name", "x"], ["set", "--disable"], ["test"], ["remove", "--yes"]]


@pytest.fixture
def zai() -> Iterator[Vendor]:
    """Run a vendor that wants the key."""
    with vendor(models=keyed({"data": [{"id": "glm-5"}]})) as made:
        yield made


@pytest.fixture
def people(mosaic: Machine, zai: Vendor) -> Machine:
    """Return a machine with two users, of whom ann has a provider."""
    mosaic("config", "set", "egress.allow", "127.0.0.1")
    for name in ("ann", "bob"):
        assert mosaic("user", "add", name, "--email", f"{name}@example.com").exit_code == 0
    words = ["provider", "add", "mine", "--type", "zai", "--base-url", zai.url, "--model", "glm-5", "--user", "ann"]
    assert mosaic(*words, "--api-key-stdin", input=KEY).stdout == "added mine\n"
    return mosaic


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
@pytest.mark.parametrize("whose", [["--user", "bob"], []], ids=["another user", "the fleet"])
def test_somebody_elses_provider_is_not_there(people: Machine, verb: list[str], whose: list[str]) -> None:
    """Another user's provider, or a user's as one of the fleet, is like one that does not exist."""
    assert people("provider", *verb, *whose, "--", "mine").error == (4, 'no provider "mine"', "mosaic provider list")
    assert people("provider", "list", *whose).stdout == ""
    assert people("provider", "list", "-q", "--user", "ann").stdout == "mine\n"


def test_a_shared_provider_is_no_users(people: Machine) -> None:
    """The fleet's providers are not a user's, and names may be the same."""
    assert people("provider", "add", "mine", "--type", "zai").stdout == "added mine\n"
    assert people("provider", "remove", "mine", "--yes").stdout == "removed mine\n"
    assert people("provider", "list", "-q", "--user", "ann@example.com").stdout == "mine\n"


def test_nobody_sees_a_key_not_even_its_end(people: Machine) -> None:
    """Who acts for a user may set, test and replace a key; nothing of it comes back."""
    said = [
        people("-v", "provider", "show", "mine", "--user", "ann"),
        people("-v", "provider", "show", "mine", "--user", "ann", "--json"),
        people("-v", "provider", "list", "--user", "ann"),
        people("-v", "provider", "list", "--user", "ann", "--json"),
        people("-v", "provider", "test", "mine", "--user", "ann", "--json"),
        people("-v", "provider", "list", "--user", "ann", "-q"),
    ]
    assert [one.exit_code for one in said] == [0] * len(said)
    assert not [one for one in said if KEY in one.stdout + one.stderr or KEY[-4:] in one.stdout + one.stderr]
    assert "set" in said[2].stdout.split("\t")


def test_a_failed_test_for_a_user_shows_no_end_of_the_key(people: Machine, zai: Vendor) -> None:
    """The vendor's refusal of a user's stored key is told without the key's end."""
    zai.replies["/models"] = (401, {})
    code, message, _ = people("provider", "test", "mine", "--user", "ann").error
    assert (code, message) == (7, f'provider "mine": {zai.url}/… answered 401')
    assert KEY[-4:] not in people("provider", "show", "mine", "--user", "ann", "--json").stdout


def test_a_users_key_cannot_be_sent_elsewhere(people: Machine) -> None:
    """No change of the address takes a stored key along, so an administrator cannot have it delivered."""
    with vendor(models=(200, {"data": []})) as mine:
        words = ["provider", "set", "mine", "--user", "ann", "--base-url", mine.url]
        assert people(*words).error[0] == 2
        assert people(*words, "--no-test").error[0] == 2
        assert mine.asked == []


def test_acting_for_a_user_is_audited(people: Machine, database: Database) -> None:
    """Each command for a user leaves who acted, what for, and for whom; looking too."""
    before = len(rows(database))
    people("provider", "list", "--user", "ann")
    people("provider", "show", "mine", "--user", "ann@example.com")
    people("provider", "test", "mine", "--user", "ann")
    people("provider", "set", "mine", "--user", "ann", "--disable")
    people("provider", "remove", "mine", "--user", "ann", "--yes")
    seen = rows(database)[before:]
    assert [(one["verb"], one["object"]) for one in seen] == [
        ("provider.list.for", ""),
        ("provider.show.for", "mine"),
        ("provider.test.for", "mine"),
        ("provider.test", "mine"),
        ("provider.set.for", "mine"),
        ("provider.set", "mine"),
        ("provider.remove.for", "mine"),
        ("provider.remove", "mine"),
    ]
    assert {one["details"]["user"] for one in seen if one["verb"].endswith(".for")} == {"ann"}
    assert len({one["details"]["owner"] for one in seen}) == 1
    assert KEY not in str(seen)


def test_an_unknown_user_is_named(people: Machine) -> None:
    """A user who is not there, or the reserved owner, cannot be acted for."""
    for user in ("nobody", "shared", "", "\x1b[31m"):
        for verb in (["list"], ["show", "mine"], ["add", "x", "--type", "zai"], ["test", "mine"]):
            assert people("provider", *verb, "--user", user).error[0] == 4


def test_a_preferred_provider_stays(people: Machine) -> None:
    """A provider that its owner prefers, by itself or by a model, is not removed; that of a namesake is no matter."""
    people("agent", "add", "one", "--stack", "office")
    for words in (["--provider", "mine"], ["--model", "mine/glm-5"]):
        assert people("user", "set", "ann", *words).exit_code == 0
        code, message, _ = people("provider", "remove", "mine", "--user", "ann", "--yes").error
        assert (code, message) == (5, 'provider "mine" is preferred by its owner')
        people("user", "set", "ann", words[0], "")
    assert people("provider", "remove", "mine", "--user", "ann", "--yes").stdout == "removed mine\n"

"""Passwords: their rules, their hashes, and those that Mosaic makes."""

import math

import bcrypt
import pytest

from mosaic_fleet import passwords
from mosaic_fleet.errors import Invalid
from mosaic_fleet.identity import breakglass

GOOD = "the moon over tallinn"


@pytest.fixture(scope="module")
def hashed() -> str:
    """Hash one good password."""
    return passwords.hash(GOOD)


def test_a_hash_matches_its_password_only(hashed: str) -> None:
    """The right password matches, another one does not."""
    assert passwords.verify(GOOD, hashed)
    assert not passwords.verify(GOOD + ".", hashed)


def test_a_hash_says_how_it_was_made(hashed: str) -> None:
    """The stored text has our prefix and bcrypt's cost of 12."""
    assert hashed.startswith("b64hs256$$2b$12$")


def test_the_form_never_changes() -> None:
    """A hash made by the first release still matches."""
    known = "b64hs256$$2b$12$bA99YDHr7dTwfW71JgIbN.nQWcSXs7t3wpGGuTc5k9SG.KQ8Hemvu"
    assert passwords.verify(GOOD, known)


def test_no_two_hashes_are_equal(hashed: str) -> None:
    """Each hash has a salt of its own."""
    assert passwords.hash(GOOD) != hashed


@pytest.mark.parametrize(
    "malformed",
    ["", "x", "b64hs256$", "b64hs256$x", "b64hs256$$2b$12$tooshort", "b64hs256$$2b$99$" + "x" * 53, "b64hs256$\0", "é"],
)
def test_a_malformed_hash_matches_nothing(malformed: str) -> None:
    """A damaged row is no match and no error."""
    assert passwords.verify(GOOD, malformed) is False


def test_a_plain_bcrypt_hash_matches_nothing() -> None:
    """Only our own form is looked at."""
    assert not passwords.verify(GOOD, bcrypt.hashpw(GOOD.encode(), bcrypt.gensalt(4)).decode())


@pytest.mark.parametrize("odd", ["\0" * 20, "a" * 2000, "\ud800" * 20])
def test_a_password_that_cannot_be_stored_matches_nothing(odd: str, hashed: str) -> None:
    """What could never have been set is no match, and no error either."""
    assert passwords.verify(odd, hashed) is False


def test_bytes_beyond_72_count() -> None:
    """bcrypt alone would stop there."""
    long = "ß and water, and the fox, and the moon, and rain on a tin roof " * 2
    assert not passwords.verify(long + "a", passwords.hash(long + "b"))


def test_spellings_of_one_character_are_one_password() -> None:
    """An accent typed in one or two code points is the same password."""
    composed, decomposed = "caf\u00e9 by the old sea wall", "cafe\u0301 by the old sea wall"
    assert passwords.verify(decomposed, passwords.hash(composed))


@pytest.mark.parametrize("text", ["", "short", "fourteen chars", "e\u0301 and 11 more."])
def test_a_short_password_is_refused(text: str) -> None:
    """Fifteen characters are needed, counted as people see them."""
    with pytest.raises(Invalid, match="at least 15"):
        passwords.check(text)


@pytest.mark.parametrize("text", ["x\0" + GOOD, "ab€" * 300, GOOD + "\ud800"])
def test_a_password_that_cannot_be_stored_is_refused(text: str) -> None:
    """NUL, more than 1024 bytes and half characters are refused."""
    with pytest.raises(Invalid, match="1024 bytes"):
        passwords.check(text)


COMMON = [
    "passwordpassword",
    "PasswordPassword1",
    "password1234567",
    "P4ssw0rd!P4ssw0rd!",
    "Administrator2026",
    "welcome-to-mosaic",
    "correcthorsebatterystaple",
    "aaaaaaaaaaaaaaaaaaaa",
    "abcabcabcabcabcabc",
    "123456789012345",
    "987654321987654321",
    "qwertyuiopasdfghjkl",
    "abcdefghijklmnop",
    "1qaz2wsx3edc4rfv",
    "Summer2026Summer",
    "iloveyouiloveyou",
    "letmeinletmeinletmein",
    "maytheforcebewithyou",
    "111111111111111111",
    "mydogmydogmydogmydog",
]


@pytest.mark.parametrize("text", [*COMMON, "correct horse battery staple", "ＰＡＳＳＷＯＲＤ１２３４５６７", "Ж" * 20])
def test_a_common_password_is_refused(text: str) -> None:
    """Common words, years, sequences and repeats do not add up to a password."""
    with pytest.raises(Invalid, match="common words, repeats or sequences"):
        passwords.check(text)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "Tr0ub4dor&3 in the rain",
        "мой дядя самых честных",
        "春はあけぼの、やうやう白くなりゆく",
        "x7#Kq!9vT2$mZp4w",
    ],
)
def test_a_good_password_is_taken(text: str) -> None:
    """Any script and any composition will do."""
    passwords.check(text)


def test_a_generated_password_keeps_the_rules() -> None:
    """What Mosaic makes, Mosaic takes."""
    for _ in range(300):
        password = passwords.generate()
        passwords.check(password)
        assert password[0].isupper()
        assert password.count("-") == 5


def test_a_generated_password_is_strong() -> None:
    """Five words and a number of two digits have over 60 bits."""
    assert passwords._WORDS * math.log2(len(passwords.word_list())) + math.log2(90) > 60


def test_the_words_are_short_and_distinct() -> None:
    """Every word counts: no double, none hard to type, none that is a common password."""
    words = passwords.word_list()
    assert len(set(words)) == len(words)
    assert all(word.isascii() and word.islower() and word.isalpha() and 3 <= len(word) <= 8 for word in words)
    assert not [word for word in words if passwords._common().search(word)]


@pytest.mark.parametrize("name", ["ops", "a", "0", "ann.b_c-d", "a" * 64])
def test_a_username_may_be(name: str) -> None:
    """Lower-case letters, digits and inner dots, hyphens and underscores are a name."""
    breakglass.check_username(name)


@pytest.mark.parametrize("name", ["", "Ops", "-a", "a-", ".a", "a b", "a\n", "é", "a/b", "a" * 65, "$(id)", "{{x}}"])
def test_a_username_may_not_be(name: str) -> None:
    """Anything else is refused before a database is touched."""
    with pytest.raises(Invalid, match="username"):
        breakglass.check_username(name)

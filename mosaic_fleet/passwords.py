"""Hashes, checks and makes passwords; none of it needs a key, so that breakglass administrators outlive every key."""

import base64
import hashlib
import hmac
import re
import secrets
import unicodedata
from functools import cache
from pathlib import Path

from mosaic_fleet.errors import Invalid

SHORTEST = 15  # characters; NIST SP 800-63B-4 for a password that stands alone
LONGEST = 1024  # bytes
_ROUNDS = 12
_PREFIX = "b64hs256$"
_CONTEXT = b"mosaic/password/v1"
_LEAST_OWN = 8  # characters that must be left when all that is common is taken out
_WORDS = 5
_ROWS = "abcdefghijklmnopqrstuvwxyz 01234567890 qwertyuiop qwertzuiop azertyuiop asdfghjkl zxcvbnm 1qaz2wsx3edc4rfv5tgb"
_RUNS = f"{_ROWS} {_ROWS[::-1]}"
_LEET = str.maketrans("013457@$!", "oieastasi")


def hash(password: str) -> str:
    """Hash a password with bcrypt (cost 12); takes a quarter of a second of CPU.

    bcrypt stops at 72 bytes, so it gets the base64 of an HMAC of the password; the HMAC's key is no secret, or a
    new MOSAIC_SECRET_KEY would lock everybody out. Raises Invalid when the password breaks a rule.
    """
    import bcrypt

    check(password)
    return _PREFIX + bcrypt.hashpw(_shorten(password), bcrypt.gensalt(_ROUNDS)).decode("ascii")


def verify(password: str, hashed: str) -> bool:
    """Tell whether a password matches a hash; a malformed hash matches nothing."""
    import bcrypt

    if not hashed.startswith(_PREFIX) or not _is_storable(password):
        return False
    try:
        return bcrypt.checkpw(_shorten(password), hashed.removeprefix(_PREFIX).encode())
    except ValueError:
        return False


def check(password: str) -> None:
    """Check a new password: at least 15 characters, at most 1024 bytes, no NUL, not a common one; raises Invalid."""
    if not _is_storable(password):
        raise Invalid(f"the password must be text of at most {LONGEST} bytes without NUL")
    count = len(unicodedata.normalize("NFC", password))
    if count < SHORTEST:
        raise Invalid(
            f"the password has {count} characters, it needs at least {SHORTEST}",
            hint="take a longer one, or --generate",
        )
    if _is_common(password):
        raise Invalid(
            "the password is made of common words, repeats or sequences", hint="take another one, or --generate"
        )


def generate() -> str:
    """Make a password such as `Kiwi-basalt-47-orbit-lantern-fjord`: five words of a list and a number, over 60 bits."""
    words = [secrets.choice(word_list()) for _ in range(_WORDS)]
    number = 10 + secrets.randbelow(90)
    return "-".join([words[0].capitalize(), words[1], str(number), *words[2:]])


@cache
def word_list() -> list[str]:
    """Return the words that generated passwords are made of."""
    return _lines("words.txt")


def _shorten(password: str) -> bytes:
    normal = unicodedata.normalize("NFC", password).encode()
    return base64.b64encode(hmac.digest(_CONTEXT, normal, hashlib.sha256))


def _is_storable(password: str) -> bool:
    try:
        return "\0" not in password and len(password.encode()) <= LONGEST
    except UnicodeEncodeError:
        return False


def _is_common(password: str) -> bool:
    folded = unicodedata.normalize("NFKC", password).casefold()
    return any(_own(text) < _LEAST_OWN for text in (folded, folded.translate(_LEET)))


def _own(text: str) -> int:
    """Count the characters left without common passwords, years, sequences and repeats."""
    letters = re.sub(r"[\W_]+", "", text)
    marks = len(set(text) - set(letters))
    rest = re.sub(r"(?:19|20)\d\d", "", _common().sub("", letters))
    return len(_without_repeats(_without_runs(rest))) + marks


def _without_repeats(text: str) -> str:
    return re.sub(r"(.+?)\1+", r"\1", text)


def _without_runs(text: str) -> str:
    """Drop runs of four or more along the alphabet, the digits or a row of keys."""
    kept, start = "", 0
    while start < len(text):
        end = start + 1
        while end < len(text) and text[start : end + 1] in _RUNS:
            end += 1
        kept += "" if end - start >= 4 else text[start]
        start = end if end - start >= 4 else start + 1
    return kept


@cache
def _common() -> re.Pattern[str]:
    return re.compile("|".join(sorted(map(re.escape, _lines("common_passwords.txt")), key=len, reverse=True)))


def _lines(name: str) -> list[str]:
    return (Path(__file__).parent / name).read_text("ascii").split()

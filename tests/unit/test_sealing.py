"""Sealed values, the keys that open them, and names by content."""

import base64
import os
import re
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from mosaic_fleet.errors import ConfigurationError
from mosaic_fleet.sealing import Box, EnvironmentKey, Ring, generate_key, generate_token, hint

RAW = bytes(range(100, 132))
PLACE = "provider key|6f9f4d1e-0000-4000-8000-000000000001|00000000-0000-0000-0000-000000000000"


def ring(*kids: str, names: bytes = b"n" * 32) -> Ring:
    """Make a keyring whose last key seals."""
    return Ring(kids[-1], {kid: AESGCM(kid.encode().ljust(32, b".")) for kid in kids}, names)


def box(*kids: str, names: bytes = b"n" * 32) -> Box:
    """Make a box with a keyring that is always the same."""
    return Box(lambda: ring(*(kids or ("k1",)), names=names))


def tampered(sealed: str, index: int) -> str:
    """Flip a bit of the sealed bytes."""
    head, _, body = sealed.rpartition(":")
    raw = bytearray(base64.urlsafe_b64decode(body))
    raw[index] ^= 1
    return f"{head}:{base64.urlsafe_b64encode(raw).decode()}"


def test_a_sealed_value_has_the_documented_form() -> None:
    """`enc:v1:<kid>:` and base64url of a 12-byte nonce, the ciphertext and a 16-byte tag."""
    sealed = box("1a2b3c4d").seal(PLACE, "abc")
    assert re.fullmatch(r"enc:v1:1a2b3c4d:[A-Za-z0-9_-]+=*", sealed)
    assert len(base64.urlsafe_b64decode(sealed.rpartition(":")[2])) == 12 + 3 + 16


def test_the_same_value_is_sealed_differently_each_time() -> None:
    """A random nonce hides that two values are equal."""
    one = box()
    assert one.seal(PLACE, "abc") != one.seal(PLACE, "abc")


@given(st.text(), st.text())
def test_what_was_sealed_opens_at_its_place(place: str, value: str) -> None:
    """Any text comes back as it was."""
    one = box()
    assert one.open(place, one.seal(place, value)).get_secret_value() == value


def test_a_value_sealed_long_ago_opens() -> None:
    """The form never changes: what an earlier release stored opens, made here with AES-256-GCM alone."""
    sealed = "enc:v1:k1:dHdlbHZlIGJ5dGVzhf3In9bbOesnc1RM3751cEY54A=="
    assert box().open(PLACE, sealed).get_secret_value() == "abc"


def test_a_secret_string_is_sealed_by_its_content() -> None:
    """Stars are never what is sealed."""
    one = box()
    assert one.open(PLACE, one.seal(PLACE, SecretStr("abc"))).get_secret_value() == "abc"


@pytest.mark.parametrize(
    "elsewhere",
    [
        PLACE.replace("provider key", "gateway token"),
        PLACE.replace("-000000000001|", "-000000000002|"),
        PLACE[:-1] + "1",
        "",
    ],
    ids=["purpose", "row", "owner", "nowhere"],
)
def test_a_value_does_not_open_elsewhere(elsewhere: str) -> None:
    """A ciphertext moved to another purpose, row or owner does not open, and the message names place and key."""
    one = box()
    sealed = one.seal(PLACE, "abc")
    with pytest.raises(ConfigurationError) as caught:
        one.open(elsewhere, sealed)
    assert caught.value.message == f"the value at {elsewhere} does not open under data key k1"


@pytest.mark.parametrize("index", range(12 + 3 + 16))
def test_a_tampered_value_does_not_open(index: int) -> None:
    """One flipped bit, in the nonce, the ciphertext or the tag, and nothing opens."""
    one = box()
    with pytest.raises(ConfigurationError, match="does not open under data key k1"):
        one.open(PLACE, tampered(one.seal(PLACE, "abc"), index))


@pytest.mark.parametrize("body", ["", "AAAA", "AAAAAAAAAAAAAAAAAAAA", "A", "ü", "A" * 64])
def test_a_broken_value_does_not_open(body: str) -> None:
    """What is too short, no base64 or not ours is refused as one that does not open."""
    with pytest.raises(ConfigurationError, match="does not open under data key k1"):
        box().open(PLACE, f"enc:v1:k1:{body}")


@pytest.mark.parametrize("text", ["", "abc", "enc:v2:k1:AAAA", " enc:v1:k1:AAAA"])
def test_what_is_not_sealed_is_not_opened(text: str) -> None:
    """Plain text in a sealed column is an error, not a value."""
    with pytest.raises(ConfigurationError, match=r"is not sealed$"):
        box().open(PLACE, text)


def test_the_ring_is_read_once_and_on_first_use() -> None:
    """Making a box reads nothing; using it twice reads the keyring once."""
    reads: list[int] = []
    one = Box(lambda: reads.append(1) or ring("k1"))
    assert reads == []
    one.open(PLACE, one.seal(PLACE, "abc"))
    assert reads == [1]


def test_a_value_of_a_newer_key_opens_after_the_ring_is_read_again() -> None:
    """A server that has the old ring opens what a rotation has sealed meanwhile."""
    rings = [ring("k1"), ring("k1", "k2")]
    one = Box(lambda: rings.pop(0))
    assert one.ring.current == "k1"
    assert one.open(PLACE, box("k1", "k2").seal(PLACE, "abc")).get_secret_value() == "abc"
    assert rings == []


def test_an_unknown_key_is_looked_for_once_and_named() -> None:
    """When the keyring does not have the key either, the error names it and nothing is tried again."""
    reads: list[int] = []
    one = Box(lambda: reads.append(1) or ring("k1"))
    assert one.ring.current == "k1"
    with pytest.raises(ConfigurationError) as caught:
        one.open(PLACE, box("lost").seal(PLACE, "abc"))
    assert caught.value.message == "data key lost is not in the keyring"
    assert caught.value.hint == "mosaic secrets status"
    assert reads == [1, 1]


def test_new_values_are_sealed_with_the_current_key() -> None:
    """Old keys open, the current one seals."""
    assert box("old", "new").seal(PLACE, "abc").startswith("enc:v1:new:")


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(RAW).decode(),
        base64.urlsafe_b64encode(RAW).decode(),
        base64.urlsafe_b64encode(RAW).decode().rstrip("="),
        RAW.hex(),
        RAW.hex().upper(),
        f" {RAW.hex()}\n",
    ],
    ids=["base64", "base64url", "unpadded", "hex", "capital hex", "with a newline"],
)
def test_every_spelling_is_the_same_environment_key(text: str) -> None:
    """Base64, base64url with and without padding, and hex all name one key."""
    assert EnvironmentKey(text).kid == EnvironmentKey(RAW.hex()).kid


@pytest.mark.parametrize("alphabet", ["+/", "-_"])
def test_both_base64_alphabets_are_read(alphabet: str) -> None:
    """A key whose base64 has the two special characters is read in either spelling."""
    raw = b"\xfb\xef\xff" + RAW[3:]
    text = base64.b64encode(raw, altchars=alphabet.encode()).decode()
    assert alphabet[0] in text
    assert alphabet[1] in text
    assert EnvironmentKey(text).kid == EnvironmentKey(raw.hex()).kid


@pytest.mark.parametrize(
    "text",
    [
        "",
        "change-me",
        RAW[:31].hex(),
        (RAW + b"\0").hex(),
        base64.b64encode(RAW[:31]).decode(),
        base64.b64encode(RAW + b"\0").decode(),
        "ab" * 32,
        (bytes(range(11)) * 3)[:32].hex(),
        "z" * 64,
        "ü" * 32,
        RAW.hex() + " " + RAW.hex(),
    ],
    ids=[
        "empty",
        "a word",
        "31 bytes hex",
        "33 bytes hex",
        "31 bytes",
        "33 bytes",
        "one letter",
        "11 distinct bytes",
        "no hex",
        "no ASCII",
        "two keys",
    ],
)
def test_a_weak_or_broken_key_is_refused(text: str) -> None:
    """Anything but 32 bytes with at least 12 distinct ones is refused, without repeating it."""
    with pytest.raises(ConfigurationError) as caught:
        EnvironmentKey(text)
    assert caught.value.message == "MOSAIC_SECRET_KEY must be 32 random bytes in base64 or hex"
    assert caught.value.hint == "mosaic secrets generate-key"


def test_twelve_distinct_bytes_are_enough() -> None:
    """The rule refuses what was typed by hand, not what is random."""
    assert EnvironmentKey((bytes(range(12)) * 3)[:32].hex()).kid


@given(st.text(max_size=80))
def test_any_text_is_a_key_or_refused(text: str) -> None:
    """No text makes the decoder fail with anything but ConfigurationError."""
    with suppress(ConfigurationError):
        EnvironmentKey(text)


def test_a_generated_key_is_accepted_and_new() -> None:
    """`generate_key` makes what MOSAIC_SECRET_KEY takes."""
    keys = {generate_key() for _ in range(20)}
    assert len({EnvironmentKey(key).kid for key in keys}) == 20


def test_the_key_id_is_no_part_of_the_key() -> None:
    """The id that is shown is derived: eight hex digits that are neither the key's nor the wrapping key's."""
    kid = EnvironmentKey(RAW.hex()).kid
    assert re.fullmatch(r"[0-9a-f]{8}", kid)
    assert kid not in RAW.hex()


def test_keys_are_derived_and_never_used_raw() -> None:
    """Id and wrapping key are HKDF-SHA256 of the key, one `info` per use: these were made with openssl."""
    key = EnvironmentKey(RAW.hex())
    assert key.kid == "951ae8cb"
    wrapped = "dHdlbHZlIGJ5dGVzV6_YFQLqmA3_89yHzLo77IF8TgVR_R2bvfnUClULZgLXIDjda-Oq-gvxbao0prMc"
    assert key.unwrap("k1", "data", wrapped) == b"d" * 32


def test_a_wrapped_data_key_unwraps_only_as_itself() -> None:
    """A keyring row opens with its environment key, under its own id and for its own use."""
    key, data = EnvironmentKey(RAW.hex()), os.urandom(32)
    wrapped = key.wrap("k1", "data", data)
    assert key.unwrap("k1", "data", wrapped) == data
    for kid, use in (("k2", "data"), ("k1", "names")):
        with pytest.raises(ConfigurationError, match=f"^data key {kid} does not open under environment key {key.kid}$"):
            key.unwrap(kid, use, wrapped)


def test_another_environment_key_does_not_unwrap() -> None:
    """A data key stays closed under any other MOSAIC_SECRET_KEY."""
    wrapped = EnvironmentKey(RAW.hex()).wrap("k1", "data", b"x" * 32)
    with pytest.raises(ConfigurationError, match="does not open under environment key"):
        EnvironmentKey(generate_key()).unwrap("k1", "data", wrapped)


def test_an_opened_value_prints_as_stars() -> None:
    """An opened secret does not show itself in text or in a traceback's repr."""
    one = box()
    opened = one.open(PLACE, one.seal(PLACE, "s3cret"))
    assert f"{opened} {opened!r}" == "********** SecretStr('**********')"


def test_a_ring_does_not_show_its_keys() -> None:
    """A keyring's repr has the id of the current key only."""
    assert repr(ring("k1")) == "Ring(current='k1')"


@pytest.mark.parametrize(
    ("secret", "shown"),
    [("x" * 16 + "1234", "1234"), ("x" * 15 + "1234", None), ("", None), ("x" * 40 + "abcd", "abcd")],
)
def test_a_hint_is_shown_only_of_a_long_secret(secret: str, shown: str | None) -> None:
    """Four characters of at least twenty are shown, of a shorter secret none."""
    assert hint(SecretStr(secret)) == shown


def test_a_name_is_a_keyed_hash_of_kind_and_content() -> None:
    """Twelve hex digits, the same for the same content and key, and for nothing else."""
    name = box().name("conf", "text")
    assert name == "fe408f8a12b5"
    assert name not in {
        box().name("conf", "text2"),
        box().name("soul", "text"),
        box(names=b"m" * 32).name("conf", "text"),
    }


def test_names_survive_a_rotation() -> None:
    """A new data key changes no name: nothing restarts when secrets are rotated."""
    assert box("k1").name("conf", "text") == box("k1", "k2").name("conf", "text")


def test_a_token_has_256_random_bits() -> None:
    """A gateway token is 43 characters that fit a header, new each time."""
    tokens = {generate_token() for _ in range(20)}
    assert len(tokens) == 20
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", token) for token in tokens)

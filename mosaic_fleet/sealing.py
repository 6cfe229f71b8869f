"""Seals and opens values, wraps the keys that do so, and makes tokens.

A sealed value reads `enc:v1:<kid>:<base64url(nonce ‖ ciphertext ‖ tag)>` (AES-256-GCM, random 96-bit nonce).
Its place, `<purpose>|<row id>|<owner>`, is authenticated with it: moved elsewhere it does not open.
"""

import base64
import binascii
import hmac
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mosaic_fleet.errors import ConfigurationError, KeyFailure

if TYPE_CHECKING:
    from pydantic import SecretStr

_PREFIX = "enc:v1:"
_KEY_BYTES = 32
_NONCE_BYTES = 12
_DISTINCT_BYTES = 12  # a key typed by hand, or all one letter, has fewer


def generate_key() -> str:
    """Make a value for MOSAIC_SECRET_KEY: 32 random bytes in base64url."""
    return base64.urlsafe_b64encode(os.urandom(_KEY_BYTES)).decode()


def generate_token() -> str:
    """Make a gateway token: 256 random bits in base64url, without padding."""
    return secrets.token_urlsafe(32)


class EnvironmentKey:
    """The key in MOSAIC_SECRET_KEY; it wraps data keys and is never used raw (HKDF, one `info` per use)."""

    def __init__(self, text: str) -> None:
        """Decode base64 or hex; raises ConfigurationError unless it is 32 bytes with 12 distinct ones."""
        raw = _decode_key(text.strip())
        if raw is None or len(raw) != _KEY_BYTES or len(set(raw)) < _DISTINCT_BYTES:
            raise ConfigurationError(
                "MOSAIC_SECRET_KEY must be 32 random bytes in base64 or hex", hint="mosaic secrets generate-key"
            )
        self._wrapping = AESGCM(_derive(raw, b"mosaic/wrap/v1"))
        self.kid = _derive(raw, b"mosaic/key-id/v1")[:4].hex()

    def wrap(self, kid: str, use: str, key: bytes) -> str:
        """Encrypt a data key for the keyring table."""
        return _encrypt(self._wrapping, f"keyring|{kid}|{use}", key)

    def unwrap(self, kid: str, use: str, wrapped: str) -> bytes:
        """Decrypt a data key; raises ConfigurationError when the row was tampered with."""
        try:
            return _decrypt(self._wrapping, f"keyring|{kid}|{use}", wrapped)
        except (InvalidTag, ValueError) as error:
            raise ConfigurationError(f"data key {kid} does not open under environment key {self.kid}") from error


@dataclass(frozen=True)
class Ring:
    """The opened keyring: data keys by their id, which one seals, and the key for names."""

    current: str
    keys: Mapping[str, AESGCM] = field(repr=False)
    names: bytes = field(repr=False)

    @classmethod
    def of(cls, keys: Mapping[str, bytes], *, current: str, names: bytes) -> "Ring":
        """Make a ring of raw data keys of 32 bytes."""
        return cls(current, {kid: AESGCM(key) for kid, key in keys.items()}, names)


class WrappedKey(Protocol):
    """A row of the keyring: a key, wrapped by one environment key; the rows are in the order of their age."""

    @property
    def kid(self) -> str:
        """The key's id."""

    @property
    def use(self) -> str:
        """`data` or `names`."""

    @property
    def environment_kid(self) -> str:
        """The id of the environment key."""

    @property
    def wrapped(self) -> str:
        """The key as wrap() left it."""

    @property
    def is_current(self) -> bool:
        """Tell whether values are sealed under it today."""


def environment_key(text: str | None, rows: Sequence[WrappedKey]) -> EnvironmentKey:
    """Read MOSAIC_SECRET_KEY; raises KeyFailure, naming the key that the keyring needs, when it is missing or wrong."""
    if text is None:
        raise KeyFailure(f"MOSAIC_SECRET_KEY is not set{_needed(rows)}", hint="mosaic init")
    try:
        return EnvironmentKey(text)
    except ConfigurationError as error:
        raise KeyFailure(f"{error.message}{_needed(rows)}", hint=error.hint) from error


def open_ring(rows: Sequence[WrappedKey], key: EnvironmentKey) -> Ring:
    """Open a keyring; raises KeyFailure, naming the key that is needed, when this one does not."""
    mine = [row for row in rows if row.environment_kid == key.kid]
    if not mine:
        raise KeyFailure(
            f"MOSAIC_SECRET_KEY is key {key.kid}{_needed(rows)}", hint="set the key that this database was sealed with"
        )
    opened = {row.kid: key.unwrap(row.kid, row.use, row.wrapped) for row in mine}
    data = [row for row in mine if row.use == "data"]
    return Ring.of(
        {row.kid: opened[row.kid] for row in data},
        current=next(row.kid for row in reversed(data) if row.is_current),
        names=next(opened[row.kid] for row in mine if row.use == "names"),
    )


class Secret(Protocol):
    """An opened value, which prints as stars."""

    def get_secret_value(self) -> str:
        """Return it."""


class Opened:
    """A Secret for commands that import no pydantic."""

    def __init__(self, value: str) -> None:
        self._value = value

    def get_secret_value(self) -> str:
        """Return it."""
        return self._value

    def __repr__(self) -> str:
        return "Opened('**********')"


class Box:
    """Seals and opens values with the keys of a ring, read on first use and again when a kid is unknown."""

    def __init__(self, load: Callable[[], Ring]) -> None:
        self._load = load
        self._ring: Ring | None = None

    @property
    def ring(self) -> Ring:
        """Return the opened keyring; raises ConfigurationError when MOSAIC_SECRET_KEY is missing or wrong."""
        return self._ring or self._read()

    def seal(self, place: str, value: "str | SecretStr") -> str:
        """Seal a value for its place."""
        text = value if isinstance(value, str) else value.get_secret_value()
        ring = self.ring
        return f"{_PREFIX}{ring.current}:{_encrypt(ring.keys[ring.current], place, text.encode())}"

    def open(self, place: str, sealed: str) -> "SecretStr":
        """Open a sealed value at its place.

        Raises ConfigurationError when its key is unknown or the value belongs elsewhere.
        """
        from pydantic import SecretStr  # half of what a command that only compares would import

        return SecretStr(self.look(place, sealed).get_secret_value())

    def look(self, place: str, sealed: str) -> "Opened":
        """Open a sealed value to compare it; raises as open() does."""
        if not sealed.startswith(_PREFIX):
            raise ConfigurationError(f"the value at {place} is not sealed")
        kid, _, body = sealed.removeprefix(_PREFIX).partition(":")
        try:
            return Opened(_decrypt(self._key(kid), place, body).decode())
        except (InvalidTag, ValueError) as error:
            raise ConfigurationError(f"the value at {place} does not open under data key {kid}") from error

    def reseal(self, place: str, sealed: str) -> str:
        """Seal a value again under the key that is current now: the ring is read anew."""
        value = self.open(place, sealed)
        self._read()
        return self.seal(place, value)

    def name(self, kind: str, content: str) -> str:
        """Hash content with the key for names: 12 hex digits that tell nothing about it."""
        return hmac.digest(self.ring.names, f"{kind}|{content}".encode(), "sha256").hex()[:12]

    def _key(self, kid: str) -> AESGCM:
        if kid not in self.ring.keys and kid not in self._read().keys:
            raise ConfigurationError(f"data key {kid} is not in the keyring", hint="mosaic secrets status")
        return self.ring.keys[kid]

    def _read(self) -> Ring:
        """Read the ring; keys that it had stay, for values that were fetched before a rotation dropped them."""
        known = self._ring.keys if self._ring else {}
        ring = self._load()
        self._ring = replace(ring, keys={**known, **ring.keys})
        return self._ring


def hint(secret: "SecretStr") -> str | None:
    """Return the last four characters of a secret of at least 20, else None: the most that is ever shown."""
    text = secret.get_secret_value()
    return text[-4:] if len(text) >= 20 else None


def _needed(rows: Sequence[WrappedKey]) -> str:
    kids = sorted({row.environment_kid for row in rows})
    return f", but this database is sealed under key {' or '.join(kids)}" if kids else ""


def _encrypt(key: AESGCM, place: str, value: bytes) -> str:
    nonce = os.urandom(_NONCE_BYTES)
    return base64.urlsafe_b64encode(nonce + key.encrypt(nonce, value, place.encode())).decode()


def _decrypt(key: AESGCM, place: str, text: str) -> bytes:
    raw = base64.urlsafe_b64decode(text)
    return key.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], place.encode())


def _derive(raw: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(raw)


def _decode_key(text: str) -> bytes | None:
    if len(text) == 2 * _KEY_BYTES:
        try:
            return bytes.fromhex(text)
        except ValueError:
            return None
    try:
        padded = text + "=" * (-len(text) % 4)
        return base64.b64decode(padded.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        return None

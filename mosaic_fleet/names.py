"""The rules for names, model refs and sizes, in one place."""

import re
import unicodedata

from mosaic_fleet.errors import Invalid

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_USERNAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?")
# Swarm takes only what is valid as a part of a DNS name, and the underscore inside it.
_NETWORK = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?")
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE | re.ASCII)
_TOO_MUCH = 1 << 63  # bytes that neither Postgres nor Docker can hold
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
# A Docker config's name, `<stack>-<agent>-<kind>-<12 hex>`, ends at 64 characters.
STACK_LENGTH = 20
AGENT_LENGTH = 24
PROVIDER_LENGTH = 40
USERNAME_LENGTH = 64
EMAIL_LENGTH = 254  # what SMTP carries (RFC 5321)


def check_name(what: str, name: str, *, longest: int) -> str:
    """Return a name of lower-case letters, digits and inner hyphens; raises Invalid."""
    if not _NAME.fullmatch(name):
        raise Invalid(f"{what} name {name!r}: use lower-case letters, digits and, between them, hyphens")
    if len(name) > longest:
        raise Invalid(f"{what} name {name!r} has {len(name)} characters, at most {longest} fit")
    return name


def check_username(name: str) -> str:
    """Return a person's name of lower-case letters, digits and, between them, dots, hyphens and underscores.

    Raises Invalid.
    """
    if not _USERNAME.fullmatch(name):
        raise Invalid(f"username {name[:80]!r}: use lower-case letters, digits and, between them, dots, - and _")
    if len(name) > USERNAME_LENGTH:
        raise Invalid(f"username {name[:80]!r} has {len(name)} characters, at most {USERNAME_LENGTH} fit")
    return name


def check_email(email: str) -> str:
    """Return an e-mail address in lower case, so that two spellings are one; raises Invalid."""
    folded = unicodedata.normalize("NFC", email.strip()).lower()
    local, at, domain = folded.partition("@")
    if not (local and at and domain) or "@" in domain or " " in folded or not folded.isprintable():
        raise Invalid(f"e-mail {email[:80]!r}: write name@domain")
    if len(folded) > EMAIL_LENGTH:
        raise Invalid(f"e-mail {email[:80]!r} has {len(folded)} characters, at most {EMAIL_LENGTH} fit")
    return folded


def check_line(what: str, text: str, *, longest: int) -> str:
    """Return a text of one printable line: nothing that moves, hides or turns what stands beside it.

    Raises Invalid.
    """
    line = unicodedata.normalize("NFC", text.strip())
    if not line or not line.isprintable():
        raise Invalid(f"{what} {text[:80]!r}: use one line of printable characters")
    if len(line) > longest:
        raise Invalid(f"{what} {text[:80]!r} has {len(line)} characters, at most {longest} fit")
    return line


def check_text(what: str, text: str, *, longest: int) -> str:
    """Return a text without NUL and lone surrogates, at most `longest` characters; raises Invalid."""
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise Invalid(f"{what} contains a character that cannot be stored")
    if len(text) > longest:
        raise Invalid(f"{what} has {len(text)} characters, at most {longest} fit")
    return text


def check_model_id(model_id: str) -> str:
    """Return a model's id: printable, without spaces, at most 200 characters; raises Invalid."""
    if not model_id or len(model_id) > 200 or not model_id.isprintable() or " " in model_id:
        raise Invalid(f"model id {model_id!r}: use 1 to 200 printable characters without spaces")
    return model_id


def split_ref(ref: str) -> tuple[str, str]:
    """Split a model ref `<provider>/<model id>`; the id may contain slashes. Raises Invalid."""
    provider, slash, model_id = ref.partition("/")
    if not slash:
        raise Invalid(f"model ref {ref!r}: write <provider>/<model id>, for instance zai/glm-5")
    check_name("provider", provider, longest=PROVIDER_LENGTH)
    return provider, check_model_id(model_id)


def check_network(name: str) -> str:
    """Return a Docker network's name; raises Invalid."""
    if not _NETWORK.fullmatch(name) or len(name) > 100:
        raise Invalid(f"network name {name!r}: use letters, digits and, between them, hyphens and underscores")
    return name


def parse_size(text: str) -> int:
    """Read a size such as `2G` or `512M` (powers of 1024) as bytes; raises Invalid."""
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else _TOO_MUCH
    if size >= _TOO_MUCH:
        raise Invalid(f"size {text[:40]!r}: write for instance 2G or 512M")
    return size


def format_size(size: int) -> str:
    """Write bytes as people do: `2G`, `512M`, `1.5G`."""
    for unit in ("T", "G", "M", "K"):
        if size >= _UNITS[unit]:
            return f"{size / _UNITS[unit]:.1f}".removesuffix(".0") + unit
    return str(size)


def bridge_prefix(install: str) -> str:
    """Return how the names of an installation's user bridges begin, of which five digits of its id are enough.

    With the last place of the largest pool behind it a name has 15 characters, as many as Linux takes.
    """
    return f"mu{install[:5]}-"

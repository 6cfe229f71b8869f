"""Logging to standard error, and what may be shown at all: no secrets, no control characters."""

import json
import logging
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterable

STARS = "***"
_SHORTEST = 6  # shorter values occur by chance, and hiding them would garble everything
_registered: set[str] = set()


def _star_key(match: re.Match[str]) -> str:
    """Star out a key, but not a name: in a key some run of characters without hyphen is no word."""
    return STARS if any(_is_random(run) for run in match[1].split("-")) else match[0]


def _is_random(run: str) -> bool:
    """Tell a run of at least ten characters that mixes letters with digits, or capitals with small letters."""
    has_letter, has_digit = any(map(str.isalpha, run)), any(map(str.isdecimal, run))
    return len(run) >= 10 and has_letter and (has_digit or not (run.islower() or run.isupper()))


# Bounded where an attempt may begin at every word: a line of an agent's may be long and made to hurt.
_PATTERNS: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(r"(?i)\b(bearer|authorization['\"]?\s*[:=]\s*['\"]?\w+)\s+[\w.~+/=-]{8,}"), rf"\1 {STARS}"),
    (re.compile(r"\benc:v(\d+):[\w-]+:[\w=-]+"), rf"enc:v\1:{STARS}"),
    (re.compile(r"\b([a-zA-Z][\w+.-]{0,30}://[^\s:/@]*):[^\s/]+@"), rf"\1:{STARS}@"),
    (re.compile(r"\b(?:sk|rk|pk|xox[a-z]|gh[a-z]|glpat|hf)[-_]([\w-]{16,})"), _star_key),
    (re.compile(r"\bAIza[\w-]{30,}"), STARS),
    (re.compile(r"\beyJ[\w-]{8,4000}\.[\w-]+\.[\w-]*"), STARS),
    (re.compile(r"\b[0-9a-f]{32}\.[A-Za-z0-9]{16}\b"), STARS),
    (
        re.compile(
            r"""(?ix) ( (?:api_?-?key|apikey|secret_?-?key|secret|password|passwd|token) ["']? \s*
                        (?: = \s* ["']? | : \s* ["'] ) )  [^\s"',;&}]{4,}"""
        ),
        rf"\1{STARS}",
    ),
]
# C0, DEL, C1, and the marks that reverse or hide text.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def register(secret: str) -> None:
    """Remember a secret value so that no log line, error or traceback ever shows it."""
    _registered.update(spellings(secret))


def spellings(secret: str) -> set[str]:
    """Spell a secret value as it may stand in a text: bare, in an address, in Python and in JSON.

    Of one that is too short there is nothing to be looked for.
    """
    from urllib.parse import quote

    if len(secret) < _SHORTEST:
        return set()
    return {secret, quote(secret, safe=""), repr(secret)[1:-1], json.dumps(secret)[1:-1]}


def forget() -> None:
    """Forget the registered secrets."""
    _registered.clear()


def redact(text: str, *, secrets: Iterable[str] = ()) -> str:
    """Replace registered secrets, these ones, and whatever looks like one, by stars."""
    for secret in sorted(_registered.union(secrets), key=len, reverse=True):
        text = text.replace(secret, STARS)
    for pattern, stars in _PATTERNS:
        text = pattern.sub(stars, text)
    return text


def neutralise(text: str, *, keep: str = "") -> str:
    """Spell out control characters, so that a stored value can neither move the cursor nor start a line."""
    return _CONTROL.sub(lambda match: match[0] if match[0] in keep else _spell(match[0]), text)


def configure(*, verbose: bool = False) -> None:
    """Log warnings, or everything, to standard error through the redacting formatter."""
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.WARNING, handlers=[handler], force=True)
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _show_thread_error


class RedactingFormatter(logging.Formatter):
    """Redacts the finished text, so that tracebacks are covered too."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record without secrets or control characters."""
        return neutralise(redact(super().format(record)), keep="\n\t")


def _spell(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def _show_thread_error(error: threading.ExceptHookArgs) -> None:
    lines = traceback.format_exception(error.exc_type, error.exc_value, error.exc_traceback)
    if sys.stderr is not None:
        sys.stderr.write(neutralise(redact("".join(lines)), keep="\n\t"))

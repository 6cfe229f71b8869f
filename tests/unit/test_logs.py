"""Nothing secret and nothing that moves a cursor comes through the log, errors or tracebacks."""

import logging
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_fleet import logs

LEAKS = [
    ("Authorization: Bearer abcdef0123456789", "abcdef0123456789"),
    ("{'Authorization': 'Basic dXNlcjpwYXNz'}", "dXNlcjpwYXNz"),
    ("row enc:v1:41d0c0de:AAAA-bbbb_cccc== done", "AAAA-bbbb_cccc"),
    ("postgresql://mosaic:p4ss:w@rd@db:5432/mosaic", "p4ss"),
    ("postgresql://mosaic:p4ss:w@rd@db:5432/mosaic", "w@rd"),
    ("redis://:topsecret@cache/0", "topsecret"),
    ("key sk-proj-abcdefghij0123", "abcdefghij"),
    ("token ghp_abcdefghij0123456789", "abcdefghij"),
    ("key sk-ant-api03-abcdefghij0123456789-x_y", "abcdefghij"),
    ("token hf_abcDEFghijKLMNopqrstuv", "ghijKLM"),
    ("xoxb-123456789012-AbCdEfGhIjKl", "AbCdEfGhIjKl"),
    ("sk_live_51Habcdefghij0123", "abcdefghij"),
    ("AIzaSyA-abcdefghijklmnopqrstuvwxyz01234", "abcdefghij"),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "c2lnbmF0dXJl"),
    ("0123456789abcdef0123456789abcdef.AbCdEfGhIjKlMnOp", "AbCdEfGhIjKlMnOp"),
    ('{"apiKey": "plain-text-key"}', "plain-text-key"),
    ("{'api_key': 'plain-text-key'}", "plain-text-key"),
    ("MOSAIC_SECRET_KEY=plain-text-key", "plain-text-key"),
    ("password=plain-text-key&user=ann", "plain-text-key"),
]
HARMLESS = [
    "postgres at db:5432/mosaic: connection refused",
    "GET http://10.1.1.42:11434/api/tags",
    "the password has 5 characters, it needs at least 15",
    "add --password-stdin or --api-key-file FILE",
    'provider "zai" needs a key: mosaic provider set zai --api-key-stdin',
    "image ghcr.io/openclaw/openclaw@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "jarvis-skylight task-0123456789",
    'no provider "sk-internal-llm"',
    "agents hf-researcher-1, pk-main-accounting-2026 and gh-reviewer-of-pull-requests-2",
]


@pytest.mark.parametrize(("text", "secret"), LEAKS)
def test_what_looks_like_a_secret_is_starred_out(text: str, secret: str) -> None:
    """Known forms of secrets are hidden wherever they occur."""
    assert secret not in logs.redact(text)
    assert logs.STARS in logs.redact(text)


@pytest.mark.parametrize("text", HARMLESS)
def test_ordinary_messages_stay_as_they_are(text: str) -> None:
    """Redaction does not garble what people need to read."""
    assert logs.redact(text) == text


@given(st.text(min_size=6, max_size=60, alphabet=st.characters(exclude_categories=["Cs"])))
def test_a_registered_secret_never_comes_through(secret: str) -> None:
    """Whatever its characters, a registered value is hidden: plain, in a repr and in a URL."""
    from urllib.parse import quote

    logs.forget()
    logs.register(secret)
    for spelling in (secret, repr(secret)[1:-1], quote(secret, safe="")):
        assert spelling not in logs.redact(f"<{spelling}>")


def test_a_secret_within_a_longer_one_does_not_leave_its_rest() -> None:
    """Of two registered values the longer one is hidden first."""
    logs.register("abcdef")
    logs.register("abcdef-and-more")
    assert logs.redact("x abcdef-and-more y") == "x *** y"


def test_short_values_are_not_registered() -> None:
    """A value that occurs by chance would hide half the log."""
    logs.register("a")
    assert logs.redact("a cat") == "a cat"


def test_the_formatter_covers_tracebacks_and_arguments() -> None:
    """A secret in an exception or in an argument of the record is hidden."""
    logs.register("correct-horse-key")
    try:
        raise ValueError("correct-horse-key")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, __file__, 1, "got %s", ("correct-horse-key",), sys.exc_info())
    text = logs.RedactingFormatter().format(record)
    assert "correct-horse-key" not in text
    assert "got ***" in text
    assert "ValueError: ***" in text


@pytest.mark.parametrize("text", ["\x1b[2J", "\x9b31m", "a\rb", "\u202eevil", "\x07", "\ufeffx", "\u200bx", "\udc80"])
def test_control_characters_are_spelled_out(text: str) -> None:
    """Escapes, C1 controls, carriage returns and marks that reverse text do not reach the terminal."""
    shown = logs.neutralise(text)
    assert shown.encode("utf-8").decode() == shown
    assert all(character.isprintable() for character in shown)
    assert "\\" in shown


def test_ordinary_text_is_not_touched() -> None:
    """Accents, emoji and other scripts stay."""
    assert logs.neutralise("Grüße, 東京 🦊 –…") == "Grüße, 東京 🦊 –…"


def test_only_what_is_kept_stays() -> None:
    """Newlines stay where lines are meant."""
    assert logs.neutralise("a\nb\x1b", keep="\n") == "a\nb\\x1b"


@pytest.mark.parametrize(("verbose", "shown"), [(False, ["careful ***"]), (True, ["quiet", "careful ***"])])
def test_logging_goes_to_standard_error(verbose: bool, shown: list[str]) -> None:
    """Warnings always, everything with --verbose, through the redacting formatter."""
    script = f"""
import logging
from mosaic_fleet import logs
logs.configure(verbose={verbose})
logs.register("planted-secret")
logging.getLogger("a").debug("quiet")
logging.getLogger("a").warning("careful %s", "planted-secret")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert [line.partition(": ")[2] for line in done.stderr.splitlines()] == shown


def test_an_error_in_a_thread_is_redacted_too() -> None:
    """A thread's traceback goes through the same sieve."""
    script = """
import threading
from mosaic_fleet import logs
logs.configure()
logs.register("planted-secret")
def fail(): raise ValueError("planted-secret")
thread = threading.Thread(target=fail); thread.start(); thread.join()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "ValueError: ***" in done.stderr
    assert "planted-secret" not in done.stderr.replace('raise ValueError("planted-secret")', "")


@pytest.mark.parametrize("part", ["a.", "sk-", "eyJaaaaaaaa-", "eyJaaaaaaaa.", "token= ", "a://b:", "0123456789abcdef"])
def test_a_long_line_that_is_made_to_hurt_takes_no_longer_than_others(part: str) -> None:
    """No pattern looks at the rest of a line again and again: 64 KiB are done in a moment."""
    assert logs.redact(part * (65_536 // len(part)))


def test_secrets_may_be_given() -> None:
    """A secret that is given is hidden as one that is registered, the longest first."""
    assert logs.redact("one: abc, two: abcdef", secrets=["abc", "abcdef"]) == f"one: {logs.STARS}, two: {logs.STARS}"

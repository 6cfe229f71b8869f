"""What users prefer: refs to their own providers only, kept as they were given, shown without the personality."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlmodel import select

from mosaic_fleet import keyring
from mosaic_fleet.db.database import Database
from mosaic_fleet.db.reads import SYSTEM_OWNER
from mosaic_fleet.db.tables import Audit, UserAgentConfig
from mosaic_fleet.fleet import preferences, providers
from mosaic_fleet.identity import users
from mosaic_fleet.sealing import Box
from tests.postgres.machine import Machine

SET = ("user", "set", "ann")


@pytest.fixture(autouse=True)
def people(mosaic: Machine, database: Database) -> None:
    """Make ann, who has `zai` with two models and `ollama`, bob with `mine`, and the fleet with `shared`."""
    box = Box(lambda: keyring.load(database, mosaic.environ["MOSAIC_SECRET_KEY"]))
    with database.transaction(system=True) as session:
        ann, bob = (users.add(session, name, {"email": f"{name}@example.com"}).id for name in ("ann", "bob"))
        key = SecretStr("sk-sentinel-abcdefghijklmnop")
        models = [{"id": "glm-5"}, {"id": "glm-5-air"}]
        for owner, name in ((ann, "zai"), (bob, "mine"), (SYSTEM_OWNER, "shared")):
            providers.add(session, box, owner, name, {"type": "zai", "api_key": key, "models": models})
        address = {"base_url": "http://10.1.1.42:11434", "models": [{"id": "cogito"}]}
        providers.add(session, box, ann, "ollama", {"type": "ollama", **address})


def stored(database: Database, name: str = "ann") -> dict[str, Any]:
    """Return a user's preferences without ids and times."""
    with database.transaction(system=True) as session:
        row = preferences.get(session, users.get(session, name).id)
        return row.model_dump(exclude={"id", "user_id", "provider_id", "created_at", "updated_at"})


def test_preferences_are_set_and_shown(mosaic: Machine, database: Database, tmp_path: Path) -> None:
    """Model, fallbacks, provider, personality and schedules are kept and shown; the personality by its length."""
    soul = tmp_path / "SOUL.md"
    soul.write_bytes("Sei kürz.\r\n☃".encode())
    words = ("--model", "zai/glm-5", "--fallback", "zai/glm-5-air", "--fallback", "ollama/cogito")
    more = ("--provider", "zai", "--schedules", "--personality-file", str(soul))
    fields = "primary_model, fallback_models, provider_id, schedules, personality"
    said = mosaic(*SET, *words, *more)
    assert sorted(said.stdout.split(": ")[1].strip().split(", ")) == sorted(fields.split(", "))
    assert mosaic(*SET, *words, *more).stdout == "unchanged ann\n"
    assert stored(database) == {
        "primary_model": "zai/glm-5",
        "fallback_models": ["zai/glm-5-air", "ollama/cogito"],
        "personality": "Sei kürz.\r\n☃",
        "schedules": True,
    }
    assert mosaic("user", "show", "ann", "--json").document["preferences"] == {
        "primary_model": "zai/glm-5",
        "fallback_models": ["zai/glm-5-air", "ollama/cogito"],
        "provider": "zai",
        "personality_length": 12,
        "schedules": True,
    }
    assert "personality   12 characters\n" in mosaic("user", "show", "ann").stdout
    with database.transaction(system=True) as session:
        assert "kürz" not in str([row.details for row in session.exec(select(Audit))])


def test_preferences_are_taken_back(mosaic: Machine, database: Database, tmp_path: Path) -> None:
    """Each preference has a way back to none."""
    before = stored(database)
    soul = tmp_path / "SOUL.md"
    soul.write_text("x")
    mosaic(*SET, "--model", "zai/glm-5", "--fallback", "ollama/cogito", "--provider", "zai", "--schedules")
    mosaic(*SET, "--personality-file", str(soul))
    back = ("--model", "", "--no-fallbacks", "--provider", "", "--no-personality", "--no-schedules")
    assert mosaic(*SET, *back).exit_code == 0
    assert stored(database) == before
    assert mosaic("user", "show", "ann", "--json").document["preferences"]["provider"] is None


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--model", "glm-5"), 2, "model ref 'glm-5': write <provider>/<model id>"),
        (("--model", "zai/other"), 4, 'the user\'s provider "zai" has no model "other"'),
        (("--model", "mine/glm-5"), 4, 'the user has no provider "mine"'),
        (("--fallback", "shared/glm-5"), 4, 'the user has no provider "shared"'),
        (("--provider", "mine"), 4, 'the user has no provider "mine"'),
        (("--provider", "a\x1b[31m"), 4, "the user has no provider"),
        (("--model", "zai/glm-5", "--fallback", "nobody/x"), 4, 'the user has no provider "nobody"'),
        (tuple(["--fallback", "zai/glm-5"] * 11), 2, "11 fallback models, at most 10 fit"),
        (("--personality-file", "/nonexistent/x"), 2, "--personality-file: /nonexistent/x cannot be read"),
    ],
)
def test_what_is_not_the_users_own_is_refused(
    mosaic: Machine, database: Database, words: tuple[str, ...], code: int, message: str
) -> None:
    """A ref to another's provider, to the fleet's or to no model is refused, and nothing is written."""
    said = mosaic(*SET, "--role", "admin", *words).error
    assert said[0] == code
    assert said[1].startswith(message)
    assert mosaic("user", "show", "ann", "--json").document["user"]["role"] == "member"
    with database.transaction(system=True) as session:
        assert session.exec(select(UserAgentConfig)).all() == []


@pytest.mark.parametrize("text", ["a\0b", "x" * 20_001])
def test_a_personality_that_fits_nowhere_is_refused(mosaic: Machine, tmp_path: Path, text: str) -> None:
    """A NUL, or more than OpenClaw reads of SOUL.md, is refused."""
    soul = tmp_path / "SOUL.md"
    soul.write_text(text)
    code, message, _ = mosaic(*SET, "--personality-file", str(soul)).error
    assert code == 2
    assert message.startswith("personality ")


def test_account_and_preferences_change_together(mosaic: Machine, database: Database) -> None:
    """One command renames a user and says what they prefer."""
    assert mosaic(*SET, "--name", "anna", "--model", "zai/glm-5").stdout == "changed ann: name, primary_model\n"
    assert stored(database, "anna")["primary_model"] == "zai/glm-5"

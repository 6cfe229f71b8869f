"""Users with gateways of their own: rows in the real Postgres, an engine in memory, and ways to break both."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from pydantic import SecretStr
from sqlmodel import select

from mosaic_fleet import configuration, keyring
from mosaic_fleet.db.database import Database
from mosaic_fleet.db.tables import Audit, User, UserAgentConfig, UserContainer, now
from mosaic_fleet.errors import RuntimeFailure
from mosaic_fleet.fleet import containers, lifecycle, providers
from mosaic_fleet.fleet.hosting import Hosting, Running
from mosaic_fleet.sealing import Box, generate_key
from tests.fake_gateways import FakeGateways
from tests.fake_openclaw import FakeOpenClaw
from tests.fakes import FAKE_IMAGE

KEY = "planted-provider-key-of-a-guest"
FAULTS = ("m1", "m2", "crash", "hog", "never-healthy", "slow-stop", "never-stops")


class FakeWalls:
    """Walls with openings, which stand but after `fall()`; with a `refusal` they cannot."""

    def __init__(self) -> None:
        self.refusal: str | None = None
        self.openings: list[str] | None = []
        self.applied = 0

    def fall(self) -> None:
        """Take them down, as a reboot does."""
        self.openings = None

    def apply(self, install: str, settings: Mapping[str, Any]) -> bool:
        """Put them up."""
        assert len(install) == 12
        if self.refusal:
            raise RuntimeFailure(self.refusal, hint="mosaic init")
        self.applied += 1
        before, self.openings = self.openings, _openings(settings)
        return before != self.openings


def _openings(settings: Mapping[str, Any]) -> list[str]:
    return [str(one.network) for one in settings["egress.allow"]]


@dataclass
class Guests:
    """Users of an installation; each has a provider `llm` whose models are the faults of the engine in memory."""

    db: Database
    box: Box
    runtime: FakeGateways = field(default_factory=FakeGateways)
    walls: FakeWalls = field(default_factory=FakeWalls)
    users: dict[str, UUID] = field(default_factory=dict)

    @classmethod
    def at(cls, db: Database) -> "Guests":
        """Make an installation without users."""
        key = generate_key()
        guests = cls(db, Box(lambda: keyring.load(db, key)))
        with db.transaction(system=True) as session:
            configuration.set(session, "fleet.image", FAKE_IMAGE)
        return guests

    def add(self, name: str, *, model: str | None = "m1", provider: bool = True) -> UUID:
        """Add a user who prefers a model."""
        with self.db.transaction(system=True) as session:
            user = User(name=name, email=f"{name}@example.org")
            session.add(user)
            session.flush()
            if provider:
                values = {"type": "custom", "base_url": "http://llm:1/v1", "api_key": SecretStr(KEY)}
                providers.add(session, self.box, user.id, "llm", values | {"models": [{"id": one} for one in FAULTS]})
                session.add(UserAgentConfig(user_id=user.id, primary_model=model and f"llm/{model}"))
            self.users[name] = user.id
            return user.id

    def prefer(self, name: str, **values: Any) -> None:
        """Change what a user prefers."""
        with self.db.transaction(system=True) as session:
            query = select(UserAgentConfig).where(UserAgentConfig.user_id == self.users[name])
            row = session.exec(query).one()
            for column, value in values.items():
                setattr(row, column, value)

    def deactivate(self, name: str) -> None:
        """Deactivate a user."""
        with self.db.transaction(system=True) as session:
            user = session.get(User, self.users[name])
            assert user
            user.deactivated_at = user.created_at

    def configure(self, key: str, value: str) -> None:
        """Change a setting."""
        with self.db.transaction(system=True) as session:
            configuration.set(session, key, value)

    def hosting(self, *, db: Database | None = None, runtime: Any = None) -> Hosting:
        """Return what a process of its own would have, on a broken database or engine if one is given."""
        return Hosting(db or self.db, self.box, runtime or self.runtime, self.walls)

    def wake(self, name: str, *, hosting: Hosting | None = None, insist: bool = False) -> Running:
        """Ensure that a user's gateway runs."""
        return lifecycle.ensure_running(hosting or self.hosting(), self.users[name], insist=insist)

    def stop(self, name: str, **options: Any) -> bool:
        """Stop a user's gateway."""
        return lifecycle.stop(self.hosting(), self.users[name], **options)

    def age(self, name: str, minutes: float, **values: Any) -> None:
        """Have a user's gateway been started, active and in a turn last so many minutes ago; change other columns."""
        if self.runtime.container(self.container(name)):
            self.openclaw(name).latest_turn = (now() - timedelta(minutes=minutes)).timestamp()
        self.age_row(name, minutes, **values)

    def age_row(self, name: str, minutes: float, **values: Any) -> None:
        """Have Mosaic know of no activity of a user's gateway since so many minutes ago."""
        at = now() - timedelta(minutes=minutes)
        with self.db.transaction(system=True) as session:
            row = containers.find(session, self.users[name])
            assert row
            times = {"started_at": at - timedelta(seconds=1), "last_active_at": at, "last_active_by": "chat"}
            for column, value in (times | values).items():
                setattr(row, column, value)

    def openclaw(self, name: str) -> FakeOpenClaw:
        """Return what is in a user's container."""
        return self.runtime.openclaw(self.container(name))

    def container(self, name: str) -> str:
        """Return the name of a user's container."""
        return containers.name(self.users[name])

    def row(self, name: str) -> UserContainer:
        """Return a user's row."""
        with self.db.transaction(system=True) as session:
            row = containers.find(session, self.users[name])
        assert row
        return row

    def state(self, name: str) -> tuple[str, str | None]:
        """Return status and reason of a user's gateway."""
        row = self.row(name)
        return row.status, row.reason

    @property
    def audited(self) -> list[tuple[str, str]]:
        """Return verb and outcome of what was audited of gateways, oldest first."""
        with self.db.transaction(system=True) as session:
            rows = session.exec(select(Audit).order_by(Audit.id)).all()
        return [(row.verb, row.outcome) for row in rows if row.verb.startswith("gateway.")]


class Killed(BaseException):
    """Ends a command as SIGKILL does: nothing it would do afterwards happens."""


class Dying:
    """An engine whose client dies in the so manieth call: every later call fails too."""

    def __init__(self, runtime: FakeGateways, at: int, *, late: bool) -> None:
        self._runtime, self._at, self._late = runtime, at, late
        self._calls = 0

    @property
    def is_local(self) -> bool:
        """Tell that the engine is this machine's."""
        return True

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._runtime, name)

        def call(*values: Any, **named: Any) -> Any:
            self._calls += 1
            if self._calls < self._at:
                return method(*values, **named)
            if self._calls == self._at and self._late:
                method(*values, **named)
            raise Killed

        return call

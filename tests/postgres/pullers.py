"""A user and an agent whose containers pull their config, and the listener that they ask."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import SecretStr

from mosaic_fleet import keyring
from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.db.database import Database
from mosaic_fleet.db.reads import SYSTEM_OWNER
from mosaic_fleet.db.tables import User, now
from mosaic_fleet.fleet import agents, config_tokens, containers, providers
from mosaic_fleet.sealing import Box, generate_key
from mosaic_fleet.settings import Settings
from mosaic_fleet.web import app
from mosaic_fleet.web.site import Site
from tests.asgi import Answer, ask

KEY = "planted-provider-key"
VALUES = {"type": "custom", "base_url": "http://llm:1/v1", "api_key": SecretStr(KEY), "models": [{"id": "m"}]}


@dataclass
class Pullers:
    """The user `ann` and the agent `far`, each with a config token."""

    db: Database
    box: Box
    key: str
    folder: Path
    ann: UUID
    far: UUID
    tokens: dict[str, str]

    @classmethod
    def at(cls, db: Database, folder: Path) -> "Pullers":
        """Make both."""
        key = generate_key()
        box = Box(lambda: keyring.load(db, key))
        with db.transaction(system=True) as session:
            ann = User(name="ann", email="ann@example.org")
            session.add(ann)
            session.flush()
            for owner in (ann.id, SYSTEM_OWNER):
                providers.add(session, box, owner, "llm", VALUES)
            agents.put_stack(session, "team", "net")
            far = agents.add(session, box, "team", "far", {"primary_model": "llm/m", "personality": "Be kind."})
            tokens = {
                "ann": config_tokens.issue_user(session, box, "ann", now=now()).get_secret_value(),
                "far": config_tokens.issue_system(session, "far", now=now()).get_secret_value(),
            }
            return cls(db, box, key, folder, ann.id, far.id, tokens)

    @contextmanager
    def site(self, **environ: str) -> Iterator[Site]:
        """Return what a server's requests share; variables of its own may give it another key."""
        homes = {"XDG_CONFIG_HOME": str(self.folder), "XDG_DATA_HOME": str(self.folder)}
        mine = {"DATABASE_URL": self.db.url, "MOSAIC_SECRET_KEY": self.key}
        site = Site(Mosaic(Settings.from_env({**homes, **mine, **environ}), serving=True))
        try:
            yield site
        finally:
            site.close()

    def pull(self, site: Site, where: str, token: str | None) -> Answer:
        """Ask the internal listener for `<type>/<id>`."""
        return ask(app.internal(site), f"/api/internal/agent-config/{where}", token=token)

    def files(self, site: Site, where: str, token: str) -> dict[str, Any]:
        """Return the files that a container is given."""
        answer = self.pull(site, where, token)
        assert answer.status == 200, answer
        files: dict[str, Any] = answer.json["files"]
        return files

    def container_of_ann(self) -> Any:
        """Return the row of the user's container."""
        with self.db.transaction(system=True) as session:
            return containers.find(session, self.ann)

"""Alembic's migrations, inside the package so that an installed Mosaic can migrate."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection

# The newest revision, as a constant: importing alembic to ask costs a third of a second.
HEAD = "0011"


def upgrade(connection: "Connection", target: str = "head") -> None:
    """Run the migrations on a connection whose transaction the caller commits."""
    from alembic import command

    command.upgrade(config(connection), target)


def config(connection: "Connection"):  # type: ignore[no-untyped-def]  # alembic is imported late
    """Return Alembic's configuration for a connection (never a URL: its % would be interpolated)."""
    from alembic.config import Config

    settings = Config()
    settings.set_main_option("script_location", "mosaic_fleet.db:migrations")
    settings.attributes["connection"] = connection
    return settings

"""Alembic's entry: run on the connection that the caller hands over."""

from alembic import context
from sqlmodel import SQLModel

from mosaic_fleet.db import tables  # noqa: F401  # registers the tables

context.configure(connection=context.config.attributes["connection"], target_metadata=SQLModel.metadata)
with context.begin_transaction():
    context.run_migrations()

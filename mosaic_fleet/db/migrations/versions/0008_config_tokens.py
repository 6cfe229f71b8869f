"""Config tokens: hashed, for containers that fetch their config."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_TABLES = ("user_container", "system_container")


def upgrade() -> None:
    """Add the columns."""
    for table in _TABLES:
        op.add_column(table, sa.Column("config_token_hash", sa.Text(), nullable=True))
        op.add_column(table, sa.Column("config_token_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    """Drop them."""
    for table in _TABLES:
        op.drop_column(table, "config_token_at")
        op.drop_column(table, "config_token_hash")

"""Sleep: since when a gateway is what it is, what its last activity was, and when a job of its own is due."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_TABLE, _TIMEOUT = "user_container", "idle_timeout_min"


def upgrade() -> None:
    """Add the columns; a timeout of 30 minutes was nobody's choice, and becomes the setting's."""
    op.add_column(_TABLE, sa.Column("status_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column(_TABLE, sa.Column("last_active_by", sa.Text(), nullable=True))
    op.add_column(_TABLE, sa.Column("next_due_at", sa.DateTime(timezone=True), nullable=True))
    op.alter_column(_TABLE, _TIMEOUT, nullable=True)
    op.execute("UPDATE user_container SET idle_timeout_min = NULL WHERE idle_timeout_min = 30")


def downgrade() -> None:
    """Drop them."""
    op.execute("UPDATE user_container SET idle_timeout_min = 30 WHERE idle_timeout_min IS NULL")
    op.alter_column(_TABLE, _TIMEOUT, nullable=False)
    for column in ("next_due_at", "last_active_by", "status_at"):
        op.drop_column(_TABLE, column)

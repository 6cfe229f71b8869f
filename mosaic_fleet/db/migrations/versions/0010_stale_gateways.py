"""Whether a gateway runs with something else than its owner wants by now, and when its token was made."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the columns; nobody knows how old the tokens there are, so they count as old as their rows."""
    op.add_column("user_container", sa.Column("is_stale", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("user_container", sa.Column("gateway_token_at", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE user_container SET gateway_token_at = created_at")
    op.alter_column("user_container", "gateway_token_at", nullable=False)


def downgrade() -> None:
    """Drop them."""
    op.drop_column("user_container", "gateway_token_at")
    op.drop_column("user_container", "is_stale")

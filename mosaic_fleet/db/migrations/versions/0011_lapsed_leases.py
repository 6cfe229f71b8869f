"""When the lease has run out under which a gateway fell asleep."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the column; of one that naps already it is not known."""
    op.add_column("user_container", sa.Column("lease_lapses_at", sa.Float(), nullable=True))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("user_container", "lease_lapses_at")

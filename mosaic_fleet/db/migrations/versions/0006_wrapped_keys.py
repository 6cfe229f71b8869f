"""Since when an environment key wraps a key of the ring, apart from that key's own age."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("keyring", sa.Column("wrapped_at", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE keyring SET wrapped_at = created_at")
    op.alter_column("keyring", "wrapped_at", nullable=False)


def downgrade() -> None:
    op.drop_column("keyring", "wrapped_at")

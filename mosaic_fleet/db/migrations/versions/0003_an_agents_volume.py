"""An agent may keep its state in a volume of another name than Mosaic gives: one that was there before it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the volume's name; none means the one that Mosaic gives."""
    op.add_column("system_container", sa.Column("volume", sa.Text(), nullable=True))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("system_container", "volume")

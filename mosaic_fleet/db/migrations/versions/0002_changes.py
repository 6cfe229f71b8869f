"""Changes of the fleet: an image of an agent's own, and deployments that are an earlier one again."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("system_container", sa.Column("image", sa.Text(), nullable=True))
    op.add_column("deployment", sa.Column("applies", sa.Integer(), nullable=True))


def downgrade() -> None:
    """Drop the columns."""
    op.drop_column("deployment", "applies")
    op.drop_column("system_container", "image")

"""User gateways: why one is as it is, its place in the pool, and what it was started with."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("user_container", sa.Column("reason", sa.Text(), nullable=True))
    op.add_column("user_container", sa.Column("started_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("user_container", sa.Column("subnet_index", sa.Integer(), nullable=True))
    op.add_column("user_container", sa.Column("image_id", sa.Text(), nullable=True))
    op.add_column("user_container", sa.Column("config_hash", sa.Text(), nullable=True))
    op.add_column("user_container", sa.Column("failures", sa.Integer(), server_default="0", nullable=False))
    op.add_column("user_container", sa.Column("retry_at", sa.DateTime(timezone=True), nullable=True))
    op.create_unique_constraint(op.f("uq_user_container_subnet_index"), "user_container", ["subnet_index"])


def downgrade() -> None:
    """Drop them."""
    op.drop_constraint(op.f("uq_user_container_subnet_index"), "user_container")
    for column in ("retry_at", "failures", "config_hash", "image_id", "subnet_index", "started_at", "reason"):
        op.drop_column("user_container", column)

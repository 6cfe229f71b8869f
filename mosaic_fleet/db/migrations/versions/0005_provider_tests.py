"""Provider tests: when a provider was last tested, and what came of it."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the columns of the last test."""
    op.add_column("llm_provider", sa.Column("tested_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("llm_provider", sa.Column("tested_ok", sa.Boolean(), nullable=True))
    op.add_column("llm_provider", sa.Column("tested_reason", sa.Text(), nullable=True))


def downgrade() -> None:
    """Take them away again."""
    op.drop_column("llm_provider", "tested_reason")
    op.drop_column("llm_provider", "tested_ok")
    op.drop_column("llm_provider", "tested_at")

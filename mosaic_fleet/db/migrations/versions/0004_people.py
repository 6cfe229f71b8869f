"""People: the name others see, whether an issuer vouches, e-mail addresses in one spelling; the audit by object."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the columns and rules of people, and the index that finds an object's history."""
    op.add_column("mosaic_user", sa.Column("display_name", sa.Text(), server_default="", nullable=False))
    op.add_column("mosaic_user", sa.Column("is_local", sa.Boolean(), server_default=sa.text("true"), nullable=False))
    op.execute("UPDATE mosaic_user SET display_name = name, email = lower(email)")
    op.create_check_constraint(op.f("ck_mosaic_user_role"), "mosaic_user", "role in ('member', 'admin', 'system')")
    op.create_check_constraint(op.f("ck_mosaic_user_email"), "mosaic_user", "email = lower(email)")
    op.create_index(op.f("ix_audit_object"), "audit", ["object", "id"], unique=False)


def downgrade() -> None:
    """Take them away again."""
    op.drop_index(op.f("ix_audit_object"), table_name="audit")
    op.drop_constraint(op.f("ck_mosaic_user_email"), "mosaic_user")
    op.drop_constraint(op.f("ck_mosaic_user_role"), "mosaic_user")
    op.drop_column("mosaic_user", "is_local")
    op.drop_column("mosaic_user", "display_name")

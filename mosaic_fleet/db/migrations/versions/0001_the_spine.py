"""The spine: people, keys, providers, the roster, deployments and the audit."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

# A managed Postgres may refuse to create roles: then the owner's own policies apply (FORCE ROW LEVEL SECURITY).
_ROLE = """
DO $$ BEGIN
  IF to_regrole('mosaic_app') IS NULL THEN CREATE ROLE mosaic_app NOLOGIN; END IF;
  EXECUTE format('GRANT mosaic_app TO %I', current_user);
EXCEPTION WHEN insufficient_privilege OR duplicate_object THEN NULL;
END $$"""
_GRANTS = """
DO $$ BEGIN
  IF to_regrole('mosaic_app') IS NULL THEN RETURN; END IF;
  EXECUTE format('GRANT USAGE ON SCHEMA %I TO mosaic_app', current_schema());
  EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %I TO mosaic_app', current_schema());
  REVOKE UPDATE, DELETE, TRUNCATE ON audit FROM mosaic_app;
  REVOKE INSERT, UPDATE, DELETE ON alembic_version FROM mosaic_app;
END $$"""


def upgrade() -> None:
    """Create the tables, the reserved owner, the application's role and its grants."""
    _create_people()
    _create_system()
    _create_providers()
    _create_fleet()
    op.execute(
        "INSERT INTO mosaic_user (id, name, role, created_at, updated_at) "
        "VALUES ('00000000-0000-0000-0000-000000000000', 'shared', 'system', now(), now())"
    )
    op.execute(
        "INSERT INTO system_config (id, key, value, encrypted, updated_at) "
        "VALUES (gen_random_uuid(), 'install.id', left(md5(gen_random_uuid()::text), 12), false, now())"
    )
    op.execute(_ROLE)
    op.execute(_GRANTS)


def downgrade() -> None:
    """Drop the tables; the role belongs to the whole Postgres and stays."""
    op.drop_table("user_agent_config")
    op.drop_table("user_container")
    op.drop_table("system_container")
    op.drop_table("deployment")
    op.drop_table("llm_provider")
    op.drop_table("stack")
    op.drop_table("system_config")
    op.drop_table("keyring")
    op.drop_table("mosaic_user")
    op.drop_table("breakglass_user")
    op.drop_table("audit")


def _create_people() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("verb", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), server_default="done", nullable=False),
        sa.Column(
            "details", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("previous", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_table(
        "breakglass_user",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("username", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_breakglass_user")),
        sa.UniqueConstraint("username", name=op.f("uq_breakglass_user_username")),
    )
    op.create_table(
        "mosaic_user",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("deactivated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_mosaic_user")),
        sa.UniqueConstraint("email", name=op.f("uq_mosaic_user_email")),
        sa.UniqueConstraint("name", name=op.f("uq_mosaic_user_name")),
    )


def _create_system() -> None:
    op.create_table(
        "keyring",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kid", sa.Text(), nullable=False),
        sa.Column("use", sa.Text(), nullable=False),
        sa.Column("environment_kid", sa.Text(), nullable=False),
        sa.Column("wrapped", sa.Text(), nullable=False),
        sa.Column("is_current", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("use in ('data', 'names')", name=op.f("ck_keyring_use")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_keyring")),
        sa.UniqueConstraint("kid", "environment_kid", name=op.f("uq_keyring_kid_environment_kid")),
    )
    op.create_table(
        "system_config",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("encrypted", sa.Boolean(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_system_config")),
        sa.UniqueConstraint("key", name=op.f("uq_system_config_key")),
    )


def _create_providers() -> None:
    op.create_table(
        "llm_provider",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("base_url", sa.Text(), nullable=True),
        sa.Column("auth", sa.Text(), server_default="key", nullable=False),
        sa.Column("api_key", sa.Text(), nullable=True),
        sa.Column("key_hint", sa.Text(), nullable=True),
        sa.Column("api_type", sa.Text(), server_default="openai-completions", nullable=False),
        sa.Column(
            "models", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False
        ),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["mosaic_user.id"], name=op.f("fk_llm_provider_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_llm_provider")),
        sa.UniqueConstraint("user_id", "name", name=op.f("uq_llm_provider_user_id_name")),
        info={"owner": "user_id"},
    )
    op.create_index(op.f("ix_llm_provider_user_id"), "llm_provider", ["user_id"], unique=False)
    op.create_table(
        "user_agent_config",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("primary_model", sa.Text(), nullable=True),
        sa.Column(
            "fallback_models",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column("personality", sa.Text(), nullable=True),
        sa.Column("provider_id", sa.Uuid(), nullable=True),
        sa.Column("schedules", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["provider_id"], ["llm_provider.id"], name=op.f("fk_user_agent_config_provider_id")),
        sa.ForeignKeyConstraint(["user_id"], ["mosaic_user.id"], name=op.f("fk_user_agent_config_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_user_agent_config")),
        sa.UniqueConstraint("user_id", name=op.f("uq_user_agent_config_user_id")),
        info={"owner": "user_id"},
    )
    op.create_table(
        "user_container",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("container_id", sa.Text(), nullable=True),
        sa.Column("container_name", sa.Text(), nullable=False),
        sa.Column("gateway_port", sa.Integer(), nullable=False),
        sa.Column("gateway_token", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="stopped", nullable=False),
        sa.Column("last_active_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("idle_timeout_min", sa.Integer(), nullable=False),
        sa.Column(
            "config", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["mosaic_user.id"], name=op.f("fk_user_container_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_user_container")),
        sa.UniqueConstraint("user_id", name=op.f("uq_user_container_user_id")),
        info={"owner": "user_id"},
    )


def _create_fleet() -> None:
    op.create_table(
        "stack",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("network", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stack")),
        sa.UniqueConstraint("name", name=op.f("uq_stack_name")),
    )
    op.create_table(
        "deployment",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("stack_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), server_default="started", nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("image", sa.Text(), nullable=False),
        sa.Column("image_id", sa.Text(), nullable=False),
        sa.Column("stack_text", sa.Text(), nullable=False),
        sa.Column(
            "docker_configs",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "secret_names",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column("docker_secrets", sa.Text(), nullable=False),
        sa.Column(
            "validated", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False
        ),
        sa.Column(
            "outcome", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["stack_id"], ["stack.id"], name=op.f("fk_deployment_stack_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deployment")),
        sa.UniqueConstraint("stack_id", "number", name=op.f("uq_deployment_stack_id_number")),
    )
    op.create_index(op.f("ix_deployment_stack_id"), "deployment", ["stack_id"], unique=False)
    op.create_table(
        "system_container",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("stack_id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.Text(), server_default="", nullable=False),
        sa.Column("container_id", sa.Text(), nullable=True),
        sa.Column("gateway_port", sa.Integer(), nullable=False),
        sa.Column("gateway_token", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="stopped", nullable=False),
        sa.Column("provider_id", sa.Uuid(), nullable=True),
        sa.Column("primary_model", sa.Text(), nullable=True),
        sa.Column(
            "fallback_models",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "providers", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False
        ),
        sa.Column("personality", sa.Text(), nullable=True),
        sa.Column("schedules", sa.Boolean(), nullable=False),
        sa.Column("memory_limit", sa.BigInteger(), nullable=False),
        sa.Column("memory_reservation", sa.BigInteger(), nullable=False),
        sa.Column("cpu_limit", sa.Float(), nullable=True),
        sa.Column("replicas", sa.Integer(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=True),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("replicas in (0, 1)", name=op.f("ck_system_container_replicas")),
        sa.ForeignKeyConstraint(["provider_id"], ["llm_provider.id"], name=op.f("fk_system_container_provider_id")),
        sa.ForeignKeyConstraint(["stack_id"], ["stack.id"], name=op.f("fk_system_container_stack_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_system_container")),
        sa.UniqueConstraint("name", name=op.f("uq_system_container_name")),
    )
    op.create_index(op.f("ix_system_container_stack_id"), "system_container", ["stack_id"], unique=False)

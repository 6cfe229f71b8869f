"""`mosaic db`: the database and its schema."""

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.cli import examples, noun
from mosaic_fleet.cli.output import Json, Quiet, document
from mosaic_fleet.db.embedded import Embedded
from mosaic_fleet.errors import ConfigurationError, DatabaseFailure

app = noun("Look after the database.")


@app.command("upgrade", epilog=examples("mosaic db upgrade", "mosaic db upgrade --json"))
def upgrade(json: Json = False, quiet: Quiet = False) -> None:
    """Migrate the database to this version's schema, in one transaction."""
    before, after = Mosaic.from_env().db.upgrade()
    changed = before != after
    text = f"schema {before or 'empty'} → {after}" if changed else f"unchanged, schema {after}"
    document({"before": before, "after": after, "changed": changed}, text=text, json=json, quiet=quiet)


@app.command("check", epilog=examples("mosaic db check", "mosaic db check --json"))
def check(json: Json = False, quiet: Quiet = False) -> None:
    """Tell whether the database answers and has this version's schema. Exit 8 when not."""
    mosaic = Mosaic.from_env()
    with mosaic.reads() as reads:
        version = reads.server_version()
    where = "embedded" if mosaic.embedded else "DATABASE_URL"
    document(
        {"postgres": version, "where": where, "schema_version": reads.schema},
        text=f"postgres {version} ({where}), schema {reads.schema}",
        json=json,
        quiet=quiet,
    )


@app.command("start", epilog=examples("mosaic db start", "mosaic db start -q"))
def start(json: Json = False, quiet: Quiet = False) -> None:
    """Start the embedded Postgres. Commands do so by themselves."""
    embedded = _embedded()
    if not embedded.exists():
        raise DatabaseFailure("there is no database yet", hint="mosaic init")
    changed = embedded.start()
    document({"changed": changed}, text="started" if changed else "unchanged, it runs", json=json, quiet=quiet)


@app.command("stop", epilog=examples("mosaic db stop", "mosaic db stop -q"))
def stop(json: Json = False, quiet: Quiet = False) -> None:
    """Stop the embedded Postgres. The next command starts it again."""
    changed = _embedded().stop()
    document({"changed": changed}, text="stopped" if changed else "unchanged, it is stopped", json=json, quiet=quiet)


def _embedded() -> Embedded:
    embedded = Mosaic.from_env().embedded
    if embedded is None:
        raise ConfigurationError("DATABASE_URL names a Postgres that Mosaic does not start or stop")
    return embedded

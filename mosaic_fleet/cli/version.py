"""`mosaic version`."""

import mosaic_fleet
from mosaic_fleet.cli import command, examples
from mosaic_fleet.cli.output import Json, document

app = command()


@app.command(epilog=examples("mosaic version", "mosaic version --json"))
def version(json: Json = False) -> None:
    """Print the version."""
    document({"version": mosaic_fleet.__version__}, text=f"mosaic {mosaic_fleet.__version__}", json=json)

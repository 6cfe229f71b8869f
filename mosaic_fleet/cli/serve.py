"""`mosaic serve`: the door on the network."""

from typing import Annotated

import typer

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.cli import command, examples
from mosaic_fleet.cli.output import Quiet, note
from mosaic_fleet.settings import INTERNAL_PORT

app = command()


@app.command(
    epilog=examples(
        "mosaic serve",
        "mosaic serve --host 0.0.0.0 --internal-host 172.18.0.1",
        "mosaic serve --port 8080 --internal-port 8081",
    )
)
def serve(
    host: Annotated[str, typer.Option("--host", help="Where the public listener listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Its port; 0 takes a free one.")] = 4000,
    internal_host: Annotated[
        str, typer.Option("--internal-host", help="Where the listener with the config endpoint listens.")
    ] = "127.0.0.1",
    internal_port: Annotated[int, typer.Option("--internal-port", min=0, max=65535, help="Its port.")] = INTERNAL_PORT,
    quiet: Quiet = False,
) -> None:
    """Serve until SIGTERM or Ctrl-C. Starts without Docker, database or key, and says what is missing."""
    from mosaic_fleet.web import listeners

    public, internal = listeners.Address(host, port), listeners.Address(internal_host, internal_port)
    listeners.serve(Mosaic.from_env(serving=True), public, internal, ready=lambda text: None if quiet else note(text))

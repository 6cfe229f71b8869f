"""What several verbs of `mosaic fleet` take."""

from typing import Annotated, Optional

import typer

from mosaic_fleet.cli import complete

StackName = Annotated[
    Optional[str],
    typer.Option("--stack", help="The stack, where there is more than one.", autocompletion=complete.stacks),
]
AgentName = Annotated[str, typer.Argument(help="The agent's name.", autocompletion=complete.agents)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done and do nothing.")]
Fresh = Annotated[
    Optional[list[str]],
    typer.Option(
        "--fresh",
        help="An agent that may start with an empty memory: its volume is gone.",
        autocompletion=complete.agents,
    ),
]
Downgrade = Annotated[
    Optional[list[str]],
    typer.Option(
        "--downgrade",
        help="An agent that may run an older OpenClaw than before.",
        autocompletion=complete.agents,
    ),
]

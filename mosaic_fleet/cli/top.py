"""`mosaic init`, `status` and `doctor`: the installation as a whole."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.cli import command, examples, output
from mosaic_fleet.cli.output import Json, Quiet, document, note
from mosaic_fleet.errors import PartialFailure

if TYPE_CHECKING:
    from mosaic_fleet.doctor import Finding

init_app, status_app, doctor_app = command(), command(), command()


@init_app.command(epilog=examples("mosaic init", "mosaic init --create-network", "mosaic init --install 4f1c0a9b2e7d"))
def init(
    create_network: Annotated[
        bool, typer.Option("--create-network", help="Make the fleet's network if absent.")
    ] = False,
    install: Annotated[
        str | None,
        typer.Option("--install", metavar="ID", help="Be the installation whose database is gone, by its id."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make key, database and schema ready, then look at Docker; again: nothing changes."""
    from mosaic_fleet import onboarding

    findings = onboarding.init(Mosaic.from_env(), create_network=create_network, install=install)
    _print(findings, json=json, quiet=quiet)
    _fail(findings)
    if not quiet and not json:
        note("next:  mosaic admin create-breakglass NAME, then mosaic agent import FILE")


@status_app.command(epilog=examples("mosaic status", "mosaic status --json"))
def status(json: Json = False) -> None:
    """Show what is here: database, administrators, providers, stacks."""
    from mosaic_fleet.db.reads import SYSTEM_OWNER

    mosaic = Mosaic.from_env()
    with mosaic.reads() as reads:
        values = {
            "postgres": f"{reads.server_version()}, {'embedded' if mosaic.embedded else 'DATABASE_URL'}",
            "schema_version": reads.schema,
            "install": reads.install_id(),
            "admins": len(reads.admins()),
            "providers": len(reads.providers(SYSTEM_OWNER)),
            "stacks": [
                f"{row.name}: {row.agents} agents, "
                + (
                    f"deploy {row.number} {row.status} {output.ago(row.deployed_at)}"
                    if row.deployed_at
                    else "never deployed"
                )
                for row in reads.stacks()
            ],
        }
    document(values, json=json)


@doctor_app.command(epilog=examples("mosaic doctor", "mosaic doctor isolation", "mosaic doctor --json"))
def doctor(
    topic: Annotated[str | None, typer.Argument(help="isolation: try the walls around users' gateways.")] = None,
    attempt: Annotated[
        list[str] | None, typer.Option("--try", help="With isolation: ADDRESS:PORT that must be walled off too.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check database, key, providers, people, audit, Docker and Swarm; exit 9 when something is wrong."""
    from mosaic_fleet import doctor

    if topic is not None:
        from mosaic_fleet.cli import isolation

        isolation.examine(topic, attempt or [], json=json, quiet=quiet)
        return
    findings = doctor.examine(Mosaic.from_env())
    _print(findings, json=json, quiet=quiet)
    _fail(findings)


def _fail(findings: "Sequence[Finding]") -> None:
    failed = [finding.check for finding in findings if finding.mark == "fail"]
    if failed:
        raise PartialFailure(f"{len(failed)} of {len(findings)} checks failed: {', '.join(failed)}", rows=findings)


def _print(findings: "Sequence[Finding]", *, json: bool, quiet: bool) -> None:
    if json:
        document({"checks": list(findings)}, json=True)
        return
    for finding in findings:
        if not (quiet and finding.mark == "ok"):
            fix = f"   ({finding.fix})" if finding.fix else ""
            output.check(finding.mark, finding.check, finding.text + fix)

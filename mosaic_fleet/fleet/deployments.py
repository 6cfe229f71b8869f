"""The record of deploys: what was meant, with all that is needed to apply it again, and what became of it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, col, select

from mosaic_fleet.db.database import Database
from mosaic_fleet.db.tables import Deployment, Stack, now, place
from mosaic_fleet.errors import ConfigurationError, NotFound
from mosaic_fleet.fleet import agents, stack, tracing
from mosaic_fleet.fleet.stack import Place, Rendered
from mosaic_fleet.fleet.tracing import GOOD, Trace
from mosaic_fleet.identity import audit
from mosaic_fleet.runtimes.base import SPEC_LABEL, Image, Service
from mosaic_fleet.sealing import Box

_HISTORY = 20  # deployments in which an accepted config, or where a service came from, is looked up


@dataclass(frozen=True)
class Intent:
    """What a deployment is about to do, with the images by reference; `applies` is the earlier one that it is again."""

    place: Place
    rendered: Rendered
    images: Mapping[str, Image]
    network_id: str
    applies: int | None = None

    def outcome(self, agent: str) -> dict[str, str]:
        """Return the outcome of an agent before there is one."""
        image = self.images.get(self.rendered.image(agent), Image("", "", None))
        return intended(self.rendered, agent) | {
            "image_id": image.id,
            "version": image.version,
            "network_id": self.network_id,
        }


@contextmanager
def recorded(db: Database, box: Box, intent: Intent) -> Iterator[Deployment]:
    """Write a deployment down before anything happens, and what became of it afterwards.

    The body fills `validated` and `outcome`; its status follows: healthy, partial, failed or interrupted, or it stays
    started when nobody waited.
    """
    deployment = _begin(db, box, intent)
    try:
        yield deployment
    except BaseException as error:
        _finish(db, deployment, "interrupted" if isinstance(error, KeyboardInterrupt) else _failure(deployment.outcome))
        raise
    waited = all(one["verdict"] != "started" for one in deployment.outcome.values())
    _finish(db, deployment, "healthy" if waited else "started")


def accepted(db: Database, stack_name: str) -> set[str]:
    """Return the openclaw.json that were accepted in earlier deployments, as `<name>@<image id>`."""
    with db.transaction(system=True) as session:
        rows = session.exec(_newest(agents.get_stack(session, stack_name)).limit(_HISTORY)).all()
        return {name for row in rows for name in row.validated}


def settle(db: Database, box: Box, intent: Intent, outcome: dict[str, Any]) -> None:
    """Close the newest deployment where nobody lived to do it, as healthy when it is what runs.

    What runs without any record, because the docker command deployed it, gets one.
    """
    with db.transaction(system=True) as session:
        last = session.exec(_newest(agents.get_stack(session, intent.place.stack)).limit(1)).first()
        runs = last is not None and last.stack_text == intent.rendered.text
        if last and runs:
            last.seen_at = max(last.seen_at, intent.place.read_at)
        if last and (last.status == "healthy" or not (runs or last.status == "started")):
            return
        if last:
            last.outcome = outcome if runs else last.outcome
    if last is None:
        last, runs = _begin(db, box, intent), True
        last.outcome = outcome
    _finish(db, last, "healthy" if runs else "interrupted")


def kept_names(db: Database, stack_name: str) -> set[str]:
    """Return the Docker objects that the two newest healthy deployments name."""
    with db.transaction(system=True) as session:
        query = _newest(agents.get_stack(session, stack_name)).where(Deployment.status == "healthy")
        rows = session.exec(query.limit(2)).all()
        return {name for row in rows for name in [*row.docker_configs, *row.secret_names]}


def history(session: Session, stack_name: str) -> Sequence[Deployment]:
    """Return the newest deployments of a stack, the newest first."""
    rows: Sequence[Deployment] = session.exec(_newest(agents.get_stack(session, stack_name)).limit(_HISTORY)).all()
    return rows


def latest(session: Session, stack_name: str) -> Deployment | None:
    """Return the newest deployment of a stack, None before the first."""
    row: Deployment | None = session.exec(_newest(agents.get_stack(session, stack_name)).limit(1)).first()
    return row


def get(session: Session, stack_name: str, number: int) -> Deployment:
    """Return a deployment by its number; raises NotFound."""
    query = _newest(agents.get_stack(session, stack_name)).where(Deployment.number == number)
    row: Deployment | None = session.exec(query).first()
    if row is None:
        raise NotFound(f'stack "{stack_name}" has no deploy {number}', hint=f"mosaic fleet diff --stack {stack_name}")
    return row


def trace(session: Session, stack_name: str, live: Mapping[str, Service]) -> Trace:
    """Find where the services that run came from, by the digests that they carry."""
    columns = (col(Deployment.id), col(Deployment.outcome))
    owner = agents.get_stack(session, stack_name)
    query = select(*columns).where(Deployment.stack_id == owner.id).order_by(col(Deployment.number).desc())
    return tracing.trace(session.exec(query.limit(_HISTORY)).all(), live)


def catch_up(db: Database, place: Place, text: str) -> None:
    """Note that the newest deployment is what the roster asks for, if it is."""
    with db.transaction(system=True) as session:
        last = session.exec(_newest(agents.get_stack(session, place.stack)).limit(1)).first()
        if last and last.stack_text == text:
            last.seen_at = place.read_at


def recall(session: Session, box: Box, traced: Trace) -> Rendered | None:
    """Put together what the record says of the services that run; None when it says nothing."""
    services: dict[str, Any] = {}
    contents: dict[str, str] = {}
    network = ""
    for row_id in sorted(set(traced.sources.values())):
        row = session.get_one(Deployment, row_id)
        read = reread(box, row)
        contents |= read.docker_configs | read.docker_secrets  # type: ignore[operator]  # both are dicts
        network = read.network
        services |= {agent: read.services[agent] for agent, source in traced.sources.items() if source == row_id}
    return stack.assemble(dict(sorted(services.items())), network, contents) if services else None


def reread(box: Box, row: Deployment) -> Rendered:
    """Read a deployment's stack back, with the contents of its Docker configs and, opened, of its Docker secrets."""
    try:
        secrets = json.loads(box.open(place(row, "docker_secrets"), row.docker_secrets).get_secret_value())
        return stack.read(row.stack_text, row.docker_configs | secrets)
    except (KeyError, ValueError) as error:
        raise ConfigurationError(f"the record of deploy {row.number} cannot be read: {error}") from error


def intended(rendered: Rendered, agent: str) -> dict[str, str]:
    """Return the outcome of an agent before there is one: the digest that its service is to carry."""
    digest = str(rendered.services[agent]["deploy"]["labels"][SPEC_LABEL])
    return {"verdict": "started", "reason": "", "spec": digest}


def _newest(owner: Stack) -> Any:
    return select(Deployment).where(Deployment.stack_id == owner.id).order_by(col(Deployment.number).desc())


def _begin(db: Database, box: Box, intent: Intent) -> Deployment:
    rendered, image = intent.rendered, str(intent.place.settings["fleet.image"])
    with db.transaction(system=True) as session:
        owner = agents.get_stack(session, intent.place.stack)
        last = session.exec(_newest(owner).limit(1)).first()
        if last and last.status == "started":
            last.status = "interrupted"
        deployment = Deployment(
            stack_id=owner.id,
            number=last.number + 1 if last else 1,
            applies=intent.applies,
            actor=db.actor,
            image=image,
            image_id=intent.images[image].id if image in intent.images else "",
            stack_text=rendered.text,
            docker_configs=dict(rendered.docker_configs),
            secret_names=sorted(rendered.docker_secrets),
            docker_secrets="",
            outcome={agent: intent.outcome(agent) for agent in rendered.services},
            seen_at=intent.place.read_at,
        )
        secrets = json.dumps(dict(rendered.docker_secrets), sort_keys=True)
        deployment.docker_secrets = box.seal(place(deployment, "docker_secrets"), secrets)
        session.add(deployment)
        details = {"number": deployment.number} | ({"applies": intent.applies} if intent.applies else {})
        audit.record(session, "fleet.deploy", intent.place.stack, outcome="started", **details)
    return deployment


def _finish(db: Database, deployment: Deployment, status: str) -> None:
    with db.transaction(system=True) as session:
        row = session.get_one(Deployment, deployment.id)
        row.status = status
        row.validated = deployment.validated
        row.outcome = deployment.outcome
        row.finished_at = None if status == "started" else now()
        owner = session.get_one(Stack, row.stack_id).name
        audit.record(session, "fleet.deploy", owner, outcome=status, number=row.number)


def _failure(outcome: Mapping[str, Mapping[str, str]]) -> str:
    healthy = [state for state in outcome.values() if state["verdict"] in GOOD]
    return "partial" if healthy else "failed"

"""`mosaic fleet diff`: the roster, the last deploy and what really runs, in two calls of Docker."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from mosaic_fleet.db.reads import Reads
from mosaic_fleet.fleet import drift, members, specs, stack, tracing
from mosaic_fleet.fleet.drift import Difference, Known
from mosaic_fleet.fleet.stack import Place, Wanted
from mosaic_fleet.fleet.tracing import Trace
from mosaic_fleet.runtimes.base import Service, StackRuntime, by_agent
from mosaic_fleet.sealing import Box

Reading = Callable[[], AbstractContextManager[Reads]]


@dataclass(frozen=True)
class AgentDiff:
    """What a deploy would do with an agent: `change`, `add`, `remove` (with --prune) or `unchanged`, and why."""

    agent: str
    action: str
    differences: Sequence[Difference] = ()


@dataclass(frozen=True)
class Diff:
    """What differs of a stack, and its newest deployment; `applies` is the earlier one that it is again."""

    stack: str
    number: int | None
    status: str | None
    applies: int | None
    deployed_at: datetime | None
    agents: Sequence[AgentDiff]

    @property
    def is_empty(self) -> bool:
        """Tell whether a deploy with --prune would change nothing."""
        return all(one.action == "unchanged" for one in self.agents)

    def count(self, action: str) -> int:
        """Count the agents of an action."""
        return sum(one.action == action for one in self.agents)


def diff(reading: Reading, box: Box, runtime: StackRuntime, stack_name: str | None) -> Diff:
    """Compare the roster with what runs, and say of each difference whether it was made by hand.

    `reading` opens quick reads for the system. Raises NotFound when there is no such stack, RuntimeFailure when Docker
    cannot be reached.
    """
    with reading() as reads:
        roster = members.read(reads, box, stack_name)
        rows = reads.deployments(roster.stack)
    wanted = stack.want(roster, box)
    live = by_agent(runtime.services(roster.stack), roster.install)
    traced = tracing.trace([(row.id, row.outcome) for row in rows], live)
    known = replace(_known(runtime, wanted, traced), gone=_gone(runtime, roster, wanted, live))
    found = drift.compare(wanted, live, known)
    if differing := [agent for agent, some in found.items() if some]:
        with reading() as reads:
            past = _recall(reads, box, traced)
        found = drift.compare(wanted, live, replace(known, last=past.services))
        texts = past.contents | stack.contents(roster, box, differing)
        found = {
            agent: _explained(box, specs.live(live[agent].spec), specs.wanted(wanted.services[agent]), texts, some)
            for agent, some in found.items()
        }
    agents = [_agent(agent, found.get(agent)) for agent in wanted.services]
    agents += [AgentDiff(agent, "remove") for agent in sorted(live.keys() - wanted.services.keys())]
    if not rows:
        return Diff(roster.stack, None, None, None, None, agents)
    return Diff(roster.stack, rows[0].number, rows[0].status, rows[0].applies, rows[0].created_at, agents)


def _agent(agent: str, found: list[Difference] | None) -> AgentDiff:
    if found is None:
        return AgentDiff(agent, "add")
    return AgentDiff(agent, "change" if found else "unchanged", found)


def _known(runtime: StackRuntime, wanted: Wanted, traced: Trace) -> Known:
    """Ask what the images' names mean now."""
    refs = dict.fromkeys(wanted.image(agent) for agent in wanted.services if traced.images.get(agent))
    images = {ref: image.id for ref in refs if (image := runtime.image(ref))}
    networks = {network for network in traced.networks.values() if network}
    return Known(traced.images, images, networks.pop() if len(networks) == 1 else None)


def _gone(runtime: StackRuntime, place: Place, wanted: Wanted, live: Mapping[str, Service]) -> set[str]:
    """Ask which files are not there any more, where an agent does not run: that may be why."""
    if all(one.running >= one.desired for one in live.values()):
        return set()
    here = {item.name for item in runtime.docker_objects(stack.marks(place))}
    return {file["source"] for one in wanted.services.values() for file in [*one["configs"], *one["secrets"]]} - here


@dataclass(frozen=True)
class _Past:
    """What the record says of the services that run: themselves, and what the files they name say."""

    services: dict[str, Any]
    contents: dict[str, str] = field(repr=False)


def _recall(reads: Reads, box: Box, traced: Trace) -> _Past:
    past = _Past({}, {})
    for row in reads.records({*traced.sources.values()}):
        services = stack.services(row.stack_text)
        past.services.update({agent: services[agent] for agent, source in traced.sources.items() if source == row.id})
        secrets = json.loads(box.look(row.secrets_place, row.docker_secrets).get_secret_value())
        past.contents.update(row.docker_configs | secrets)
    return past


def _explained(
    box: Box, old: specs.Fields, new: specs.Fields, texts: Mapping[str, str], found: list[Difference]
) -> list[Difference]:
    """Say what differs inside the files, as far as their texts are known, of secrets only the end of a keyed hash."""

    def text(one: Difference, fields: specs.Fields) -> str | None:
        return texts.get(str(fields.get(one.field)))

    def mark(secret: str) -> str:
        return box.name("fingerprint", secret)[-4:]

    return [drift.explain(one, text(one, old), text(one, new), mark) for one in found]

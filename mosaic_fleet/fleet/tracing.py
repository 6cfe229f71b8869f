"""Where the services that run came from, by the record of deploys: pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mosaic_fleet.runtimes.base import SPEC_LABEL, Service

GOOD = ("healthy", "stopped")


@dataclass(frozen=True)
class Trace:
    """Where the services that run came from: by agent the id of a deployment, and the ids of image and network then."""

    sources: Mapping[str, Any] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)
    networks: Mapping[str, str] = field(default_factory=dict)


def trace(rows: Iterable[tuple[Any, Mapping[str, Mapping[str, str]]]], live: Mapping[str, Service]) -> Trace:
    """Look the services up by the digests that they carry in (id, outcome) of deployments, the newest first."""
    found: dict[str, dict[str, Any]] = {"sources": {}, "images": {}, "networks": {}}
    for row_id, outcome in rows:
        for agent, one in outcome.items():
            if agent in live and live[agent].labels.get(SPEC_LABEL) == one["spec"]:
                found["sources"].setdefault(agent, row_id)
                if one["verdict"] in GOOD:
                    found["images"].setdefault(agent, one.get("image_id", ""))
                    found["networks"].setdefault(agent, one.get("network_id", ""))
    return Trace(**found)

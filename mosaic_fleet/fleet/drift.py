"""What differs between the roster, the last deploy and what really runs: pure, field by field."""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mosaic_fleet.fleet import specs
from mosaic_fleet.fleet.stack import Wanted
from mosaic_fleet.runtimes.base import SPEC_LABEL, Service

# Somebody may have set one by hand that holds a key.
_SECRET_ENV = re.compile(r"^env\..*(key|token|secret|password|credential)", re.IGNORECASE)


@dataclass(frozen=True)
class Difference:
    """A field that is not as it should be: `old` is what runs, `new` what is wanted, None where there is none.

    `by_hand`: what runs is not what the last deploy said either. `moved`: the image's name is the same and means
    another image now. `details` name the keys that differ in a file.
    """

    field: str
    old: str | None
    new: str | None
    by_hand: bool = False
    moved: bool = False
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Known:
    """What is known beside the specs.

    `deployed` maps agents to the image ids they were deployed with, `images` maps references to the ids that they
    mean now, `network_id` is the network's, `last` are the services as they were deployed, `gone` are Docker configs
    and Docker secrets that are not there.
    """

    deployed: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)
    network_id: str | None = None
    last: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    gone: Collection[str] = ()


NOTHING = Known()


def compare(rendered: Wanted, live: Mapping[str, Service], known: Known) -> dict[str, list[Difference]]:
    """List what differs of each wanted agent that runs."""
    return {agent: _differences(rendered, agent, live[agent], known) for agent in rendered.services if agent in live}


def _differences(rendered: Wanted, agent: str, service: Service, known: Known) -> list[Difference]:
    wanted, live = specs.wanted(rendered.services[agent]), specs.live(service.spec)
    before = specs.wanted(known.last[agent]) if agent in known.last else None
    _fit_network(wanted, live, known)
    _fit_image(wanted, live)
    found = [
        Difference(name, _shown(name, live), _shown(name, wanted), _by_hand(name, live, before))
        for name in dict.fromkeys([*wanted, *live])
        if wanted.get(name) != live.get(name)
    ]
    found += [] if any(one.field == specs.IMAGE for one in found) else _moved(rendered, agent, known)
    found += [] if found else _gone(wanted, known)
    digest = rendered.services[agent]["deploy"]["labels"][SPEC_LABEL]
    if not found and service.labels.get(SPEC_LABEL) != digest:
        return [Difference("service", service.labels.get(SPEC_LABEL), digest)]
    return [replace(one, new=rendered.network) if one.field == specs.NETWORK else one for one in found]


def _fit_network(wanted: specs.Fields, live: specs.Fields, known: Known) -> None:
    """Want the network by its id, as Docker writes it; unknown, one of any id will do."""
    if known.network_id:
        wanted[specs.NETWORK] = [known.network_id]
    elif len(live.get(specs.NETWORK, [])) == 1:
        del live[specs.NETWORK]


def _fit_image(wanted: specs.Fields, live: specs.Fields) -> None:
    """Forget the digest that Swarm added to an image's name, unless one is asked for."""
    if "@" not in wanted[specs.IMAGE]:
        live[specs.IMAGE] = live[specs.IMAGE].partition("@")[0]


def _moved(rendered: Wanted, agent: str, known: Known) -> list[Difference]:
    """Tell that the image's name means another image now than when the agent was deployed."""
    ref = rendered.image(agent)
    old, new = known.deployed.get(agent), known.images.get(ref)
    if not old or not new or old == new:
        return []
    return [Difference(specs.IMAGE, f"{ref} {_short(old)}", f"{ref} {_short(new)}", by_hand=True, moved=True)]


def _gone(wanted: specs.Fields, known: Known) -> list[Difference]:
    """Tell that the service names a file which is not there any more; Docker lets nobody delete one that is in use."""
    files = {title: wanted[title] for title in specs.TITLES.values() if title in wanted}
    return [Difference(title, None, name, by_hand=True) for title, name in files.items() if name in known.gone]


def _short(image_id: str) -> str:
    return image_id.removeprefix("sha256:")[:12]


def _by_hand(name: str, live: specs.Fields, before: specs.Fields | None) -> bool:
    """Tell whether what runs is not what the last deploy said; of the network only the id is known."""
    if before is None or name == specs.NETWORK:
        return name == specs.NETWORK and before is not None
    return bool(before.get(name) != live.get(name))


def _shown(name: str, fields: specs.Fields) -> str | None:
    value = fields.get(name)
    return "(hidden)" if value and _SECRET_ENV.match(name) else specs.shown(name, value)


def changed_keys(old: Any, new: Any) -> list[str]:
    """Name the keys that differ between two parsed JSON files, as `models.providers.zai.apiKey changed`."""
    return [f"{path} {what}" for path, what in _changed(old, new, "")]


def _changed(old: Any, new: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            inner = f"{path}.{key}" if path else str(key)
            if key not in old or key not in new:
                yield inner, "added" if key in new else "removed"
            else:
                yield from _changed(old[key], new[key], inner)
    elif old != new:
        yield path, "changed"


def changed_secrets(old: Mapping[str, str], new: Mapping[str, str], mark: Callable[[str], str]) -> list[str]:
    """Name the providers' keys that differ, by their places in openclaw.json and what `mark` makes of each."""
    found = []
    for name in sorted(old.keys() | new.keys()):
        was, now = (f"#{mark(values[name])}" if name in values else "none" for values in (old, new))
        if old.get(name) != new.get(name):
            found.append(f"models.providers.{name}.apiKey changed: {was} → {now}")
    return found


def explain(one: Difference, old: str | None, new: str | None, mark: Callable[[str], str]) -> Difference:
    """Add what differs inside a file, of which old and new text are given where they are known."""
    if old is None or new is None or one.field not in ("openclaw.json", "keys"):
        return one
    was, wanted = json.loads(old), json.loads(new)
    details = changed_keys(was, wanted) if one.field == "openclaw.json" else changed_secrets(was, wanted, mark)
    return replace(one, details=tuple(details))

"""The shipped roster as a value with fixed ids, tokens and keys: to render or deploy it without a database."""

from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr

from mosaic_fleet.configuration import REGISTRY
from mosaic_fleet.fleet import roster as roster_file
from mosaic_fleet.fleet.openclaw import Gateway, Provider
from mosaic_fleet.fleet.stack import Agent, Roster
from mosaic_fleet.fleet.vendors import TYPES
from mosaic_fleet.resources import directory
from mosaic_fleet.sealing import Box, Ring

INSTALL = "0123456789ab"
SENTINEL = "planted-secret"
BOX = Box(lambda: Ring("k1", {"k1": AESGCM(b"k" * 32)}, b"n" * 32))
SETTINGS = {key: setting.parse(setting.default) for key, setting in REGISTRY.items()}
FILE = roster_file.read(directory("stacks") / "jarvis.yml")


def agent(name: str, **options: Any) -> Agent:
    """Make an agent of the jarvis roster with a fixed token, pinned to a node."""
    values = FILE.agents[name]
    refs = [values["primary_model"], *values.get("fallback_models", [])]
    used = dict.fromkeys([ref.partition("/")[0] for ref in refs] + values.get("providers", []))
    one = Agent(
        name=name,
        image=str(SETTINGS["fleet.image"]),
        role=values["role"],
        gateway=Gateway(refs[0], tuple(refs[1:]), values.get("schedules", False), tuple(map(provider, used))),
        token=SecretStr(f"{SENTINEL}-token-{name}"),
        personality=values["personality"],
        memory_limit=values["memory_limit"],
        memory_reservation=values["memory_reservation"],
        cpu_limit=values.get("cpu_limit"),
        replicas=1,
        node_id="node1",
    )
    return replace(one, **options)


def provider(name: str) -> Provider:
    """Make a provider of the jarvis roster, with a key where its type needs one."""
    values = FILE.providers[name]
    vendor = TYPES[values["type"]]
    key = SecretStr(f"{SENTINEL}-key-{name}") if values["type"] == "zai" else None
    url = values.get("base_url") or vendor.base_url
    return Provider(name, values["type"], vendor.api_type, url, values["models"], key)


def jarvis(*agents: Agent, **settings: Any) -> Roster:
    """Make the roster of the given agents, or of all; they run the image of the settings, if one is given."""
    everybody = agents or tuple(agent(name) for name in sorted(FILE.agents))
    if "fleet.image" in settings:
        everybody = tuple(replace(one, image=settings["fleet.image"]) for one in everybody)
    return Roster(FILE.stack, str(FILE.network), INSTALL, SETTINGS | settings, everybody)

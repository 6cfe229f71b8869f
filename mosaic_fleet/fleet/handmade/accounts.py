"""The accounts of a hand-made fleet's agents, brought together into providers of the roster."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from mosaic_fleet.fleet import providers, vendors
from mosaic_fleet.fleet.handmade.configs import Block

_OLLAMA_PORT = 11434


@dataclass(frozen=True)
class Account:
    """What makes two agents' providers the same one: type, address, way of speaking and key; `auth` follows."""

    type: str
    base_url: str | None
    api_type: str
    key: SecretStr | None


@dataclass(frozen=True)
class Use:
    """An agent's use of an account under a name, with the models it knows there; `place` is for errors."""

    agent: str
    name: str
    account: Account
    models: tuple[Mapping[str, Any], ...]
    place: str


@dataclass(frozen=True)
class Shared:
    """The providers of the fleet by name, where each stands, and what an agent's own name for one has become."""

    providers: Mapping[str, Mapping[str, Any]]
    places: Mapping[str, str]
    names: Mapping[tuple[str, str], str]


def account(name: str, block: Block, key: SecretStr | None) -> Account | None:
    """Say which account a block means; None when Mosaic cannot speak to it, or does not know its address."""
    address = (block.base_url or "").rstrip("/")
    kind = _type(name, block, address)
    vendor = vendors.TYPES[kind]
    api = block.api or vendor.api_type
    if kind == "ollama":
        # OpenAI's way of speaking breaks OpenClaw's tool calls on Ollama; its own way has no /v1.
        address, api = address.removesuffix("/v1"), vendor.api_type
    if api not in providers.API_TYPES or not (address or vendor.base_url):
        return None
    return Account(kind, None if address == vendor.base_url else address or None, api, key)


def share(uses: list[Use]) -> Shared:
    """Make one provider of the same account, and `<name>-<agent>` where agents mean different ones by a name."""
    meant: dict[str, dict[Account, list[Use]]] = {}
    for use in uses:
        meant.setdefault(use.name, {}).setdefault(use.account, []).append(use)
    found: dict[str, Mapping[str, Any]] = {}
    places: dict[str, str] = {}
    names: dict[tuple[str, str], str] = {}
    for name, accounts in meant.items():
        for one, users in accounts.items():
            called = name if len(accounts) == 1 else f"{name}-{users[0].agent}"
            found[called] = _columns(one, users)
            places[called] = users[0].place
            names |= {(use.agent, name): called for use in users}
    return Shared(found, places, names)


def _type(name: str, block: Block, address: str) -> str:
    if name in vendors.TYPES and name != "custom":
        return name
    if address:
        for kind, vendor in vendors.TYPES.items():
            if address == vendor.base_url:
                return kind
    return "ollama" if block.api == "ollama" or _port(address) == _OLLAMA_PORT else "custom"


def _port(address: str) -> int | None:
    try:
        return urlsplit(address).port
    except ValueError:
        return None


def _columns(one: Account, users: list[Use]) -> dict[str, Any]:
    models: dict[str, Mapping[str, Any]] = {}
    for use in users:
        for model in use.models:
            known = models.get(str(model.get("id")), {})
            models[str(model.get("id"))] = {**model, **known}
    columns: dict[str, Any] = {"type": one.type, "api_type": one.api_type, "models": list(models.values())}
    columns |= {"base_url": one.base_url} if one.base_url else {}
    return columns | ({"api_key": one.key} if one.key else {})

"""openclaw.json from rows: pure, and free of secrets (it names files that hold them).

Every key was tried on OpenClaw 2026.9.6 with its own `config validate`; the floor is 2026.8.2.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from mosaic_fleet.rendering import render_json
from mosaic_fleet.sealing import Secret

PORT = 18789
STATE_DIR = "/home/node/.openclaw"
WORKSPACE_DIR = f"{STATE_DIR}/workspace"
SOUL_FILE = f"{WORKSPACE_DIR}/SOUL.md"
TOKEN_FILE = "/run/secrets/gateway_token"  # noqa: S105  # a path
KEYS_FILE = "/run/secrets/provider_keys"
OLDEST_VERSION = (2026, 8, 2)

# Providers that OpenClaw would fetch as a plugin at every start, unless their plugin is switched off.
_EXTERNAL_PLUGINS = frozenset(
    {"cerebras", "cohere", "deepseek", "fireworks", "groq", "kimi", "mistral"}
    | {"moonshot", "qwen", "synthetic", "venice", "xiaomi", "zai"}
)
# What OpenClaw substitutes in any string.
_VARIABLE = re.compile(r"\$\{([A-Z_][A-Z0-9_]*)\}")


@dataclass(frozen=True)
class Provider:
    """A provider as a gateway needs it; with `login` its account is on the gateway's state volume, not here."""

    name: str
    type: str
    api_type: str
    base_url: str
    models: Sequence[Mapping[str, Any]]
    key: Secret | None = None
    login: bool = False


@dataclass(frozen=True)
class Gateway:
    """What one openclaw.json is made from; the two files hold the gateway's token and the providers' keys."""

    primary_model: str
    fallback_models: Sequence[str] = ()
    schedules: bool = False
    providers: Sequence[Provider] = field(default_factory=tuple)
    token_file: str = TOKEN_FILE
    keys_file: str = KEYS_FILE


def render(gateway: Gateway) -> str:
    """Render openclaw.json for a gateway, with `${NAME}` of a user's text as `$${NAME}`: OpenClaw reads it back."""
    return laid_out(said(gateway))


def said(gateway: Gateway) -> str:
    """Say what openclaw.json says, on one line, however it is laid out."""
    return json.dumps(config(gateway))


@lru_cache(maxsize=64)
def laid_out(said: str) -> str:
    """Lay out an openclaw.json; the agents of a fleet mostly share a few."""
    return _VARIABLE.sub(r"$${\1}", render_json("openclaw/openclaw.json.j2", json.loads(said)))


def config(gateway: Gateway) -> dict[str, Any]:
    """Build the configuration of a gateway."""
    return {
        "gateway": _gateway(),
        "secrets": {"providers": _secret_files(gateway)},
        "agents": {"defaults": _agent_defaults(gateway)},
        "models": {
            "mode": "merge",
            "catalogRefresh": {"enabled": False},
            "providers": {provider.name: _provider(provider) for provider in gateway.providers},
        },
        "plugins": {"entries": _plugins(gateway)},
        "discovery": {"mdns": {"mode": "off"}},
        "cron": {"enabled": gateway.schedules},
        "update": {"checkOnStart": False},
        "logging": {"level": "warn", "consoleStyle": "json"},
    }


def _gateway() -> dict[str, Any]:
    return {
        "mode": "local",
        "port": PORT,
        "bind": "lan",
        "auth": {"mode": "token", "token": _secret("token", "value")},
        "controlUi": {"enabled": False},
        "terminal": {"enabled": False},
        "reload": {"mode": "off"},
        "http": {"endpoints": {"chatCompletions": {"enabled": True}}},
    }


def _secret_files(gateway: Gateway) -> dict[str, Any]:
    files = {"token": {"source": "file", "path": gateway.token_file, "mode": "singleValue"}}
    if any(provider.key for provider in gateway.providers):
        files["keys"] = {"source": "file", "path": gateway.keys_file, "mode": "json"}
    return files


def _agent_defaults(gateway: Gateway) -> dict[str, Any]:
    model: dict[str, Any] = {"primary": gateway.primary_model}
    if gateway.fallback_models:
        model["fallbacks"] = list(gateway.fallback_models)
    return {
        "workspace": WORKSPACE_DIR,
        "skipBootstrap": True,
        "heartbeat": {"every": "0m"},
        "timeoutSeconds": 600,
        "model": model,
    }


def _provider(provider: Provider) -> dict[str, Any]:
    block: dict[str, Any] = {
        "baseUrl": provider.base_url,
        "api": provider.api_type,
        "models": [{**model} for model in provider.models],
    }
    if provider.type == "openai":
        # Without it an official OpenAI route selects another harness, which OpenClaw would install first.
        block["agentRuntime"] = {"id": "openclaw"}
    if provider.key:
        block["apiKey"] = _secret("keys", f"/{provider.name}")
    elif not provider.login:
        # Without any key OpenClaw calls an open server only at a loopback or private address, not by its name.
        block["apiKey"] = "no-key"
    return block


def _plugins(gateway: Gateway) -> dict[str, Any]:
    entries: dict[str, Any] = {
        "admin-http-rpc": {"enabled": True},
        "memory-core": {"config": {"dreaming": {"enabled": False}}},
    }
    external = sorted(provider.name for provider in gateway.providers if provider.name in _EXTERNAL_PLUGINS)
    return entries | {name: {"enabled": False} for name in external}


def _secret(source: str, where: str) -> dict[str, str]:
    return {"source": "file", "provider": source, "id": where}

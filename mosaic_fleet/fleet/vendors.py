"""The kinds of LLM providers: what each speaks, where, and which of them an agent uses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Vendor:
    """What a provider type speaks, and where when no address is given."""

    api_type: str
    base_url: str | None


TYPES: dict[str, Vendor] = {
    "zai": Vendor("openai-completions", "https://api.z.ai/api/paas/v4"),
    "openai": Vendor("openai-responses", "https://api.openai.com/v1"),
    "anthropic": Vendor("anthropic-messages", "https://api.anthropic.com"),
    "ollama": Vendor("ollama", None),
    "custom": Vendor("openai-completions", None),
}


class User(Protocol):
    """Who uses providers: by the refs of its models, and by their names."""

    @property
    def primary_model(self) -> str | None:
        """The ref of its model."""

    @property
    def fallback_models(self) -> Sequence[str]:
        """Refs of models."""

    @property
    def providers(self) -> Sequence[str]:
        """Names of providers."""


def used(agent: User) -> list[str]:
    """Name the providers an agent uses: those of its model refs, then those in its list."""
    refs = [agent.primary_model, *agent.fallback_models]
    names = [ref.partition("/")[0] for ref in refs if ref] + [*agent.providers]
    return list(dict.fromkeys(names))


def needs_key(kind: str, auth: str) -> bool:
    """Tell whether a provider of this type cannot be used without an API key."""
    return auth == "key" and kind in ("zai", "openai", "anthropic")

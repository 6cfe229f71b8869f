"""Commands in an agent's container on somebody's streams, and the login at a provider that needs a terminal."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from sqlmodel import Session

from mosaic_fleet.db.reads import AgentRow, ProviderRow
from mosaic_fleet.errors import RuntimeFailure
from mosaic_fleet.fleet import foreign
from mosaic_fleet.fleet.gateway import Address, running_task
from mosaic_fleet.identity import audit
from mosaic_fleet.runtimes.base import StackRuntime, Streams

_PROGRAM_LENGTH = 60
# Which way of each vendor's needs no browser beside the gateway: a code to type on another device.
_BY_DEVICE = {"openai": "device-code"}
_SAME = ("id", "provider", "type", "email", "expiresAt")


@dataclass(frozen=True)
class Login:
    """How to log in: at which provider, by which of its methods, whether what is there is removed first."""

    provider: str | None = None
    method: str | None = None
    force: bool = False


@dataclass(frozen=True)
class LoggedIn:
    """What a login left in the agent's state: `profiles` as OpenClaw lists them, and OpenClaw's own exit code."""

    profiles: Sequence[Mapping[str, Any]]
    changed: bool
    exit_code: int


def container(runtime: StackRuntime, to: Address) -> str:
    """Return an agent's running container.

    Raises NotFound when the agent is stopped or not there, RuntimeFailure when it does not run or runs elsewhere.
    """
    return str(running_task(runtime, to).container_id)


def note_command(session: Session, agent: str, command: Sequence[str]) -> None:
    """Record that a command is run in an agent's container: its program only, for its words may be secret."""
    audit.record(session, "fleet.exec", agent, program=PurePosixPath(command[0]).name[:_PROGRAM_LENGTH])


def note_login(session: Session, agent: str, provider: str | None, *, outcome: str) -> None:
    """Record a login of an agent and what became of it."""
    audit.record(session, "fleet.login", agent, outcome=outcome, provider=provider)


def login_provider(agent: AgentRow, providers: Sequence[ProviderRow]) -> str | None:
    """Name the one provider of an agent that is used by a login; None when there is none, or a choice."""
    refs = [agent.primary_model, *agent.fallback_models]
    used = {ref.partition("/")[0] for ref in refs if ref} | {*agent.providers}
    logins = [row.name for row in providers if row.name in used and row.auth == "login"]
    return logins[0] if len(logins) == 1 else None


def login(runtime: StackRuntime, container_id: str, wanted: Login, streams: Streams) -> LoggedIn:
    """Let somebody log in on a terminal.

    It counts when the profile is in the state: OpenClaw saves it, and then fails for it may not write its config.
    Raises RuntimeFailure when there is none, or OpenClaw failed and left it as it was.
    """
    before = _profiles(runtime, container_id, wanted.provider)
    code = runtime.attach(container_id, _words(wanted), streams, terminal=True)
    after = _profiles(runtime, container_id, wanted.provider)
    changed = _identities(before) != _identities(after)
    if not after:
        raise RuntimeFailure(f"not logged in: OpenClaw ended with {code} and there is no profile in the state")
    if code and not changed:
        raise RuntimeFailure(
            f"not logged in: OpenClaw ended with {code}, the profiles are as they were", hint="add --force"
        )
    return LoggedIn(after, changed, code)


def _words(wanted: Login) -> list[str]:
    method = wanted.method or _BY_DEVICE.get(wanted.provider or "")
    options = {"--provider": wanted.provider, "--method": method}
    given = [word for option, value in options.items() if value for word in (option, value)]
    return ["openclaw", "models", "auth", "login", *given, *(["--force"] if wanted.force else [])]


def _profiles(runtime: StackRuntime, container_id: str, provider: str | None) -> list[dict[str, Any]]:
    """List the profiles in an agent's state; they hold no secret."""
    words = ["openclaw", "models", "auth", "list", "--json", *(["--provider", provider] if provider else [])]
    text = b"".join(runtime.exec(container_id, words, stdin=b"")).decode(errors="replace")
    try:
        return [dict(one) for one in foreign.parsed(text[text.index("{") :])["profiles"]]
    except (ValueError, KeyError, TypeError) as error:
        raise RuntimeFailure("OpenClaw lists its profiles in another form than expected") from error


def _identities(profiles: Sequence[Mapping[str, Any]]) -> set[str]:
    return {json.dumps([profile.get(key) for key in _SAME]) for profile in profiles}

"""What the API types of providers speak: where their models are listed, and how a turn is asked for and answered.

Pure. Replies are read as the vendors' references describe them, and whatever else a server sends is nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mosaic_fleet.fleet import foreign

TOOL = "mosaic_probe"
_PARAMETERS = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
_PURPOSE = "Takes a word."


@dataclass(frozen=True)
class Dialect:
    """An API type: paths, headers for a key, and functions that write requests and read replies.

    `body` takes model, prompt and a number of tokens; `spoke` and `called` read a reply, `ends` a line of a stream.
    """

    models: str
    turn: str
    headers: Callable[[str], Mapping[str, str]]
    body: Callable[[str, str, int], dict[str, Any]]
    tool: Mapping[str, Any]
    spoke: Callable[[Any], bool]
    called: Callable[[Any], bool]
    ends: Callable[[str], bool]


def at(value: Any, *path: str | int) -> Any:
    """Follow keys and indexes into a reply; None where it is not of that shape."""
    for step in path:
        fits = isinstance(value, dict) if isinstance(step, str) else isinstance(value, list) and len(value) > step
        if not fits:
            return None
        value = value.get(step) if isinstance(step, str) else value[step]
    return value


def listed(reply: Any) -> list[Any]:
    """Return the entries of a list of models, whichever way it is wrapped; raises ValueError when it is none."""
    entries = reply if isinstance(reply, list) else at(reply, "data") or at(reply, "models") or []
    empty = isinstance(reply, dict) and bool({"data", "models"} & reply.keys())
    if not isinstance(entries, list) or not (entries or empty or reply == []):
        raise ValueError("no list of models")
    return entries


def sizes(entry: Any) -> dict[str, int]:
    """Return an entry's context window and most output tokens, under whichever key its server has them."""
    context = ("context_window", "context_length", "max_context_length", "max_model_len", "max_input_tokens")
    output = ("max_output_tokens", "max_completion_tokens", "max_tokens")
    places: dict[str, list[tuple[str, ...]]] = {
        "contextWindow": [*((key,) for key in context), ("meta", "n_ctx_train"), ("top_provider", "context_length")],
        "maxTokens": [*((key,) for key in output), ("top_provider", "max_completion_tokens")],
    }
    found = {size: next(filter(_is_size, (at(entry, *path) for path in paths)), None) for size, paths in places.items()}
    return {size: value for size, value in found.items() if value is not None}


def ollama_context(shown: Any) -> dict[str, int]:
    """Return the context window in a reply of Ollama's `/api/show`."""
    info = at(shown, "model_info")
    named = info.items() if isinstance(info, dict) else ()
    value = next((value for key, value in named if key.endswith(".context_length") and _is_size(value)), None)
    return {"contextWindow": value} if value else {}


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 100_000_000


def _bearer(key: str) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _messages(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def _event(line: str) -> Any:
    """Read the JSON of a line of a stream, server-sent event or bare; None for any other line."""
    try:
        return foreign.parsed(line.removeprefix("data:"))
    except ValueError:
        return None


def _any(entries: Any, kind: str) -> bool:
    return isinstance(entries, list) and any(at(one, "type") == kind and at(one, "name") == TOOL for one in entries)


def _calls_function(message: Any) -> bool:
    calls = at(message, "tool_calls")
    return isinstance(calls, list) and any(at(one, "function", "name") == TOOL for one in calls)


_FUNCTION = {"type": "function", "function": {"name": TOOL, "description": _PURPOSE, "parameters": _PARAMETERS}}

DIALECTS: dict[str, Dialect] = {
    "openai-completions": Dialect(
        models="/models",
        turn="/chat/completions",
        headers=_bearer,
        body=lambda model, prompt, most: {"model": model, "messages": _messages(prompt), "max_tokens": most},
        tool=_FUNCTION,
        spoke=lambda reply: isinstance(at(reply, "choices", 0, "message"), dict),
        called=lambda reply: _calls_function(at(reply, "choices", 0, "message")),
        ends=lambda line: line.replace(" ", "") == "data:[DONE]",
    ),
    "openai-responses": Dialect(
        models="/models",
        turn="/responses",
        headers=_bearer,
        body=lambda model, prompt, most: {"model": model, "input": prompt, "max_output_tokens": most},
        tool={"type": "function", "name": TOOL, "description": _PURPOSE, "parameters": _PARAMETERS},
        spoke=lambda reply: isinstance(at(reply, "output"), list),
        called=lambda reply: _any(at(reply, "output"), "function_call"),
        ends=lambda line: at(_event(line), "type") in ("response.completed", "response.incomplete"),
    ),
    "anthropic-messages": Dialect(
        models="/v1/models?limit=1000",
        turn="/v1/messages",
        headers=lambda key: {"x-api-key": key},
        body=lambda model, prompt, most: {"model": model, "messages": _messages(prompt), "max_tokens": most},
        tool={"name": TOOL, "description": _PURPOSE, "input_schema": _PARAMETERS},
        spoke=lambda reply: isinstance(at(reply, "content"), list),
        called=lambda reply: _any(at(reply, "content"), "tool_use"),
        ends=lambda line: at(_event(line), "type") == "message_stop",
    ),
    "ollama": Dialect(
        models="/api/tags",
        turn="/api/chat",
        headers=_bearer,
        body=lambda model, prompt, most: {
            "model": model,
            "messages": _messages(prompt),
            "options": {"num_predict": most},
        },
        tool=_FUNCTION,
        spoke=lambda reply: isinstance(at(reply, "message"), dict),
        called=lambda reply: _calls_function(at(reply, "message")),
        ends=lambda line: at(_event(line), "done") is True,
    ),
}
# Asked for by Anthropic of every request; others do not look at it.
VERSIONS: Mapping[str, Mapping[str, str]] = {"anthropic-messages": {"anthropic-version": "2023-06-01"}}

"""Asks the target image itself whether it takes a config, before anything running is stopped."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from mosaic_fleet.errors import ConfigurationError, RuntimeFailure
from mosaic_fleet.fleet import foreign
from mosaic_fleet.resources import directory
from mosaic_fleet.runtimes.base import StackRuntime


def validate(runtime: StackRuntime, image: str, configs: Mapping[str, str], report: Callable[[str], None]) -> None:
    """Validate openclaw.json files (name → text) in one throw-away container.

    Raises ConfigurationError with OpenClaw's own words about the first one it refuses.
    """
    texts = {text: name for name, text in configs.items()}
    if not texts:
        return
    report(f"validating {len(texts)} {'config' if len(texts) == 1 else 'configs'} with {image}")
    script = (directory("templates") / "agent" / "validate.js").read_text("utf-8")
    stdin = json.dumps({name: text for text, name in texts.items()}).encode()
    finished = runtime.run_once(image, ["node", "-e", script], labels={}, stdin=stdin)
    if finished.exit_code:
        raise RuntimeFailure(
            f"validating with {image} ended with {finished.exit_code}: {finished.stderr.strip()[-300:]}"
        )
    for name, verdict in sorted(_verdicts(finished.stdout, image).items()):
        if verdict["code"]:
            raise ConfigurationError(
                f"OpenClaw refuses {name}: {_short(verdict['output'])}", hint="mosaic fleet render"
            )


def _verdicts(stdout: str, image: str) -> dict[str, dict[str, Any]]:
    try:
        return dict(foreign.parsed(stdout))
    except ValueError as error:
        raise RuntimeFailure(f"validating with {image} printed no verdict: {stdout.strip()[-300:]}") from error


def _short(output: str) -> str:
    lines = [_message(line) for line in output.splitlines() if line.strip()]
    return " ".join(lines)[:500] or "without a word"


def _message(line: str) -> str:
    """Take the message out of a JSON log line; anything else is the message itself."""
    try:
        return str(foreign.parsed(line)["message"])
    except (ValueError, KeyError, TypeError):
        return line.strip()

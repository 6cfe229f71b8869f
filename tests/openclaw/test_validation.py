"""What the real OpenClaw says of configs, asked in a throw-away container."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from mosaic_fleet.errors import ConfigurationError
from mosaic_fleet.fleet import openclaw
from mosaic_fleet.fleet.validation import validate
from mosaic_fleet.runtimes.endpoint import Endpoint
from mosaic_fleet.runtimes.swarm import SwarmRuntime
from tests.rosters import agent

GOOD = openclaw.render(agent("jarvis-main").gateway)
Check = Callable[[dict[str, str]], None]


@pytest.fixture
def check(endpoint: Endpoint, openclaw_image: str) -> Check:
    """Return a function that has the real image judge configs."""
    return lambda configs: validate(SwarmRuntime(endpoint), openclaw_image, configs, print)


def test_what_mosaic_renders_is_taken(check: Check) -> None:
    """The rendered config of an agent passes OpenClaw's own validation."""
    check({"good": GOOD})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"surprise": 1}, "surprise"),
        ({"gateway": {"port": "no number"}}, "port"),
        ({"logging": {"consoleStyle": "compact"}}, "consoleStyle"),
    ],
)
def test_a_refused_config_is_named_with_openclaws_words(check: Check, change: dict[str, Any], words: str) -> None:
    """One bad config among good ones is named, with what OpenClaw has against it."""
    with pytest.raises(ConfigurationError, match=f"OpenClaw refuses bad: .*{words}"):
        check({"good": GOOD, "bad": json.dumps(json.loads(GOOD) | change)})

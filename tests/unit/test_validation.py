"""Asking the image whether it takes a config."""

import json
from collections.abc import Mapping, Sequence

import pytest

from mosaic_fleet.errors import ConfigurationError, RuntimeFailure
from mosaic_fleet.fleet.validation import validate
from mosaic_fleet.runtimes.base import Finished
from tests.fakes import FAKE_IMAGE, FakeRuntime


def runtime(verdicts: Mapping[str, tuple[int, str]] | None = None, finished: Finished | None = None) -> FakeRuntime:
    """Return a runtime whose OpenClaw accepts every config but those with a verdict."""
    fake = FakeRuntime()

    def node(command: Sequence[str], stdin: bytes) -> Finished:
        answers = {name: (verdicts or {}).get(name, (0, "Config valid")) for name in json.loads(stdin)}
        return Finished(
            0, json.dumps({name: {"code": code, "output": out} for name, (code, out) in answers.items()}), ""
        )

    fake.programs["node"] = node if finished is None else lambda *_: finished
    return fake


def test_good_configs_are_validated_in_one_container() -> None:
    """All configs go in at once on standard input, and one line says what happens."""
    fake, lines = runtime(), []
    validate(fake, FAKE_IMAGE, {"a-conf-1": "{}", "b-conf-2": "{ }"}, lines.append)
    [run] = fake.runs
    assert json.loads(run["stdin"]) == {"a-conf-1": "{}", "b-conf-2": "{ }"}
    assert (run["image"], run["command"][:2]) == (FAKE_IMAGE, ["node", "-e"])
    assert lines == [f"validating 2 configs with {FAKE_IMAGE}"]


def test_nothing_new_needs_no_container() -> None:
    """Without configs nothing is started and nothing said."""
    fake, lines = runtime(), []
    validate(fake, FAKE_IMAGE, {}, lines.append)
    assert (fake.runs, lines) == ([], [])


def test_the_same_config_is_validated_once() -> None:
    """Agents with the same config cost one validation."""
    fake, lines = runtime(), []
    validate(fake, FAKE_IMAGE, {"a-conf-1": "{}", "b-conf-1": "{}"}, lines.append)
    assert len(json.loads(fake.runs[0]["stdin"])) == 1
    assert lines == [f"validating 1 config with {FAKE_IMAGE}"]


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (
            "Config invalid\n\n  agents.defaults: Unrecognized key \n",
            "Config invalid agents.defaults: Unrecognized key",
        ),
        (
            '{"time":"x","level":"error","message":"Config invalid: /tmp/a.json"}\nbad key\n',
            "Config invalid: /tmp/a.json bad key",
        ),
        ('{"level":"error"}', '{"level":"error"}'),
        ("", "without a word"),
        ("x" * 600, "x" * 500),
    ],
)
def test_a_refused_config_is_named_in_openclaws_words(output: str, words: str) -> None:
    """The message has the config's name and what OpenClaw said, in one line."""
    with pytest.raises(ConfigurationError) as caught:
        validate(runtime({"b-conf-2": (1, output)}), FAKE_IMAGE, {"a-conf-1": "{}", "b-conf-2": "{ }"}, print)
    assert caught.value.message == f"OpenClaw refuses b-conf-2: {words}"
    assert caught.value.hint == "mosaic fleet render"


def test_a_container_that_fails_is_no_verdict() -> None:
    """When the validation itself breaks, that is the runtime's failure, not the config's."""
    broken = runtime(finished=Finished(139, "", " Segmentation fault\n"))
    with pytest.raises(RuntimeFailure) as caught:
        validate(broken, FAKE_IMAGE, {"a": "{}"}, print)
    assert caught.value.message == f"validating with {FAKE_IMAGE} ended with 139: Segmentation fault"

"""Rendered JSON and YAML say what was meant, whatever a user wrote."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mosaic_fleet import rendering
from mosaic_fleet.errors import ConfigurationError
from mosaic_fleet.rendering import render_json, render_yaml

PIECE = st.sampled_from(["$", "$$", "${A}", "$${A}", "$A", "{{ x }}", "{% x %}", "\x85", "\u2028", "\x7f"])
TEXT = st.text(max_size=20) | st.lists(PIECE, max_size=4).map("".join)
SCALAR = TEXT | st.booleans() | st.integers() | st.none()
VALUE = SCALAR | st.lists(SCALAR, max_size=3) | st.dictionaries(TEXT, SCALAR, max_size=3)
HOSTILE = [
    "pa$w0rd",
    "$HOME ${HOME} $$HOME $${HOME}",
    "yes",
    "012",
    "12:34:56",
    "1e3",
    "null",
    "~",
    "a # c",
    "a: b",
    "- a",
    "\n  evil: true\n",
    '"\\',
    "'",
    "{{ 7*7 }}{% raw %}{# x #}",
    "&a *a !!int <<",
    "%YAML 1.2",
    "---\n...\n",
    "\t\r\n",
    "\0\x01\x1b\x7f\x85\xa0\ufeff\ufffe\uffff",
    "\u2028\u2029",
    "漢字 😀 é",
    "",
    " ",
    "x" * 5000,
]


def docker_reads(text: str) -> Any:
    """Read a stack file as `docker stack deploy` does: parse, then substitute variables in values."""
    return substituted(yaml.safe_load(text))


def substituted(value: Any) -> Any:
    """Substitute as Docker does: `$$` is a dollar, any other `$NAME` or `${NAME}` is a variable that nobody set."""
    if isinstance(value, str):
        return re.sub(r"\$(?:(\$)|\w+|\{[^}]*\})", lambda match: match[1] or "", value)
    if isinstance(value, list):
        return [substituted(item) for item in value]
    if isinstance(value, dict):
        return {key: substituted(item) for key, item in value.items()}
    return value


def stack(value: Any) -> dict[str, Any]:
    """Make a stack whose only service says something."""
    sections = {section: {"one": {"external": True}} for section in ("configs", "secrets", "volumes", "networks")}
    return {"version": "3.9", "services": {"agent": {"environment": {"SAYS": value}}}, **sections}


@pytest.mark.parametrize("text", HOSTILE)
def test_docker_reads_a_hostile_value_as_it_was_meant(text: str) -> None:
    """Dollars, YAML's traps and control characters reach the container as they were written."""
    intended = stack(text)
    assert docker_reads(render_yaml("stack/fleet.yml.j2", intended)) == intended


@given(VALUE)
def test_docker_reads_any_value_as_it_was_meant(value: Any) -> None:
    """Parsed and substituted, the stack file is the object it was made from; keys are ours and have no dollars."""
    intended = stack([text_keys(value)])
    assert docker_reads(render_yaml("stack/fleet.yml.j2", intended)) == intended


def text_keys(value: Any) -> Any:
    """Replace keys by our own."""
    if isinstance(value, list):
        return [text_keys(item) for item in value]
    if isinstance(value, dict):
        return {f"k{index}": text_keys(item) for index, item in enumerate(value.values())}
    return value


def test_a_stack_value_has_no_single_dollar() -> None:
    """No dollar is left for `docker stack deploy` to interpolate."""
    text = render_yaml("stack/fleet.yml.j2", stack("pa$w0rd $ ${A} $${A}"))
    assert '"pa$$w0rd $$ $${A} $$$${A}"' in text


@pytest.mark.parametrize("text", HOSTILE)
def test_json_holds_a_hostile_value_as_it_was_meant(text: str) -> None:
    """openclaw.json is plain JSON, whatever a user wrote."""
    intended = {"says": {"text": text, "list": [text, {"deep": text}]}, "last": text}
    assert json.loads(render_json("openclaw/openclaw.json.j2", intended)) == intended


@given(st.dictionaries(TEXT, VALUE, min_size=1, max_size=3))
def test_json_holds_any_object(intended: dict[str, Any]) -> None:
    """Parsed, the file is the object it was made from, keys included."""
    assert json.loads(render_json("openclaw/openclaw.json.j2", intended)) == intended


def test_text_is_readable_in_both() -> None:
    """Letters of any script stay letters."""
    assert "Grüße 漢 😀" in render_json("openclaw/openclaw.json.j2", {"says": "Grüße 漢 😀"})
    assert "Grüße 漢 😀" in render_yaml("stack/fleet.yml.j2", stack("Grüße 漢 😀"))


@pytest.fixture
def template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the path of a template that `bad.j2` names."""
    rendering._environment.cache_clear()
    monkeypatch.setattr(rendering, "directory", lambda _: tmp_path)
    yield tmp_path / "bad.j2"
    rendering._environment.cache_clear()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": {{ config.a }} }', "bad.j2 rendered no JSON: "),
        ("", "bad.j2 rendered no JSON: "),
        ('{"a": "{{ config.a }}", "b": 1}', "bad.j2 rendered another object than intended"),
    ],
)
def test_json_that_is_not_what_was_meant_is_never_returned(text: str, problem: str, template: Path) -> None:
    """A template that forgets its filter, or adds something, is an error."""
    template.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        render_json("bad.j2", {"a": "x y"})
    assert caught.value.message.startswith(problem)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: {{ stack.a }}", "bad.j2 rendered no YAML: "),
        ("a: '{{ stack.a }}'", "bad.j2 rendered another stack than intended"),
        ("a: {{ stack.a | stack }}\nb: 1", "bad.j2 rendered another stack than intended"),
    ],
)
def test_yaml_that_is_not_what_was_meant_is_never_returned(text: str, problem: str, template: Path) -> None:
    """A template that forgets its filter, or adds something, is an error."""
    template.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        render_yaml("bad.j2", {"a": "{ $$: "})
    assert caught.value.message.startswith(problem)

"""The Jinja environment; renders JSON and YAML and never returns text that does not parse to what was meant.

Jinja and YAML are imported by who renders: commands that only compare do not need them.
"""

import gc
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from mosaic_fleet.errors import ConfigurationError
from mosaic_fleet.resources import directory

if TYPE_CHECKING:
    from jinja2 import Environment

# Characters that JSON may hold as they are and YAML may not; some also end a line for Jinja's `indent`.
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def render_json(template: str, intended: dict[str, Any]) -> str:
    """Render a JSON file from the object it must parse to; raises ConfigurationError when it does not."""
    text = _environment().get_template(template).render(config=intended)
    try:
        same = json.loads(text) == intended
    except ValueError as error:
        raise ConfigurationError(f"{template} rendered no JSON: {error}") from error
    if not same:
        raise ConfigurationError(f"{template} rendered another object than intended")
    return text


def render_yaml(template: str, intended: dict[str, Any]) -> str:
    """Render a stack file from the object that Docker must read; raises ConfigurationError when it would not."""
    import yaml

    text = _environment().get_template(template).render(stack=intended)
    try:
        parsed = _load_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{template} rendered no YAML: {error}") from error
    if _interpolated(parsed) != json.dumps(intended):
        raise ConfigurationError(f"{template} rendered another stack than intended")
    return text


def parse_yaml(text: str) -> dict[str, Any]:
    """Read a stack file that render_yaml() wrote, as Docker reads it."""
    return dict(json.loads(_interpolated(_load_yaml(text))))


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep the garbage collector from walking growing objects again and again: two thirds of a large render."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _load_yaml(text: str) -> Any:
    import yaml

    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506  # a safe loader


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(  # noqa: S701  # JSON and YAML: values enter through their own filters
        loader=FileSystemLoader(directory("templates")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["json"] = lambda value: _printable(json.dumps(value, ensure_ascii=False, indent=2))
    environment.filters["stack"] = _stack_value
    return environment


def _stack_value(value: Any) -> str:
    """Quote a value as JSON, which YAML reads, and keep `docker stack deploy` from interpolating its dollars."""
    return _printable(json.dumps(value, ensure_ascii=False).replace("$", "$$"))


def _printable(text: str) -> str:
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _interpolated(parsed: Any) -> str:
    """Write what a stack file says to Docker, for which `$$` is a dollar, as JSON; a value JSON lacks as its name."""
    return json.dumps(parsed, default=repr).replace("$$", "$")

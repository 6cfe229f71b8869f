"""Variables of a hand-made fleet: env files, and what stands as `${NAME}` in other files."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import StringIO

from dotenv.parser import Binding, parse_stream

from mosaic_fleet.errors import ConfigurationError

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
# $$, ${NAME}, ${NAME:-text}, ${NAME:?text}, ${NAME:+text}, each also without the colon, and $NAME.
_REFERENCE = re.compile(
    rf"\$(?:(?P<dollar>\$)|\{{(?P<braced>{_NAME})(?:(?P<how>:?[-?+])(?P<text>(?:[^{{}}]|\{{[^{{}}]*\}})*))?\}}"
    rf"|(?P<bare>{_NAME}))"
)

Missing = Callable[[str, bool], str]


@dataclass(frozen=True)
class Variable:
    """A variable's value and where it is set."""

    value: str = field(repr=False)
    place: str


def read(text: str, file: str, known: Mapping[str, str]) -> dict[str, Variable]:
    """Read an env file: comments, `export`, quotes, and `${NAME}` of what is known by then, as compose does.

    Raises ConfigurationError naming the line.
    """
    found: dict[str, Variable] = {}
    for binding in parse_stream(StringIO(text)):
        line = binding.original.line + _blank_lines(binding)
        if binding.error:
            raise ConfigurationError(f"{file}:{line}: this is no NAME=value")
        if binding.key is not None and binding.value is not None:
            values = {**known, **{name: one.value for name, one in found.items()}}
            value = binding.value if _is_literal(binding) else _filled(binding.value, values)
            found[binding.key] = Variable(value, f"{file}:{line}")
    return found


def substitute(text: str, values: Mapping[str, str], missing: Missing) -> str:
    """Fill in a compose file's variables.

    `missing` gets the name of one that is not set, and whether it must be; it says what stands for it, or raises.
    """

    def one(match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$"
        name, how, rest = match["braced"] or match["bare"], match["how"] or "", match["text"] or ""
        value = values.get(name)
        good = bool(value) if how.startswith(":") else value is not None
        if how.endswith("+"):
            return substitute(rest, values, missing) if good else ""
        if good:
            return str(value)
        return substitute(rest, values, missing) if how.endswith("-") else missing(name, how.endswith("?"))

    return _REFERENCE.sub(one, text)


def _filled(text: str, values: Mapping[str, str]) -> str:
    """Fill in what is known; a dollar sign that means nothing known may be part of a key."""

    def one(match: re.Match[str]) -> str:
        known = (match["braced"] or match["bare"]) in values or match["how"]
        return substitute(match[0], values, lambda *_: "") if known else match[0]

    return _REFERENCE.sub(one, text)


def _is_literal(binding: Binding) -> bool:
    return binding.original.string.partition("=")[2].lstrip().startswith("'")


def _blank_lines(binding: Binding) -> int:
    """Count the empty lines that the parser puts before what it found."""
    text = binding.original.string
    return text[: len(text) - len(text.lstrip())].count("\n")

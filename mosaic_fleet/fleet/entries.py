"""YAML as entries: values that know their place, so that whoever refuses one can name line and key."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, NoReturn

import yaml

from mosaic_fleet.errors import ConfigurationError, MosaicError
from mosaic_fleet.names import parse_size

_MOST_ENTRIES = 100_000  # aliases of aliases unfold without end
_LONGEST_PATH = 300  # an alias inside itself unfolds without end too
_DEEPEST = 50  # composing recurses in C, which ends the process when it goes too deep
_MERGE = "<<"
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Entry:
    """A value of a file and where it stands: `path` is dotted keys, `line` counts from 1, `raw` is a word as written.

    `file` is "" where whoever reads names the file; `line` is 0 where nobody knows it.
    """

    value: Any = field(repr=False)
    path: str
    line: int
    raw: str = field(repr=False, default="")
    file: str = ""

    @property
    def place(self) -> str:
        """Say where it stands."""
        if not self.file:
            return f"line {self.line}"
        return f"{self.file}:{self.line}" if self.line else self.file

    def fail(self, problem: str) -> ConfigurationError:
        """Describe what is wrong with it."""
        return ConfigurationError(f"{self.place}: {self.path or 'the file'}: {problem}")


Reader = Callable[[Entry], Any]


def compose(text: str, *, merge: bool = False, file: str = "") -> Entry:
    """Parse YAML into entries; with `merge` the key `<<` brings in another mapping's keys, as YAML 1.1 says.

    Raises ConfigurationError naming the line.
    """
    loader = _Loader(text)
    try:
        _check_depth(text, file)
        node = loader.get_single_node()
        if node is None:
            raise _broken(file, 1, "the file is empty")
        return _Composer(loader, merge, file).entry(node, "")
    except yaml.MarkedYAMLError as error:
        raise _broken(file, _line(error.problem_mark), f"this is no YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        said = str(error).partition("\n")[0]
        raise ConfigurationError(f"{file + ': ' if file else ''}this is no YAML: {said}") from None
    finally:
        loader.dispose()


def section(entry: Entry, readers: Mapping[str, Reader]) -> dict[str, Any]:
    """Read a mapping's known keys; raises on an unknown one, naming the nearest."""
    values = {}
    for key, child in mapping(entry).items():
        if key not in readers:
            near = get_close_matches(key, readers, n=1) or sorted(readers)
            raise child.fail(f"unknown key, did you mean {' or '.join(near)}?")
        values[key] = readers[key](child)
    return values


def mapping(entry: Entry) -> Mapping[str, Entry]:
    """Read a mapping."""
    return entry.value if isinstance(entry.value, dict) else _refuse(entry, "must be a mapping of keys to values")


def items(entry: Entry) -> list[Entry]:
    """Read a list."""
    return entry.value if isinstance(entry.value, list) else _refuse(entry, "must be a list")


def text(entry: Entry) -> str:
    """Read a text."""
    return entry.value if isinstance(entry.value, str) else _refuse(entry, "must be text; quote it")


def texts(entry: Entry) -> list[str]:
    """Read a list of texts."""
    return [text(one) for one in items(entry)]


def number(entry: Entry) -> Any:
    """Read a number."""
    good = isinstance(entry.value, int | float) and not isinstance(entry.value, bool)
    return entry.value if good else _refuse(entry, "must be a number")


def switch(entry: Entry) -> bool:
    """Read true or false."""
    return entry.value if isinstance(entry.value, bool) else _refuse(entry, "must be true or false")


def size(entry: Entry) -> int:
    """Read a size such as 2G as bytes."""
    try:
        return parse_size(str(entry.value))
    except MosaicError as error:
        raise entry.fail(error.message) from error


def _refuse(entry: Entry, problem: str) -> NoReturn:
    raise entry.fail(problem)


def _broken(file: str, line: int, problem: str) -> ConfigurationError:
    return ConfigurationError(f"{Entry(None, '', line, file=file).place}: {problem}")


def _check_depth(text: str, file: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise _broken(file, _line(event.start_mark), "the file is nested too deep")


def _line(mark: Any) -> int:
    return mark.line + 1 if mark else 1


@dataclass
class _Composer:
    """Turns YAML's nodes into entries and counts them."""

    loader: Any
    merge: bool
    file: str
    count: int = 0
    merging: int = 0

    def entry(self, node: Any, path: str) -> Entry:
        at = Entry(None, path, _line(node.start_mark), file=self.file)
        self.count += 1
        if self.count > _MOST_ENTRIES or len(path) > _LONGEST_PATH:
            raise _broken(self.file, at.line, "the file unfolds to too many values")
        if isinstance(node, yaml.MappingNode):
            return Entry(self._children(node, path), path, at.line, file=self.file)
        if isinstance(node, yaml.SequenceNode):
            found = [self.entry(item, f"{path}[{index}]") for index, item in enumerate(node.value)]
            return Entry(found, path, at.line, file=self.file)
        try:
            return Entry(self.loader.construct_object(node), path, at.line, str(node.value), self.file)
        except (ValueError, LookupError, AttributeError):  # a date without such a day, a tag unlike its text
            raise at.fail("this is no value; quote it if it is text") from None

    def _children(self, node: Any, path: str) -> dict[str, Entry]:
        children: dict[str, Entry] = {}
        merged: dict[str, Entry] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            at = Entry(None, f"{path}.{key}" if path else key, _line(key_node.start_mark), file=self.file)
            if not isinstance(key_node, yaml.ScalarNode) or not key or not key.isprintable():
                raise Entry(None, path, at.line, file=self.file).fail("its keys must be words")
            if self.merge and key == _MERGE:
                merged = self._merged(value_node, path) | merged
                continue
            if key in children:
                raise at.fail("this key stands here twice")
            child = self.entry(value_node, at.path)
            children[key] = Entry(child.value, child.path, at.line, child.raw, self.file)
        return merged | children

    def _merged(self, node: Any, path: str) -> dict[str, Entry]:
        """Read the keys of the mappings behind `<<`: of several the first one that has a key counts."""
        self.merging += 1
        if self.merging > _DEEPEST:  # a mapping that merges itself
            raise _broken(self.file, _line(node.start_mark), "the file unfolds to too many values")
        merged: dict[str, Entry] = {}
        for one in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(one, yaml.MappingNode):
                at = Entry(None, path, _line(one.start_mark), file=self.file)
                raise at.fail("<< takes a mapping or a list of mappings")
            merged = dict(mapping(self.entry(one, path))) | merged
        self.merging -= 1
        return merged

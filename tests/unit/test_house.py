"""The manners of the house, read from the source: who may do what, how large things get, what is documented."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mosaic_fleet"

# An outside library and the only modules that may import it; a folder ends with a slash.
OWNERS = {
    "docker": {"runtimes/"},
    "subprocess": {"runtimes/", "db/embedded.py", "db/programs.py"},
    "typer": {"cli/"},
    "rich": {"cli/"},
    "fastapi": {"web/"},
    "starlette": {"web/"},
    "uvicorn": {"web/"},
    "uvloop": {"web/"},
    "jinja2": {"rendering.py"},
    "cryptography": {"sealing.py"},
    "bcrypt": {"passwords.py"},
    "httpx": {"outbound.py"},
    "httpcore": {"outbound.py"},
    "psycopg": {"db/"},
    "sqlalchemy": {"db/", "keyring.py"},
    "alembic": {"db/migrations/"},
    "yaml": {"rendering.py", "fleet/", "runtimes/"},
    "pyjson5": {"fleet/handmade/configs.py"},
    "dotenv": {"fleet/handmade/variables.py"},
}
FILE_LINES = {"db/tables.py": 600}
BANNED_NAMES = {"utils", "util", "helpers", "helper", "manager", "managers", "common", "misc", "service", "services"}


@dataclass(frozen=True)
class Module:
    """A source file of the package."""

    path: str
    lines: int
    tree: ast.Module

    def __str__(self) -> str:
        """Name it in a test's id."""
        return self.path


def _read(path: Path) -> Module:
    text = path.read_text("utf-8")
    return Module(path.relative_to(PACKAGE).as_posix(), len(text.splitlines()), ast.parse(text))


MODULES = [_read(path) for path in sorted(PACKAGE.rglob("*.py")) if "migrations/versions" not in path.as_posix()]
each_module = pytest.mark.parametrize("module", MODULES, ids=str)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(module: Module) -> Iterator[Function]:
    """Yield the functions and methods of a module."""
    return (node for node in ast.walk(module.tree) if isinstance(node, Function))


def public(module: Module) -> Iterator[Function | ast.ClassDef]:
    """Yield what others may use: functions and classes, and methods of classes, without an underscore."""
    for node in module.tree.body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            for inner in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(inner, Function) and not inner.name.startswith("_"):
                    yield inner


def length(node: Function) -> int:
    """Count the lines of a function without its docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def imports(module: Module) -> set[str]:
    """Name the top-level packages that a module imports, late imports included and those for types only not."""
    for_types = {
        id(inner)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    names: set[str] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import) and id(node) not in for_types:
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and id(node) not in for_types:
            names.add(node.module.partition(".")[0])
    return names


def calls(module: Module) -> set[str]:
    """Name what a module calls or reads, as it is written: `os.environ`, `print`, `session.commit`."""
    return {ast.unparse(node) for node in ast.walk(module.tree) if isinstance(node, ast.Attribute | ast.Name)}


def within(module: Module, places: set[str]) -> bool:
    """Tell whether a module is one of these files or lies in one of these folders."""
    return any(module.path.startswith(place) if place.endswith("/") else module.path == place for place in places)


@each_module
def test_only_settings_reads_the_environment(module: Module) -> None:
    """Two variables rule, and one module knows where they come from."""
    if module.path != "settings.py":
        assert not calls(module) & {"os.environ", "os.getenv", "environ", "getenv"}


@each_module
def test_only_the_database_commits(module: Module) -> None:
    """Rooms flush; the one who opened the transaction commits."""
    if module.path != "db/database.py":
        assert not [name for name in calls(module) if name.endswith((".commit", ".rollback"))]


@each_module
def test_only_the_door_prints(module: Module) -> None:
    """Rooms return values and raise errors; nothing but the command line writes to the terminal."""
    if not within(module, {"cli/"}):
        assert not calls(module) & {"print", "sys.stdout", "input"}
        assert "sys.stderr" not in calls(module) or module.path == "logs.py"


@each_module
@pytest.mark.parametrize("library", OWNERS)
def test_a_library_has_one_owner(library: str, module: Module) -> None:
    """Whoever replaces a library changes one place."""
    assert library not in imports(module) or within(module, OWNERS[library])


@each_module
def test_nothing_is_too_large(module: Module) -> None:
    """A file fits a reader's head, a function a screen, a signature a line of thought."""
    assert module.lines <= FILE_LINES.get(module.path, 400)
    assert {node.name: length(node) for node in functions(module) if length(node) > 60} == {}
    assert {node.name: crowd for node in functions(module) if (crowd := _crowd(module, node))} == {}


def _crowd(module: Module, node: Function) -> int:
    """Count the parameters of a function that has too many; a command's are its options, which are many."""
    if module.path.startswith("cli/") and node.decorator_list:
        return 0
    arguments = node.args
    named = [one.arg for one in arguments.posonlyargs + arguments.args if one.arg not in ("self", "cls")]
    count = len(named) + len(arguments.kwonlyargs)
    return count if count > 5 else 0


def test_functions_are_short_on_the_whole() -> None:
    """Half of them have at most 8 lines, nine in ten at most 25."""
    lengths = [length(node) for module in MODULES for node in functions(module)]
    assert median(lengths) <= 8
    assert quantiles(lengths, n=10)[-1] <= 25


def test_files_are_short_on_the_whole() -> None:
    """Half of the modules have at most 130 lines."""
    assert median(module.lines for module in MODULES) <= 130


@each_module
def test_every_public_thing_is_documented(module: Module) -> None:
    """Modules, classes and public functions say in a sentence what they are for."""
    assert ast.get_docstring(module.tree) or module.lines == 0
    assert [node.name for node in public(module) if not _says_something(node)] == []


def _says_something(node: Function | ast.ClassDef) -> bool:
    text = ast.get_docstring(node)
    return text is not None and text[0].isupper() | (text[0] in "`(") and text.split("\n")[0].rstrip()[-1] in ".…:"


@each_module
def test_names_say_what_a_thing_is(module: Module) -> None:
    """No module or class is named after a drawer into which anything fits."""
    assert not set(module.path.removesuffix(".py").split("/")) & BANNED_NAMES
    classes = [node.name for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)]
    endings = ("Manager", "Helper", "Util", "Utils", "Repository", "Dto")
    assert [name for name in classes if name.endswith(endings)] == []


def _tests() -> list[Path]:
    return sorted((ROOT / "tests").rglob("test_*.py"))


@pytest.mark.parametrize("path", _tests(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_test_says_what_it_shows(path: Path) -> None:
    """Each test states in a sentence the behaviour that it shows."""
    tests = [
        node
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, Function) and node.name.startswith("test_")
    ]
    assert [node.name for node in tests if not ast.get_docstring(node)] == []

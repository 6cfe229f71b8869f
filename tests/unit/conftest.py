"""What every unit test gets: an environment of its own, and the command line as a function."""

import os
import pkgutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from typer.testing import CliRunner, Result

import mosaic_fleet
from mosaic_fleet import logs
from mosaic_fleet.cli import app

Run = Callable[..., Result]

# A busy machine must not fail a property: no deadline, and few enough examples for the five seconds. `make test` tries
# the same ones each time, so that what it says of a commit is about that commit; by hand each run tries others. What
# hypothesis draws depends on the constants of the modules that are loaded: so all of them are.
if "MOSAIC_TEST_PROVISIONED" in os.environ:
    for module in pkgutil.walk_packages(mosaic_fleet.__path__, "mosaic_fleet."):
        if ".migrations." not in module.name and not module.name.endswith("__main__"):
            import_module(module.name)
settings.register_profile(
    "unit",
    max_examples=60,
    deadline=None,
    derandomize="MOSAIC_TEST_PROVISIONED" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("unit")


@pytest.fixture(autouse=True)
def clean_environ(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Start from an empty environment whose directories are the test's own."""
    for name in ("DATABASE_URL", "DATABASE_URL_FILE", "MOSAIC_SECRET_KEY", "MOSAIC_SECRET_KEY_FILE", "MOSAIC_NO_INPUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture(autouse=True)
def no_registered_secrets() -> None:
    """Forget the secrets that an earlier test registered."""
    logs.forget()


@pytest.fixture
def run() -> Run:
    """Return a function that runs `mosaic` with these words and gives its output and exit code."""
    runner = CliRunner()
    return lambda *words, input=None: runner.invoke(app, list(words), prog_name="mosaic", input=input)

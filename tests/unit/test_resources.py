"""Where templates and stacks are found."""

from pathlib import Path

import pytest

from mosaic_fleet import resources
from mosaic_fleet.errors import ConfigurationError


def packaged(tmp_path: Path, *folders: str) -> Path:
    """Lay out a package in a checkout and return the package."""
    for folder in ("package", *folders):
        (tmp_path / folder).mkdir()
    return tmp_path / "package"


@pytest.mark.parametrize(
    ("name", "file"),
    [("templates", "openclaw/openclaw.json.j2"), ("templates", "stack/fleet.yml.j2"), ("stacks", "jarvis.yml")],
)
def test_what_is_shipped_is_found(name: str, file: str) -> None:
    """Each folder is found with what is rendered or imported from it."""
    assert (resources.directory(name) / file).is_file()


def test_the_packaged_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package uses its own folder even where a checkout's lies beside it."""
    package = packaged(tmp_path, "package/templates", "templates")
    monkeypatch.setattr(resources, "_PACKAGE", package)
    assert resources.directory("templates") == package / "templates"


def test_a_checkout_uses_the_folder_beside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a checkout the folders lie beside the package."""
    monkeypatch.setattr(resources, "_PACKAGE", packaged(tmp_path, "stacks"))
    assert resources.directory("stacks") == tmp_path / "stacks"


def test_a_missing_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken installation says which folder it misses."""
    monkeypatch.setattr(resources, "_PACKAGE", packaged(tmp_path))
    with pytest.raises(ConfigurationError, match=r"^the folder 'stacks' is missing from this installation$"):
        resources.directory("stacks")

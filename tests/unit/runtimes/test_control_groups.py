"""Containers' memory as the kernel of this host counts it, wherever Docker put them."""

from pathlib import Path

import pytest

from mosaic_fleet.runtimes import control_groups

UNIFIED = {"memory.current": "3000\n", "memory.stat": "anon 1000\ninactive_file 2000\nactive_file 7\n"}
LEGACY = {"memory.usage_in_bytes": "3000\n", "memory.stat": "inactive_file 5\ntotal_inactive_file 2000\n"}


def fill(folder: Path, files: dict[str, str]) -> None:
    """Make a control group with these files."""
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text, "ascii")


@pytest.mark.parametrize(
    ("place", "files"),
    [
        ("system.slice/docker-abc.scope", UNIFIED),
        ("docker/abc", UNIFIED),
        ("memory/system.slice/docker-abc.scope", LEGACY),
        ("memory/docker/abc", LEGACY),
    ],
)
def test_files_that_may_be_dropped_do_not_count(tmp_path: Path, place: str, files: dict[str, str]) -> None:
    """Of what a container holds, the files nobody used lately are left out, in either version of control groups."""
    fill(tmp_path / place, files)
    assert control_groups.used("abc", tmp_path) == 1000


def test_it_is_never_less_than_nothing(tmp_path: Path) -> None:
    """The two figures are read one after the other: more may be droppable by then than was held before."""
    fill(tmp_path / "docker/abc", UNIFIED | {"memory.current": "1999"})
    assert control_groups.used("abc", tmp_path) == 0


def test_a_container_of_another_host_is_not_here(tmp_path: Path) -> None:
    """No control group, no figure."""
    fill(tmp_path / "docker/abc", UNIFIED)
    assert control_groups.used("xyz", tmp_path) is None
    assert control_groups.used("abc", tmp_path / "nowhere") is None

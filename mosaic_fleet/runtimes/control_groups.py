"""Reads containers' memory where the kernel of this host counts it: Docker's `stats` answers once a second."""

from contextlib import suppress
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
# Where Docker puts a container, by systemd and by itself: https://docs.docker.com/engine/containers/runmetrics/
_UNIFIED = ("system.slice/docker-{}.scope", "docker/{}")
_LEGACY = ("memory/system.slice/docker-{}.scope", "memory/docker/{}")


def used(container_id: str, root: Path = _ROOT) -> int | None:
    """Return a container's bytes of memory without the files that the kernel may drop, as `docker stats` counts.

    None when it does not run on this host, or where this process does not see it.
    """
    for place in _UNIFIED:
        with suppress(OSError):
            return _used(root / place.format(container_id), "memory.current", "inactive_file")
    for place in _LEGACY:
        with suppress(OSError):
            return _used(root / place.format(container_id), "memory.usage_in_bytes", "total_inactive_file")
    return None


def _used(group: Path, usage: str, droppable: str) -> int:
    held = int((group / usage).read_text("ascii"))
    counts = dict(line.split() for line in (group / "memory.stat").read_text("ascii").splitlines())
    return held - min(int(counts[droppable]), held)

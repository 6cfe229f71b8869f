"""Copies folders between volumes and containers as Docker packs them: nothing is started for it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from mosaic_fleet.runtimes import docker_command
from mosaic_fleet.runtimes.base import Folder
from mosaic_fleet.runtimes.endpoint import Endpoint

_AT = "/mosaic-volume"


def has(endpoint: Endpoint, folder: Folder, image: str) -> bool:
    """Tell whether there is such a folder."""
    with _opened(endpoint, folder, image) as (container, path):
        return endpoint.head("containers", container, "archive", path=path)


def copy(endpoint: Endpoint, source: Folder, target: Folder, image: str) -> bool:
    """Copy a folder's contents into another one that is there; False when there is no such source.

    Raises RuntimeFailure when Docker refuses either side.
    """
    with ExitStack() as stack:
        container, path = stack.enter_context(_opened(endpoint, source, image))
        if not endpoint.head("containers", container, "archive", path=path):
            return False
        into, at = stack.enter_context(_opened(endpoint, target, image))
        cp = [*endpoint.command, "cp"]
        docker_command.pipe([*cp, f"{container}:{path}/.", "-"], [*cp, "-", f"{into}:{at}"])
        return True


@contextmanager
def _opened(endpoint: Endpoint, folder: Folder, image: str) -> Iterator[tuple[str, str]]:
    """Yield a container in which a folder can be reached, and its path there."""
    if folder.container:
        yield folder.container, folder.path
        return
    mounts = [{"Type": "volume", "Source": folder.volume, "Target": _AT}]
    body = {"Image": image, "Cmd": ["true"], "HostConfig": {"NetworkMode": "none", "Mounts": mounts}}
    container = endpoint.post("containers", "create", body=body)["Id"]
    try:
        yield container, f"{_AT}/{folder.path}".rstrip("/")
    finally:
        endpoint.delete("containers", container, force="true")

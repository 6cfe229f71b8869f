"""Reaches into volumes by containers that are never started, and copies folders as Docker packs them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from mosaic_fleet.runtimes import docker_command
from mosaic_fleet.runtimes.base import Folder
from mosaic_fleet.runtimes.endpoint import Endpoint
from mosaic_fleet.runtimes.gateway_base import KIND_LABEL

_AT = "/mosaic-volume"
_KIND = "reach-into-volume"


@contextmanager
def mounted(endpoint: Endpoint, volume: str, image: str, at: str) -> Iterator[str]:
    """Yield a container that mounts a volume and is never started; it is gone afterwards, unless we are killed."""
    host = {"NetworkMode": "none", "Mounts": [{"Type": "volume", "Source": volume, "Target": at}]}
    body = {"Image": image, "Cmd": ["true"], "Labels": {KIND_LABEL: _KIND}, "HostConfig": host}
    container = str(endpoint.post("containers", "create", body=body)["Id"])
    try:
        yield container
    finally:
        endpoint.delete("containers", container, force="true")


def let_go(endpoint: Endpoint, volume: str) -> bool:
    """Remove such containers of a volume that somebody who was killed left behind; False when there are none."""
    filters = {"volume": [volume], "label": [f"{KIND_LABEL}={_KIND}"], "status": ["created"]}
    left = [item["Id"] for item in endpoint.get("containers", "json", all="true", filters=filters)]
    for container in left:
        endpoint.delete("containers", container, force="true")
    return bool(left)


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
    with mounted(endpoint, folder.volume, image, _AT) as container:
        yield container, f"{_AT}/{folder.path}".rstrip("/")

"""`SwarmRuntime`: a roster's stack as services on a Docker Swarm."""

import base64
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from io import BytesIO
from typing import Any

from mosaic_fleet.errors import Conflict, RuntimeFailure
from mosaic_fleet.runtimes import copying, docker_command
from mosaic_fleet.runtimes.base import DockerObject, Engine, Folder, Image, Kind, Network, Node, Service, Task
from mosaic_fleet.runtimes.containers import Containers
from mosaic_fleet.runtimes.endpoint import Refused

_IMAGE_LABEL = "com.docker.stack.image"
_VERSION_LABEL = "org.opencontainers.image.version"
_COLLECTION: dict[Kind, str] = {"docker_config": "configs", "docker_secret": "secrets"}
_ENDED = ("complete", "failed", "shutdown")
_DEPLOY_SECONDS = 120.0
_OUT_OF_SEQUENCE = "update out of sequence"  # Swarm writes to a service, too: how its update goes
_TRIES = 10
_HEADER_BYTES = 4096  # of a tar's entry, with what a size of many gigabytes is written in
_NOWHERE = "node.id == halted-by-mosaic"


class SwarmRuntime(Containers):
    """Docker at an endpoint, seen as a Swarm; implements StackRuntime."""

    def close(self) -> None:
        """Hang up; the next call dials again."""
        self._endpoint.close()

    def engine(self) -> Engine:
        """Describe the engine that answers."""
        return _engine(self._endpoint.get("info"))

    def nodes(self) -> list[Node]:
        """List the Swarm's nodes."""
        return [_node(item) for item in self._endpoint.get("nodes")]

    def image(self, ref: str) -> Image | None:
        """Find an image on this engine, None when it is not there."""
        item = self._endpoint.find("images", ref, "json")
        return _image(item) if item else None

    def pull(self, ref: str, *, report: Callable[[str], None]) -> Image:
        """Pull an image with the docker command's credentials, reporting progress a line at a time."""
        rest = b""
        for block in docker_command.stream([*self._endpoint.command, "pull", ref]):
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                report(line.decode(errors="replace"))
        image = self.image(ref)
        if not image:
            raise RuntimeFailure(f"the image {ref} was pulled and is not there")
        return image

    def network(self, name: str) -> Network | None:
        """Find a network by its exact name."""
        items = self._endpoint.get("networks", filters={"name": [name]})
        return next((_network(item) for item in items if item["Name"] == name), None)

    def create_network(self, name: str, *, labels: Mapping[str, str]) -> Network:
        """Create an attachable overlay network; raises Conflict when there is one of that name."""
        body = {"Name": name, "Driver": "overlay", "Attachable": True, "CheckDuplicate": True, "Labels": dict(labels)}
        # Not read back: until Swarm has allocated it, Docker tells no driver.
        return Network(self._create("networks", name, body)["Id"], name, "overlay", True, dict(labels))

    def services(self, stack: str) -> list[Service]:
        """List a stack's services, whoever made them."""
        return [_service(item) for item in self._endpoint.get("services", status="true", filters=_of_stack(stack))]

    def service(self, name: str) -> Service | None:
        """Find a service by its exact name, in whichever stack or in none."""
        items = self._endpoint.get("services", status="true", filters={"name": [name]})
        return next((_service(item) for item in items if item["Spec"]["Name"] == name), None)

    def tasks(self, stack: str) -> list[Task]:
        """List a stack's tasks, newest first, past ones included."""
        tasks = [_task(item) for item in self._endpoint.get("tasks", filters=_of_stack(stack))]
        return sorted(tasks, key=lambda task: datetime.fromisoformat(task.created), reverse=True)

    def docker_objects(self, labels: Mapping[str, str]) -> list[DockerObject]:
        """List the Docker configs and Docker secrets that carry all these labels."""
        return [
            _docker_object(kind, item)
            for kind, collection in _COLLECTION.items()
            for item in self._endpoint.get(collection, filters=_labelled(labels))
        ]

    def docker_object(self, kind: Kind, name: str) -> DockerObject | None:
        """Find a Docker config or Docker secret by its exact name."""
        items = self._endpoint.get(_COLLECTION[kind], filters={"name": [name]})
        return next((_docker_object(kind, item) for item in items if item["Spec"]["Name"] == name), None)

    def create_docker_object(self, kind: Kind, name: str, data: bytes, *, labels: Mapping[str, str]) -> DockerObject:
        """Create a Docker config or Docker secret; raises Conflict when there is one of that name."""
        body = {"Name": name, "Labels": dict(labels), "Data": base64.b64encode(data).decode()}
        return DockerObject(self._create(_COLLECTION[kind], name, body)["ID"], name, kind, dict(labels))

    def remove_docker_object(self, item: DockerObject) -> bool:
        """Remove it by id; False when a service still uses it, True when it is gone."""
        return self._remove(_COLLECTION[item.kind], item.id)

    def deploy_stack(self, stack: str, text: str) -> None:
        """Hand a stack file to Swarm without waiting and without asking a registry about images.

        What the file says is what services have then, whatever was changed on them by hand.
        """
        self._forget_images(stack)
        deploy = [*self._endpoint.command, "stack", "deploy"]
        waiting = ["--detach=true"]
        for _ in range(_TRIES):
            command = [*deploy, *waiting, "--resolve-image", "never", "-c", "-", stack]
            finished = docker_command.finish(command, stdin=text.encode(), seconds=_DEPLOY_SECONDS)
            if "unknown flag: --detach" in finished.stderr:  # Debian's docker 20.10, which never waits
                waiting = []
            elif _OUT_OF_SEQUENCE not in finished.stderr:
                break
        if finished.exit_code:
            raise RuntimeFailure(docker_command.failure(deploy, finished))

    def restart_service(self, service_id: str) -> None:
        """Have Swarm replace a service's task by another of the same spec, as an update, without waiting."""

        def again(spec: dict[str, Any]) -> dict[str, Any]:
            task = spec["TaskTemplate"]
            return spec | {"TaskTemplate": {**task, "ForceUpdate": task.get("ForceUpdate", 0) + 1}}

        self._update(service_id, again)

    def update_service(self, service_id: str, *, labels: Mapping[str, str]) -> None:
        """Add labels to a service; no task is touched."""
        self._update(service_id, lambda spec: spec | {"Labels": {**(spec.get("Labels") or {}), **labels}})

    def halt_service(self, service_id: str) -> None:
        """End a service's task and let the next one wait for ever; the container that ended stays to be read.

        By a constraint that no node fulfils: of a service without replicas Swarm removes the containers.
        """

        def halted(spec: dict[str, Any]) -> dict[str, Any]:
            task = spec["TaskTemplate"]
            placement = (task.get("Placement") or {}) | {"Constraints": [_NOWHERE]}
            order = {"UpdateConfig": {"Parallelism": 1, "Order": "stop-first", "FailureAction": "pause"}}
            return spec | order | {"TaskTemplate": task | {"Placement": placement}}

        self._update(service_id, halted)

    def remove_service(self, service_id: str) -> None:
        """Remove a service; its containers drain on. One that is gone already is no error."""
        self._endpoint.delete("services", service_id)

    def volumes(self, labels: Mapping[str, str]) -> list[str]:
        """List the names of this engine's volumes that carry all these labels."""
        found = self._endpoint.get("volumes", filters=_labelled(labels))["Volumes"]
        return [item["Name"] for item in found or []]

    def volume_labels(self, name: str) -> Mapping[str, str] | None:
        """Return a volume's labels, None when there is no such volume."""
        item = self._endpoint.find("volumes", name)
        return None if item is None else item["Labels"] or {}

    def create_volume(self, name: str, *, labels: Mapping[str, str]) -> None:
        """Create a local volume; one that is there already stays as it is."""
        self._endpoint.post("volumes", "create", body={"Name": name, "Driver": "local", "Labels": dict(labels)})

    def make_folder(self, volume: str, folder: str, *, image: str, at: str, file: str = "") -> None:
        """Make a folder of user 1000, mode 0700, in a volume that containers of `image` mount `at` a path.

        By a container that is never started: Docker unpacks an archive into its mounts.
        """
        with copying.mounted(self._endpoint, volume, image, at) as container:
            wanted = f"{folder}/{file}" if file and not self._has_content(container, f"{at}/{folder}/{file}") else ""
            self._endpoint.put("containers", container, "archive", body=_packed([".", folder], wanted), path=at)

    def has_folder(self, folder: Folder, *, image: str) -> bool:
        """Tell whether there is such a folder; `image` is any that is here."""
        return copying.has(self._endpoint, folder, image)

    def copy_folder(self, source: Folder, target: Folder, *, image: str) -> bool:
        """Copy a folder's contents into one of a volume that is there, owners and modes as they are.

        What is there of the same name is replaced, the rest stays. False when there is no such source.
        """
        return copying.copy(self._endpoint, source, target, image)

    def remove_volume(self, name: str) -> bool:
        """Remove a volume; False when a container still uses it, True when it is gone.

        What a killed make_folder() or copy_folder() left does not count, and goes first.
        """
        if self._remove("volumes", name):
            return True
        return copying.let_go(self._endpoint, name) and self._remove("volumes", name)

    def _has_content(self, container: str, path: str) -> bool:
        """Look at what is there, without fetching it: an agent may have made it of any size."""
        try:
            with closing(self._endpoint.stream("containers", container, "archive", path=path)) as packed:
                entry = _first(packed)
        except Refused as refusal:
            if refusal.status == 404:
                return False
            raise
        return bool(entry.size) or not entry.isfile()

    def _forget_images(self, stack: str) -> None:
        """Make `docker stack deploy` see images that were changed by hand.

        It compares the file with a label of its own and keeps the service's image when that one has not changed.
        """
        for item in self._endpoint.get("services", filters=_of_stack(stack)):
            spec = item["Spec"]
            image = spec["TaskTemplate"]["ContainerSpec"]["Image"]
            if (spec.get("Labels") or {}).get(_IMAGE_LABEL, image) not in (image, image.partition("@")[0]):
                self._update(item["ID"], _without_image)  # labels only: no task is touched

    def _update(self, service_id: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Change a service's spec, again from the start when Swarm wrote to the service in between."""
        for last in [False] * (_TRIES - 1) + [True]:
            item = self._endpoint.get("services", service_id)
            body, version = change(item["Spec"]), str(item["Version"]["Index"])
            try:
                self._endpoint.post("services", item["ID"], "update", body=body, version=version)
            except Refused as refusal:
                if last or _OUT_OF_SEQUENCE not in refusal.message:
                    raise
            else:
                return

    def _create(self, collection: str, name: str, body: dict[str, Any]) -> Any:
        try:
            return self._endpoint.post(collection, "create", body=body)
        except Refused as refusal:
            if refusal.status == 409:
                raise Conflict(f"docker has something named {name!r} among its {collection} already") from refusal
            raise

    def _remove(self, collection: str, name: str) -> bool:
        try:
            self._endpoint.delete(collection, name)
        except Refused as refusal:
            if "in use" in refusal.message:
                return False
            raise
        return True


def _without_image(spec: dict[str, Any]) -> dict[str, Any]:
    labels = spec.get("Labels") or {}
    return spec | {"Labels": {key: value for key, value in labels.items() if key != _IMAGE_LABEL}}


def _of_stack(stack: str) -> dict[str, list[str]]:
    return _labelled({"com.docker.stack.namespace": stack})


def _labelled(labels: Mapping[str, str]) -> dict[str, list[str]]:
    return {"label": [f"{key}={value}" for key, value in labels.items()]}


def _packed(folders: Sequence[str], file: str) -> bytes:
    """Pack empty folders and perhaps an empty file, all of user 1000 and nobody else's, into a tar."""
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in [*folders, *([file] if file else [])]:
            entry = tarfile.TarInfo(name)
            entry.uid = entry.gid = 1000
            entry.type, entry.mode = (tarfile.REGTYPE, 0o600) if name == file else (tarfile.DIRTYPE, 0o700)
            archive.addfile(entry)
    return packed.getvalue()


def _first(packed: Iterable[bytes]) -> tarfile.TarInfo:
    """Read the first entry of a tar from its beginning, and no further."""
    begun = bytearray()
    for block in packed:
        begun += block
        if len(begun) >= _HEADER_BYTES:
            break
    with tarfile.open(fileobj=BytesIO(begun), mode="r:") as archive:
        return next(iter(archive))


def _engine(info: dict[str, Any]) -> Engine:
    swarm = info["Swarm"]
    return Engine(
        version=info["ServerVersion"],
        swarm=swarm["LocalNodeState"],
        node_id=swarm["NodeID"],
        is_manager=swarm["ControlAvailable"],
        memory_bytes=info["MemTotal"],
        no_new_privileges="name=no-new-privileges" in (info["SecurityOptions"] or []),
    )


def _node(item: dict[str, Any]) -> Node:
    description = item["Description"]
    return Node(
        id=item["ID"],
        hostname=description["Hostname"],
        state=item["Status"]["State"],
        availability=item["Spec"]["Availability"],
        memory_bytes=description["Resources"]["MemoryBytes"],
        cpus=description["Resources"]["NanoCPUs"] / 1e9,
    )


def _image(item: dict[str, Any]) -> Image:
    labels = (item["Config"] or {}).get("Labels") or {}
    digests = item.get("RepoDigests") or [None]
    return Image(item["Id"], labels.get(_VERSION_LABEL, ""), digests[0])


def _network(item: dict[str, Any]) -> Network:
    return Network(item["Id"], item["Name"], item["Driver"], item["Attachable"], item["Labels"] or {})


def _docker_object(kind: Kind, item: dict[str, Any]) -> DockerObject:
    return DockerObject(item["ID"], item["Spec"]["Name"], kind, item["Spec"].get("Labels") or {})


def _service(item: dict[str, Any]) -> Service:
    spec, status, update = item["Spec"], item.get("ServiceStatus") or {}, item.get("UpdateStatus") or {}
    return Service(
        id=item["ID"],
        name=spec["Name"],
        labels=spec.get("Labels") or {},
        spec=spec,
        running=status.get("RunningTasks", 0),
        desired=status.get("DesiredTasks", 0),
        update_state=update.get("State", ""),
        update_message=update.get("Message", ""),
        update_started=update.get("StartedAt", ""),
    )


def _task(item: dict[str, Any]) -> Task:
    status = item["Status"]
    container = status.get("ContainerStatus") or {}
    container_id = container.get("ContainerID") or None
    return Task(
        id=item["ID"],
        service_id=item.get("ServiceID", ""),
        node_id=item.get("NodeID", ""),
        desired=item["DesiredState"],
        state=status["State"],
        since=status["Timestamp"],
        created=item["CreatedAt"],
        message=status.get("Message", ""),
        error=status.get("Err", ""),
        exit_code=container.get("ExitCode") if container_id and status["State"] in _ENDED else None,
        container_id=container_id,
        spec=item["Spec"],
    )

"""`FakeRuntime`: a Swarm in memory, honest because tests/docker/test_runtime_contract.py runs on it too.

It keeps of a stack file what our stacks say. A spec has Docker's own shape and
spelling (`TaskTemplate.ContainerSpec.Configs[].ConfigName`). Time is counted in calls of `tasks()`: a new task runs
after `polls_to_running` of them, and that is when it meets its failure, if `failures` has one for its service.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import yaml

from mosaic_fleet.errors import Conflict, RuntimeFailure
from mosaic_fleet.runtimes.base import (
    ContainerEnd,
    DockerObject,
    Engine,
    Finished,
    Folder,
    Image,
    Kind,
    LogLine,
    Network,
    Node,
    Service,
    Streams,
    Task,
)
from tests.fake_specs import mounted, names, spec

FAKE_IMAGE = "openclaw:fake"
_NOWHERE = "node.id == nowhere"
_OUTCOMES = {
    "updating": ("completed", "update completed"),
    "rollback_started": ("rollback_completed", "rollback completed"),
}
Program = Callable[[Sequence[str], bytes], Finished]


@dataclass(frozen=True)
class Failure:
    """How the tasks of a service end: Swarm's `state`, its `error`, the exit code, whether memory ran out."""

    state: str
    error: str = ""
    exit_code: int | None = None
    oom_killed: bool = False
    health: str = ""


def echo(command: Sequence[str], stdin: bytes) -> Finished:
    """Be `cat`: print what comes in."""
    return Finished(0, stdin.decode(), "")


@dataclass
class _Service:
    """A service, its tasks newest first, and the failure its present spec meets."""

    service: Service
    tasks: list[Task] = field(default_factory=list)
    previous: Mapping[str, Any] | None = None
    failure: Failure | None = None
    polls: int = 0


class FakeRuntime:
    """Implements StackRuntime in memory.

    To be set by a test: `images`, `failures` by service name (met by specs deployed from then on), `stderr` and
    `written` (lines of both streams) by service name, `programs` by the first word of a command, `used` (bytes of
    memory) by service name, `availability` of its node, `break_at` (the so manieth change fails, counted from 1).
    `files` are contents of volumes by name and path, and of containers by service name and absolute path.
    To be looked at: `changes` (what was changed, in order), `contents` of Docker objects by name, `runs` of run_once.
    """

    def __init__(self, *, polls_to_running: int = 1) -> None:
        self.polls_to_running = polls_to_running
        self.images = {FAKE_IMAGE: Image("sha256:" + "fa" * 32, "2026.9.6", None)}
        self.swarm = Engine("20.10.24", "active", "node1", True, 24 << 30, False)
        self.failures: dict[str, Failure] = {}
        self.stderr: dict[str, str] = {}
        self.written: dict[str, list[LogLine]] = {}
        self.used: dict[str, int] = {}
        self.availability = "active"
        self.programs: dict[str, Program] = {"cat": echo}
        self.break_at: int | None = None
        self.changes: list[str] = []
        self.contents: dict[str, bytes] = {}
        self.runs: list[dict[str, Any]] = []
        self.files: dict[str, dict[str, bytes]] = {}
        self._networks: dict[str, Network] = {}
        self._objects: dict[str, DockerObject] = {}
        self._volumes: dict[str, Mapping[str, str]] = {}
        self._services: dict[str, _Service] = {}
        self._ends: dict[str, ContainerEnd] = {}
        self._numbers = count(1)

    def engine(self) -> Engine:
        """Describe the engine."""
        return self.swarm

    def nodes(self) -> list[Node]:
        """List the one node."""
        return [Node(self.swarm.node_id, "fake", "ready", self.availability, self.swarm.memory_bytes, 12)]

    def image(self, ref: str) -> Image | None:
        """Find an image by its name or id."""
        return next((image for name, image in self.images.items() if ref in (name, image.id)), None)

    def pull(self, ref: str, *, report: Callable[[str], None]) -> Image:
        """Pull nothing: there is no registry, only what `images` has."""
        report(f"pulling {ref}")
        if image := self.image(ref):
            return image
        raise RuntimeFailure(f"docker pull {ref} failed: manifest unknown")

    def network(self, name: str) -> Network | None:
        """Find a network by its exact name."""
        return self._networks.get(name)

    def create_network(self, name: str, *, labels: Mapping[str, str]) -> Network:
        """Create an attachable overlay network."""
        self._change(f"create network {name}")
        if name in self._networks:
            raise Conflict(f"docker has something named {name!r} among its networks already")
        self._networks[name] = Network(self._id("n"), name, "overlay", True, dict(labels))
        return self._networks[name]

    def services(self, stack: str) -> list[Service]:
        """List a stack's services with how many tasks run."""
        return [_counted(one) for one in self._of_stack(stack)]

    def service(self, name: str) -> Service | None:
        """Find a service by its exact name."""
        return _counted(self._services[name]) if name in self._services else None

    def tasks(self, stack: str) -> list[Task]:
        """List a stack's tasks, newest first; each call brings them a step forward."""
        for one in self._of_stack(stack):
            self._advance(one)
        tasks = [task for one in self._of_stack(stack) for task in one.tasks]
        return sorted(tasks, key=lambda task: task.created, reverse=True)

    def docker_objects(self, labels: Mapping[str, str]) -> list[DockerObject]:
        """List the Docker configs and Docker secrets that carry all these labels."""
        return [item for item in self._objects.values() if labels.items() <= item.labels.items()]

    def docker_object(self, kind: Kind, name: str) -> DockerObject | None:
        """Find a Docker config or Docker secret by its exact name."""
        return next((item for item in self._objects.values() if (item.kind, item.name) == (kind, name)), None)

    def create_docker_object(self, kind: Kind, name: str, data: bytes, *, labels: Mapping[str, str]) -> DockerObject:
        """Create a Docker config or Docker secret."""
        self._change(f"create {kind} {name}")
        if self.docker_object(kind, name):
            raise Conflict(f"docker has something named {name!r} among its {kind}s already")
        item = DockerObject(self._id("o"), name, kind, dict(labels))
        self._objects[item.id] = item
        self.contents[name] = data
        return item

    def remove_docker_object(self, item: DockerObject) -> bool:
        """Remove it; False when a service uses it."""
        self._change(f"remove {item.kind} {item.name}")
        if any(item.name in names(one.service.spec) for one in self._services.values()):
            return False
        if self._objects.pop(item.id, None):
            del self.contents[item.name]
        return True

    def lose(self, item: DockerObject) -> None:
        """Lose a Docker object though services name it, as Swarm's own rollback can leave it: none of them starts."""
        del self._objects[item.id], self.contents[item.name]
        for one in [one for one in self._services.values() if item.name in names(one.service.spec)]:
            one.failure = Failure("rejected", f"{item.name} not found")
            for task in _alive(one):
                self._end(one, task, one.failure, desired="shutdown")
            self._settle_replicas(one)

    def deploy_stack(self, stack: str, text: str) -> None:
        """Create and update the services of a stack file, as `docker stack deploy` does."""
        self._change(f"deploy {stack}")
        wanted = json.loads(json.dumps(yaml.safe_load(text)).replace("$$", "$"))
        self._check_external(wanted)
        for name, service in wanted["services"].items():
            said = spec(stack, name, service, wanted)
            for network in said["TaskTemplate"]["Networks"]:
                known = self._networks.get(network["Target"])
                network["Target"] = known.id if known else network["Target"]
            if before := self._services.get(said["Name"]):
                said["TaskTemplate"]["ForceUpdate"] = before.service.spec["TaskTemplate"]["ForceUpdate"]
            self._put(said)

    def restart_service(self, service_id: str) -> None:
        """Replace the task of a service by another one."""
        self._change(f"restart service {service_id}")
        one = next((one for one in self._services.values() if one.service.id == service_id), None)
        if one is None:
            raise RuntimeFailure(f"docker refused: service {service_id} not found")
        self.edit(one.service.name, lambda said: said["TaskTemplate"].update(ForceUpdate=_forced(said) + 1))

    def edit(self, name: str, change: Callable[[dict[str, Any]], object]) -> None:
        """Change a service's spec as somebody does by hand with `docker service update`."""
        said = deepcopy(dict(self._services[name].service.spec))
        change(said)
        self._put(said)

    def update_service(self, service_id: str, *, labels: Mapping[str, str]) -> None:
        """Add labels to a service."""
        one = next((one for one in self._services.values() if one.service.id == service_id), None)
        if one is None:
            raise RuntimeFailure(f"docker refused: service {service_id} not found")
        self._change(f"update service {one.service.name}")
        marks = {**one.service.labels, **labels}
        one.service = replace(one.service, labels=marks, spec={**one.service.spec, "Labels": marks})

    def halt_service(self, service_id: str) -> None:
        """End a service's task; the next one waits for a node that there is not."""
        one = next((one for one in self._services.values() if one.service.id == service_id), None)
        if one is None:
            raise RuntimeFailure(f"docker refused: service {service_id} not found")
        self._change(f"halt service {one.service.name}")
        template = deepcopy(dict(one.service.spec["TaskTemplate"])) | {"Placement": {"Constraints": [_NOWHERE]}}
        one.service = replace(one.service, spec={**one.service.spec, "TaskTemplate": template})
        self._settle_replicas(one)

    def remove_service(self, service_id: str) -> None:
        """Remove a service and its tasks."""
        self._change(f"remove service {service_id}")
        self._services = {name: one for name, one in self._services.items() if one.service.id != service_id}

    def volumes(self, labels: Mapping[str, str]) -> list[str]:
        """List the names of volumes that carry all these labels."""
        return [name for name, marks in self._volumes.items() if labels.items() <= marks.items()]

    def volume_labels(self, name: str) -> Mapping[str, str] | None:
        """Return a volume's labels."""
        return self._volumes.get(name)

    def create_volume(self, name: str, *, labels: Mapping[str, str]) -> None:
        """Create a volume; one that is there stays as it is."""
        self._change(f"create volume {name}")
        self._volumes.setdefault(name, dict(labels))

    def make_folder(self, volume: str, folder: str, *, image: str, at: str, file: str = "") -> None:
        """Make a folder in a volume, and perhaps a file in it."""
        self._need(image)
        self._change(f"make folder {at}/{folder} in {volume}{f' with {file}' if file else ''}")
        self._volumes.setdefault(volume, {})
        self.files.setdefault(volume, {})[f"{folder}/"] = b""

    def has_folder(self, folder: Folder, *, image: str) -> bool:
        """Tell whether there is something below a path."""
        self._need(image)
        return bool(self._below(folder))

    def copy_folder(self, source: Folder, target: Folder, *, image: str) -> bool:
        """Copy what is below a path."""
        self._need(image)
        found = self._below(source)
        if not found:
            return False
        self._change(f"copy {source.container or source.volume}:{source.path} to {target.volume}:{target.path}")
        into = self.files.setdefault(target.volume, {})
        into |= {f"{target.path}/{name}".lstrip("/"): content for name, content in found.items() if name}
        return True

    def remove_volume(self, name: str) -> bool:
        """Remove a volume; False when a service mounts it."""
        self._change(f"remove volume {name}")
        if any(name in mounted(one.service.spec["TaskTemplate"]) for one in self._services.values() if one.tasks):
            return False
        self._volumes.pop(name, None)
        self.files.pop(name, None)
        return True

    def container_end(self, container_id: str) -> ContainerEnd | None:
        """Tell how a task's container ended."""
        return self._ends.get(container_id)

    def memory(self, container_ids: Sequence[str]) -> dict[str, int]:
        """Tell what `used` has for the running ones, 64 MiB where it has nothing."""
        running = [one for one in container_ids if one in self._ends and self._ends[one].running]
        return {one: self.used.get(self._owner(one).service.name, 64 << 20) for one in running}

    def logs(self, container_id: str, *, tail: int) -> str:
        """Return the last lines of what `stderr` has for the container's service."""
        lines = self.stderr.get(self._owner(container_id).service.name, "").splitlines(keepends=True)
        return "".join(lines[-tail:])

    def log_lines(self, container_id: str, *, after: str = "", follow: bool = False) -> Iterator[LogLine]:
        """Yield what `written` has for the container's service; nothing comes later."""
        del follow
        yield from [line for line in self.written.get(self._owner(container_id).service.name, []) if line.at > after]

    def run_once(
        self,
        image: str,
        command: Sequence[str],
        *,
        labels: Mapping[str, str],
        stdin: bytes = b"",
    ) -> Finished:
        """Run one of `programs`."""
        self.runs.append({"image": image, "command": [*command], "labels": labels, "stdin": stdin})
        if not self.image(image):
            raise RuntimeFailure(f"docker run failed: No such image: {image}")
        return self._run(command, stdin)

    def exec(self, container_id: str, command: Sequence[str], *, stdin: bytes) -> Iterator[bytes]:
        """Run one of `programs`, and yield what it prints a line at a time."""
        end = self._ends.get(container_id)
        if not end or not end.running:
            raise RuntimeFailure(f"docker exec failed: No such container: {container_id}")
        finished = self._run(command, stdin)
        yield from finished.stdout.encode().splitlines(keepends=True)
        if finished.exit_code:
            raise RuntimeFailure(f"docker exec failed: {finished.stderr}")

    def attach(self, container_id: str, command: Sequence[str], streams: Streams, *, terminal: bool) -> int:
        """Run one of `programs` on these streams."""
        self._owner(container_id)
        with os.fdopen(os.dup(streams.stdin), "rb") as stdin:
            finished = self._run(command, b"" if terminal else stdin.read())
        os.write(streams.stdout, finished.stdout.encode())
        os.write(streams.stderr, finished.stderr.encode())
        return finished.exit_code

    def _need(self, image: str) -> None:
        if not self.image(image):
            raise RuntimeFailure(f"No such image: {image}")

    def _below(self, folder: Folder) -> dict[str, bytes]:
        """Return what is below a path, by the rest of its path; a container's files are its service's in `files`."""
        owners = [
            one for one in self._services.values() if folder.container in [task.container_id for task in one.tasks]
        ]
        holder = folder.volume or next((one.service.name for one in owners), "")
        if folder.volume in self._volumes and not folder.path:
            return {"": b"", **self.files.get(holder, {})}
        start = f"{folder.path}/"
        found = self.files.get(holder, {})
        return {name.removeprefix(start): one for name, one in found.items() if name.startswith(start)}

    def _change(self, what: str) -> None:
        self.changes.append(what)
        if self.break_at == len(self.changes):
            raise RuntimeFailure(f"docker does not answer: broken on purpose at {what!r}")

    def _id(self, kind: str) -> str:
        return f"{kind}{next(self._numbers)}"

    def _now(self) -> str:
        return (datetime.now(UTC) + timedelta(microseconds=next(self._numbers))).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def _run(self, command: Sequence[str], stdin: bytes) -> Finished:
        program = self.programs.get(command[0])
        return program(command, stdin) if program else Finished(127, "", f"{command[0]}: not found")

    def _of_stack(self, stack: str) -> list[_Service]:
        mark = ("com.docker.stack.namespace", stack)
        return [one for one in self._services.values() if mark in one.service.labels.items()]

    def _owner(self, container_id: str) -> _Service:
        for one in self._services.values():
            if any(task.container_id == container_id for task in one.tasks):
                return one
        raise RuntimeFailure(f"docker refused: No such container: {container_id}")

    def _check_external(self, wanted: Mapping[str, Any]) -> None:
        kinds: dict[str, Kind] = {"configs": "docker_config", "secrets": "docker_secret"}
        for section, kind in kinds.items():
            for key, value in (wanted.get(section) or {}).items():
                if not self.docker_object(kind, value.get("name", key)):
                    raise RuntimeFailure(f"docker stack deploy failed: {section[:-1]} not found: {key}")
        for key, value in (wanted.get("networks") or {}).items():
            if value.get("name", key) not in self._networks.keys() | {"bridge", "host"}:
                raise RuntimeFailure(f'docker stack deploy failed: network "{key}" is declared as external, not found')

    def _put(self, wanted: Mapping[str, Any]) -> None:
        one = self._services.get(wanted["Name"])
        if one is None:
            one = _Service(Service(self._id("s"), wanted["Name"], wanted["Labels"], wanted, 0, 0))
            self._services[wanted["Name"]] = one
        elif one.service.spec["TaskTemplate"] == wanted["TaskTemplate"]:
            one.service = replace(one.service, labels=wanted["Labels"], spec=wanted)
        else:
            one.previous = one.service.spec
            one.service = replace(one.service, labels=wanted["Labels"], spec=wanted)
            self._update(one, "updating", "update in progress", started=self._now())
        one.failure = self._failure(wanted)
        self._settle_replicas(one)

    def _failure(self, wanted: Mapping[str, Any]) -> Failure | None:
        image = wanted["TaskTemplate"]["ContainerSpec"]["Image"]
        if not self.image(image):
            return Failure("rejected", f"No such image: {image}")
        return self.failures.get(wanted["Name"])

    def _settle_replicas(self, one: _Service) -> None:
        """Stop the tasks that are not wanted any more and make the one that is."""
        wanted = one.service.spec["Mode"]["Replicated"]["Replicas"]
        template = one.service.spec["TaskTemplate"]
        for task in _alive(one):
            if not wanted or task.spec != template:
                self._end(one, task, Failure("shutdown", exit_code=0), desired="shutdown")
        if wanted and not _alive(one):
            one.tasks.insert(0, self._task(one))
            one.polls = 0

    def _task(self, one: _Service) -> Task:
        now = self._now()
        return Task(
            id=self._id("t"),
            service_id=one.service.id,
            node_id=self.swarm.node_id,
            desired="running",
            state="preparing",
            since=now,
            created=now,
            message="preparing",
            error="",
            exit_code=None,
            container_id=None,
            spec=one.service.spec["TaskTemplate"],
        )

    def _advance(self, one: _Service) -> None:
        """Let a poll's worth of time pass for a service."""
        task = next(iter(_alive(one)), None)
        if task is None or task.state == "running":
            if one.service.update_state in _OUTCOMES:
                self._update(one, *_OUTCOMES[one.service.update_state])
            return
        if _NOWHERE in (task.spec.get("Placement") or {}).get("Constraints", []):
            self._replace(one, replace(task, state="pending", error="no suitable node"))
            return
        one.polls += 1
        if one.polls < self.polls_to_running:
            self._replace(one, replace(task, state="starting", since=self._now(), message="starting"))
        elif one.failure:
            self._end(one, task, one.failure, desired="shutdown")
            self._after_failure(one, task)
        else:
            started = replace(task, state="running", since=self._now(), message="started", container_id=f"c{task.id}")
            self._ends[f"c{task.id}"] = ContainerEnd(
                started=True, running=True, exit_code=0, oom_killed=False, health="healthy", last_probe=""
            )
            for name, labels in mounted(task.spec).items():
                self._volumes.setdefault(name, labels)
            self._replace(one, started)

    def _after_failure(self, one: _Service, task: Task) -> None:
        """Take a failed update back, once; try anything else again."""
        if one.service.update_state == "updating" and one.previous:
            one.service = replace(one.service, spec=one.previous, labels=one.previous["Labels"])
            one.failure = None
            why = f"update rolled back due to failure or early termination of task {task.id}"
            self._update(one, "rollback_started", why)
        self._settle_replicas(one)

    def _end(self, one: _Service, task: Task, failure: Failure, *, desired: str) -> None:
        container = f"c{task.id}" if failure.state != "rejected" else None
        if container:
            code = failure.exit_code or 0
            self._ends[container] = ContainerEnd(
                started=True,
                running=False,
                exit_code=code,
                oom_killed=failure.oom_killed,
                health=failure.health,
                last_probe="",
            )
        ended = replace(task, desired=desired, state=failure.state, since=self._now(), message=failure.state)
        self._replace(one, replace(ended, error=failure.error, exit_code=failure.exit_code, container_id=container))

    @staticmethod
    def _replace(one: _Service, task: Task) -> None:
        one.tasks = [task if other.id == task.id else other for other in one.tasks][:5]

    @staticmethod
    def _update(one: _Service, state: str, message: str, *, started: str | None = None) -> None:
        began = started or one.service.update_started
        one.service = replace(one.service, update_state=state, update_message=message, update_started=began)


def _forced(said: Mapping[str, Any]) -> int:
    return int(said["TaskTemplate"]["ForceUpdate"])


def _alive(one: _Service) -> list[Task]:
    return [task for task in one.tasks if task.desired == "running"]


def _counted(one: _Service) -> Service:
    running = sum(task.state == "running" for task in _alive(one))
    return replace(one.service, running=running, desired=one.service.spec["Mode"]["Replicated"]["Replicas"])

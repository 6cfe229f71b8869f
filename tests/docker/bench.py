"""The bench of the runtime contract: one StackRuntime, in memory or on a real Swarm, and what a test builds with."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mosaic_fleet.runtimes.base import Service, StackRuntime, Task
from tests.docker_run import wait_until
from tests.fakes import FakeRuntime

SPEAK_AND_FAIL = "echo said; echo wrong >&2; exit 3"


@dataclass(frozen=True)
class Bench:
    """A runtime, an image it has, names and labels for what a test makes; `fake` is None on a real Swarm."""

    runtime: StackRuntime
    image: str
    stack: str
    labels: dict[str, str]
    fake: FakeRuntime | None = None

    def name(self, what: str) -> str:
        """Name an object of this test."""
        return f"{self.stack}-{what}"

    def deploy(self, command: Sequence[str] = ("sleep", "600"), **service: Any) -> None:
        """Deploy a stack of one service `one`; `service` overrides its keys, `top` adds top-level ones."""
        top = service.pop("top", {})
        deploy = {
            "labels": self.labels,
            "restart_policy": {"condition": "any", "delay": "1s"},
            "update_config": self.update(),
            "rollback_config": {"order": "stop-first", "monitor": "1s"},
            **service.pop("deploy", {}),
        }
        one = {
            "image": self.image,
            "command": [*command],
            "labels": self.labels,
            "healthcheck": {"disable": True},
            "stop_grace_period": "1s",
            "networks": ["bridge"],
            "deploy": deploy,
            **service,
        }
        networks = {"bridge": {"external": True, "name": "bridge"}}
        stack = {"version": "3.9", "services": {"one": one}, "networks": networks, **top}
        self.runtime.deploy_stack(self.stack, json.dumps(stack))

    @staticmethod
    def update(*, monitor: str = "1s") -> dict[str, str]:
        """Return how Swarm updates the service, and how long it watches a task that runs."""
        return {"order": "stop-first", "failure_action": "rollback", "monitor": monitor}

    def service(self) -> Service:
        """Return the service `one`."""
        (service,) = self.runtime.services(self.stack)
        return service

    def read_volume(self, volume: str, path: str) -> str:
        """Read a file of a volume that the running container mounts at the first part of a path."""
        if self.fake:
            return self.fake.files[volume][path.split("/", 2)[2]].decode()
        return b"".join(self.runtime.exec(self.running_container(), ["cat", path], stdin=b"")).decode()

    def touch(self, path: str) -> None:
        """Make a file in the running container; what runs in memory looks for none."""
        if not self.fake:
            list(self.runtime.exec(self.running_container(), ["touch", path], stdin=b""))

    def task_that(self, fits: Callable[[Task], bool]) -> Task:
        """Wait for a task that fits, and return the newest."""
        return wait_until(lambda: next((task for task in self.runtime.tasks(self.stack) if fits(task)), None))

    def running_container(self) -> str:
        """Wait for a running task and return its container."""
        task = self.task_that(lambda task: task.state == "running" and task.desired == "running")
        assert task.container_id
        return task.container_id

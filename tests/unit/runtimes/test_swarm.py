"""What SwarmRuntime does when Swarm writes to a service between its reading and its writing."""

from pathlib import Path
from typing import Any, cast

import pytest

from mosaic_fleet.errors import RuntimeFailure
from mosaic_fleet.runtimes.endpoint import Endpoint, Refused
from mosaic_fleet.runtimes.swarm import SwarmRuntime

_WORDS = "docker refused: rpc error: code = Unknown desc = update out of sequence"


class _Swarm:
    """One service, of which Docker refuses `refusals` updates: in the meantime Swarm has counted its own."""

    def __init__(self, refusals: int, message: str = _WORDS) -> None:
        self._refusals, self._message = refusals, message
        self.spec: dict[str, Any] = {
            "Labels": {"old": "1"},
            "Mode": {"Replicated": {"Replicas": 1}},
            "TaskTemplate": {},
        }
        self.index = 7

    def get(self, *_path: str) -> dict[str, Any]:
        """Return the service as it is."""
        return {"ID": "one", "Version": {"Index": self.index}, "Spec": self.spec}

    def post(self, *path: str, body: dict[str, Any], version: str) -> None:
        """Take an update of the newest version, unless Swarm is to come first."""
        assert (path, version) == (("services", "one", "update"), str(self.index))
        if self._refusals:
            self._refusals -= 1
            self.index += 1
            self.spec = self.spec | {"TaskTemplate": {"ForceUpdate": self.index}}
            raise Refused(self._message, status=500)
        self.spec = body


def _runtime(swarm: _Swarm) -> SwarmRuntime:
    return SwarmRuntime(cast("Endpoint", swarm))


def test_a_restart_reads_a_service_again_that_swarm_wrote_to() -> None:
    """It counts on from what Swarm has by then."""
    swarm = _Swarm(refusals=3)
    _runtime(swarm).restart_service("one")
    assert swarm.spec["TaskTemplate"] == {"ForceUpdate": 11}


def test_labels_reach_a_service_that_swarm_wrote_to() -> None:
    """They are added to the service as it is by then."""
    swarm = _Swarm(refusals=1)
    _runtime(swarm).update_service("one", labels={"new": "2"})
    assert swarm.spec["Labels"] == {"old": "1", "new": "2"}
    assert swarm.spec["TaskTemplate"] == {"ForceUpdate": 8}


@pytest.mark.parametrize(("refusals", "message"), [(100, _WORDS), (1, "no such image")])
def test_what_docker_goes_on_refusing_is_a_failure(refusals: int, message: str) -> None:
    """Another refusal is told at once, this one in the end."""
    with pytest.raises(RuntimeFailure, match=message):
        _runtime(_Swarm(refusals, message)).restart_service("one")


def _stack_runtime(folder: Path, script: str) -> SwarmRuntime:
    """Return a runtime whose docker command is a script, and which knows no service yet."""
    command = folder / "docker"
    command.write_text(f'#!/bin/sh\ncat >/dev/null\necho "$@" >>{folder}/calls\n{script}\n')
    command.chmod(0o755)

    class Empty:
        def __init__(self) -> None:
            self.command = (str(command),)

        @staticmethod
        def get(*_path: str, **_query: Any) -> list[Any]:
            return []

    return SwarmRuntime(cast("Endpoint", Empty()))


def test_a_stack_is_deployed_again_when_swarm_wrote_to_a_service(tmp_path: Path) -> None:
    """The docker command is called until it is through."""
    words = "failed to update service x_one: Error response from daemon: rpc error: update out of sequence"
    script = f'[ "$(wc -l <{tmp_path}/calls)" -ge 3 ] || {{ echo "{words}" >&2; exit 1; }}'
    _stack_runtime(tmp_path, script).deploy_stack("x", "{}")
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == ["stack deploy --detach=true --resolve-image never -c - x"] * 3


def test_a_stack_is_deployed_without_a_flag_that_docker_does_not_know(tmp_path: Path) -> None:
    """Debian's docker 20.10 knows no --detach; another failure is told at once."""
    script = 'case "$*" in *--detach*) echo "unknown flag: --detach" >&2; exit 125;; *) echo sour >&2; exit 1;; esac'
    with pytest.raises(RuntimeFailure, match="sour"):
        _stack_runtime(tmp_path, script).deploy_stack("x", "{}")
    assert len((tmp_path / "calls").read_text().splitlines()) == 2

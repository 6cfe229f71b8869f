"""What is asked of an engine whose kernel the machine of the tests need not have, over a Unix socket."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from mosaic_fleet.errors import RuntimeFailure
from mosaic_fleet.runtimes import engine
from mosaic_fleet.runtimes.endpoint import Endpoint
from mosaic_fleet.runtimes.engine import EngineRuntime
from tests.sockets import Answering, serving


class _Docker(Answering):
    """Has one paused container of 128 MB, and refuses a limit as Docker does."""

    swap_limit = 128 << 20
    asked: list[str]
    is_squeezing: Event
    may_end: Event

    def do_GET(self) -> None:
        if self.path.endswith("/slow/json"):
            self.may_end.wait(60)
        limits = {"Memory": 128 << 20, "MemorySwap": self.swap_limit}
        state = {"Status": "paused", "ExitCode": 0, "OOMKilled": False, "StartedAt": ""}
        settings: dict[str, Any] = {"Config": {"Labels": {}}, "NetworkSettings": {}, "HostConfig": limits}
        self.answer(200, {"Id": "1", "Name": "/one", "SwapLimit": True, "State": state, **settings})

    def do_POST(self) -> None:
        body, asked = self.body(), self.path.rpartition("/")[2]
        if 0 != body.get("Memory", 0) < 6 << 20:
            self.answer(400, {"message": "Minimum memory limit allowed is 6MB"})
            return
        self.asked.append(asked)
        if body.get("Memory") == 32 << 20:
            self.is_squeezing.set()
            self.may_end.wait(60)
        self.answer(200, "{}")


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineRuntime]:
    """Return a runtime of that engine, which is asked with little patience."""
    for name, fresh in (("asked", []), ("is_squeezing", Event()), ("may_end", Event())):
        monkeypatch.setattr(_Docker, name, fresh, raising=False)
    with serving(tmp_path / "d.sock", _Docker):
        endpoint = Endpoint(f"unix://{tmp_path}/d.sock", ("docker",), seconds=1)
        yield EngineRuntime(endpoint)
        _Docker.may_end.set()
        endpoint.close()


@pytest.mark.parametrize(("swap_limit", "first"), [(128 << 20, ["update"]), (-1, [])])
def test_a_limit_is_restored_where_docker_knows_it(
    runtime: EngineRuntime, monkeypatch: pytest.MonkeyPatch, swap_limit: int, first: list[str]
) -> None:
    """Where the kernel does not count swap Docker keeps -1: a paused container goes on or ends without a limit."""
    monkeypatch.setattr(_Docker, "swap_limit", swap_limit)
    runtime.unpause("one")
    runtime.terminate("one")
    runtime.kill("one")
    assert _Docker.asked == [
        *first,
        "unpause",
        *first,
        "unpause",
        "kill?signal=SIGTERM",
        *first,
        "unpause",
        "kill?signal=SIGKILL",
    ]


@pytest.fixture
def swapping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the kernel say that there is swap."""
    for name, text in (("_MEMINFO", "SwapTotal: 1 kB\nSwapFree: 1 kB\n"), ("_SWAPS", "")):
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(engine, name, tmp_path / name)


@pytest.mark.usefixtures("swapping")
def test_a_slow_reclaim_holds_nobody_up_and_is_waited_for(runtime: EngineRuntime) -> None:
    """While memory goes to a slow disk, others are answered, for longer than Docker is waited for otherwise."""
    with ThreadPoolExecutor() as pool:
        reclaiming = pool.submit(runtime.reclaim, "one")
        assert _Docker.is_squeezing.wait(60)
        assert runtime.container("one")
        with pytest.raises(RuntimeFailure, match="timed out"):
            runtime.container("slow")
        _Docker.may_end.set()
        assert reclaiming.result(60) is True
    assert _Docker.asked == ["update", "update"]


@pytest.mark.usefixtures("swapping")
def test_a_kernel_without_swap_has_no_file_of_it(runtime: EngineRuntime) -> None:
    """Where /proc/swaps is absent nothing of it is compressed, and what /proc/meminfo does not count is none."""
    engine._SWAPS.unlink()
    assert runtime.swap().is_compressed is False
    engine._MEMINFO.write_text("MemTotal: 2 kB\nMemAvailable: 1 kB\n")
    assert (runtime.swap().total, runtime.swap().obstacle) == (0, "this host has no swap")


@pytest.mark.usefixtures("swapping")
def test_a_machine_that_does_not_tell_its_memory_is_a_failure(runtime: EngineRuntime) -> None:
    """Where /proc/meminfo is absent, as on a Mac, whoever asks is told so."""
    engine._MEMINFO.unlink()
    for ask in (runtime.swap, runtime.host_memory):
        with pytest.raises(RuntimeFailure, match=r"this machine's memory is not known: .*No such file"):
            ask()

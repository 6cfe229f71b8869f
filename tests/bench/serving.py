"""The config endpoint of a running `mosaic serve`, asked over keep-alive connections."""

import asyncio
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

from tests.bench.measuring import Line, against, at_least, at_most
from tests.docker.installation import Installation

_CONNECTIONS = 4
_REQUESTS = 1500
ROUNDS = 3


@dataclass(frozen=True)
class Taken:
    """What a round took: the server's CPU seconds for a request, and the seconds of each."""

    cpu: float
    times: list[float]


def serving(made: Installation) -> Iterator[Line]:
    """Ask for one agent's config and for the probe in turns; a rate on a core is one over the CPU time of a request."""
    made.mosaic("provider", "add", "far", "--type", "ollama", "--base-url", "http://llm:1", "--model", "m", "--no-test")
    made.mosaic("agent", "add", "far", "--stack", "bench", "--model", "far/m")
    token = made.mosaic("agent", "config-token", "far").strip()
    with server(made) as (process, port):
        probes, configs = [], []
        for _ in range(ROUNDS):
            probes.append(_round(process, port, "/healthz", ""))
            configs.append(_round(process, port, "/api/internal/agent-config/system/far", token))
    config, probe = (min(taken.cpu for taken in all_taken) for all_taken in (configs, probes))
    yield at_least("config endpoint, on a core", 1 / config, 500)
    yield against("config endpoint, CPU", config, ("/healthz", probe), times=12)
    late = min(quantiles(taken.times, n=100)[-1] for taken in configs)
    yield at_most(f"config endpoint, p99 of {_CONNECTIONS} at once", late, 0.05)


@contextmanager
def server(made: Installation) -> Iterator[tuple[int, int]]:
    """Run a server; yield its process and the port of its internal listener."""
    with made.start("serve", "--port", "0", "--internal-port", "0") as server:
        assert server.stderr
        try:
            text = next(line for line in server.stderr if line.startswith("internal"))
            yield server.pid, int(re.findall(r":(\d+)$", text.strip())[0])
        finally:
            server.terminate()


def _round(process: int, port: int, path: str, token: str) -> Taken:
    """Ask many times, after some that warm up."""
    asyncio.run(_ask_all(port, path, token, 100))
    before = _cpu(process)
    times = asyncio.run(_ask_all(port, path, token, _REQUESTS))
    return Taken((_cpu(process) - before) / _REQUESTS, times)


def _cpu(process: int) -> float:
    user, system = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


async def _ask_all(port: int, path: str, token: str, count: int) -> list[float]:
    each = [_ask(port, path, token, count // _CONNECTIONS) for _ in range(_CONNECTIONS)]
    return [one for times in await asyncio.gather(*each) for one in times]


async def _ask(port: int, path: str, token: str, count: int) -> list[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = f"GET {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n\r\n".encode()
    times = []
    for _ in range(count):
        start = time.perf_counter()
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200"), head
        await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r")[0]))
        times.append(time.perf_counter() - start)
    writer.close()
    await writer.wait_closed()
    return times

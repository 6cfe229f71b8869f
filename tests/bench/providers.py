"""A provider's test, beyond what its server takes to answer."""

from collections.abc import Callable
from functools import partial
from http.client import HTTPConnection

from pydantic import SecretStr

from mosaic_fleet import outbound
from mosaic_fleet.egress import parse
from mosaic_fleet.fleet.probes import Target, probe
from tests.bench.measuring import Line, at_most, interleaved, seconds
from tests.vendors import KEY, Vendor, keyed, vendor

ROUNDS = 9
_MODELS = {"data": [{"id": f"model-{number}", "context_window": 200_000} for number in range(100)]}


def probing() -> Line:
    """Time a test of a hundred models, and the same requests made plainly on one connection."""
    with vendor(models=keyed(_MODELS)) as server:
        timers: list[Callable[[], float]] = [partial(seconds, partial(run, server)) for run in (_plain, _probe)]
        plain, measured = map(min, interleaved(ROUNDS, *timers))
    return at_most("provider test: beyond its server's answer", measured - plain, 0.05)


def _plain(server: Vendor) -> None:
    connection = HTTPConnection("127.0.0.1", server.port)
    for headers in ({"Authorization": f"Bearer {KEY}"}, {}):
        connection.request("GET", "/models", headers=headers)
        connection.getresponse().read()
    connection.close()


def _probe(server: Vendor) -> None:
    target = Target("zai", "openai-completions", server.url, key=SecretStr(KEY))
    with outbound.client(parse("127.0.0.1"), timeout=20) as http:
        assert len(probe(http, target).models) == 100

"""The memory of a `mosaic serve` that looks after many running gateways, which nobody has to run."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sqlmodel import col, select, update

from mosaic_fleet import configuration
from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.db.tables import UserContainer
from mosaic_fleet.fleet import lifecycle
from mosaic_fleet.fleet.hosting import Hosting
from mosaic_fleet.runtimes.base import Image
from mosaic_fleet.runtimes.gateway_base import Bridge, Container
from mosaic_fleet.settings import Settings
from tests.bench import crowd, serving, site
from tests.bench.measuring import Line
from tests.docker.installation import Installation
from tests.docker_run import wait_until
from tests.fake_gateways import FakeGateways
from tests.postgres.guests import FakeWalls

_RUNNING = 100
_MOST_MB = 150
_INFO = {
    "ServerVersion": "20.10.24",
    "Swarm": {"LocalNodeState": "inactive", "NodeID": "", "ControlAvailable": False},
    "MemTotal": 64 << 30,
    "SecurityOptions": [],
}


def remembering(made: Installation) -> Line:
    """Take the resident memory of a server after its first round of duties, for which it looked at every gateway."""
    with _gateways(Mosaic(Settings.from_env(made.env))) as hosting:
        with hosting.db.transaction(system=True) as session:
            session.execute(update(UserContainer).values(is_stale=True))  # the round finds that none is
        answers = {
            "info": _INFO,
            "json": [_listed(one) for one in hosting.runtime.containers({})],
            "networks": [_network(one) for one in hosting.runtime.bridges()],
        }
        with crowd.answering(made.folder / "engine.sock", answers) as host:
            # Without a PATH there is no iptables: the walls of this machine are left alone.
            crowded = replace(made, env={**made.env, "DOCKER_HOST": host, "PATH": "/nonexistent"})
            with serving.server(crowded) as (process, _):
                wait_until(lambda: _stale(hosting) == 0, seconds=600)
                used = _resident(process)
    verdict = "within" if used <= _MOST_MB else "over"
    return Line(f"mosaic serve, {_RUNNING} gateways run", f"{used:.0f} MB", "", "", f"≤ {_MOST_MB} MB", verdict)


@contextmanager
def _gateways(mosaic: Mosaic) -> Iterator[Hosting]:
    """Have users' gateways run in an engine in memory; stop them at the end."""
    runtime = FakeGateways()
    runtime.looks_to_start = 0
    hosting = Hosting(mosaic.db, mosaic.box, runtime, FakeWalls())
    with mosaic.db.transaction(system=True) as session:
        image = str(configuration.values(session)["fleet.image"])
        users = [site.user(session, mosaic, f"served-{number}") for number in range(_RUNNING)]
    runtime.images[image] = Image("sha256:" + "0" * 64, "2026.9.6", None)
    for user in users:
        lifecycle.ensure_running(hosting, user)
    yield hosting
    for user in users:
        lifecycle.stop(hosting, user)


def _stale(hosting: Hosting) -> int:
    with hosting.db.transaction(system=True) as session:
        return len(session.exec(select(UserContainer.id).where(col(UserContainer.is_stale))).all())


def _resident(process: int) -> float:
    lines = Path(f"/proc/{process}/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024 / 1e6


def _listed(one: Container) -> dict[str, object]:
    networks = {"Networks": {one.name: {"IPAddress": one.address}}}
    return {
        "Id": one.id,
        "Names": [f"/{one.name}"],
        "State": one.state,
        "Labels": dict(one.labels),
        "NetworkSettings": networks,
    }


def _network(one: Bridge) -> dict[str, object]:
    pools = [{"Subnet": subnet} for subnet in one.subnets]
    options = {"com.docker.network.bridge.name": one.interface}
    return {
        "Id": one.id,
        "Name": one.name,
        "IPAM": {"Config": pools},
        "Options": options,
        "Labels": dict(one.labels),
    }

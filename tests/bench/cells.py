"""OpenClaw's own `openclaw fleet create`, beside which a wake is timed: one operator's cells, on the same Docker.

It runs in a container of the OpenClaw image that has this machine's docker command and socket, and folders at the
same path inside as outside, because the cells mount them.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

from tests.bench.measuring import seconds
from tests.docker.installation import Installation
from tests.docker_run import DockerRun

# A cell starts dist/index.js where it is, as the official image is laid out; an image from npm has it elsewhere.
_CELL = """
FROM {base}
USER root
RUN [ -e /app/dist/index.js ] || ln -sfT /opt/openclaw/node_modules/openclaw /app
WORKDIR /app
USER node
"""
_FIRST_PORT = 19_400


@dataclass(frozen=True)
class Operator:
    """Somebody who types `openclaw fleet`; `numbers` name their cells."""

    docker: DockerRun
    container: str
    image: str
    numbers: "count[int]"

    def create(self) -> float:
        """Time the creation of a cell, which waits until the cell is healthy; remove it untimed."""
        number = next(self.numbers)
        name = f"bench{number}"
        words = ("create", name, "--image", self.image, "--port", str(_FIRST_PORT + number), "--json")
        try:
            return seconds(lambda: self._fleet(*words))
        finally:
            self._fleet("rm", name, "--force")

    def _fleet(self, *words: str) -> None:
        self.docker("exec", self.container, "openclaw", "fleet", *words)


@contextmanager
def operator(made: Installation, base: str) -> Iterator[Operator]:
    """Have an operator whose cells run an OpenClaw image; their folders go at the end."""
    docker, home = made.docker, made.folder / "operator"
    home.mkdir()
    image = f"mosaic-bench-cell:{docker.label.partition('=')[2]}"
    build = ["build", "-q", "--network", "none", "--pull=false", "--label", docker.label, "-t", image]
    docker(*build, "-", stdin=_CELL.format(base=base))
    command, socket = shutil.which("docker"), docker.host.removeprefix("unix://")
    binds = (f"{command}:/usr/local/bin/docker:ro", f"{socket}:/var/run/docker.sock", f"{home}:{home}")
    options = ["-d", "--rm", "--network", "host", "--user", "0", "--env", f"HOME={home}", "--label", docker.label]
    options += [word for bind in binds for word in ("--volume", bind)]
    container = docker("run", *options, "--entrypoint", "sleep", image, "infinity")
    try:
        yield Operator(docker, container, image, count())
    finally:
        docker("rm", "-f", container)

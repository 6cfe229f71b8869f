"""Images for upgrades, made of another one without a network."""

from tests.docker_run import DockerRun

# Validates as before, but as a gateway it ends with 1.
_BREAK = (
    r"""well=$(command -v openclaw) && mkdir /broken && """
    r"""printf '#!/bin/sh\n[ "$1" = gateway ] && exit 1\nexec %s "$@"\n' "$well" > /broken/openclaw && """
    r"""chmod 755 /broken/openclaw"""
)


def other(docker: DockerRun, image: str, tag: str) -> str:
    """Make an image that differs by a file which nobody reads; return its name."""
    return _made(docker, image, tag, "RUN touch /other")


def broken(docker: DockerRun, image: str, tag: str) -> str:
    """Make an image whose gateway ends at once; return its name."""
    return _made(docker, image, tag, f"RUN {_BREAK}", "ENV PATH=/broken:$PATH")


def _made(docker: DockerRun, image: str, tag: str, *lines: str) -> str:
    file = "\n".join([f"FROM {image}", "USER root", *lines, "USER node", ""])
    docker("build", "-q", "--network", "none", "--label", docker.label, "-t", tag, "-", stdin=file)
    return tag

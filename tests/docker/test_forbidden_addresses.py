"""No spelling of a forbidden address is called: tried with a listener on all of them, in a namespace without uplink."""

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

from tests.docker import walled
from tests.docker_run import missing


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    """Call every spelling in a network namespace of its own; return what was said and seen."""
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip"):
        missing("only root can make a network namespace")
    command = ["unshare", "--net", sys.executable, "-m", "tests.docker.walled"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("host", walled.SPELLINGS)
def test_metadata_is_never_called(said: dict[str, Any], host: str) -> None:
    """Link-local and metadata addresses are refused in every spelling, even where everything is allowed."""
    message = said["never"][host]
    assert message.endswith(
        ("is at an address that is never called", "is no address that can be called", "has no address")
    )


@pytest.mark.parametrize("host", walled.PRIVATE)
def test_private_addresses_are_refused(said: dict[str, Any], host: str) -> None:
    """Loopback and private addresses are refused in every spelling, unless they are allowed."""
    assert said["private"][host].endswith("is at a private address, which egress.allow does not list")


def test_the_listeners_saw_nothing(said: dict[str, Any]) -> None:
    """The listeners saw the connections that were allowed and those made without the guard, and not one more."""
    assert said["allowed"] == ["answered 200", "answered 200"]
    assert said["seen"] == ["10.1.1.42", "10.1.1.42", *walled.UNGUARDED]

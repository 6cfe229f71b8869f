"""quickstart.sh with a stand-in for the mosaic command: it ends with the first command that fails."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

_STACKS = Path(__file__).parents[2] / "stacks"
_STUB = "172.18.0.1:11435"
# Notes what it is asked; ends with 8 from call FAIL_AT on; `user show` knows nobody.
_MOSAIC = """#!/bin/bash
shift
echo "$*" >>"$CALLS"
[ "$(wc -l <"$CALLS")" -lt "${FAIL_AT:-999}" ] || { echo "error: postgres is away" >&2; exit 8; }
case " $* " in *-stdin\\ *) cat >/dev/null ;; esac
case "$1 $2 $3" in
  "config get fleet.network") echo net ;;
  "config get egress.allow") echo "$ALLOWED" ;;
  "provider show "*) echo '{"provider": {"has_key": false, "base_url": null}}' ;;
  "user show "*) exit 4 ;;
  "gateway list "*) echo demo ;;
esac
"""
_OTHERS = {"docker.sh": "echo ready", "image.sh": "echo image:1", "stub.sh": f"echo {_STUB}", "ask_user.py": ""}


@dataclass(frozen=True)
class Checkout:
    """A copy of the script with stand-ins for all that it calls."""

    root: Path

    @classmethod
    def at(cls, root: Path) -> "Checkout":
        """Make one; there is a database already, and Docker answers."""
        shutil.copytree(_STACKS, root / "stacks")
        for name, does in _OTHERS.items():
            (root / "stacks/quickstart" / name).write_text(f"#!/bin/bash\n{does}\n" if does else "")
        for folder in (".venv/bin", "path", "data/mosaic/pg"):
            (root / folder).mkdir(parents=True)
        (root / ".venv/bin/python").symlink_to(sys.executable)
        for path, does in ((".venv/bin/mosaic", _MOSAIC), ("path/docker", "#!/bin/sh\n")):
            (root / path).write_text(does)
            (root / path).chmod(0o755)
        return cls(root)

    def run(self, verb: str, **given: str) -> tuple[int, list[str]]:
        """Run the script; return its exit code and what it asked of the mosaic command."""
        calls = self.root / "calls"
        calls.unlink(missing_ok=True)
        homes = {f"XDG_{name}_HOME": str(self.root / name.lower()) for name in ("DATA", "CACHE", "CONFIG")}
        env: Mapping[str, str] = {
            **os.environ,
            **homes,
            "PATH": f"{self.root / 'path'}:{os.environ['PATH']}",
            "CALLS": str(calls),
            "ALLOWED": "",
            **given,
        }
        script = str(self.root / "stacks/quickstart/quickstart.sh")
        done = subprocess.run([script, verb], env=env, capture_output=True, timeout=60, check=False)
        return done.returncode, calls.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """Return a copy to run."""
    return Checkout.at(tmp_path)


@pytest.mark.parametrize("verb", ["up", "down"])
def test_it_ends_with_the_first_command_that_fails(checkout: Checkout, verb: str) -> None:
    """Whatever fails, what would follow from its answer is not done: no key replaced, no roster read again."""
    code, calls = checkout.run(verb)
    assert code == 0
    for number in range(1, len(calls) + 1):
        code, asked = checkout.run(verb, FAIL_AT=str(number))
        assert (code > 0, asked) == (True, calls[:number])


@pytest.mark.parametrize(
    ("allowed", "left"),
    [
        (_STUB, ["config unset egress.allow"]),
        (f"10.1.1.42:80, {_STUB}, 192.168.0.0/16", ["config set egress.allow 10.1.1.42:80,192.168.0.0/16"]),
        (f"{_STUB}6, 10.1.1.42", []),
        ("", []),
    ],
)
def test_down_closes_what_was_opened_to_the_stub(checkout: Checkout, allowed: str, left: list[str]) -> None:
    """The stub's own entry of egress.allow goes, and no other."""
    code, calls = checkout.run("down", ALLOWED=allowed)
    assert code == 0
    assert [call for call in calls if call.startswith(("config set", "config unset"))] == left

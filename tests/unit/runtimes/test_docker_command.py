"""How the docker command is run and how its end is told: shown with `sh`, which fails as one likes."""

from pathlib import Path

import pytest

from mosaic_fleet.errors import RuntimeFailure
from mosaic_fleet.runtimes.base import Finished
from mosaic_fleet.runtimes.docker_command import failure, finish, pipe, stream


def _sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def test_finish_feeds_and_collects() -> None:
    """Standard input goes in, both outputs and the exit code come out, however large they are."""
    large = b"x" * 1_000_000
    assert finish(_sh("cat; echo bad >&2; exit 3"), stdin=large, seconds=60) == Finished(3, large.decode(), "bad\n")


def test_finish_kills_what_takes_too_long() -> None:
    """A command that does not end in time is a RuntimeFailure."""
    with pytest.raises(RuntimeFailure, match=r"did not end within 0\.1 s"):
        finish(_sh("exec sleep 600"), seconds=0.1)


def test_stream_yields_while_the_command_runs() -> None:
    """The first output arrives before the command ends, and closing the generator ends the command."""
    blocks = stream(_sh("echo first; exec sleep 600"))
    assert next(blocks) == b"first\n"
    blocks.close()  # it is a generator


def test_stream_feeds_what_no_pipe_holds() -> None:
    """A large input and a large output at once do not block each other."""
    large = b"0123456789" * 500_000
    assert b"".join(stream(["cat"], stdin=large)) == large


def test_stream_tells_the_end_of_standard_error() -> None:
    """A failed command raises with the last lines of its standard error, in one bounded line."""
    with pytest.raises(RuntimeFailure, match=r"failed: line 9997; line 9998; line 9999; line 10000; done$"):
        list(stream(_sh("for i in $(seq 10000); do echo line $i >&2; done; echo done >&2; exit 1")))


def test_a_pipe_carries_any_size(tmp_path: Path) -> None:
    """What the first command prints is what the second reads, whatever both complain."""
    pipe(_sh("head -c 5000000 /dev/zero; echo fine >&2"), _sh(f"cat > {tmp_path}/copy; echo said"))
    assert (tmp_path / "copy").stat().st_size == 5_000_000


@pytest.mark.parametrize(
    ("source", "target"), [("echo wrong >&2; exit 3", "cat"), ("head -c 5000000 /dev/zero", "echo wrong >&2; exit 3")]
)
def test_a_pipe_tells_which_end_failed(source: str, target: str) -> None:
    """Either command's failure is told in its own words; the other one does not wait for ever."""
    with pytest.raises(RuntimeFailure, match="wrong"):
        pipe(_sh(source), _sh(target))


def test_a_missing_command_is_told_with_what_to_install() -> None:
    """Without the docker command there is a RuntimeFailure with a hint."""
    with pytest.raises(RuntimeFailure, match="not installed") as caught:
        finish(["no-such-docker-command"], seconds=1)
    assert caught.value.hint == "apt install docker.io"


def test_a_failure_names_the_command_without_its_options() -> None:
    """The message has the words of the command, not where it was sent nor what it was given."""
    command = ["docker", "--config", "/c", "--host", "unix:///s", "stack", "deploy", "-c", "-", "jarvis"]
    assert failure(command, Finished(1, "", "one\n\n two \n")) == "docker stack deploy failed: one; two"
    assert failure(command, Finished(9, "", "")) == "docker stack deploy failed: exit code 9"


def test_what_it_starts_does_not_inherit_the_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two variables, also by file, stay out of a started command's environment; all others reach it."""
    for name in ("DATABASE_URL", "DATABASE_URL_FILE", "MOSAIC_SECRET_KEY", "MOSAIC_SECRET_KEY_FILE", "OTHER"):
        monkeypatch.setenv(name, "sentinel")
    printed = finish(["env"], seconds=60).stdout
    assert [line for line in printed.splitlines() if line.endswith("=sentinel")] == ["OTHER=sentinel"]

"""The entrypoint of containers outside the roster, run by a shell with a tmpfs of this machine."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from pydantic import SecretStr

from mosaic_fleet.fleet import delivery, openclaw
from mosaic_fleet.resources import directory
from tests.docker_run import missing

SCRIPT = (directory("templates") / "agent" / "entrypoint.sh").read_text("utf-8")
GATEWAY = ("sh", "-c", 'echo a reply; cat "$OPENCLAW_CONFIG_PATH" >&2; env >&2')


@dataclass
class Place:
    """Where a container would have its tmpfs and its volume."""

    run: Path
    state: Path

    def __call__(self, *command: str, stdin: bytes = b"", **env: str) -> subprocess.CompletedProcess[bytes]:
        """Run the entrypoint with a command that stands for the gateway."""
        given = {"MOSAIC_RUN_DIR": str(self.run), "OPENCLAW_STATE_DIR": str(self.state), "PATH": os.environ["PATH"]}
        words = ["sh", "-c", SCRIPT, "mosaic", *(command or GATEWAY)]
        return subprocess.run(
            words, input=stdin, env=given | {"MOSAIC_WAIT": "60"} | env, capture_output=True, timeout=120, check=False
        )

    @property
    def soul(self) -> Path:
        """Return the personality's place."""
        return self.state / "workspace" / "SOUL.md"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Make a folder on a tmpfs and one for the state."""
    if not os.access("/dev/shm", os.W_OK):
        missing("this machine has no tmpfs at /dev/shm")
    run = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="mosaic-test-"))
    yield Place(run, tmp_path / "state")
    shutil.rmtree(run)


def package(personality: str | None = None) -> delivery.Package:
    """Return what a gateway is given."""
    key = SecretStr("planted-provider-key")
    provider = openclaw.Provider("zai", "zai", "openai-completions", "https://llm.invalid", [{"id": "m"}], key)
    return delivery.package(
        openclaw.Gateway("zai/m", providers=[provider]), SecretStr("planted-gateway-token"), personality
    )


def test_pushed_files_are_private_and_the_gateway_finds_them(place: Place) -> None:
    """The tar's files lie in a 0700 folder on the tmpfs, 0400, and the gateway is told where its config is."""
    done = place(stdin=package("Be kind.\n").tar())
    assert done.returncode == 0, done.stderr
    folder = place.run / "gateway"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        "openclaw.json": 0o400,
        "gateway_token": 0o400,
        "provider_keys": 0o400,
        "SOUL.md": 0o400,
    }
    assert package().config.encode() in done.stderr
    assert b"planted" not in done.stderr


def test_replies_on_standard_output_go_nowhere(place: Place) -> None:
    """What the gateway prints is dropped, what it complains about is kept (4.8)."""
    done = place("sh", "-c", "echo a reply; echo a complaint >&2", stdin=package().tar())
    assert (done.stdout, done.stderr) == (b"", b"a complaint\n")


def test_the_gateway_s_exit_code_is_the_container_s(place: Place) -> None:
    """The entrypoint becomes the gateway."""
    assert place("sh", "-c", "exit 78", stdin=package().tar()).returncode == 78


def test_a_personality_is_written_once(place: Place) -> None:
    """SOUL.md is written at first, stays as the agent rewrote it, and is replaced when Mosaic's text is another."""
    place(stdin=package("one\n").tar())
    assert place.soul.read_text() == "one\n"
    place.soul.write_text("rewritten by the agent\n")
    place(stdin=package("one\n").tar())
    assert place.soul.read_text() == "rewritten by the agent\n"
    place(stdin=package("two\n").tar())
    assert place.soul.read_text() == "two\n"


def test_a_personality_that_was_taken_away_goes_unless_the_agent_made_it_its_own(place: Place) -> None:
    """Without a text in Mosaic its SOUL.md is removed; one that the agent rewrote stays."""
    place(stdin=package("one\n").tar())
    place(stdin=package().tar())
    assert not place.soul.exists()
    place(stdin=package("one\n").tar())
    place.soul.write_text("mine\n")
    place(stdin=package().tar())
    assert place.soul.read_text() == "mine\n"


def test_what_ended_half_way_is_done_again(place: Place) -> None:
    """Files of a start before are in no one's way."""
    place(stdin=package("one\n").tar())
    assert place(stdin=package("two\n").tar()).returncode == 0
    assert place.soul.read_text() == "two\n"


@pytest.mark.parametrize("kept", [0, 100, 700])
def test_half_a_tar_is_not_started(place: Place, kept: int) -> None:
    """Nothing, or what a sender that died left, ends with 82 and a line."""
    done = place(stdin=package().tar()[:kept])
    assert done.returncode == 82
    assert done.stderr.startswith(b"mosaic: ")
    assert done.stderr.count(b"\n") == 1


def test_a_folder_on_a_disk_is_refused(place: Place) -> None:
    """Secrets go to memory or nowhere: 81."""
    done = place(stdin=package().tar(), MOSAIC_RUN_DIR="/proc")
    assert (done.returncode, done.stderr) == (81, b"mosaic: /proc is no tmpfs; secrets would touch a disk\n")


def test_a_volume_that_cannot_be_written_is_named(place: Place) -> None:
    """A state volume that is full or read-only ends with 86."""
    place.state.write_text("no folder")
    done = place(stdin=package("one\n").tar())
    assert done.returncode == 86
    assert done.stderr.startswith(f"mosaic: the state volume at {place.state} cannot be written".encode())


def test_a_missing_command_is_named(place: Place) -> None:
    """An image without OpenClaw ends with 127."""
    done = place("openclaw-is-not-here", stdin=package().tar())
    assert (done.returncode, done.stderr) == (127, b"mosaic: there is no command openclaw-is-not-here\n")


class Api(ThreadingHTTPServer):
    """A config endpoint: what it answers, in order, the last one again and again; and what it was asked."""

    def __init__(self, *answers: tuple[int, str]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = list(answers)
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        """Return its address."""
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Answers one request of an entrypoint."""

    def do_GET(self) -> None:
        """Answer as the test says."""
        api = self.server
        assert isinstance(api, Api)
        api.asked.append((self.path, self.headers["authorization"]))
        status, body = api.answers.pop(0) if len(api.answers) > 1 else api.answers[0]
        self.send_response(status)
        self.send_header("location", "/elsewhere")
        self.send_header("content-length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def api() -> Iterator[Api]:
    """Serve a config endpoint that gives the files."""
    if not shutil.which("node"):
        missing("node is not installed")
    server = Api((200, json.dumps({"files": package("pulled\n").files})))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def pull(place: Place, api: Api, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run the entrypoint as a container that pulls."""
    return place(MOSAIC_API_URL=api.url, AGENT_ID="an id", AGENT_TOKEN="planted-config-token", **env)


def test_pulled_files_are_the_pushed_ones(place: Place, api: Api) -> None:
    """Both ways leave the same files; the token is asked with and then gone from the gateway's environment."""
    done = pull(place, api, AGENT_TYPE="user")
    assert done.returncode == 0, done.stderr
    folder = place.run / "gateway"
    assert {path.name: path.read_text() for path in folder.iterdir()} == package("pulled\n").files
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o400}
    assert place.soul.read_text() == "pulled\n"
    assert api.asked == [("/api/internal/agent-config/user/an%20id", "Bearer planted-config-token")]
    assert b"planted-config-token" not in done.stderr


def test_a_token_comes_from_a_file(place: Place, api: Api, tmp_path: Path) -> None:
    """A Docker secret's file is read; the container type is system unless it is said."""
    file = tmp_path / "token"
    file.write_text("from-a-file\n")
    done = place(MOSAIC_API_URL=api.url + "/", AGENT_ID="a", AGENT_TOKEN_FILE=str(file))
    assert done.returncode == 0, done.stderr
    assert api.asked == [("/api/internal/agent-config/system/a", "Bearer from-a-file")]


def test_mosaic_is_asked_again_until_it_answers(place: Place, api: Api) -> None:
    """A server error and one too many requests are tried again."""
    api.answers[:0] = [(503, "starting"), (429, "slowly")]
    assert pull(place, api, MOSAIC_WAIT="60").returncode == 0
    assert len(api.asked) == 3


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        ((401, "{}"), 84, "refuses the token of an id"),
        ((404, "{}"), 84, "refuses the token"),
        ((500, "{}"), 83, "does not answer within 0 s: HTTP 500"),
        ((302, ""), 83, "does not answer"),
        ((400, "{}"), 85, "answered HTTP 400"),
        ((200, "<html>"), 85, "answered no config"),
        ((200, '{"files": {"../x": "y", "openclaw.json": "{}"}}'), 85, "answered no config"),
        ((200, '{"files": {"SOUL.md": "no config"}}'), 85, "answered no config"),
    ],
)
def test_each_failure_of_a_pull_has_its_code(
    place: Place, api: Api, answer: tuple[int, str], code: int, words: str
) -> None:
    """What Mosaic says, or that it does not, is told in one line without the token, and ends with a code of its own."""
    api.answers = [answer]
    done = pull(place, api, MOSAIC_WAIT="0")
    assert done.returncode == code, done.stderr
    line = done.stderr.decode()
    assert line.startswith("mosaic: ")
    assert words in line
    assert line.count("\n") == 1
    assert "planted" not in line


def test_mosaic_that_is_not_there_is_given_up(place: Place, api: Api) -> None:
    """Nobody at the address ends with 83 once the time is over."""
    done = place(MOSAIC_API_URL="http://127.0.0.1:1", AGENT_ID="a", AGENT_TOKEN="t", MOSAIC_WAIT="0")
    assert done.returncode == 83
    assert b"ECONNREFUSED" in done.stderr or b"bad port" in done.stderr


@pytest.mark.parametrize(
    ("env", "line"),
    [
        ({"AGENT_TOKEN": "t"}, b"mosaic: AGENT_ID is not set\n"),
        ({"AGENT_ID": "a"}, b"mosaic: neither AGENT_TOKEN_FILE nor AGENT_TOKEN is set\n"),
        ({"AGENT_ID": "a", "AGENT_TOKEN_FILE": "/nowhere"}, b"mosaic: AGENT_TOKEN_FILE: ENOENT"),
    ],
)
def test_a_missing_variable_is_named(place: Place, api: Api, env: dict[str, str], line: bytes) -> None:
    """Who pulls needs an id and a token: 87."""
    done = place(MOSAIC_API_URL=api.url, **env)
    assert done.returncode == 87
    assert done.stderr.startswith(line)

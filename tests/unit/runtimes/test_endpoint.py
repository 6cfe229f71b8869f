"""Where Docker is looked for, and what becomes of its answers: against a small HTTP server on a Unix socket."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import UnixStreamServer
from threading import Event, Thread

import pytest

from mosaic_fleet.errors import ConfigurationError, RuntimeFailure
from mosaic_fleet.runtimes.endpoint import DEFAULT_HOST, Endpoint, Refused, find
from mosaic_fleet.settings import Settings
from tests.docker_run import wait_until
from tests.sockets import Answering, serving


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return settings whose Docker configuration is an empty folder."""
    return Settings(tmp_path / "env", tmp_path, tmp_path, docker_config_dir=tmp_path)


def _add_context(config_dir: Path, name: str, host: str) -> None:
    folder = config_dir / "contexts" / "meta" / sha256(name.encode()).hexdigest()
    folder.mkdir(parents=True)
    (folder / "meta.json").write_text(json.dumps({"Name": name, "Endpoints": {"docker": {"Host": host}}}))


def test_without_anything_it_is_the_usual_socket(settings: Settings) -> None:
    """With no variable and no configuration Docker is at /var/run/docker.sock."""
    assert find(settings).host == DEFAULT_HOST


def test_the_current_context_says_where_docker_is(settings: Settings) -> None:
    """The context in use in config.json is followed, and the docker command is told its name."""
    _add_context(settings.docker_config_dir, "lab", "unix:///lab.sock")
    (settings.docker_config_dir / "config.json").write_text('{"currentContext": "lab"}')
    endpoint = find(settings)
    assert endpoint.host == "unix:///lab.sock"
    assert endpoint.command == ("docker", "--config", str(settings.docker_config_dir), "--context", "lab")


def test_the_variables_win_over_the_current_context(settings: Settings) -> None:
    """DOCKER_HOST wins over DOCKER_CONTEXT, which wins over the context in use; `default` is the usual socket."""
    _add_context(settings.docker_config_dir, "lab", "unix:///lab.sock")
    _add_context(settings.docker_config_dir, "field", "ssh://field")
    (settings.docker_config_dir / "config.json").write_text('{"currentContext": "lab"}')
    assert find(replace(settings, docker_context="field")).host == "ssh://field"
    assert find(replace(settings, docker_context="default")).host == DEFAULT_HOST
    here = find(replace(settings, docker_context="field", docker_host="tcp://here:2375"))
    assert here.host == "tcp://here:2375"
    assert here.command[-2:] == ("--host", "tcp://here:2375")


def test_a_context_that_does_not_exist_is_named(settings: Settings) -> None:
    """An unknown context is a ConfigurationError with its name."""
    with pytest.raises(ConfigurationError, match="'nowhere' does not exist"):
        find(replace(settings, docker_context="nowhere"))


@pytest.mark.parametrize("text", ["{", "[1]", '"x"'])
def test_a_broken_configuration_is_named(settings: Settings, text: str) -> None:
    """A config.json that is not a JSON object is a ConfigurationError that names the file."""
    (settings.docker_config_dir / "config.json").write_text(text)
    with pytest.raises(ConfigurationError, match=r"config\.json cannot be read"):
        find(settings)


@pytest.mark.parametrize("context", ["5", "[]", "{}", "true"])
def test_a_context_that_is_no_text_is_named(settings: Settings, context: str) -> None:
    """A config.json whose context is no text is a ConfigurationError that names the file."""
    (settings.docker_config_dir / "config.json").write_text(f'{{"currentContext": {context}, "auths": {{}}}}')
    if json.loads(context):
        with pytest.raises(ConfigurationError, match=r"config\.json cannot be read: currentContext is no text"):
            find(settings)
    else:
        assert find(settings).host == DEFAULT_HOST


@pytest.mark.parametrize("meta", ['{"Endpoints": 5}', '{"Endpoints": {"docker": []}}', '{"Endpoints": null}'])
def test_a_context_without_an_address_does_not_exist(settings: Settings, meta: str) -> None:
    """A context of another shape than Docker's is told by its name."""
    _add_context(settings.docker_config_dir, "lab", "unix:///lab.sock")
    next(settings.docker_config_dir.rglob("meta.json")).write_text(meta)
    with pytest.raises(ConfigurationError, match="'lab' does not exist"):
        find(replace(settings, docker_context="lab"))


class _Docker(Answering):
    """Answers like Docker's engine 29: `/_ping` names the version, anything else comes back as it was asked."""

    version = "1.52"

    def do_GET(self) -> None:
        if self.path == "/_ping":
            self.answer(200, "OK", ("Api-Version", self.version))
        elif "refuse" in self.path:
            self.answer(400, {"message": "rpc error: code = InvalidArgument desc = is in use\n by x"})
        elif "proxy" in self.path:
            self.answer(502, "<html>bad gateway</html>")
        elif "moved" in self.path:
            self.answer(301, "", ("Location", "http://docker/elsewhere"))
        elif "greeting" in self.path:
            self.answer(200, "<html>welcome</html>")
        elif "none" in self.path:
            self.answer(404, {"message": "no such thing"})
        elif "manager" in self.path:
            self.answer(503, {"message": 'This node is not a swarm manager. Use "docker swarm init"'})
        else:
            self.answer(200, {"path": self.path, "connection": id(self.connection)})

    do_DELETE = do_GET

    attached = b""

    def do_POST(self) -> None:
        if "/attach" in self.path and "gone" not in self.path:
            self.send_response(101, "UPGRADED")
            self.end_headers()
            _Docker.attached = self.rfile.read()
            self.close_connection = True
            return
        if "/attach" in self.path:
            self.answer(404, {"message": "No such container: gone"})
            return
        self.answer(201, {"path": self.path, "body": self.body(), "type": self.headers["Content-Type"]})


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Endpoint]:
    """Return an endpoint to a server that answers like Docker."""
    with serving(tmp_path / "d.sock", _Docker):
        endpoint = Endpoint(f"unix://{tmp_path}/d.sock", ("docker",))
        yield endpoint
        endpoint.close()


def test_the_version_that_both_speak_is_asked_for(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer engine is asked in the version Mosaic knows, an older one in its own."""
    assert endpoint.get("info")["path"] == "/v1.44/info"
    monkeypatch.setattr(_Docker, "version", "1.41")
    old = Endpoint(endpoint.host, endpoint.command)
    assert old.get("info")["path"] == "/v1.41/info"
    old.close()


def test_names_and_filters_are_quoted(endpoint: Endpoint) -> None:
    """What a name holds cannot become another path or another question; an image's slashes and digest stay."""
    assert endpoint.get("volumes", "a?b c#d")["path"] == "/v1.44/volumes/a%3Fb%20c%23d"
    assert endpoint.get("images", "r:5000/a/b:1@sha256:0", "json")["path"] == "/v1.44/images/r:5000/a/b:1@sha256:0/json"
    asked = endpoint.get("tasks", filters={"label": ["a=b&c"]})["path"]
    assert asked == "/v1.44/tasks?filters=%7B%22label%22%3A+%5B%22a%3Db%26c%22%5D%7D"


def test_one_connection_is_kept(endpoint: Endpoint) -> None:
    """Several requests go over one connection."""
    assert endpoint.get("a")["connection"] == endpoint.get("b")["connection"]


def test_what_is_posted_is_json(endpoint: Endpoint) -> None:
    """A body goes out as JSON and the answer comes back parsed."""
    answer = endpoint.post("volumes", "create", body={"Name": "é"})
    assert answer == {"path": "/v1.44/volumes/create", "body": {"Name": "é"}, "type": "application/json"}


def test_what_is_sent_to_a_container_arrives_whole_and_ends(endpoint: Endpoint) -> None:
    """An attached stream carries every byte and then its end, beside the connection that is kept."""
    content = bytes(range(256)) * 4096
    kept = endpoint.get("a")["connection"]
    with endpoint.attached("containers", "one", "attach", query={"stdin": "1"}) as send:
        assert endpoint.get("b")["connection"] == kept
        send(content)
    wait_until(lambda: _Docker.attached == content)


def test_a_container_that_is_gone_cannot_be_attached_to(endpoint: Endpoint) -> None:
    """Docker's refusal of a stream is told as any other."""
    with (
        pytest.raises(Refused, match="No such container") as raised,
        endpoint.attached("containers", "gone", "attach", query={}),
    ):
        raise AssertionError("it was attached to")
    assert raised.value.status == 404


def test_a_refusal_is_told_in_one_line_in_dockers_words(endpoint: Endpoint) -> None:
    """An error answer is Refused with its status and Docker's message without the transport's prefix."""
    with pytest.raises(Refused) as caught:
        endpoint.get("refuse")
    assert (caught.value.status, caught.value.message) == (400, "docker refused: is in use by x")
    with pytest.raises(Refused, match="docker refused: <html>bad gateway</html>"):
        endpoint.get("proxy")


def test_a_redirect_is_a_refusal(endpoint: Endpoint) -> None:
    """Docker redirects a name it would not take; nothing is followed and nothing taken for an answer."""
    for ask in (endpoint.get, endpoint.get_bytes, endpoint.delete):
        with pytest.raises(Refused, match="docker refused: HTTP 301"):
            ask("moved")


def test_what_is_not_docker_is_told(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is not JSON, or a version that is none, is a RuntimeFailure with the address."""
    with pytest.raises(RuntimeFailure, match=f"what answers at {endpoint.host} is not docker"):
        endpoint.get("greeting")
    monkeypatch.setattr(_Docker, "version", "nginx/1")
    other = Endpoint(endpoint.host, endpoint.command)
    with pytest.raises(RuntimeFailure, match=f"what answers at {endpoint.host} is not docker"):
        other.get("info")
    other.close()


def test_what_is_not_there_is_none_and_already_removed(endpoint: Endpoint) -> None:
    """find() gives None for 404 and delete() takes it as done; other refusals are raised."""
    assert endpoint.find("none") is None
    endpoint.delete("none")
    for ask in (endpoint.find, endpoint.delete):
        with pytest.raises(Refused):
            ask("refuse")


def test_a_node_outside_a_swarm_gets_a_hint(endpoint: Endpoint) -> None:
    """What only a manager can answer comes with the command that makes one."""
    with pytest.raises(Refused) as caught:
        endpoint.get("manager")
    assert caught.value.hint == "docker swarm init"


def test_a_daemon_that_restarted_is_dialled_again(tmp_path: Path) -> None:
    """A request after the daemon hung up goes over a new connection, and none is sent twice."""
    with serving(tmp_path / "d.sock", _Docker) as server:
        endpoint = Endpoint(f"unix://{tmp_path}/d.sock", ("docker",))
        first = endpoint.get("a")["connection"]
        server.hang_up()
        assert endpoint.post("volumes", "create", body={})["path"] == "/v1.44/volumes/create"
        assert endpoint.get("b")["connection"] != first
        endpoint.close()


@pytest.mark.parametrize("host", ["unix:///no/such.sock", "unix:///dev/null"])
def test_no_docker_is_a_failure_that_says_where_it_was_looked_for(host: str) -> None:
    """A socket that is not there, or is none, is a RuntimeFailure with the address and a hint."""
    endpoint = Endpoint(host, ("docker",))
    with pytest.raises(RuntimeFailure, match=f"docker does not answer at {host}: ") as caught:
        endpoint.get("info")
    assert caught.value.hint == "docker info"


def test_a_docker_that_hangs_up_without_a_word_is_a_failure(tmp_path: Path) -> None:
    """A server that closes the connection instead of answering is a RuntimeFailure."""
    with UnixStreamServer(str(tmp_path / "d.sock"), BaseHTTPRequestHandler) as server:
        server.finish_request = lambda *_: None
        thread = Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(RuntimeFailure, match="does not answer"):
            Endpoint(f"unix://{tmp_path}/d.sock", ("docker",)).get("info")
        thread.join()


class _Late(_Docker):
    """Answers later than is waited for where something is looked at: half a second, or when the test is over."""

    is_over: Event

    def answer(self, status: int, body: object, *headers: tuple[str, str]) -> None:
        """Answer late, if anybody waits."""
        self.is_over.wait(60 if self.command == "GET" else 0.5)
        with suppress(BrokenPipeError):
            super().answer(status, body, *headers)


def test_a_change_is_waited_for_longer_than_a_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker does what it was told though nobody waits: so a late answer to that is none that is missing."""
    monkeypatch.setattr(_Late, "is_over", Event(), raising=False)
    endpoint = Endpoint(f"unix://{tmp_path}/d.sock", ("docker",), seconds=0.25)
    endpoint._prefix = "/v1.41"
    with serving(tmp_path / "d.sock", _Late), ExitStack() as end:
        end.callback(endpoint.close)
        end.callback(_Late.is_over.set)
        with pytest.raises(RuntimeFailure, match=r"docker does not answer at .*: timed out"):
            endpoint.get("info")
        assert endpoint.post("networks", "create", body={})["path"] == "/v1.41/networks/create"
        with pytest.raises(RuntimeFailure, match="timed out"):
            endpoint.get("info")


def test_over_tcp_the_docker_command_dials_and_says_why_it_could_not() -> None:
    """When the dialling command fails, its last words are the reason."""
    command = ("sh", "-c", "echo first >&2; echo no route to the moon >&2; exit 1")
    with pytest.raises(RuntimeFailure, match="at tcp://moon:2375: no route to the moon"):
        Endpoint("tcp://moon:2375", command).get("info")


def test_over_tcp_without_the_docker_command_it_says_so() -> None:
    """Without the docker command only a Unix socket can be reached, and the hint says what to install."""
    with pytest.raises(RuntimeFailure, match="the docker command is not installed") as caught:
        Endpoint("ssh://far", ("no-such-docker-command",)).get("info")
    assert caught.value.hint == "apt install docker.io"

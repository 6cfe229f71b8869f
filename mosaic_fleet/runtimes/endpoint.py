"""Finds Docker as the docker command does, and speaks HTTP to it on one connection that is kept."""

import json
import select
import socket
import subprocess
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import quote, urlencode

from mosaic_fleet.errors import ConfigurationError, MosaicError, RuntimeFailure
from mosaic_fleet.runtimes import docker_command
from mosaic_fleet.settings import Settings

DEFAULT_HOST = "unix:///var/run/docker.sock"
READ_SECONDS = 30.0
# A loaded host takes its time to make and remove networks and containers, and does it though nobody waits any more.
CHANGE_SECONDS = 120.0
_BLOCK = 65536
# Engine 29 refuses older versions than this one, engine 20.10 knows up to 1.41: see _prefix.
_NEWEST_API = (1, 44)


class Refused(RuntimeFailure):
    """Docker answered, and said no; `status` is the HTTP status of its answer."""

    def __init__(self, message: str, *, status: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


def find(settings: Settings) -> "Endpoint":
    """Find Docker: DOCKER_HOST, else the context in use, else the usual socket; nothing is dialled yet.

    Raises ConfigurationError when the context in use does not exist.
    """
    command = ("docker", "--config", str(settings.docker_config_dir))
    if settings.docker_host:
        return Endpoint(settings.docker_host, (*command, "--host", settings.docker_host))
    context = settings.docker_context or _current_context(settings.docker_config_dir)
    if context == "default":
        return Endpoint(DEFAULT_HOST, (*command, "--host", DEFAULT_HOST))
    return Endpoint(_context_host(settings.docker_config_dir, context), (*command, "--context", context))


def _current_context(config_dir: Path) -> str:
    path = config_dir / "config.json"
    context = _read_json(path).get("currentContext") or "default"
    if not isinstance(context, str):
        raise ConfigurationError(f"{path} cannot be read: currentContext is no text")
    return context


def _context_host(config_dir: Path, context: str) -> str:
    meta = config_dir / "contexts" / "meta" / sha256(context.encode()).hexdigest() / "meta.json"
    host: Any = _read_json(meta)
    for key in ("Endpoints", "docker", "Host"):
        host = host.get(key) if isinstance(host, dict) else None
    if not host:
        raise ConfigurationError(f"the docker context {context!r} does not exist", hint="docker context ls")
    return str(host)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error


class _Connection(HTTPConnection):
    """HTTP over a Unix socket; over anything else (TCP, TLS, ssh) the docker command dials."""

    def __init__(self, host: str, command: tuple[str, ...], seconds: float) -> None:
        super().__init__("docker", timeout=seconds)
        self._path = host.removeprefix("unix://") if host.startswith("unix://") else None
        self._command = command
        self._dialler: subprocess.Popen[bytes] | None = None

    def connect(self) -> None:
        self.sock = self._dial_socket(self._path) if self._path else self._dial_command()
        self.sock.settimeout(self.timeout)

    @staticmethod
    def _dial_socket(path: str) -> socket.socket:
        dialled = socket.socket(socket.AF_UNIX)
        try:
            dialled.connect(path)
        except OSError:
            dialled.close()
            raise
        return dialled

    def _dial_command(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                dial = [*self._command, "system", "dial-stdio"]
                end = theirs.fileno()
                self._dialler = docker_command.start(dial, stdin=end, stdout=end, stderr=subprocess.PIPE)
            except MosaicError:
                ours.close()
                raise
        return ours

    def patient(self, seconds: float) -> None:
        """Wait so long for the next answer."""
        self.timeout = seconds
        if self.sock:
            self.sock.settimeout(seconds)

    def is_stale(self) -> bool:
        """Tell whether the other side hung up since the last answer: an idle connection has nothing to read."""
        if not self.sock:
            return False
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))

    def complaint(self) -> str:
        """Close the connection and return the last line the dialling command wrote, "" if nobody did."""
        dialler, self._dialler = self._dialler, None
        self.close()
        if not dialler:
            return ""
        with suppress(subprocess.TimeoutExpired):
            dialler.wait(1)
        dialler.kill()
        written = dialler.communicate()[1].decode(errors="replace").strip()
        return written.splitlines()[-1] if written else ""

    def hang_up(self) -> None:
        """Close the connection and end the dialling command, if there is one."""
        self.complaint()


class Endpoint:
    """Docker's HTTP interface at `host`; `command` is the docker command that reaches the same place.

    May be shared by threads: requests queue. Every method raises RuntimeFailure when Docker does not answer
    within `seconds`, or two minutes where it is to change something, and Refused when it answers with an error.
    """

    def __init__(self, host: str, command: tuple[str, ...], seconds: float = READ_SECONDS) -> None:
        self.host = host
        self.command = command
        self._seconds = seconds
        self._connection = self._connected()
        self._lock = Lock()
        self._prefix: str | None = None

    def get(self, *path: str, **query: Any) -> Any:
        """Fetch `/a/b` and parse it; a query value that is not text is sent as JSON."""
        return self._parsed(self._request("GET", path, query))

    def find(self, *path: str, **query: Any) -> Any | None:
        """Fetch and parse like get(), None when Docker knows no such object."""
        try:
            return self.get(*path, **query)
        except Refused as refusal:
            if refusal.status == 404:
                return None
            raise

    def get_bytes(self, *path: str, **query: Any) -> bytes:
        """Fetch an answer that is not JSON."""
        return self._request("GET", path, query)

    def stream(self, *path: str, **query: Any) -> Generator[bytes, None, None]:
        """Fetch an answer as it comes, on a connection of its own and for as long as it takes; closing it hangs up."""
        connection = self._connected()
        target = self._versioned() + _target(path, query)
        try:
            with self._answering(connection):
                connection.request("GET", target)
                dialled = connection.sock
                response = connection.getresponse()
                if response.status >= 300:
                    raise _refusal(response.status, response.read())
                dialled.settimeout(None)
                while block := response.read1(_BLOCK):
                    yield block
        finally:
            connection.hang_up()

    def again(self, seconds: float = READ_SECONDS) -> "Endpoint":
        """Return another endpoint to the same Docker, for another thread or for what takes long."""
        other = Endpoint(self.host, self.command, seconds)
        other._prefix = self._versioned()
        return other

    def head(self, *path: str, **query: Any) -> bool:
        """Ask whether something is there, without fetching it: Docker's 404 has no words then."""
        try:
            self._request("HEAD", path, query)
        except Refused as refusal:
            if refusal.status == 404:
                return False
            raise
        return True

    def post(self, *path: str, body: Any, **query: Any) -> Any:
        """Send `body` as JSON and parse the answer, None when it is empty."""
        answer = self._request("POST", path, query, json.dumps(body).encode())
        return self._parsed(answer) if answer.strip() else None

    def put(self, *path: str, body: bytes, **query: Any) -> None:
        """Send a tar."""
        self._request("PUT", path, query, body)

    def delete(self, *path: str, **query: Any) -> None:
        """Remove an object; one that is gone already is no error."""
        try:
            self._request("DELETE", path, query)
        except Refused as refusal:
            if refusal.status != 404:
                raise

    @contextmanager
    def attached(self, *path: str, **query: Any) -> Iterator[Callable[[bytes], None]]:
        """Open a stream of its own to a container (`/containers/ID/attach`); yield what sends bytes and then their end.

        The stream is closed at the end of the block, whatever was sent.
        """
        stream = self._connected()
        upgrade = {"Connection": "Upgrade", "Upgrade": "tcp"}
        try:
            target = self._versioned() + _target(path, query)
            with self._answering(stream):
                stream.request("POST", target, headers=upgrade)
                response = stream.getresponse()
            if response.status >= 300:
                raise _refusal(response.status, response.read())
            yield lambda content: self._send(stream, content)
        finally:
            stream.hang_up()

    def close(self) -> None:
        """Hang up; the next request dials again."""
        with self._lock:
            self._connection.hang_up()

    def _request(
        self, method: str, path: tuple[str, ...], query: Mapping[str, Any], body: bytes | None = None
    ) -> bytes:
        prefix = self._versioned()
        with self._lock:
            response, answer = self._exchange(method, prefix + _target(path, query), body)
        if response.status >= 300:
            raise _refusal(response.status, answer)
        return answer

    def _connected(self) -> _Connection:
        return _Connection(self.host, self.command, self._seconds)

    def _versioned(self) -> str:
        """Return the prefix of every path, asked for once."""
        with self._lock:
            if self._prefix is None:
                self._prefix = self._chosen(self._exchange("GET", "/_ping")[0].getheader("Api-Version"))
            return self._prefix

    def _send(self, stream: _Connection, content: bytes) -> None:
        with self._answering(stream):
            stream.sock.sendall(content)
            stream.sock.shutdown(socket.SHUT_WR)  # Docker itself hangs up when the container ends, so nobody waits

    def _parsed(self, answer: bytes) -> Any:
        try:
            return json.loads(answer)
        except ValueError as error:
            raise self._is_not_docker() from error

    def _chosen(self, offered: str | None) -> str:
        try:
            return _prefix(offered)
        except ValueError as error:
            raise self._is_not_docker() from error

    def _is_not_docker(self) -> RuntimeFailure:
        return RuntimeFailure(f"what answers at {self.host} is not docker", hint="docker info")

    def _exchange(self, method: str, target: str, body: bytes | None = None) -> tuple[HTTPResponse, bytes]:
        with self._answering(self._connection):
            if self._connection.is_stale():
                self._connection.hang_up()
            is_look = method in ("GET", "HEAD")
            self._connection.patient(self._seconds if is_look else max(self._seconds, CHANGE_SECONDS))
            self._connection.request(method, target, body, {"Content-Type": "application/json"} if body else {})
            response = self._connection.getresponse()
            return response, response.read()

    @contextmanager
    def _answering(self, connection: _Connection) -> Iterator[None]:
        try:
            yield
        except (OSError, HTTPException) as error:
            why = connection.complaint() or getattr(error, "strerror", None) or str(error)
            raise RuntimeFailure(f"docker does not answer at {self.host}: {why}", hint="docker info") from error


def _target(path: tuple[str, ...], query: Mapping[str, Any]) -> str:
    target = "".join("/" + quote(part, safe="/:@") for part in path)
    if query:
        target += "?" + urlencode({key: _text(value) for key, value in query.items()})
    return target


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _prefix(offered: str | None) -> str:
    """Choose the newest version that both sides speak: paths without one are deprecated."""
    if not offered:
        return ""
    version = min(_NEWEST_API, tuple(int(part) for part in offered.split(".")))
    return "/v" + ".".join(map(str, version))


def _refusal(status: int, answer: bytes) -> Refused:
    try:
        message = str(json.loads(answer)["message"])
    except (ValueError, KeyError, TypeError):
        message = answer.decode(errors="replace")
    message = " ".join(message.rpartition(" desc = ")[2].split())[:500]
    hint = "docker swarm init" if "not a swarm manager" in message else None
    return Refused(f"docker refused: {message or f'HTTP {status}'}", status=status, hint=hint)

"""The way out: against real servers on loopback that misbehave, and names whose addresses change."""

import json
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from mosaic_fleet import outbound
from mosaic_fleet.egress import parse
from mosaic_fleet.errors import Invalid, RuntimeFailure
from tests import servers
from tests.processes import until
from tests.servers import Handler, answering, serving

LOOPBACK = parse("127.0.0.1")
SECRET = b"secret-of-the-server"


def fetch(url: str, *, timeout: float = 60, resolve: outbound.Resolve = outbound.addresses_of) -> tuple[int, bytes]:
    with (
        outbound.client(LOOPBACK, timeout=timeout, resolve=resolve) as http,
        outbound.answer(http, "GET", url, headers={"Authorization": "Bearer käy"}) as reply,
    ):
        return reply.status_code, reply.read()


def refusal(url: str, **options: float) -> str:
    with pytest.raises(RuntimeFailure) as refused:
        fetch(url, **options)
    assert SECRET.decode() not in refused.value.message
    return refused.value.message


def test_an_answer_comes_back() -> None:
    """A server that may be called is called with the headers that were given, and its answer is returned."""
    with serving(answering("200 OK", b'{"a": 1}')) as server:
        assert fetch(f"{server.url}/path") == (200, b'{"a": 1}')
        assert server.requests[0].startswith(b"GET /path HTTP/1.1\r\n")
        assert "authorization: bearer käy" in server.requests[0].decode().lower()


def test_a_compressed_answer_is_unpacked() -> None:
    """Compression that was asked for is undone."""
    with serving(servers.gzipped(b'{"a": 1}')) as server:
        assert fetch(server.url) == (200, b'{"a": 1}')


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", ["http://169.254.169.254/latest/meta-data/", "/elsewhere"])
def test_redirects_are_not_followed(status: int, target: str) -> None:
    """A redirect is an answer like any other wrong one; where it leads is neither called nor shown."""
    with serving(answering(f"{status} Moved", SECRET, f"Location: {target}")) as server:
        assert refusal(server.url) == f"{server.url}/… answered {status}; redirects are not followed"
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("handler", "problem"),
    [
        (servers.silent, "did not answer within 0.3 s"),
        (servers.slow_headers, "did not answer within 0.3 s"),
        (servers.dripping_body, "did not answer within 0.3 s"),
        (servers.endless, "answered more than 4 MB"),
        (servers.endless_headers, "does not answer as HTTP asks for"),
        (servers.no_http, "does not answer as HTTP asks for"),
        (servers.breaking_off, "does not answer as HTTP asks for"),
        (servers.gzip_bomb(), "answered more than 4 MB"),
        (answering("200 OK", SECRET, "Content-Encoding: gzip"), "sent what cannot be decompressed"),
        (answering("200 OK", SECRET, "Content-Encoding: br"), "answered in an encoding that was not asked for"),
        (answering("200 OK", SECRET, "Content-Encoding: gzip, gzip"), "answered in an encoding that was not asked for"),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(value),
)
def test_a_misbehaving_server_is_told_in_a_line(handler: Handler, problem: str) -> None:
    """Whatever a server does, it ends in time and in a line that repeats nothing of it."""
    timeout = 0.3 if "0.3" in problem else 60
    with serving(handler) as server:
        assert refusal(server.url, timeout=timeout) == f"{server.url}/… {problem}"


def test_a_bomb_is_never_unpacked_whole() -> None:
    """Memory follows the limit of a reply, not what a server claims to send."""
    import tracemalloc

    with serving(servers.gzip_bomb(100)) as server:
        tracemalloc.start()
        refusal(server.url)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 4 * outbound.LARGEST


def test_a_certificate_that_nobody_trusts_is_refused(tmp_path: Path) -> None:
    """TLS is verified, and the request is not sent before it is."""
    with serving(servers.tls(answering("200 OK"), tmp_path)) as server:
        message = refusal(server.url.replace("http", "https"))
        assert message.startswith(f"https://127.0.0.1:{server.port}/… shows a certificate that is not trusted: ")
        assert server.requests == []


def test_a_handshake_has_the_same_deadline() -> None:
    """A server that never comes to the end of its handshake is left."""
    with serving(servers.slow_handshake) as server:
        message = refusal(server.url.replace("http", "https"), timeout=0.3)
    assert message.endswith("did not answer within 0.3 s")


def test_a_deadline_that_passes_while_connecting_leaves_no_connection_open() -> None:
    """Reading the system's certificates takes longer than this deadline; the server sees its caller hang up."""
    with serving(servers.slow_handshake) as server:  # whose end waits for that
        message = refusal(server.url.replace("http", "https"), timeout=0.03)
    assert message.endswith("did not answer within 0.03 s")


def test_plain_text_is_no_tls() -> None:
    """HTTP where https was asked for is told as that."""
    with serving(answering("200 OK")) as server:
        message = refusal(server.url.replace("http", "https"))
    assert message.endswith("does not speak TLS as https asks for")


def test_nobody_listening_is_told() -> None:
    """A refused connection is told without details of the system."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert refusal(f"http://127.0.0.1:{port}") == f"http://127.0.0.1:{port}/… cannot be reached"


def test_all_requests_share_one_deadline() -> None:
    """The time is for all that a client does, not for each request anew."""
    with serving(servers.silent) as server, outbound.client(LOOPBACK, timeout=5) as http:
        for _ in range(2):
            with (
                pytest.raises(RuntimeFailure, match="within 5 s"),
                outbound.answer(http, "GET", server.url, headers={}),
            ):
                raise AssertionError("it answered")
            until(lambda: server.requests)
        assert len(server.requests) == 1


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment says about proxies and credentials is not obeyed."""
    with serving(answering("200 OK")) as server, serving(answering("200 OK", SECRET)) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert fetch(server.url) == (200, b"{}")
        assert proxy.requests == []


class Names:
    """A resolver whose answers come from a list, one each time."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    def __call__(self, host: str, port: int) -> Sequence[str]:
        """Give the next answer."""
        self.asked.append((host, port))
        return self._answers.pop(0)


def test_dns_that_changes_its_answer_gains_nothing() -> None:
    """The name is asked once for a connection, which goes to the address that was judged."""
    names = Names(["127.0.0.1"], ["169.254.169.254"], ["127.0.0.1"])
    with serving(answering("200 OK", b"{}", "Connection: close")) as server:
        url = f"http://rebinding.test:{server.port}"
        assert fetch(url, resolve=names) == (200, b"{}")
        assert names.asked == [("rebinding.test", server.port)]
        assert f"host: rebinding.test:{server.port}" in server.requests[0].decode().lower()
        with pytest.raises(outbound.Forbidden, match="is at an address that is never called"):
            fetch(url, resolve=names)
        assert len(server.requests) == 1


@pytest.mark.parametrize("other", ["169.254.169.254", "10.0.0.1", "::ffff:169.254.169.254", "fe80::1%2"])
@pytest.mark.parametrize("first", [True, False])
def test_every_address_of_a_name_is_judged(other: str, first: bool) -> None:
    """One forbidden address among good ones is enough: nothing is called."""
    answer = [other, "127.0.0.1"] if first else ["127.0.0.1", other]
    with serving(answering("200 OK")) as server:
        with pytest.raises(outbound.Forbidden):
            fetch(f"http://mixed.test:{server.port}", resolve=Names(answer))
        assert server.requests == []


def test_the_next_address_is_tried() -> None:
    """Where the first address of a name does not answer, the second is asked."""
    with serving(answering("200 OK")) as server:
        names = Names(["127.0.0.2", "127.0.0.1"])
        allowed = parse("127.0.0.0/8")
        with (
            outbound.client(allowed, timeout=60, resolve=names) as http,
            outbound.answer(http, "GET", f"http://two.test:{server.port}", headers={}) as reply,
        ):
            assert reply.status_code == 200


def test_a_private_address_is_refused_with_the_way_out() -> None:
    """The hint names the setting; the address that a name has is not told."""
    with pytest.raises(outbound.Forbidden) as literal:
        fetch("http://10.1.1.42:11434/x")
    assert literal.value.message == "http://10.1.1.42:11434/… is at a private address, which egress.allow does not list"
    assert str(literal.value.hint).startswith("mosaic config set egress.allow 10.1.1.42:11434 ")
    with pytest.raises(outbound.Forbidden) as named:
        fetch("http://inner.test/", resolve=Names(["10.7.7.7"]))
    assert "10.7.7.7" not in f"{named.value.message}{named.value.hint}"


def test_a_resolver_that_hangs_is_left() -> None:
    """Looking a name up counts against the deadline."""
    ended = threading.Event()

    def hang(*_: object) -> Sequence[str]:
        ended.wait()
        return []

    with pytest.raises(RuntimeFailure, match=r"http://slow\.test/… did not answer within 0\.2 s"):
        fetch("http://slow.test/", timeout=0.2, resolve=hang)
    ended.set()


def test_a_name_without_address_is_told() -> None:
    """A name that does not exist ends in a line."""

    def unknown(*_: object) -> Sequence[str]:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(RuntimeFailure, match=r"http://nobody\.test/… has no address"):
        fetch("http://nobody.test/", resolve=unknown)


@pytest.mark.parametrize(
    "url",
    ["http://[::1/", "http://a b/", "http://\u2100.test/", "http://xn--/", "http://h:99999/", "http://" + "x" * 70000],
)
def test_what_is_no_address_is_invalid(url: str) -> None:
    """A hostile address is refused before anything is looked up."""
    with pytest.raises((Invalid, RuntimeFailure)):
        fetch(url, resolve=Names())


def test_a_reply_is_read_as_json_by_nobody_here() -> None:
    """A body is handed on as it came, so that the reader decides what it is."""
    with serving(answering("500 Oops", json.dumps({"error": SECRET.decode()}).encode())) as server:
        assert fetch(server.url)[0] == 500

"""The web's assembly, without a database: which routes there are, and what every route is guarded by."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.routing import iter_route_contexts

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.errors import Conflict, Invalid
from mosaic_fleet.logs import RedactingFormatter
from mosaic_fleet.settings import Settings
from mosaic_fleet.web import app, failures, listeners
from mosaic_fleet.web import site as sites
from mosaic_fleet.web.access_log import AccessLog
from mosaic_fleet.web.site import Site
from tests.asgi import ask

CONFIG = "/api/internal/agent-config/{container_type}/{container_id:path}"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Return what requests share where no database answers."""
    homes = {"XDG_CONFIG_HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
    settings = Settings.from_env({**homes, "DATABASE_URL": "postgresql://mosaic:planted@127.0.0.1:1/planted"})
    site = Site(Mosaic(settings, serving=True))
    yield site
    site.close()


def routes(application: FastAPI) -> set[tuple[str, str]]:
    """Return methods and paths."""
    return {(method, one.path) for one in iter_route_contexts(application.routes) for method in one.methods}


def test_the_internal_listener_has_the_config_routes_and_nothing_else(site: Site) -> None:
    """Containers reach the config endpoint and a probe; neither pages about the API nor anybody's routes."""
    assert routes(app.internal(site)) == {("GET", CONFIG), ("GET", "/healthz")}


def test_the_public_listener_has_no_config_routes(site: Site) -> None:
    """Nobody gets a config where people come in."""
    assert routes(app.public(site)) == {("GET", "/healthz"), ("GET", "/readyz")}


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/", "/nothing", "/healthz/"])
def test_what_is_not_there_is_a_404_in_json(site: Site, path: str) -> None:
    """No page tells about the API, and no path is corrected."""
    for application in (app.public(site), app.internal(site)):
        answer = ask(application, path)
        assert (answer.status, answer.json["error"]["code"]) == (404, 4)


def test_a_wrong_method_is_a_405_in_json(site: Site) -> None:
    """It says which methods there are."""
    answer = ask(app.internal(site), "/api/internal/agent-config/user/ann", method="POST")
    assert (answer.status, answer.headers["allow"]) == (405, "GET")
    assert answer.json["error"]["message"] == "method not allowed"


def test_the_probe_asks_nobody(site: Site) -> None:
    """Without a database both listeners are alive."""
    for application in (app.public(site), app.internal(site)):
        answer = ask(application, "/healthz")
        assert (answer.status, answer.json) == (200, {"ok": True})


def test_without_a_database_everything_else_is_a_503(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says when to come again, and not where the database is; the log says that."""
    monkeypatch.setattr(sites, "_PATIENCE", 120.0)
    for application, path in (
        (app.public(site), "/readyz"),
        (app.internal(site), "/api/internal/agent-config/user/ann"),
    ):
        answer = ask(application, path, token="t")
        assert (answer.status, answer.headers["retry-after"]) == (503, "2")
        assert answer.json == {"error": {"code": 8, "message": "the database is not available", "hint": None}}
    assert "127.0.0.1:1" in caplog.text
    assert "planted" not in caplog.text.replace("127.0.0.1:1/planted", "")


@pytest.fixture
def echo() -> FastAPI:
    """Return a guarded application with a route that takes a body, and one with a bug."""
    application = FastAPI(max_body_size=10)
    failures.install(application)
    application.add_middleware(AccessLog)

    @application.post("/echo/{name}")
    async def take(name: str, request: Request) -> int:
        return len(await request.body())

    @application.get("/number/{number}")
    async def number(number: int) -> int:
        raise RuntimeError("bearer planted-secret-of-a-bug")

    return application


def test_a_body_that_fits_passes(echo: FastAPI) -> None:
    """The limit itself is not too much."""
    assert ask(echo, "/echo/a", method="POST", body=[b"12345", b"67890"]).json == 10


@pytest.mark.parametrize("said", [[], [(b"content-length", b"11")]])
def test_a_body_that_is_too_large_is_refused(echo: FastAPI, said: Any) -> None:
    """Announced or not, in one piece or in many: 413."""
    answer = ask(echo, "/echo/a", method="POST", headers=said, body=[b"12345", b"67890", b"1"])
    assert answer.status == 413


def test_every_listener_limits_bodies(site: Site) -> None:
    """A megabyte is the most that is taken, unless a route says otherwise."""
    said = [(b"content-length", b"1000001")]
    for application in (app.public(site), app.internal(site)):
        assert ask(application, "/healthz", headers=said).status == 413


def test_what_breaks_a_rule_is_not_repeated(echo: FastAPI) -> None:
    """A refused value may be a secret."""
    answer = ask(echo, "/number/planted")
    assert (answer.status, answer.json["error"]["code"]) == (422, 2)
    assert b"planted" not in answer.body


def test_a_bug_says_nothing_of_itself(echo: FastAPI) -> None:
    """It is a 500 in JSON; the traceback is the log's."""
    answer = ask(echo, "/number/1")
    assert (answer.status, answer.json["error"]["message"]) == (500, "unexpected error")
    assert b"planted" not in answer.body


def test_the_access_log_repeats_nothing_that_was_sent(echo: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    """Method, route, status and time; path, query, header and body may be secrets."""
    caplog.set_level(logging.DEBUG)
    ask(echo, "/echo/planted-path?token=planted-query", method="POST", token="planted-token", body=[b"planted"])
    ask(echo, "/planted-nowhere")
    lines = [record.getMessage() for record in caplog.records if record.name == "mosaic_fleet.web.access_log"]
    assert [line.rpartition(" ")[0].rpartition(" ")[0] for line in lines] == [
        "POST /echo/{name} 200",
        "GET no route 404",
    ]
    assert "planted" not in caplog.text


def test_a_traceback_in_the_log_is_redacted() -> None:
    """The formatter that every record passes hides a token in an exception's text."""
    record = logging.LogRecord("x", logging.ERROR, "", 0, "failed", None, None)
    try:
        raise RuntimeError("Authorization: Bearer planted-token-0123456789")
    except RuntimeError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    assert "planted" not in RedactingFormatter().format(record)


def test_a_port_in_use_is_named() -> None:
    """A second listener at the same place is a conflict, before anything else is begun."""
    with listeners.bound(listeners.Address("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(Conflict, match=f"127.0.0.1:{port} is in use"),
            listeners.bound(listeners.Address("127.0.0.1", port)),
        ):
            pass


@pytest.mark.parametrize("host", ["no such host", "::zz", ""])
def test_a_host_that_is_not_one_is_refused(host: str) -> None:
    """What cannot be listened at is an invalid value; an empty host is not all of them."""
    with pytest.raises(Invalid, match="cannot listen"), listeners.bound(listeners.Address(host, 0)):
        pass

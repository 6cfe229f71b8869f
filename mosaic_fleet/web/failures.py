"""An error as JSON, spelled as the command line spells it: `{"error": {"code", "message", "hint"}}`."""

import logging
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from mosaic_fleet.errors import DatabaseFailure, Invalid, MosaicError
from mosaic_fleet.logs import neutralise, redact

_BUG = 1
_RETRY_SECONDS = 2
_log = logging.getLogger(__name__)


def install(app: FastAPI) -> None:
    """Have an application answer every error this way."""
    app.add_exception_handler(MosaicError, _ours)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _unreadable)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _bug)


def answer(status: int, code: int, message: str, hint: str | None = None) -> JSONResponse:
    """Answer with an error; one that passes by itself says when to come again."""
    body = {"code": code, "message": neutralise(redact(message)), "hint": hint and neutralise(redact(hint))}
    headers = {"cache-control": "no-store"}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["retry-after"] = str(_RETRY_SECONDS)
    return JSONResponse({"error": body}, status, headers)


def say(error: MosaicError) -> JSONResponse:
    """Answer with an error of ours; where the database is, and why it is away, stands in the log only."""
    if isinstance(error, DatabaseFailure):
        _log.warning("%s", error.message)
        return answer(error.http_status, error.exit_code, "the database is not available")
    return answer(error.http_status, error.exit_code, error.message, error.hint)


def http(status: int) -> JSONResponse:
    """Answer with a status that needs no more words."""
    codes = {kind.http_status: kind.exit_code for kind in MosaicError.__subclasses__()}
    return answer(status, codes.get(status, Invalid.exit_code), HTTPStatus(status).phrase.lower())


def _ours(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, MosaicError)  # noqa: S101  # it is registered for no other
    return say(error)


def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101
    response = http(error.status_code)
    response.headers.update(error.headers or {})
    return response


def _unreadable(_: Request, __: Exception) -> JSONResponse:
    """What was sent is not repeated: it may be a secret."""
    return answer(Invalid.http_status, Invalid.exit_code, "the request has a value that breaks its rule")


def _gone(_: Request, __: Exception) -> JSONResponse:
    """A client that left in the middle of its request: nobody reads this, and it is no bug."""
    return http(HTTPStatus.BAD_REQUEST)


def _bug(_: Request, __: Exception) -> JSONResponse:
    """The server logs the traceback after this."""
    return answer(HTTPStatus.INTERNAL_SERVER_ERROR, _BUG, "unexpected error", "this is a bug in mosaic: see its log")

"""Every error a person may see, drawn as a tree, each with its exit code and HTTP status.

MosaicError
├─ Invalid              exit 2  HTTP 422   a value breaks its rule
├─ ConfigurationError   exit 3  HTTP 500   a setting, key, template or stack file is wrong
│  └─ KeyFailure        exit 3  HTTP 503   MOSAIC_SECRET_KEY is missing or another one
├─ NotFound             exit 4  HTTP 404   no such row, or not yours
├─ Conflict             exit 5  HTTP 409   name taken, lock held
├─ Denied               exit 6  HTTP 403   bad credentials, missing role
├─ RuntimeFailure       exit 7  HTTP 502   Docker, a gateway or a provider refused or is unreachable
├─ DatabaseFailure      exit 8  HTTP 503   Postgres is unreachable, the schema too old or too new
└─ PartialFailure       exit 9  HTTP 500   some of many failed; carries the rows
"""

from collections.abc import Sequence
from typing import Any


class MosaicError(Exception):
    """Say what is wrong in one lower-case line; `hint` is a command to type."""

    exit_code = 1
    http_status = 500

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Invalid(MosaicError):
    """A value breaks its rule: a name, password, address or model ref."""

    exit_code = 2
    http_status = 422


class ConfigurationError(MosaicError):
    """A setting, key, template or stack file is wrong."""

    exit_code = 3


class KeyFailure(ConfigurationError):
    """MOSAIC_SECRET_KEY is missing, no key at all, or not the one that the database was sealed with."""

    http_status = 503


class NotFound(MosaicError):
    """No such row, or it is somebody else's."""

    exit_code = 4
    http_status = 404


class Conflict(MosaicError):
    """The name is taken, the step was already done, or a lock is held."""

    exit_code = 5
    http_status = 409


class Denied(MosaicError):
    """Bad credentials or a missing role."""

    exit_code = 6
    http_status = 403


class RuntimeFailure(MosaicError):
    """Docker, a gateway or a provider refused or cannot be reached."""

    exit_code = 7
    http_status = 502


class DatabaseFailure(MosaicError):
    """Postgres cannot be reached, or its schema is too old or too new."""

    exit_code = 8
    http_status = 503


class PartialFailure(MosaicError):
    """Some of many failed; `rows` tell which, and are printed before the error."""

    exit_code = 9

    def __init__(self, message: str, *, rows: Sequence[Any], hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.rows = list(rows)

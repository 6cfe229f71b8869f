"""An error as two lines on standard error (or one JSON document) and an exit code."""

import json
import os
import select
import sys
import traceback
from errno import ENOSPC

from typer import TyperException
from typer._click.exceptions import NoArgsIsHelpError  # Typer has no public name for it

from mosaic_fleet.errors import MosaicError
from mosaic_fleet.logs import neutralise, redact

BUG = 1
PIPE_CLOSED = 141  # 128 + SIGPIPE, what a shell reports for any program whose reader left


def show(error: Exception, *, as_json: bool) -> int:
    """Show an error on standard error and return the exit code."""
    unwritten = _unwritten(error)
    if isinstance(unwritten or error, BrokenPipeError) and _reader_left():
        _silence(1, 2)
        return PIPE_CLOSED
    if unwritten:
        _silence(1)
        return _write(BUG, f"standard output cannot be written: {unwritten.strerror}", None, as_json=as_json)
    if isinstance(error, NoArgsIsHelpError):
        error.show()
        return error.exit_code
    if isinstance(error, MosaicError):
        return _write(error.exit_code, error.message, error.hint, as_json=as_json)
    if isinstance(error, TyperException):
        return _write(error.exit_code, _lower(error.format_message()), _usage(error), as_json=as_json)
    return _show_bug(error, as_json=as_json)


def _write(code: int, message: str, hint: str | None, *, as_json: bool, **more: str) -> int:
    message, hint = neutralise(redact(message)), hint and neutralise(redact(hint))
    if as_json:
        body = {"code": code, "message": message, "hint": hint, **more}
        print(json.dumps({"error": body}, ensure_ascii=False), file=sys.stderr)
        return code
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"hint:  {hint}", file=sys.stderr)
    return code


def _show_bug(error: Exception, *, as_json: bool) -> int:
    trace = redact("".join(traceback.format_exception(error)))
    message, hint = (
        f"unexpected {type(error).__name__}: {error}",
        "this is a bug in mosaic: please report the traceback",
    )
    if as_json:
        return _write(BUG, message, hint, as_json=True, traceback=trace)
    print(neutralise(trace, keep="\n\t"), end="", file=sys.stderr)
    return _write(BUG, message, hint, as_json=False)


def _lower(message: str) -> str:
    """Spell a message of Typer's like ours: lower case, no full stop."""
    return message[:1].lower() + message[1:].rstrip(".")


def _usage(error: TyperException) -> str | None:
    context = getattr(error, "ctx", None)
    return f"{context.command_path} --help" if context else None


def _unwritten(error: Exception) -> OSError | None:
    """Return what keeps output from being written, now or since it was buffered; None when nothing does."""
    if isinstance(error, OSError) and error.errno == ENOSPC and error.filename is None:
        return error
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as failure:
        return failure
    return None


def _silence(*outputs: int) -> None:
    """Let what is still buffered go nowhere, or Python complains about it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in outputs:
        os.dup2(nowhere, output)


def _reader_left() -> bool:
    """Tell a closed output from any other broken pipe, such as a socket's."""
    poll = select.poll()
    poll.register(1, 0)
    poll.register(2, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))

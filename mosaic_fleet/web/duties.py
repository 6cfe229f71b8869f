"""What `mosaic serve` does beside answering: a table of duties, done every minute or hour, one after the other.

All of them are for users' gateways: where none was ever started, nothing is done and nobody asks Docker.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any

from mosaic_fleet.db.database import Database
from mosaic_fleet.errors import Conflict, MosaicError, PartialFailure
from mosaic_fleet.fleet import containers, reaping, refreshing, rounds, walls
from mosaic_fleet.fleet.hosting import Hosting
from mosaic_fleet.fleet.refreshing import Outcome

_EVERY_SECONDS = 60.0
# What a duty may take after SIGTERM; one that takes longer is left as a killed process leaves it, for the next round.
_PATIENCE_SECONDS = 5.0
_TAKING_SECONDS = 0.1
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Duty:
    """Something to be done again and again; it yields a line for each thing that it did, and may be left there.

    It is done in the first round, then in each of so many; one that failed is tried again in the next.
    """

    name: str
    do: Callable[[Hosting], Iterator[str]]
    every: int = 1


@dataclass(frozen=True)
class Trouble:
    """Why a duty failed, and how often in a row."""

    reason: str
    times: int


def raise_walls(hosting: Hosting) -> Iterator[str]:
    """Put the packet filter around users' gateways into force, where Docker is this machine's and answers."""
    if not hosting.runtime.is_local:
        return
    hosting.runtime.engine()
    if walls.stand(hosting):
        yield "the packet filter was not in force, and is now"


def reconcile(hosting: Hosting) -> Iterator[str]:
    """Bring gateways together with the database after a crash or a reboot."""
    rows = rounds.reconcile(hosting)
    yield from (f"gateway of {row.user}: {row.what}" for row in rows if not row.failed)
    rounds.check(rows)


def refresh(hosting: Hosting) -> Iterator[str]:
    """Restart the gateways of which it is known that they run with something old, and that are idle by now."""
    return _refreshed(refreshing.refresh_all(hosting, marked=True))


def compare(hosting: Hosting) -> Iterator[str]:
    """Look whether any other gateway runs with something old: what was changed by hand, or by another Mosaic."""
    return _refreshed(refreshing.refresh_all(hosting))


def _refreshed(outcomes: Iterable[Outcome]) -> Iterator[str]:
    failed: list[Outcome] = []
    for outcome in outcomes:
        if outcome.result == "failed":
            failed.append(outcome)
        elif outcome.result != "busy":
            yield f"gateway of {outcome.user} {outcome.result}" + (f": {outcome.reason}" if outcome.reason else "")
    if failed:
        raise PartialFailure("; ".join(f"gateway of {one.user}: {one.reason}" for one in failed), rows=failed)


TABLE = (
    Duty("walls", raise_walls),
    Duty("reconcile", reconcile),
    Duty("refresh", refresh),
    Duty("compare", compare, every=60),
    Duty("reap", reaping.reap_idle),
)


class Duties:
    """One thread that does its duties until it is told to end.

    `attempt` does something with the database, and starts an embedded one that is down.
    """

    def __init__(
        self,
        hosting: Callable[[], Hosting],
        attempt: Callable[[Callable[[Database], Any]], Any],
        *,
        table: Sequence[Duty] = TABLE,
        every: float = _EVERY_SECONDS,
    ) -> None:
        self._hosting = hosting
        self._attempt = attempt
        self._table = table
        self._every = every
        self._troubles: dict[str, Trouble] = {}
        self._rounds = 0
        self._over = Event()
        # A daemon, so that a duty that hangs does not keep the process from ending.
        self._thread = Thread(target=self._run, name="duties", daemon=True)

    @property
    def failing(self) -> list[str]:
        """Name the duties that failed the last time; why they did stands in the log."""
        troubles = self._troubles.copy().items()
        return [f'the duty "{name}" failed {one.times} times in a row: see the log' for name, one in troubles]

    def start(self) -> None:
        """Begin with the first round."""
        self._thread.start()

    def end(self) -> None:
        """Begin nothing any more."""
        self._over.set()

    def close(self) -> None:
        """End, and wait a few seconds for what is under way."""
        self.end()
        if self._thread.is_alive():
            self._thread.join(_PATIENCE_SECONDS)

    def round(self) -> None:
        """Do every duty whose turn it is once; none of them keeps the others from being done."""
        for duty in self._table:
            is_due = self._rounds % duty.every == 0 or duty.name in self._troubles
            if is_due and not self._over.is_set():
                self._note(duty, self._failure(duty))
        self._rounds += 1

    def _run(self) -> None:
        while not self._over.is_set():
            self.round()
            self._over.wait(self._every)

    def _failure(self, duty: Duty) -> str | None:
        """Do a duty; return why it failed."""
        try:
            self._do(duty)
        except MosaicError as error:
            return error.message + (f" (hint: {error.hint})" if error.hint else "")
        except Exception as error:
            _log.exception("%s: unexpected error", duty.name)
            return type(error).__name__
        return None

    def _do(self, duty: Duty) -> None:
        """Do a duty, unless another process is at it."""
        if not self._attempt(_has_gateways):
            return
        hosting = self._hosting()
        with ExitStack() as held:
            try:
                held.enter_context(hosting.db.lock("serve", f"duty {duty.name}", wait=_TAKING_SECONDS))
            except Conflict:
                return
            for line in duty.do(hosting):
                _log.warning("%s: %s", duty.name, line)
                if self._over.is_set():
                    return

    def _note(self, duty: Duty, reason: str | None) -> None:
        """Keep how a duty went; the log has each reason once, and the end of it."""
        before = self._troubles.pop(duty.name, None)
        if reason is None:
            if before:
                _log.warning("%s: works again", duty.name)
            return
        if before is None or before.reason != reason:
            _log.warning("%s: %s", duty.name, reason)
        self._troubles[duty.name] = Trouble(reason, before.times + 1 if before else 1)


def _has_gateways(db: Database) -> bool:
    with db.transaction(system=True) as session:
        return containers.any_started(session)

"""One start per gateway and a few at once: who asks for a gateway that is being started waits for that start."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import BoundedSemaphore, Lock
from typing import Generic, TypeVar
from uuid import UUID

Landed = TypeVar("Landed")
# A start of OpenClaw takes a core for ten seconds: more at once only make each of them later.
AT_ONCE = 4


class Flights(Generic[Landed]):
    """What is under way in this process, by user."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._flying: dict[UUID, Future[Landed]] = {}
        self._lock = Lock()
        self._seats = BoundedSemaphore(at_once)

    def share(self, user: UUID, fly: Callable[[], Landed]) -> Landed:
        """Return what `fly` returns, or what the one under way for this user does; its error is everybody's."""
        with self._lock:
            flight = self._flying.get(user)
            mine = flight is None
            if flight is None:
                flight = self._flying[user] = Future()
        if mine:
            self._board(user, flight, fly)
        return flight.result()

    @contextmanager
    def seat(self, look: Callable[[], None], *, every: float) -> Iterator[None]:
        """Hold one of the few seats for what takes a core; who waits for one does `look` every so many seconds.

        Taken after the gateway's lock, never before: who waits for a lock keeps no other from starting.
        """
        while not self._seats.acquire(timeout=every):
            look()
        try:
            yield
        finally:
            self._seats.release()

    def _board(self, user: UUID, flight: "Future[Landed]", fly: Callable[[], Landed]) -> None:
        try:
            flight.set_result(fly())
        except BaseException as error:
            flight.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._flying[user]

"""One thread that does all heavy work of a server, one piece after another, and a short queue before it.

Whatever the load, one picture is decoded or drawn at a time, so that memory stays flat; who comes when the queue is
full is told to come again.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from lab2pix.web.guard import RefusedError, closing_error

__all__ = ["CAPACITY", "Worker"]

CAPACITY = 8
"""Pieces of work that may wait."""

Result = TypeVar("Result")


@dataclass(eq=False)
class _Job(Generic[Result]):
    """A piece of work, where its result goes, and whose it is."""

    work: Callable[[], Result]
    future: Future[Result]
    token: str | None

    def run(self) -> None:
        if self.future.set_running_or_notify_cancel():
            try:
                self.future.set_result(self.work())
            except BaseException as error:  # whoever waits must hear of it, whatever it is
                self.future.set_exception(error)

    def refuse(self, error: RefusedError) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class Worker:
    """Does work in a thread of its own, in the order in which it came.

    Args:
        capacity: pieces of work that may wait, the one that is being done not counted.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self._waiting: deque[_Job[Any]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._seconds = 0.5  # that a piece takes, smoothed
        self._thread = threading.Thread(target=self._run, name="painter", daemon=True)

    def start(self) -> None:
        """Start the thread; work may have been handed in before."""
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Pieces of work that wait."""
        with self._changed:
            return len(self._waiting)

    def submit(self, work: Callable[[], Result], token: str | None = None) -> Future[Result]:
        """Hand in a piece of work.

        Args:
            work: called in the thread.
            token: whose it is; work of the same one that still waits is dropped with status 409, and this takes its
                place.

        Returns:
            Its result, or the error that it ended with.

        Raises:
            RefusedError: 429, the queue is full; 503, it is closed.
        """
        job = _Job(work, Future[Result](), token)
        replaced: _Job[Any] | None = None
        with self._changed:
            if self._closed:
                raise closing_error()
            place = next((place for place, other in enumerate(self._waiting) if token and other.token == token), None)
            if place is not None:
                replaced, self._waiting[place] = self._waiting[place], job
            elif len(self._waiting) >= self.capacity:
                seconds = max(1, math.ceil(self._seconds * len(self._waiting)))
                raise RefusedError(
                    429, f"{self.capacity} requests wait already; try again later", {"retry-after": str(seconds)}
                )
            else:
                self._waiting.append(job)
            self._changed.notify()
        if replaced is not None:
            replaced.refuse(RefusedError(409, "A newer request took its place"))
        return job.future

    def drop(self, future: Future[Any]) -> None:
        """Forget work that nobody waits for any more, unless it has begun."""
        with self._changed:
            if future.cancel():
                self._waiting = deque(job for job in self._waiting if job.future is not future)

    def close(self) -> None:
        """Take no more work, and answer 503 to all that waits; what has begun goes on."""
        with self._changed:
            self._closed = True
            left, self._waiting = self._waiting, deque()
            self._changed.notify()
        for job in left:
            job.refuse(closing_error())

    def join(self, seconds: float | None = None) -> None:
        """Wait until the thread has ended, which it does after `close`; no longer than so many seconds."""
        if self._thread.ident is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                job = self._waiting.popleft()
            begun = time.perf_counter()
            job.run()
            del job  # or its body would stay in memory until the next one comes
            self._seconds += (time.perf_counter() - begun - self._seconds) / 4

"""Job queue with one worker thread, so that one image is processed at a time and memory use stays constant."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from lab2pix.web.responses import HTTPError, shutdown_error

CAPACITY = 8
"""Jobs that may wait."""

Result = TypeVar("Result")


@dataclass(eq=False)
class _Job(Generic[Result]):
    """A function to call, the future of its result, and the channel that it belongs to."""

    work: Callable[[], Result]
    future: Future[Result]
    channel: str | None

    def run(self) -> None:
        if self.future.set_running_or_notify_cancel():
            try:
                self.future.set_result(self.work())
            except BaseException as error:  # the client must get a response in any case
                self.future.set_exception(error)

    def refuse(self, error: HTTPError) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class JobQueue:
    """Runs jobs in a thread of its own, in the order of their arrival.

    `capacity` does not count the job that runs.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self._waiting: deque[_Job[Any]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._job_seconds = 0.5  # moving average
        self._thread = threading.Thread(target=self._run, name="painter", daemon=True)

    def start(self) -> None:
        """Start the thread; jobs may have been submitted before."""
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of jobs that wait."""
        with self._changed:
            return len(self._waiting)

    def submit(self, work: Callable[[], Result], channel: str | None = None) -> Future[Result]:
        """Add a job.

        A waiting job of the same channel fails with status 409, and this job takes its position.

        Returns:
            The future of its result or exception.

        Raises:
            HTTPError: 429, the queue is full; 503, it is closed.
        """
        job = _Job(work, Future[Result](), channel)
        replaced: _Job[Any] | None = None
        with self._changed:
            if self._closed:
                raise shutdown_error()
            index = next((i for i, other in enumerate(self._waiting) if channel and other.channel == channel), None)
            if index is not None:
                replaced, self._waiting[index] = self._waiting[index], job
            elif len(self._waiting) >= self.capacity:
                seconds = max(1, math.ceil(self._job_seconds * len(self._waiting)))
                raise HTTPError(
                    429, f"{self.capacity} requests are waiting already; try again later", {"retry-after": str(seconds)}
                )
            else:
                self._waiting.append(job)
            self._changed.notify()
        if replaced is not None:
            replaced.refuse(HTTPError(409, "A newer request replaced this one"))
        return job.future

    def drop(self, future: Future[Any]) -> None:
        """Remove a job unless it is running."""
        with self._changed:
            if future.cancel():
                self._waiting = deque(job for job in self._waiting if job.future is not future)

    def close(self) -> None:
        """Accept no more jobs, and fail all that wait with status 503; the running one continues."""
        with self._changed:
            self._closed = True
            left, self._waiting = self._waiting, deque()
            self._changed.notify()
        for job in left:
            job.refuse(shutdown_error())

    def join(self, seconds: float | None = None) -> None:
        """Wait until the thread has ended, which it does after `close`; at most so many seconds."""
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
            del job  # else its request body stays in memory until the next job
            self._job_seconds += (time.perf_counter() - begun - self._job_seconds) / 4

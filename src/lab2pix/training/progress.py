"""Progress display of training, and measurement of what it waits for: data, and other programs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from lab2pix.utils.logs import shows_progress
from lab2pix.utils.threads import ProcessorMeter, available_processors

_PLAIN_EVERY = 5.0  # seconds between plain lines
_WORTH_SHOWING = 0.05  # share of time spent waiting for data


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.2f} steps/s")


class Display:
    """Progress bar with rate, losses and remaining time, on standard error."""

    def __init__(self, total: int, start: int, *, active: bool = True) -> None:
        active = active and shows_progress()
        self.console = Console(stderr=True, quiet=not active)
        self.total = total
        self._start = start
        self._start_time = time.monotonic()
        self._last_line = -_PLAIN_EVERY
        self._losses = ""
        self._progress: Progress | None = None
        if active and self.console.is_terminal:
            columns = (
                MofNCompleteColumn(),
                BarColumn(None),
                _Rate(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[losses]}"),
            )
            self._progress = Progress(*columns, console=self.console, speed_estimate_period=120)
            self._task = self._progress.add_task("training", total=total, completed=start, losses="")
            self._progress.start()

    def note(self, text: str) -> None:
        """Print a message."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def losses(self, losses: Mapping[str, Mapping[str, float]], waiting: float = 0.0) -> None:
        """Set the displayed loss sum of each phase, and the share of time waiting for data if it is large."""
        shown = [f"{phase} {sum(terms.values()):.3f}" for phase, terms in losses.items()]
        if waiting >= _WORTH_SHOWING:
            shown.append(f"waiting for data {waiting:.0%}")
        self._losses = "  ".join(shown)

    def update(self, step: int) -> None:
        """Show a finished step."""
        if self._progress is not None:
            self._progress.update(self._task, completed=step, losses=self._losses)
            return
        now = time.monotonic()
        if now - self._last_line < _PLAIN_EVERY and step != self.total:
            return
        self._last_line = now
        rate = (step - self._start) / max(now - self._start_time, 1e-9)
        left = timedelta(seconds=round((self.total - step) / rate)) if rate > 0 else "unknown"
        self.note(f"step {step}/{self.total}  {rate:.2f} steps/s  {left} left  {self._losses}".rstrip())

    def close(self) -> None:
        """Stop the progress bar."""
        if self._progress is not None:
            self._progress.stop()


_WINDOW = 60.0  # seconds of training per check of the waiting time, and of the processors
_TOO_MUCH = 0.2  # share of waiting


class DataWaitMeter:
    """Meter of the time spent computing steps and waiting for batches."""

    def __init__(self) -> None:
        self._waited = self._worked = 0.0
        self._line = self._window = (0.0, 0.0)
        self._reported = False

    def count(self, waited: float, worked: float) -> None:
        """Add a step: seconds waited for its batch, and seconds of computation."""
        self._waited += waited
        self._worked += worked

    @property
    def share(self) -> float:
        """Share of the session time spent waiting."""
        return self._since((0.0, 0.0))[0]

    def share_since_last(self) -> float:
        """Return the share of time spent waiting since the last call."""
        share, _ = self._since(self._line)
        self._line = (self._waited, self._worked)
        return share

    def data_bound(self, *, excused: bool = False) -> float | None:
        """Return the share of waiting in the last minute the first time that it is too large, otherwise None.

        Args:
            excused: waiting is currently expected and not reported; restarts the measurement.
        """
        share, seconds = self._since(self._window)
        if self._reported or (seconds < _WINDOW and not excused):
            return None
        self._window = (self._waited, self._worked)
        self._reported = share > _TOO_MUCH and not excused
        return share if self._reported else None

    def _since(self, then: tuple[float, float]) -> tuple[float, float]:
        waited, worked = self._waited - then[0], self._worked - then[1]
        return waited / max(waited + worked, 1e-9), waited + worked


def data_loading_hint(share: float, workers: int) -> str:
    """Return advice on reducing the time spent waiting for data."""
    processors = available_processors()
    more = min(max(2, 2 * workers), processors)
    advice = (
        f"--resume with data.workers={more} (now {workers}), which changes speed only"
        if more > workers
        else f"data.workers={workers} keep all processors busy, so store the files at about data.size"
    )
    return f"{share:.0%} of the last minute was spent waiting for data: {advice}"


class ContentionMeter:
    """Meter of the processors that other programs leave to the threads of this run."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._processors = ProcessorMeter()

    def contended(self) -> float | None:
        """Return the processors left in the last minute the first time that some thread had to share, else None."""
        if self._threads == 1 or self._processors.seconds < _WINDOW:
            return None
        left = self._processors.free()
        if left is None or left > self._threads - 0.5:
            return None
        self._threads = 1  # report once
        return left


def contention_hint(left: float, threads: int) -> str:
    """Return advice on training beside other programs."""
    return (
        f"other programs left {left:.1f} processors to {threads} threads in the last minute, and all threads wait for "
        f"the slowest: stop this run, and --resume it with train.threads={max(1, round(left))} or when they are done"
    )

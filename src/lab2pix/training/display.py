"""What a run says on the terminal: a progress bar, or plain lines where nobody watches."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

__all__ = ["Display"]

_PLAIN_EVERY = 5.0  # seconds between plain lines
_WORTH_SHOWING = 0.05  # share of the time that steps waited for data


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.2f} steps/s")


class Display:
    """Rate, losses and time left, on standard error.

    Args:
        total: steps of the run.
        start: steps made before.
        active: false for processes that stay silent.
    """

    def __init__(self, total: int, start: int, *, active: bool = True) -> None:
        self.console = Console(stderr=True, quiet=not active)
        self.total = total
        self._start = start
        self._began = time.monotonic()
        self._spoke = -_PLAIN_EVERY
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
        """Say a sentence."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def losses(self, losses: Mapping[str, Mapping[str, float]], waiting: float = 0.0) -> None:
        """Show each player's sum of losses from now on, and which share of the time steps waited for data, if much."""
        shown = [f"{player} {sum(terms.values()):.3f}" for player, terms in losses.items()]
        if waiting >= _WORTH_SHOWING:
            shown.append(f"waiting for data {waiting:.0%}")
        self._losses = "  ".join(shown)

    def update(self, step: int) -> None:
        """Show that a step was made."""
        if self._progress is not None:
            self._progress.update(self._task, completed=step, losses=self._losses)
            return
        now = time.monotonic()
        if now - self._spoke < _PLAIN_EVERY and step != self.total:
            return
        self._spoke = now
        rate = (step - self._start) / max(now - self._began, 1e-9)
        left = timedelta(seconds=round((self.total - step) / rate)) if rate > 0 else "unknown"
        self.note(f"step {step}/{self.total}  {rate:.2f} steps/s  {left} left  {self._losses}".rstrip())

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._progress is not None:
            self._progress.stop()

"""Where the time of a training goes: into steps, or into waiting for data."""

from __future__ import annotations

import os

__all__ = ["DataWaitMeter", "data_loading_hint"]

_WINDOW = 60.0  # seconds of training after which waiting is judged
_TOO_MUCH = 0.2  # share of them


class DataWaitMeter:
    """Counts the seconds that steps took, and those that they waited for their batch."""

    def __init__(self) -> None:
        self._waited = self._worked = 0.0
        self._line = self._window = (0.0, 0.0)
        self._told = False

    def count(self, waited: float, worked: float) -> None:
        """Take note of a step: how long it waited for its batch, and how long it then took, in seconds."""
        self._waited += waited
        self._worked += worked

    @property
    def share(self) -> float:
        """The share of the session's time that went by waiting."""
        return self._since((0.0, 0.0))[0]

    def share_since_last(self) -> float:
        """Return the share of the time since this was last asked."""
        share, _ = self._since(self._line)
        self._line = (self._waited, self._worked)
        return share

    def data_bound(self, *, excused: bool = False) -> float | None:
        """Return the share of the last minute if it is too large; only the first time that one is.

        Args:
            excused: waiting is as it should be for now; a minute to judge begins after it.
        """
        share, seconds = self._since(self._window)
        if self._told or (seconds < _WINDOW and not excused):
            return None
        self._window = (self._waited, self._worked)
        self._told = share > _TOO_MUCH and not excused
        return share if self._told else None

    def _since(self, then: tuple[float, float]) -> tuple[float, float]:
        waited, worked = self._waited - then[0], self._worked - then[1]
        return waited / max(waited + worked, 1e-9), waited + worked


def data_loading_hint(share: float, workers: int) -> str:
    """Say what to do about waiting for data.

    Args:
        share: which part of the time goes by waiting.
        workers: what `data.workers` is.
    """
    processors = os.cpu_count() or 1
    more = min(max(2, 2 * workers), processors)
    way = (
        f"--resume with data.workers={more} (now {workers}), which changes speed only"
        if more > workers
        else f"data.workers={workers} keep all processors busy, so store the files at about data.size"
    )
    return f"{share:.0%} of the last minute went by waiting for data: {way}"

"""What can go wrong, each as one sentence: what is wrong, where (file, key, value), and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Lab2PixError",
    "LabelError",
    "OutputError",
    "TrainingError",
    "WeightsError",
    "did_you_mean",
]


class Lab2PixError(Exception):
    """An error that the user can mend; its text is one sentence, and the command line exits with `exit_code`."""

    exit_code = 2


class ConfigError(Lab2PixError):
    """A setting that is unknown, of the wrong type, or at odds with another."""


class LabelError(Lab2PixError):
    """A label map that its label space cannot read: an id out of range, a colour that is no class."""


class DataError(Lab2PixError):
    """A file that is missing, unreadable or at odds with its partner."""


class WeightsError(Lab2PixError):
    """Pretrained weights that are missing, of the wrong form, or not what their hash says."""


class CheckpointError(Lab2PixError):
    """A checkpoint or exported model that is missing, incomplete or made for something else."""


class OutputError(Lab2PixError):
    """A place that cannot be written to, or that holds something nobody asked to overwrite."""


class TrainingError(Lab2PixError):
    """Training had to stop: a loss that is not finite, memory that ran out, a disk that is full."""

    exit_code = 1


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Return a half sentence that helps whoever mistyped `name`.

    Returns:
        `"; did you mean 'x'?"` where a candidate is near, else `"; valid: a, b, c"`.
    """
    names = sorted(set(candidates))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else f"; valid: {', '.join(names)}"

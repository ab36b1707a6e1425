"""Exceptions for users. Each message is one sentence: what is wrong, where (file, key, value), and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class Lab2PixError(Exception):
    """Base class of errors that the user can fix; the command line prints the message and exits with `exit_code`."""

    exit_code = 2


class ConfigError(Lab2PixError):
    """An unknown setting, a value of the wrong type, or conflicting settings."""


class LabelError(Lab2PixError):
    """A label map with an id or color that its label space does not define."""


class DataError(Lab2PixError):
    """A data file that is missing, unreadable or inconsistent with its counterpart."""


class WeightsError(Lab2PixError):
    """Pretrained weights that are missing, of the wrong format, or fail the hash check."""


class CheckpointError(Lab2PixError):
    """A checkpoint or exported model that is missing, incomplete or incompatible."""


class OutputError(Lab2PixError):
    """An output path that is not writable, or that exists and must not be overwritten."""


class TrainingError(Lab2PixError):
    """Training stopped: non-finite loss, out of memory, or a full disk."""

    exit_code = 1


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Suggest a correction for a mistyped name, to append to an error message.

    Returns:
        `"; did you mean 'x'?"` if a candidate is similar, otherwise `"; valid: a, b, c"`.
    """
    names = sorted(set(candidates))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else f"; valid: {', '.join(names)}"

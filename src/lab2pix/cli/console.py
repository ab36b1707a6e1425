"""Terminal output and parsing of option values for the command line."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from lab2pix.errors import ConfigError, did_you_mean
from lab2pix.utils.logs import shows_progress

if TYPE_CHECKING:
    from lab2pix.labels.space import LabelSpace

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_PERMISSION_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; if the output is not a terminal, lines are up to 200 characters wide."""
    table = Table(*heads, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    console.print(table)


@contextmanager
def show_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on a terminal, and yield a callback that takes the number done and the total."""
    console = Console(stderr=True)
    with Progress(console=console, disable=not (console.is_terminal and shows_progress()), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def read_seed_pair(text: str | None) -> tuple[int, int] | None:
    """Parse two seeds written as `A,B`.

    Raises:
        ConfigError: invalid format.
    """
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*", text)
    if not match:
        raise ConfigError(f"--interpolate is '{text}' but must be two seeds, such as 3,8")
    return int(match[1]), int(match[2])


def read_size(text: str) -> tuple[int, int]:
    """Parse a size in pixels written as `HxW` (height, width).

    Raises:
        ConfigError: invalid format, or a side of 0.
    """
    match = re.fullmatch(r"(\d+)[xX](\d+)", text)
    if not match or not int(match[1]) or not int(match[2]):
        raise ConfigError(f"--size is '{text}' but must be height x width in pixels, such as 256x512")
    return int(match[1]), int(match[2])


def resolve_label_space(labels: str | None, format: str) -> LabelSpace:
    """Return the given label space, or the default of a dataset format.

    Raises:
        ConfigError: unknown format, or no label space given for a format without a default.
        LabelError: unknown label space.
    """
    from lab2pix.labels.space import LabelSpace
    from lab2pix.utils.registry import DATASET_FORMATS

    if labels is None and format not in DATASET_FORMATS:
        raise ConfigError(f"unknown format '{format}'{did_you_mean(format, DATASET_FORMATS)}")
    name = labels or DATASET_FORMATS[format].label_space
    if name is None:
        raise ConfigError(
            f"format '{format}' has no default label space; set --labels to a label space or its YAML file"
        )
    return LabelSpace.load(name)


def explain_os_error(error: OSError) -> str:
    """Return a one-sentence message for a failed file operation."""
    place = f" {error.filename}" if error.filename else ""
    if error.errno in _DISK_FULL:
        return f"no space left on the disk to write{place}; free some, or choose another folder"
    if error.errno in _PERMISSION_DENIED:
        return f"no permission to read or write{place}; change its permissions, or choose another folder"
    return f"cannot use{place}: {error.strerror}"

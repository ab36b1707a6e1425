"""What the command line reads from words and writes to the terminal."""

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

if TYPE_CHECKING:
    from lab2pix.labels.space import LabelSpace

__all__ = ["explain_os_error", "print_table", "read_seed_pair", "read_size", "resolve_label_space", "show_progress"]

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS)


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under their heads, as wide as they are where the output is no terminal."""
    table = Table(*heads, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    console.print(table)


@contextmanager
def show_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal; what is handed out takes how many are done, and how many there are."""
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def read_seed_pair(text: str | None) -> tuple[int, int] | None:
    """Return the two seeds of `A,B`.

    Raises:
        ConfigError: the text is something else.
    """
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*", text)
    if not match:
        raise ConfigError(f"--interpolate is '{text}' but must be two seeds, such as 3,8")
    return int(match[1]), int(match[2])


def read_size(text: str) -> tuple[int, int]:
    """Return height and width of `HxW`, in pixels.

    Raises:
        ConfigError: the text is something else.
    """
    match = re.fullmatch(r"(\d+)[xX](\d+)", text)
    if not match or not int(match[1]) or not int(match[2]):
        raise ConfigError(f"--size is '{text}' but must be height x width in pixels, such as 256x512")
    return int(match[1]), int(match[2])


def resolve_label_space(labels: str | None, format: str) -> LabelSpace:
    """Return the label space asked for, or the one that the format's data set has.

    Raises:
        ConfigError: none was asked for, and the format may hold any labels, or there is no such format.
        LabelError: there is no such label space.
    """
    from lab2pix.labels.space import LabelSpace
    from lab2pix.utils.registry import DATASET_FORMATS

    if labels is None and format not in DATASET_FORMATS:
        raise ConfigError(f"No format is called '{format}'{did_you_mean(format, DATASET_FORMATS)}")
    name = labels or DATASET_FORMATS[format].label_space
    if name is None:
        raise ConfigError(f"format '{format}' may hold any labels: add --labels with a label space or its YAML file")
    return LabelSpace.load(name)


def explain_os_error(error: OSError) -> str:
    """Return what a file or folder refused, as one sentence."""
    place = f" {error.filename}" if error.filename else ""
    if error.errno in _NO_SPACE:
        return f"no space left on the disk to write{place}: free some, or choose another folder"
    if error.errno in _NO_RIGHT:
        return f"no permission to read or write{place}: change its rights, or choose another folder"
    return f"cannot use{place}: {error.strerror}"

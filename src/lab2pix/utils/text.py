"""Parts of sentences: counts, lists and the reasons of errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: `1 step`, `2,000 steps`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def describe_failures(failed: Sequence[tuple[Path, str]], noun: str) -> list[str]:
    """Return lines on files that could not be used, with the reason of each; nothing if there are none."""
    lines = [f"{plural(len(failed), noun)} could not be used:"] if failed else []
    return lines + [f"  {'' if str(path) in reason else f'{path}: '}{reason}" for path, reason in failed]


def first_few(names: Sequence[object], count: int = 3) -> str:
    """Return the first names of a list, and how many more there are."""
    return ", ".join(map(str, names[:count])) + (f" and {len(names) - count} more" if len(names) > count else "")


def reason_of(error: BaseException, length: int = 200) -> str:
    """Return what an error says, in one line of limited length."""
    return str(getattr(error, "strerror", None) or " ".join(str(error).split())[:length])

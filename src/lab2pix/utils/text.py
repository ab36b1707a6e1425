"""Parts of sentences: counts, lists and the reasons of errors."""

from __future__ import annotations

from collections.abc import Sequence


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: `1 step`, `2,000 steps`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def first_few(names: Sequence[object], count: int = 3) -> str:
    """Return the first names of a list, and how many more there are."""
    return ", ".join(map(str, names[:count])) + (f" and {len(names) - count} more" if len(names) > count else "")


def reason_of(error: BaseException, length: int = 200) -> str:
    """Return what an error says, in one line of limited length."""
    return str(getattr(error, "strerror", None) or " ".join(str(error).split())[:length])

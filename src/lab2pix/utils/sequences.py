"""Choice of places in a sequence."""

from __future__ import annotations


def evenly_spaced(length: int, most: int) -> list[int]:
    """Return at most `most` places of a sequence, evenly spaced from the first on; all of a shorter one."""
    count = min(most, length)
    return [place * length // count for place in range(count)]

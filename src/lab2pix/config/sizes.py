"""Image sizes that networks take: multiples of a number, and no smaller than another."""

from __future__ import annotations


def nearest_size(size: tuple[int, int], multiple: int, least: int = 1) -> tuple[int, int]:
    """Return the nearest height and width that are multiples of `multiple` and at least `least`."""
    lowest = -(-least // multiple)
    height, width = (max(lowest, 1, (side + multiple // 2) // multiple) * multiple for side in size)
    return height, width


def padded_size(size: tuple[int, int], multiple: int, least: int = 1) -> tuple[int, int]:
    """Return the smallest height and width at or above a size that are multiples of `multiple` and at least `least`."""
    height, width = (-(-max(side, least, 1) // multiple) * multiple for side in size)
    return height, width

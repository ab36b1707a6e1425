"""Image sizes that networks take, multiples of a number and no smaller than another, and those that padding reaches."""

from __future__ import annotations


def padded_size(size: tuple[int, int], multiple: int, least: int = 1, squares: int = 1) -> tuple[int, int]:
    """Return the smallest height and width at or above a size that networks take.

    Args:
        size: height and width.
        multiple: divisor of the sides.
        least: smallest side.
        squares: smallest area, in squares of side `multiple`.
    """
    rows, columns = (-(-max(side, least, 1) // multiple) for side in size)
    while rows * columns < squares:
        rows, columns = (rows + 1, columns) if rows < columns else (rows, columns + 1)
    return rows * multiple, columns * multiple


def can_pad(size: tuple[int, int], multiple: int, least: int = 1, squares: int = 1) -> bool:
    """Return whether reflection can pad a size to `padded_size`.

    Reflection repeats at most the other pixels of a row or column, so a side can grow to less than twice its length.
    """
    padded = padded_size(size, multiple, least, squares)
    return all(long < 2 * side for long, side in zip(padded, size, strict=True))


def nearest_size(size: tuple[int, int], multiple: int, least: int = 1, squares: int = 1) -> tuple[int, int]:
    """Return the nearest height and width that reflection can pad, at or above a size; see `padded_size`."""
    if can_pad(size, multiple, least, squares):
        return size
    half = padded_size((1, 1), multiple, least)[0] // 2
    height, width = (max(side, half + 1) for side in size)
    # What is missing in area, the longer side makes up for.
    while not can_pad((height, width), multiple, least, squares):
        height, width = (height + 1, width) if height > width else (height, width + 1)
    return height, width

"""A curve as an SVG inside a page: it takes the page's colours, and each value can be read by pointing at it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

from lab2pix.reporting.html import number

__all__ = ["chart", "ticks"]

_WIDTH, _HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 10, 40
_DOTTED = 40  # more values than this are a line without dots


def ticks(low: float, high: float, most: int) -> list[float]:
    """Return round numbers from `low` to `high`, at most `most` of them: multiples of 1, 2 or 5 times a power of 10."""
    span = high - low
    if not span > 0:
        return [low]
    unit = 10.0 ** math.floor(math.log10(span / most))
    step = next(
        unit * factor
        for factor in (1, 2, 5, 10, 20)
        if math.floor(high / (unit * factor)) - math.ceil(low / (unit * factor)) < most
    )
    return [step * place for place in range(math.ceil(low / step), math.floor(high / step) + 1)]


def chart(values: Mapping[int, float], best: int | None, label: str) -> str:
    """Return an `<svg>` of a score over the steps.

    Args:
        values: finite ones, by step; at least one.
        best: the step to mark.
        label: what it shows, for those who cannot see it.
    """
    low, high = min(values.values()), max(values.values())
    margin = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    low, high = low - margin, high + margin
    last = max(values)

    def x(step: float) -> float:
        return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * step / max(1, last), 1)

    def y(value: float) -> float:
        return round(_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (value - low) / (high - low), 1)

    floor = _HEIGHT - _BOTTOM
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}" font-size="11" '
        'style="width:100%;display:block" fill="var(--soft)">'
    ]
    for value in ticks(low, high, 5):
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value)}" y2="{y(value)}" stroke="var(--line)"/>'
            f'<text x="{_LEFT - 6}" y="{y(value) + 4}" text-anchor="end">{_short(value)}</text>'
        )
    for step in ticks(0, last, 5):
        parts.append(
            f'<line x1="{x(step)}" x2="{x(step)}" y1="{floor}" y2="{floor + 4}" stroke="var(--soft)"/>'
            f'<text x="{x(step)}" y="{floor + 16}" text-anchor="middle">{step:,.0f}</text>'
        )
    parts.append(
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{floor}" y2="{floor}" stroke="var(--soft)"/>'
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">step</text>'
    )
    points = sorted(values.items())
    line = " ".join(f"{x(step)},{y(value)}" for step, value in points)
    parts.append(
        f'<polyline points="{line}" fill="none" stroke="var(--bar)" stroke-width="2" stroke-linejoin="round"/>'
    )
    for step, value in points:
        marked = step == best
        if marked or len(points) <= _DOTTED:
            parts.append(
                f'<circle cx="{x(step)}" cy="{y(value)}" r="{5 if marked else 2.5}" '
                f'fill="var(--{"low" if marked else "bar"})"><title>step {step:,}: {number(value)}</title></circle>'
            )
    return "".join([*parts, "</svg>"])


def _short(value: float) -> str:
    """Write a tick without digits that say nothing."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"

"""A curve as SVG in the colors of its page; each value is shown as a tooltip."""

from __future__ import annotations

import math
from collections.abc import Mapping

from markupsafe import Markup

from lab2pix.reporting.html import number, render

_WIDTH, _HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _FLOOR = 52, _WIDTH - 14, 10, _HEIGHT - 40
_DOTTED = 40  # longer curves have no dots


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


def chart(values: Mapping[int, float], best: int | None, label: str) -> Markup:
    """Return an `<svg>` of a score over the steps.

    There is at least one value, all are finite, and the step `best` is marked.
    """
    low, high = min(values.values()), max(values.values())
    margin = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    low, high = low - margin, high + margin
    last = max(values)

    def x(step: float) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * step / max(1, last), 1)

    def y(value: float) -> float:
        return round(_FLOOR - (_FLOOR - _TOP) * (value - low) / (high - low), 1)

    return render(
        "chart.svg",
        label=label,
        **{"width": _WIDTH, "height": _HEIGHT, "left": _LEFT, "right": _RIGHT, "floor": _FLOOR, "dotted": _DOTTED},
        values=[(_short(value), y(value)) for value in ticks(low, high, 5)],
        steps=[(f"{step:,.0f}", x(step)) for step in ticks(0, last, 5)],
        points=[
            (x(step), y(value), step == best, f"step {step:,}: {number(value)}")
            for step, value in sorted(values.items())
        ],
    )


def _short(value: float) -> str:
    """Format a tick without digits that carry no information."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"

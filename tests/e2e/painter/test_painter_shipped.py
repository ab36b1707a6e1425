"""The painter as a newcomer opens it: with the model that comes along, in a real browser, and how long that takes."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab2pix.inference import weights

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))


@pytest.mark.skipif("scenes" not in weights.shipped_models(), reason="this copy was made without the model")
def test_start_and_twenty_strokes_with_the_model_that_comes_along(
    browser: Any, record_property: Callable[[str, object], None]
) -> None:
    """Each stroke gets its picture at 256x256; the times are in the log, a slow machine is no failure."""
    painter_latency = pytest.importorskip("painter_latency")
    found = painter_latency.measure(None, 20, lambda: browser)
    assert (found["model"], found["size"]) == ("v2-scenes", [256, 256])
    took = found["strokes"]
    assert len(took) == 20 and min(took) > 0
    record_property(
        "measured",
        f"painter at 256x256, drawing {found['drawing']}: "
        f"start to first picture {found['start_to_first_picture']:.1f} s, "
        f"brush release to picture: median {statistics.median(took):.2f} s, worst {max(took):.2f} s of {len(took)}",
    )

"""The painter with the shipped model in a browser, and its latency."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from lab2pix.inference import weights


@pytest.mark.skipif("scenes" not in weights.shipped_models(), reason="the package contains no model")
def test_shipped_model_paints_twenty_strokes(
    browser: Any, record_property: Callable[[str, object], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Latencies are recorded, not tested."""
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "benchmarks")
    found = import_module("painter").measure_latency(None, 20, lambda: browser)
    assert (found["model"], found["size"]) == ("v2-scenes", [256, 256])
    took = found["strokes"]
    assert len(took) == 20 and min(took) > 0
    record_property(
        "measured",
        f"painter at 256x256, mode {found['mode']}: "
        f"start to first image {found['start_to_first_image']:.1f} s, "
        f"brush release to image: median {statistics.median(took):.2f} s, worst {max(took):.2f} s of {len(took)}",
    )

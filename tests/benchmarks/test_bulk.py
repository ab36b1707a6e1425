"""Arithmetic of bulk generation."""

from __future__ import annotations

import bulk
import pytest

FOUND = {
    "rows": [
        {"processes": 1, "start_s": 3.0, "images_per_s": 4.0, "images_per_core_s": 5.0},
        {"processes": 2, "start_s": 9.0, "images_per_s": 7.0, "images_per_core_s": 4.5},
    ],
    "image_bytes": 9e4,
    "label_bytes": 1e4,
}


def test_multiples_scale_with_the_number_of_images():
    given = bulk.Assumptions(core_price=0.1, gpu_price=3, gpu_speedup=50, storage_price=0.5, shard_gb=2, days=1)
    million, billion = (bulk.multiples(FOUND, count, given) for count in (1e6, 1e9))
    assert billion == pytest.approx({key: 1000 * value for key, value in million.items()})
    assert million["core_hours"] == pytest.approx(1e6 / 18000)
    assert million["core_cost"] == pytest.approx(5.5556, abs=1e-3)
    assert million["gpu_hours"] == pytest.approx(1e6 / 900_000)
    assert million["gpus"] == pytest.approx(1e6 / 900_000 / 24)
    assert (million["gigabytes"], million["shards"], million["storage_cost"]) == pytest.approx((100, 50, 50))
    assert million["files_per_s"] == pytest.approx(2e6 / 86400)
    assert million["megabytes_per_s"] == pytest.approx(1e5 / 86400)
    assert million.keys() == bulk.ROWS.keys()


def test_tables_name_the_assumptions():
    text = bulk.tables(FOUND, bulk.Assumptions(gpu_price=3.5))
    assert "| 1 | 4.0 | 18,000 | 3.0 |" in text
    assert "| 2 | 7.0 | 16,200 | 9.0 |" in text
    assert "| price of the GPUs at 3.5 an hour | 1.9 | 1,900 |" in text

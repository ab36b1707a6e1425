from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TINY = ["--base", "64", "2", "3", "1", "--repeats", "1", "--threads", "1"]
NONE = ["--size", "--width", "--classes", "--batch", "--processes"]


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import scaling

    return scaling


def test_scaling_benchmark_measures_step_and_image(scaling, tmp_path, capsys) -> None:
    out = tmp_path / "scaling.json"
    scaling.main([*TINY, *NONE, "--batch", "1", "2", "--out", str(out)])
    record = json.loads(out.read_text())
    rows = {(row["value"], row["what"], row["way"]): row for row in record["rows"] if row["device"] == "cpu"}
    assert len(rows) == 8 and {row["axis"] for row in rows.values()} == {"batch"}
    for what in ("step", "picture"):
        one, two = (rows[batch, what, "plain"] for batch in (1, 2))
        assert 1.7 < two["gflop"] / one["gflop"] < 2.3
        assert two["peak_mib"] > one["peak_mib"] > 0
        assert rows[1, what, "present"]["gflop"] < one["gflop"]
        present = rows[1, what, "present"]
        assert present["faster"] == one["seconds"] / present["seconds"] and one["faster"] == 1
    assert record["base"] == {"size": 64, "width": 2, "classes": 3, "batch": 1}
    assert record["machine"] and record["versions"]["torch"] == torch.__version__
    printed = capsys.readouterr().out
    assert torch.cuda.is_available() or "rows of a GPU are skipped" in printed


def test_every_axis_changes_one_thing(scaling) -> None:
    args = scaling.arguments([*TINY, "--size", "128", "--width", "4", "--classes", "5", "--batch", "2"])
    found = {axis: (value, point) for axis, value, point in scaling.points(args)}
    base = scaling.Point(64, 2, 3, 1)
    for axis, (value, point) in found.items():
        changed = {name for name in found if getattr(point, name) != getattr(base, name)}
        assert changed == {axis} and getattr(point, axis) == value
    assert len(found) == 4
    config = scaling.configuration(found["width"][1])
    assert config.generator.width == config.discriminator.width == 4 and config.data.size == (64, 64)


def test_label_maps_of_a_batch_differ(scaling) -> None:
    maps = scaling.label_maps(scaling.Point(64, 2, 9, 3))
    assert maps.shape == (3, 64, 64) and maps.max() < 9
    assert not torch.equal(maps[0], maps[1])
    assert torch.equal(maps, scaling.label_maps(scaling.Point(64, 2, 9, 3)))


def test_processes_step_together(scaling) -> None:
    args = scaling.arguments([*TINY, "--processes", "2"])
    plain, present = scaling.together(args)
    assert (plain["way"], present["way"], present["value"]) == ("plain", "present", 2)
    assert present["steps_per_s"] == pytest.approx(2 / present["seconds"])
    assert present["samples_per_s"] == present["steps_per_s"] and present["processor_s"] > 0

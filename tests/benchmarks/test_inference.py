from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TINY = [
    "--width", "2", "--classes", "3", "--repeats", "1", "--threads", "1", "--regions", "6",
    "--v2-size", "64", "64", "--v1-size", "64", "64",
]  # fmt: skip


@pytest.fixture
def inference(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import inference

    return inference


def test_inference_benchmark_measures_every_mode_of_a_row(inference, tmp_path, capsys) -> None:
    out = tmp_path / "inference.json"
    inference.main([*TINY, "--rows", "V2, one picture", "--no-memory", "--out", str(out)])
    record = json.loads(out.read_text())
    rows = {row["way"]: row for row in record["rows"] if row["device"] == "cpu"}
    assert list(rows) == ["plain", "modules", "fast", "fast-bf16"]
    assert rows["plain"]["difference"] == 0
    assert rows["fast"]["difference"] <= 1e-4
    assert rows["fast-bf16"]["difference"] <= 3e-2
    assert rows["fast"]["faster"] == rows["plain"]["seconds"] / rows["fast"]["seconds"]
    assert record["machine"] and record["versions"]["torch"] == torch.__version__
    assert 0 < record["differing_neighbourhoods"]["v2"] < 1
    printed = capsys.readouterr().out
    assert "fast-bf16" in printed
    assert torch.cuda.is_available() or "rows of a GPU are skipped" in printed


def test_memory_is_told_of_a_way(inference) -> None:
    args = inference.arguments(TINY)
    plain, fast = (inference.memory_of("cpu", "V2, one picture", way, args) for way in ("plain", "fast"))
    assert 0 < fast["peak_mib"] < 100 and 0 < plain["peak_mib"] < 100
    assert fast["kept_mib"] > 0 == plain["kept_mib"]
    assert plain["process_mib"] > 50


@pytest.mark.parametrize("kind", ["v2", "v1"])
def test_plain_and_fast_draw_the_same_in_every_row(inference, kind) -> None:
    args = inference.arguments(TINY)
    plain = inference.build(kind, args, torch.device("cpu"))
    for row, (wanted, pictures) in inference.ROWS.items():
        if wanted != kind:
            continue
        drawers = {way: inference.Drawer(row, way, plain, args, torch.device("cpu")) for way in inference.WAYS}
        images = {way: drawer.draw(1) for way, drawer in drawers.items()}
        for way in ("modules", "fast"):
            torch.testing.assert_close(images[way], images["plain"], atol=1e-4, rtol=0)
        assert drawers["fast"].pictures == pictures
        assert drawers["fast"].seconds() > 0


def test_plain_computes_densely(inference) -> None:
    """The plain way counts more work than the package's modules, by the global feature's enlarged convolutions."""
    args = inference.arguments(TINY)
    plain = inference.build("v2", args, torch.device("cpu"))
    work = {
        way: inference.Drawer("V2, one picture", way, plain, args, torch.device("cpu")).work()
        for way in ("plain", "modules", "fast")
    }
    assert work["fast"] < work["modules"] < work["plain"]


def test_exactness_is_told_of_each_way(monkeypatch: pytest.MonkeyPatch, tmp_path, capsys) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import inference_exactness

    out = tmp_path / "exactness.json"
    inference_exactness.main(["scenes", "--count", "1", "--threads", "1", "--out", str(out)])
    rows = {row["way"]: row for row in json.loads(out.read_text())["rows"]}
    assert rows["plain"]["largest"] == 0 < rows["fast"]["largest"] <= 1e-4
    assert rows["fast-bf16"]["largest_alone"] < 3e-2 < rows["bf16 throughout"]["largest_alone"]
    assert rows["fast-bf16"]["blocks_in_float32"] > 0
    assert "bf16 throughout" in capsys.readouterr().out


def test_what_was_left_out_draws_the_same(inference, monkeypatch: pytest.MonkeyPatch, tmp_path, capsys) -> None:
    import inference_left_out

    monkeypatch.setattr(inference_left_out, "IDEAS", inference_left_out.IDEAS[:2])  # compiling takes a minute
    out = tmp_path / "left_out.json"
    inference_left_out.main([*TINY, "--v2-size", "128", "128", "--v1-size", "128", "128", "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    bands = [row for row in rows if row["idea"] == "class constants"]
    assert {row["of"] for row in bands} == {"v1", "v2"}
    for row in bands:
        assert row["difference"] <= (1e-5 if row["way"] == "fast" else 1e-1)
        assert 0 < row["differing"] < row["band"] < 1
    assert all(row["s"] > 0 < row["product_s"] for row in rows)
    assert "band" in capsys.readouterr().out

"""Benchmark scripts on small settings."""

from __future__ import annotations

import json

import ablation
import data
import pytest
import scaling
import time_to_quality
import torch

pytestmark = pytest.mark.xslow

TINY = [
    "generator.width=2", "generator.modulation_hidden=2", "generator.global_encoder.width=2", "discriminator.width=2",
    "discriminator.max_width=4", "train.batch_size=2", "data.scenes.train_count=2", "data.scenes.val_count=4",
]  # fmt: skip
SCORE = ["--count", "4", "--segmenter-steps", "2"]


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_benchmark_of_data(tmp_path, capsys):
    out = tmp_path / "data.json"
    out.write_text(json.dumps({"transfer": {"rows": [1]}}))
    tiny = ["--pairs", "40", "--repeats", "1", "--rounds", "1", "--threads", "1", "--batch", "2", "--steps", "3"]
    tiny += ["--width", "2", "--size", "64", "64", "--sizes", "64", "--folder", str(tmp_path), "--out", str(out)]
    data.main([*tiny, "--sets", "coco-stuff, instances", "--sources", "scenes", "files"])
    record = json.loads(out.read_text())
    baseline, ours = record["opening"]["rows"]
    assert baseline["pairs"] == ours["pairs"] == 40 and baseline["files"] == 120 and baseline["hash"] == ours["hash"]
    assert ours["before_mib"] > 100 > ours["held_mib"] and ours["again_s"] > 0
    assert [row["source"] for row in record["reading"]["rows"]] == ["scenes", "files"]
    rows = [(row["source"], row["epoch"], row["reader"]) for row in record["waiting"]["rows"]]
    assert rows == [
        (name, epoch, r) for name, epoch in (("scenes", 1), ("scenes", 2), ("files", 1)) for r in data.READERS
    ]
    assert all(0 <= row["waiting"] <= 1 and row["steps"] == 2 for row in record["waiting"]["rows"])
    assert [path.name for path in tmp_path.iterdir()] == ["data.json"]
    assert torch.cuda.is_available() or record["transfer"] == {"rows": [1]}
    assert torch.cuda.is_available() or "transfer to a GPU is skipped" in capsys.readouterr().out


def test_benchmark_of_scaling(tmp_path):
    out = tmp_path / "scaling.json"
    tiny = ["--base", "64", "2", "3", "1", "--repeats", "1", "--threads", "1", "--out", str(out)]
    scaling.main([*tiny, "--size", "--width", "--classes", "--batch", "1", "2", "--processes", "2"])
    rows = {(row["axis"], row["value"], row["what"]): row for row in json.loads(out.read_text())["rows"]}
    assert len(rows) >= 7
    assert rows["batch", 2, "step"]["peak_mib"] > rows["batch", 1, "step"]["peak_mib"] > 0
    assert rows["batch", 1, "images, fast"]["seconds"] > 0
    both = rows["processes", 2, "step"]
    assert both["steps_per_s"] == pytest.approx(2 / both["seconds"])


def test_benchmark_of_evaluation(tmp_path, monkeypatch, capsys):
    import evaluation  # it imports torchmetrics, which takes seconds

    out = tmp_path / "evaluation.json"
    small = ["--count", "4", "--batch", "2", "--repeats", "1", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["evaluation.py", *small])
    evaluation.main()
    ours, theirs = json.loads(out.read_text())["rows"]
    assert theirs["ratio"] == 1 and ours["per_second"] > 0
    assert "torchmetrics" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("script", "more", "table", "row"),
    [
        (ablation, ["--table", "paired-scenes", "--steps", "1"], "ablation-paired-scenes.json", "e"),
        (time_to_quality, ["--data", "scenes", "--minutes", "0.001"], "time_to_quality.json", "v2"),
    ],
    ids=["ablation", "time_to_quality"],
)
def test_comparisons(script, more, table, row, tmp_path, capfd):
    first = {"e": "a", "v2": "spade"}[row]
    common = ["--runs", str(tmp_path / "runs"), *more, "--set", *TINY, "--only", f"{first}:0", f"{row}:0"]
    assert script.main(["time", *common[:-2], first, row, "--repeats", "1"]) == 0
    assert script.main(["train", *common]) == 0
    assert script.main(["train", *common]) == 0
    assert script.main(["score", *common, "--out", str(tmp_path), *SCORE]) == 0
    record = json.loads((tmp_path / table).read_text())
    found = record.get("scenes", record)
    assert set(found["runs"]) == {first, row}
    assert list(tmp_path.glob("*.jpg"))
    printed = capfd.readouterr().out
    assert "is finished" in printed and f"| {row} |" in printed

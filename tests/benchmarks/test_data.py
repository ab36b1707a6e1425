from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TINY = ["--pairs", "40", "--repeats", "1", "--rounds", "1", "--threads", "1", "--batch", "2", "--steps", "3"]
TINY += ["--width", "2", "--size", "64", "64", "--sizes", "64"]


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import data

    return data


def test_data_benchmark_measures_opening_reading_and_waiting(data, tmp_path, capsys) -> None:
    out = tmp_path / "data.json"
    sets = ["--sets", "coco-stuff, instances", "--sources", "scenes", "--folder", str(tmp_path)]
    data.main([*TINY, *sets, "--out", str(out)])
    record = json.loads(out.read_text())
    plain, present = record["opening"]["rows"]
    assert (plain["way"], present["way"]) == ("plain", "present")
    assert plain["pairs"] == present["pairs"] == 40 and plain["files"] == 120
    assert plain["hash"] == present["hash"]
    assert present["before_mib"] > 100 > present["held_mib"] and present["again_s"] > 0
    assert [row["source"] for row in record["reading"]["rows"]] == ["scenes"]
    rows = [(row["source"], row["epoch"], row["way"]) for row in record["waiting"]["rows"]]
    ways = ["plain", "thread", "1 worker", "2 workers"]
    assert rows == [("scenes", epoch, way) for epoch in (1, 2) for way in ways]
    assert all(0 <= row["waiting"] <= 1 and row["steps"] == 2 for row in record["waiting"]["rows"])
    assert all(row["waited_s"] < row["step_s"] * 2 and row["step_cpu_s"] > 0 for row in record["waiting"]["rows"])
    assert record["opening"]["versions"]["torch"] == torch.__version__ and record["opening"]["settings"]["pairs"] == 40
    assert [path.name for path in tmp_path.iterdir()] == ["data.json"]
    printed = capsys.readouterr().out
    assert "coco-stuff, instances" in printed and "2 workers" in printed
    assert torch.cuda.is_available() or "transfer to a GPU is skipped" in printed


def test_every_set_opens_both_ways_alike(data, tmp_path) -> None:
    import data_opening

    for number, row in enumerate(data_opening.SETS):
        root = tmp_path / str(number)
        assert data_opening.make_set(row, root, 7) in (14, 21, 28)
        made, digest = data_opening.present(row, root)
        pairs, plain = data_opening.plain(row, root)
        assert len(made) == len(pairs) == 7
        assert (digest == plain) == ("unpaired" not in row)


def test_parts_that_are_not_measured_again_stay(data, tmp_path) -> None:
    out = tmp_path / "data.json"
    out.write_text(json.dumps({"opening": {"rows": [1]}, "reading": {"rows": [2]}}))
    data.main([*TINY, "--parts", "reading", "--sources", "scenes", "--out", str(out)])
    record = json.loads(out.read_text())
    assert record["opening"] == {"rows": [1]} and record["reading"]["rows"][0]["source"] == "scenes"
    assert "waiting" not in record


def test_files_are_read_at_every_size(data, tmp_path) -> None:
    args = data.arguments([*TINY, "--parts", "reading", "--sources", "files", "--sizes", "64", "96"])
    rows = data.measure(args, tmp_path)["reading"]
    assert [row["size"] for row in rows] == [[64, 64], [96, 96]]
    assert all(rate > 0 for row in rows for rate in row["samples_per_s"].values())


def test_photos_that_are_not_here_are_said_to_be_missing(data, capsys) -> None:
    args = data.arguments([*TINY, "--parts", "reading", "--sources", "camvid"])
    args.camvid = None
    assert data.measure(args, Path()) == {"reading": []}
    assert "CamVid is not here" in capsys.readouterr().out

"""Arithmetic of the benchmarks, and their selection of runs."""

from __future__ import annotations

import json
from argparse import Namespace
from itertools import pairwise
from pathlib import Path

import _environment
import _runs
import ablation
import data
import pytest
import scaling
import time_to_quality
import torch

from lab2pix.recipes import load_config

FRECHET = "frechet_efficientnet_lite0"


def arguments(**changed):
    return Namespace(
        **{"verb": "time", "table": None, "only": None, "steps": 400, "set": [], "data": ["scenes"]} | changed
    )


def scores(**by_row):
    return {
        row: {
            seed: {"ppa": ppa, "pca": 0.1, "ciou": 0.1 + ppa / 10, FRECHET: 20 * (1 - ppa)}
            for seed, ppa in enumerate(values)
        }
        for row, values in by_row.items()
    }


def config_of(run):
    words = run.settings()
    return load_config(words[0], words[1:])


def changes(one, other):
    """Return the dotted keys of settings that differ."""
    pairs = [(section, one.model_dump()[section], other.model_dump()[section]) for section in one.model_dump()]
    return {
        f"{section}.{key}" if isinstance(mine, dict) else section
        for section, mine, theirs in pairs
        for key in (mine if isinstance(mine, dict) else [section])
        if section != "name" and (mine[key] != theirs.get(key) if isinstance(mine, dict) else mine != theirs)
    }


def test_ablation_trains_each_row_with_three_seeds():
    runs = ablation.choose(arguments())
    assert len({run.name for run in runs}) == len(runs) == 3 * (9 + 5 + 5)
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    assert [run.name for run in ablation.choose(arguments(table="paired-scenes", only=["b", "e:2"]))] == [
        f"paired-scenes/{name}" for name in ("b-0", "b-1", "b-2", "e-2")
    ]


@pytest.mark.parametrize("table", ablation.tables(), ids=lambda table: table.name)
def test_ablation_rows_differ_as_their_presets_do(table):
    for above, row in pairwise(table.presets):
        small = [config_of(table.run(letter, 0, 400)) for letter in (above, row)]
        published = [load_config(table.presets[letter]) for letter in (above, row)]
        assert changes(*small) == changes(*published)
        assert {small[0].backbone.discriminator, small[0].backbone.perceptual} == {"efficientnet-lite1"}
    if ablation.WITHOUT_CYCLE.startswith(row):
        cut = config_of(table.run(ablation.WITHOUT_CYCLE, 0, 400))
        assert changes(small[1], cut) == {"loss.cycle", "loss.cycle_warmup"}


def test_ablation_equal_time_run_has_the_time_of_the_last_row(tmp_path):
    args = arguments(verb="train", runs=tmp_path, table="paired-scenes", only=["a-time:1"])
    with pytest.raises(ValueError, match="run the verb `time` first"):
        ablation.choose(args)
    _environment.write_json(tmp_path / "costs.json", {"paired-scenes": {"a": 0.2, "e": 0.5}})
    assert [(run.name, run.steps) for run in ablation.choose(args)] == [("paired-scenes/a-time-1", 1000)]


def test_ablation_change_must_exceed_its_spread():
    paper = {"a": (0.5, 0.1, 0.1, 50.0), "b": (0.6, 0.1, 0.2, 60.0), "c": (0.6, 0.1, 0.2, 60.0)}
    clear, unclear = ablation.compare_rows(scores(a=[0.1, 0.2, 0.3], b=[0.3, 0.41, 0.5], c=[0.2, 0.5, 0.5]), paper)
    assert clear["ppa"]["mean"] == pytest.approx((0.2 + 0.21 + 0.2) / 3)
    assert (clear["ppa"]["here"], clear["ppa"]["there"]) == ("better", "better")
    assert (clear[FRECHET]["here"], clear[FRECHET]["there"]) == ("better", "worse")  # lower is better
    assert (clear["pca"]["here"], unclear["ppa"]["here"]) == ("equal", "open")
    [single] = ablation.compare_rows(scores(a=[0.1], b=[0.9]), paper)
    assert single["ppa"]["here"] == "open"


def test_ablation_table_marks_the_best():
    table = _runs.summary(scores(a=[0.1, 0.3], b=[0.5, 0.7]))
    first, second = ablation.markdown(table, {"a": "first", "b": "second"}, {"a": 0.25}).splitlines()[2:]
    assert first == "| a | first | 0.200 ± 0.141 | **0.100 ± 0.000** | 0.120 ± 0.014 | 16.0 ± 2.8 | 0.25 |"
    assert second == "| b | second | **0.600 ± 0.141** | 0.100 ± 0.000 | **0.160 ± 0.014** | **8.0 ± 2.8** | – |"


def test_evaluate_reuses_a_report_of_the_same_step_and_segmenter(tmp_path, monkeypatch):
    weights, made, at = tmp_path / "model.safetensors", [], {}

    def run(command, **_):
        made.append(command)
        segmenter = {"weights_sha256": _runs.file_sha256(weights)}
        means = {name: {"mean": len(made)} for name in _runs.SCORES}
        protocol = {"generated": {"step": at["step"]}, "segmenter": segmenter}
        Path(command[command.index("--out") + 1]).write_text(json.dumps({"protocol": protocol, "scores": means}))
        return Namespace(returncode=0)

    monkeypatch.setattr(_runs.subprocess, "run", run)
    monkeypatch.setattr(_runs, "read_report", lambda file: json.loads(file.read_text()))
    monkeypatch.setattr(_runs, "latest_checkpoint", lambda _: Path(f"step-{at['step']:08d}"))
    found = []
    for at["step"], content in ((5, "one"), (5, "one"), (6, "one"), (6, "two"), (6, "two")):
        weights.write_text(content)
        found.append(_runs.evaluate(tmp_path, tmp_path, samples=1, count=2)["ppa"])
    assert found == [1, 1, 2, 3, 3]


def test_time_to_quality_spade_differs_from_v2_as_the_first_paired_row_from_the_last():
    runs = {run.row: config_of(run) for run in time_to_quality.choose(arguments()) if run.seed == 0}
    last, first = load_config("paired-e-lab2pix-v2"), load_config("paired-a-spade")
    found = changes(runs["v2"], runs["spade"])
    assert found == changes(last, first) | {"discriminator.scales", "loss.cycle"}
    for section, key in (name.split(".") for name in changes(last, first)):
        assert getattr(getattr(runs["spade"], section), key) == getattr(getattr(first, section), key)


def test_time_to_quality_steps_follow_from_minutes(tmp_path):
    args = arguments(verb="train", runs=tmp_path, minutes=2.0, only=["v2", "spade:1"])
    (tmp_path / "costs.json").write_text(json.dumps({"scenes": {"spade": 0.2, "v2": 0.5}}))
    assert [(run.name, run.steps) for run in time_to_quality.choose(args)] == [
        ("scenes/v2-0", 240), ("scenes/spade-1", 600), ("scenes/v2-1", 240), ("scenes/v2-2", 240)
    ]  # fmt: skip
    given = ["train.batch_size=2", "v2:loss.perceptual=30", "spade:loss.perceptual=5"]
    assert time_to_quality.settings_of(given, "v2") == ["train.batch_size=2", "loss.perceptual=30"]


def test_scaling_axes_change_one_value():
    base = ["--base", "64", "2", "3", "1"]
    args = scaling.arguments([*base, "--size", "128", "--width", "4", "--classes", "5", "--batch", "2"])
    for axis, value, point in scaling.points(args):
        assert vars(point) == vars(scaling.Point(64, 2, 3, 1)) | {axis: value}
    maps = scaling.label_maps(scaling.Point(64, 2, 9, 3))
    assert maps.shape == (3, 64, 64) and maps.max() < 9 and not torch.equal(maps[0], maps[1])


def test_data_sets_open_alike_in_both_ways(tmp_path):
    for number, row in enumerate(data.SETS):
        root = tmp_path / str(number)
        assert data.make_set(row, root, 7) in (14, 21, 28)
        (made, digest), (pairs, expected) = (opener(row, root) for opener in (data.open_set, data.open_baseline))
        assert len(made) == len(pairs) == 7
        assert (digest == expected) == ("unpaired" not in row)


def test_json_has_one_row_per_line(tmp_path):
    record = {"a": 1, "rows": [{"x": 1.5, "y": "é"}, {"x": [1, 2]}] * 20, "empty": {}}
    _environment.write_json(tmp_path / "new" / "file.json", record)
    text = (tmp_path / "new" / "file.json").read_text(encoding="utf-8")
    assert json.loads(text) == record and '\n  {"x": 1.5, "y": "é"},\n' in text

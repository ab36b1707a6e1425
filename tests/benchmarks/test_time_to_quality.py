"""V2 and SPADE for equally long: what differs between them, how many steps each makes, and a tiny run of it all."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import time_to_quality

from lab2pix.recipes import load_config

TINY = [
    "generator.width=2", "generator.modulation_hidden=2", "generator.global_encoder.width=2", "discriminator.width=2",
    "discriminator.max_width=4", "train.batch_size=1", "data.scenes.train_count=2", "data.scenes.val_count=4",
]  # fmt: skip


def test_spade_differs_from_v2_as_the_first_rung_does_from_the_last():
    ours, spade = (
        load_config(words[0], words[1:]).model_dump()
        for words in (time_to_quality.Run("scenes", method, 0, 100).settings([]) for method in ("v2", "spade"))
    )
    last, first = (load_config(preset).model_dump() for preset in ("paired-e-lab2pix-v2", "paired-a-spade"))

    def changed(one, other):
        return {
            (part, key)
            for part in one
            if isinstance(one[part], dict)
            for key in one[part]
            if one[part][key] != other[part][key]
        }

    # The small preset has one discriminator, and SPADE keeps the two that it was made with; V2 is read, SPADE is not.
    assert changed(ours, spade) == changed(last, first) | {("discriminator", "scales"), ("loss", "cycle")}
    assert spade["loss"]["cycle"] == 0
    for part, key in changed(last, first):
        assert spade[part][key] == first[part][key]
    assert (ours["discriminator"]["scales"], spade["discriminator"]["scales"]) == (1, 2)


def test_each_makes_the_steps_that_its_minutes_hold(tmp_path):
    args = Namespace(runs=tmp_path, data=["scenes"], minutes=2.0, only=["v2", "spade:1"])
    with pytest.raises(ValueError, match="run the verb `time` first"):
        time_to_quality.choose(args)
    (tmp_path / "costs.json").write_text(json.dumps({"scenes": {"spade": 0.2, "v2": 0.5}}))
    assert [(run.name, run.steps) for run in time_to_quality.choose(args)] == [
        ("scenes/v2-0", 240), ("scenes/spade-1", 600), ("scenes/v2-1", 240), ("scenes/v2-2", 240)
    ]  # fmt: skip


def test_a_setting_may_be_one_method_s():
    changes = ["train.batch_size=2", "v2:loss.perceptual=30", "spade:loss.perceptual=5"]
    assert time_to_quality.chosen(changes, "v2") == ["train.batch_size=2", "loss.perceptual=30"]
    assert time_to_quality.chosen(changes, "spade") == ["train.batch_size=2", "loss.perceptual=5"]


def test_time_to_quality_benchmark_runs(tmp_path, monkeypatch, capfd):
    before = torch.get_num_threads()
    common = ["--runs", str(tmp_path / "runs"), "--data", "scenes", "--minutes", "0.001", "--set", *TINY]
    score = ["--out", str(tmp_path), "--count", "4", "--segmenter-steps", "2", "--only", "spade:0", "v2:0"]
    for words in (
        ["time", "--turns", "1", *common],
        ["train", *common, "--only", "spade:0", "v2:0"],
        ["score", *common, *score],
    ):
        monkeypatch.setattr(sys, "argv", ["time_to_quality.py", *words])
        assert time_to_quality.main() == 0
    torch.set_num_threads(before)
    found = json.loads((tmp_path / "time_to_quality.json").read_text())["scenes"]
    assert found["steps"] == {"spade": 10, "v2": 10}
    assert found["v2_less_spade"]["ppa"]["mean"] == pytest.approx(
        found["runs"]["v2"]["0"]["ppa"] - found["runs"]["spade"]["0"]["ppa"]
    )
    assert (tmp_path / "time_to_quality_scenes.jpg").exists()
    assert "| scenes | v2 | 10 |" in capfd.readouterr().out

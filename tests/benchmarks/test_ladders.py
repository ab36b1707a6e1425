"""The ladders' benchmark: what is trained, how long, and how a table says what a step changed."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import ladder_costs
import ladder_scores
import ladders
from surroundings import write_json

from lab2pix import LabelSpace, Synthesizer
from lab2pix.inference import ModelInfo
from lab2pix.methods import build_generator
from lab2pix.recipes import load_config
from lab2pix.utils.distributed import init_distributed


def arguments(**changed):
    return Namespace(**{"ladder": None, "equal_time": False, "only": None, "steps": 400, **changed})


def scores(**by_rung):
    return {
        rung: {
            seed: {"ppa": ppa, "pca": 0.1, "ciou": 0.1 + ppa / 10, "frechet_efficientnet_lite0": 20 * (1 - ppa)}
            for seed, ppa in enumerate(values)
        }
        for rung, values in by_rung.items()
    }


def test_all_rungs_of_all_ladders_are_trained_with_three_seeds_those_of_one_seed_together():
    runs = ladders.choose(arguments())
    assert len(runs) == 3 * (9 + 5 + 5)
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    assert len({run.name for run in runs}) == len(runs)


def test_two_rungs_differ_only_as_their_presets_do():
    for ladder in ladders.ladders():
        letters = [letter for letter in ladder.presets if letter != ladders.WITHOUT_CYCLE]
        for above, rung in pairwise(letters):
            small = [
                load_config(words[0], words[1:])
                for words in (ladders.Run(ladder, letter, 0, 400).settings([]) for letter in (above, rung))
            ]
            published = [load_config(ladder.presets[letter]) for letter in (above, rung)]
            assert changes(*small) == changes(*published)


def changes(one, other, path=""):
    """Return the keys that differ, but for names."""
    found = set()
    for key, value in one.model_dump().items():
        theirs = other.model_dump()[key]
        if isinstance(value, dict) and isinstance(theirs, dict):
            found |= {f"{key}.{inner}" for inner in value if value[inner] != theirs.get(inner)}
        elif value != theirs and key != "name":
            found.add(key)
    return found


def test_no_run_learns_against_the_features_that_judge_it():
    for run in ladders.choose(arguments()):
        words = run.settings([])
        config = load_config(words[0], words[1:])
        assert {config.backbone.discriminator, config.backbone.perceptual} == {"efficientnet-lite1"}


def test_without_cycle_segmentation_nothing_else_changes():
    unpaired = ladders.ladders()[0]
    with_cycle, without = (
        load_config(words[0], words[1:])
        for words in (ladders.Run(unpaired, rung, 0, 400).settings([]) for rung in ("h", ladders.WITHOUT_CYCLE))
    )
    assert changes(with_cycle, without) == {"loss.cycle", "loss.cycle_warmup"}


def test_the_first_rung_gets_the_time_of_the_last(tmp_path):
    paired = ladders.ladders()[1]
    costs = {paired.name: {"a": 0.2, "e": 0.5}}
    args = arguments(runs=tmp_path, steps=400, ladder=paired.name, equal_time=True)
    with pytest.raises(ValueError, match="run the verb `time` first"):
        ladders.choose(args)
    write_json(tmp_path / "costs.json", costs)
    assert [(run.rung, run.steps, run.name) for run in ladders.choose(args)] == [
        ("a", 1000, f"paired-scenes/a-time-{seed}") for seed in range(3)
    ]


def test_a_change_counts_where_it_is_larger_than_its_spread_over_the_seeds():
    paper = {"a": (0.5, 0.1, 0.1, 50.0), "b": (0.6, 0.1, 0.2, 60.0), "c": (0.6, 0.1, 0.2, 60.0)}
    clear, unclear = ladder_scores.compare_steps(
        scores(a=[0.1, 0.2, 0.3], b=[0.3, 0.41, 0.5], c=[0.2, 0.5, 0.5]), paper
    )
    assert clear["ppa"]["mean"] == pytest.approx((0.2 + 0.21 + 0.2) / 3)
    assert (clear["ppa"]["here"], clear["ppa"]["there"]) == ("better", "better")
    assert clear["frechet_efficientnet_lite0"]["here"] == "better"  # lower is better
    assert clear["frechet_efficientnet_lite0"]["there"] == "worse"
    assert clear["pca"]["here"] == "equal"
    assert unclear["ppa"]["here"] == "open"
    [single] = ladder_scores.compare_steps(scores(a=[0.1], b=[0.9]), paper)
    assert single["ppa"]["here"] == "open"


def test_the_table_marks_the_best_and_says_what_a_step_costs():
    table = ladder_scores.summary(scores(a=[0.1, 0.3], b=[0.5, 0.7]))
    assert table["b"]["ppa"] == {"mean": pytest.approx(0.6), "std": pytest.approx(0.1414, abs=1e-4)}
    text = ladder_scores.markdown(table, {"a": "first", "b": "second"}, {"a": {"seconds": 0.25, "peak_mib": 1500.4}})
    first, second = text.splitlines()[2:]
    assert first == "| a | first | 0.200 ± 0.141 | **0.100 ± 0.000** | 0.120 ± 0.014 | 16.0 ± 2.8 | 0.25 | 1,500 |"
    assert second == "| b | second | **0.600 ± 0.141** | 0.100 ± 0.000 | **0.160 ± 0.014** | **8.0 ± 2.8** | – | – |"


def test_a_step_s_time_is_that_of_whole_steps():
    paired = ladders.ladders()[1]
    words = ladders.Run(paired, "a", 0, 400).settings(["generator.width=2", "train.batch_size=2"])
    config = load_config(words[0], words[1:])
    with init_distributed("cpu") as team:
        clock = ladder_costs.StepClock(config, team)
        before = [value.clone() for value in clock.state.method.generator.parameters()]
        assert clock() > 0
    assert clock.state.step == 1
    after = list(clock.state.method.generator.parameters())
    assert any(not torch.equal(one, other) for one, other in zip(before, after, strict=True))
    found = ladder_costs.seconds_of_steps({"small": config}, 2)
    assert 0 < found["small"] < 60


def test_a_sheet_shows_label_maps_and_photos_only_where_they_may_be_passed_on(tmp_path):
    config = load_config("v2-small", ["generator.width=2", "generator.modulation_hidden=4", "data.scenes.val_count=2"])
    space = LabelSpace.load("scenes")
    Synthesizer(build_generator(config, space), ModelInfo(config, space, 0)).save(tmp_path / "run")
    heights = []
    for truth in (True, False):
        ladder_scores.sheet({"a": tmp_path / "run"}, tmp_path / "sheet.png", truth=truth, columns=2)
        with Image.open(tmp_path / "sheet.png") as page:
            heights.append(page.height)
            colors = {page.getpixel((x, y)) for x in range(96, page.width) for y in range(page.height)}
        assert (tuple(space.classes[0].color) in colors) == truth
    assert heights == [3 * 132 + 4, 132 + 4]


def test_ious_come_from_the_report_of_the_question(tmp_path, monkeypatch):
    asked = []
    report = {"classes": [{"name": "sky", "iou": 0.5}, {"name": "sun", "iou": None}]}
    monkeypatch.setattr(ladder_scores, "read_report", lambda file: asked.append(file) or report)
    assert ladder_scores.class_ious(tmp_path, samples=3, count=8) == {"sky": 0.5, "sun": None}
    assert asked == [tmp_path / "report-8x3.json"]


def test_a_report_serves_again_for_the_same_step_and_segmenter_only(tmp_path, monkeypatch):
    segmenter, run = tmp_path / "segmenter", tmp_path / "run"
    segmenter.mkdir()
    run.mkdir()
    made, at = [], {}

    class Found:
        def save(self, file, *, overwrite):
            protocol = {
                "generated": {"step": step},
                "segmenter": {"weights_sha256": ladder_scores.file_sha256(weights)},
            }
            means = {name: {"mean": len(made)} for name in ladder_scores.SCORES}
            file.write_text(json.dumps({"protocol": protocol, "scores": means}))

    monkeypatch.setattr(ladder_scores, "evaluate_run", lambda *_, **__: made.append(1) or Found())
    monkeypatch.setattr(ladder_scores, "read_report", lambda file: json.loads(file.read_text()))
    monkeypatch.setattr(ladder_scores, "latest_checkpoint", lambda _: Path(f"step-{at['step']:08d}"))
    weights = segmenter / "model.safetensors"
    found = []
    for step, content in ((5, "one"), (5, "one"), (6, "one"), (6, "two"), (6, "two")):
        at["step"] = step
        weights.write_text(content)
        found.append(ladder_scores.judge(run, segmenter, samples=1, count=2)["ppa"])
    assert found == [1, 1, 2, 3, 3]


def test_scoring_looks_at_the_rungs_that_were_asked_for(tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr(ladders, "segmenter_for", lambda *_: tmp_path)
    monkeypatch.setattr(ladders, "finished", lambda folder, _: looked.append(folder.name) and False)
    write_json(tmp_path / "costs.json", {"paired-scenes": {"a": 0.1, "e": 0.2}})
    args = arguments(runs=tmp_path, ladder="paired-scenes", only=["b", "e:2"], set=[])
    assert ladders.score_all(args) == 0
    assert looked == ["b-0", "b-1", "b-2", "e-2"]

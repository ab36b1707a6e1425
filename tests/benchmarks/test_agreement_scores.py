from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from lab2pix.recipes import load_config

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import consistency
import cycle_agreement


def test_classes_are_counted_by_pixel_and_by_class() -> None:
    wanted = torch.tensor([[[0, 0, 0, 1]]])
    found = torch.tensor([[[0, 0, 2, 1]]])
    scores = cycle_agreement.compare_classes(found, wanted)
    assert scores["ppa"] == pytest.approx(0.75)
    # Class 0: two of three; class 1: all. Class 2 is wanted nowhere and has no say of its own.
    assert scores["miou"] == pytest.approx((2 / 3 + 1) / 2)


def test_lines_may_be_off_by_a_pixel_but_not_by_two() -> None:
    wanted = torch.zeros(1, 8, 8, dtype=torch.int64)
    wanted[0, 3] = 1
    assert cycle_agreement.compare_lines(wanted.roll(1, 1), wanted)["f1"] == pytest.approx(1)
    assert cycle_agreement.compare_lines(wanted.roll(2, 1), wanted)["f1"] == 0
    half = wanted.clone()
    half[0, :, :4] = 0
    scores = cycle_agreement.compare_lines(half, wanted)
    # The line's pixel beside the found half is near enough.
    assert (scores["precision"], scores["recall"]) == (pytest.approx(1), pytest.approx(5 / 8))
    assert cycle_agreement.compare_lines(torch.zeros_like(wanted), wanted)["f1"] == 0


def test_the_reader_learns_and_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "reader.safetensors"
    reader = cycle_agreement.reader_for((32, 32), file, steps=12, count=16, seed=0)
    again = cycle_agreement.reader_for((32, 32), file, steps=12, count=16, seed=0)
    pictures, labels = cycle_agreement.scenes(0, 4, (32, 32))
    assert torch.equal(reader(pictures), again(pictures))
    assert reader.accuracy == again.accuracy
    most = labels.flatten().bincount().max() / labels.numel()
    assert float((reader(pictures) == labels).float().mean()) > float(most)


@pytest.mark.parametrize(
    ("setting", "words"), [("data.layout=folder", "drawn scenes only"), ("data.scenes.seed=7919", "another seed")]
)
def test_runs_that_the_reader_cannot_judge_are_refused(setting: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        cycle_agreement.held_out(load_config("v1-small", [setting]), 2)


def test_frechet_distance_of_normal_distributions() -> None:
    one = (torch.tensor([1.0, 0.0]).double(), torch.diag(torch.tensor([4.0, 1.0])).double())
    other = (torch.tensor([0.0, 2.0]).double(), torch.diag(torch.tensor([1.0, 9.0])).double())
    # |m - m'|^2 + sum of (s - s')^2 where the covariances are diagonal.
    assert consistency.frechet(one, other) == pytest.approx(5 + 1 + 4)
    assert consistency.frechet(one, one) == pytest.approx(0, abs=1e-6)


def test_every_rung_is_a_valid_recipe_that_differs_in_consistency_alone() -> None:
    trees = {}
    for run in consistency.choose(None):
        preset, *settings = run.settings(40, ())
        trees[run.name] = load_config(preset, settings).model_dump()
        assert (trees[run.name].pop("name"), trees[run.name].pop("seed")) == (run.name, run.seed)
    assert len(trees) == 12
    forms = {"norm": 5e-6, "squared": 5e-6, "mean-square": 5e-6}
    for form, weight in forms.items():
        loss = {**trees["c-0"]["loss"], "consistency": weight, "consistency_form": form}
        assert trees[f"d-{form}-1"] == {**trees["c-0"], "loss": loss}


def test_parts_of_the_ablation_can_be_chosen() -> None:
    assert [run.name for run in consistency.choose(["c:1", "d-norm"])] == ["d-norm-0", "c-1", "d-norm-1", "d-norm-2"]
    with pytest.raises(ValueError, match="neither one of c, d-norm"):
        consistency.choose(["e"])


def test_summary_is_a_mean_over_seeds() -> None:
    runs = consistency.choose(["c"])
    table = consistency.summary({run.name: {"ppa": 0.1 * run.seed} for run in runs}, runs)
    assert table["c"]["ppa"]["mean"] == pytest.approx(0.1)
    assert table["c"]["ppa"]["std"] == pytest.approx(0.1)
    assert "| c | 3 | 0.1000 ± 0.1000 |" in consistency.markdown(table)

"""Comparison of methods: its files, tables, sheets, and a whole small one."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import compare
import pytest
import torch
from _comparison import Comparison, link_split, portable, slug
from _runs import segmenter_for
from _tables import comma_separated, latex, markdown, side_by_side
from PIL import Image

from lab2pix.labels.space import LabelSpace
from lab2pix.recipes import load_config
from lab2pix.training.segmenter import SegmenterSettings

FILES = sorted(
    file for file in (Path(compare.__file__).parent / "compare").glob("*.yaml") if "methods:" in file.read_text()
)
KERNEL = "kernel_efficientnet_lite0"
ROWS = {
    "A & B": {"data": "pairs", "ppa": {"mean": 0.5, "std": 0.01}, KERNEL: {"mean": 2, "std": None}},
    "C_1": {"data": "unpaired", "ppa": {"mean": 0.25, "std": 0.02}, KERNEL: {"mean": 1, "std": None}},
    "real": {"ppa": 0.9, "reference": True},
}
COLUMNS = ["data", "ppa", KERNEL]


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# --- tables -------------------------------------------------------------------------------------------------------


def test_markdown_has_the_best_of_each_column_in_bold():
    assert markdown(ROWS, COLUMNS).splitlines() == [
        "| method | data | PPA | Kernel |",
        "|---|---:|---:|---:|",
        "| A & B | pairs | **0.500 ± 0.010** | 2.00 |",
        "| C_1 | unpaired | 0.250 ± 0.020 | **1.00** |",
        "| real | – | 0.900 | – |",
    ]


def test_latex_has_the_same_cells_escaped():
    text = latex(ROWS, COLUMNS, "50 % of it")
    assert r"\caption{50 \% of it}" in text
    assert r"Method & data & PPA $\uparrow$ & Kernel $\downarrow$ \\" in text
    assert r"A \& B & pairs & \textbf{0.500 $\pm$ 0.010} & 2.00 \\" in text
    assert r"C\_1 & unpaired & 0.250 $\pm$ 0.020 & \textbf{1.00} \\" in text
    assert r"real & -- & 0.900 & -- \\" in text
    assert text.count("{") == text.count("}")


def test_csv_has_unrounded_values_and_their_spread():
    assert comma_separated(ROWS, COLUMNS).splitlines() == [
        "method,data,ppa,ppa_std,kernel_efficientnet_lite0,kernel_efficientnet_lite0_std",
        "A & B,pairs,0.5,0.01,2,",
        "C_1,unpaired,0.25,0.02,1,",
        "real,,0.9,,,",
    ]


def test_sheet_has_a_column_per_method():
    red, blue = (Image.new("RGB", (64, 32), color) for color in ("red", "blue"))
    sheet = side_by_side({"one": [red, red], "two": [blue, blue]})
    assert sheet.width > 2 * 128 and sheet.height > 2 * 64
    colors = [sheet.getpixel((x, sheet.height - 20)) for x in (20, sheet.width - 20)]
    assert colors == [(255, 0, 0), (0, 0, 255)]


def test_faults_name_runs_that_do_not_follow_their_label_maps():
    scores = {"A": {0: {"ppa": 0.5, "shuffled_ppa": 0.4}, 1: {"ppa": 0.4, "shuffled_ppa": 0.4}}, "B": {0: {}}}
    [sentence] = compare.faults(scores)
    assert sentence.startswith("A, seed 1: PPA 0.400 does not exceed 0.400")


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_comparison_has_valid_settings_of_equal_data(file, tmp_path, monkeypatch):
    monkeypatch.setenv("LAB2PIX_DATA", str(tmp_path))
    (tmp_path / "edges2shoes/train").mkdir(parents=True)
    for number in range(30):
        (tmp_path / f"edges2shoes/train/{number:02d}_AB.jpg").touch()
    comparison = Comparison.read(file, tmp_path / "runs")
    configs = [load_config(words[0], words[1:]) for words in map(comparison.words, comparison.methods)]
    assert len({(config.data.root, config.data.size, config.data.label_space) for config in configs}) == 1
    runs = comparison.runs({title: {"step_s": 3.0} for title in comparison.methods})
    assert len({run.name for run in runs}) == len(runs) == len(comparison.methods) * len(comparison.seeds)
    assert {run.steps for run in runs} == {20 * comparison.minutes if comparison.minutes else comparison.steps}
    if comparison.scores:  # a file for `time` alone has none
        assert len({config.train.ema_decay for config in configs}) == 1
        # no method is scored by a network that it was trained against
        assert "efficientnet-lite0" not in {value for config in configs for value in backbones(config)}


def backbones(config):
    found = config.backbone.model_dump() if hasattr(config, "backbone") else {}
    return [name for name in found.values() if isinstance(name, str)]


def test_result_has_no_paths_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB2PIX_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("LAB2PIX_DATA", str(tmp_path / "data"))
    comparison = Comparison.read(FILES[0].with_name("landscapes-trials.yaml"), tmp_path / "runs")
    assert f"backbone.weights.vgg19-16x={tmp_path}/models/vgg19_16x/vgg19_16x_5se.safetensors" in comparison.settings
    text = json.dumps(portable(comparison))
    assert "=$DATA/landscapes" in text and "=$MODELS/vgg19_16x/" in text
    assert str(tmp_path) not in text


def test_discriminator_terms_are_those_of_the_end(tmp_path):
    lines = [{"step": 1, "note": "x"}, *({"losses": {"discriminator": {"real": n, "fake": 2 * n}}} for n in range(30))]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert compare.discriminator_terms(tmp_path) == {"discriminator_real": 28, "discriminator_fake": 56}


def test_split_holds_the_last_files_by_name_out(tmp_path):
    (tmp_path / "all").mkdir()
    for name in "dacb":
        (tmp_path / "all" / name).write_text(name)
    for _ in range(2):
        link_split(tmp_path / "all", tmp_path / "data", 1)
    names = {part: sorted(path.name for path in (tmp_path / "data" / part).iterdir()) for part in ("train", "val")}
    assert names == {"train": ["a", "b", "c"], "val": ["d"]}
    assert (tmp_path / "data/val/d").read_text() == "d"
    with pytest.raises(ValueError, match="has 4 files, too few to hold out 4"):
        link_split(tmp_path / "all", tmp_path / "data", 4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 5, "minutes": 1}, "has both or none of minutes and steps"),
        ({"scores": ["fid"]}, "unknown score 'fid'; known: data, ppa"),
        ({"reference": "B"}, "has no method 'B'"),
        ({"method": {}}, "is no comparison"),
        ({"settings": ["data.root=$ROOT"]}, "is no comparison: 'ROOT'"),
    ],
)
def test_wrong_file_is_one_error(change, words, tmp_path, capsys):
    good = {"title": "t", "steps": 5, "settings": [], "methods": {"A": {"preset": "pix2pix-small"}}}
    file = tmp_path / "one.yaml"
    file.write_text(json.dumps(good | change))
    with pytest.raises(SystemExit):
        compare.main(["train", str(file), "--runs", str(tmp_path)])
    assert words in capsys.readouterr().err


def test_equal_time_needs_costs(tmp_path, capsys):
    file = tmp_path / "one.yaml"
    good = {"title": "t", "minutes": 5, "settings": [], "methods": {"A": {"preset": "pix2pix-small"}}}
    file.write_text(json.dumps(good))
    with pytest.raises(SystemExit):
        compare.main(["train", str(file), "--runs", str(tmp_path)])
    assert "the cost of a step of A is unknown; run the verb `time` first" in capsys.readouterr().err
    assert slug("SCAN (our reading)") == "scan-our-reading"


def test_even_and_odd_files_share_none():
    config = load_config("pix2pix-small", ["data.size=[64,64]", "data.scenes.val_count=5"])
    space = LabelSpace.load("scenes")
    parts = {files: compare.held_out(config, space, 5, files) for files in compare.FILES}
    assert [len(part) for part in parts.values()] == [5, 3, 2]
    assert torch.equal(parts["even"].label, parts["all"].label[::2])
    assert torch.equal(parts["odd"].label, parts["all"].label[1::2])


def test_another_judge_than_that_of_the_file_is_refused(tmp_path):
    folder = tmp_path / "segmenters" / "one"
    folder.mkdir(parents=True)
    info = {"architecture": "unet", "encoder": "resnet18", "training": {"steps": 5}}
    (folder / "segmenter.json").write_text(json.dumps(info))
    args = SimpleNamespace(runs=tmp_path)
    assert segmenter_for(args, "one", [], SegmenterSettings(steps=5)) == folder
    with pytest.raises(ValueError, match=r"is another judge, .*'resnet18', 5"):
        segmenter_for(args, "one", [], SegmenterSettings(steps=6))


# --- a whole comparison -------------------------------------------------------------------------------------------

SMALL = """
title: Two methods on scenes
minutes: 0.001
reference: Pix2Pix
scores: [ppa, pca, ciou, psnr, ssim, kernel_efficientnet_lite0, kernel_segmenter, checkerboard, discriminator_real]
judge: {steps: 2}
settings:
  - data.size=[64,64]
  - data.scenes.train_count=4
  - data.scenes.val_count=6
  - train.ema_decay=0.9
  - generator.width=2
  - discriminator.width=2
  - checkpoint.keep=1
  - monitor.tensorboard=false
methods:
  Pix2Pix: {preset: pix2pix-small, settings: [train.batch_size=2]}
  SCAN (our reading): {preset: scan-small, settings: [generator.depth=1, generator.refine_depth=1]}
"""


@pytest.mark.xslow
@pytest.mark.timeout(600)
def test_comparison_is_measured_trained_and_scored(tmp_path, capfd):
    file = tmp_path / "two.yaml"
    file.write_text(SMALL)
    common = [str(file), "--runs", str(tmp_path / "runs")]
    assert compare.main(["time", *common, "--repeats", "1", "--plain"]) == 0
    costs = json.loads((tmp_path / "runs/two/costs.json").read_text())
    assert all(value > 0 for cost in costs.values() for value in cost.values())
    assert all("step_plain_s" in cost and "image_fast_s" not in cost for cost in costs.values())
    assert compare.main(["train", *common, "--jobs", "2"]) == 0
    assert compare.main(["train", *common]) == 0
    assert capfd.readouterr().out.count("finished, 10 steps") == 2
    score = ["score", *common, "--out", str(tmp_path / "out"), "--count", "6"]
    code = compare.main(score)
    record = json.loads((tmp_path / "out/compare-two.json").read_text())
    assert code == bool(record["faults"])
    assert list(record["rows"]) == ["Pix2Pix", "SCAN (our reading)", "real photos"]
    row = record["rows"]["SCAN (our reading)"]
    assert row["data"] == "unpaired" and row["steps"] == 10 and row["time_ratio"] > 0
    assert {"kernel_segmenter", "ppa", "pca", "ciou", "psnr", "ssim", "shuffled_ppa", "checkerboard"} <= row.keys()
    assert record["rows"]["Pix2Pix"]["discriminator_real"]["mean"] > 0
    assert 0.9 < record["rows"]["real photos"]["checkerboard"] <= 1
    assert record["rows"]["Pix2Pix"]["time_ratio"] == 1
    assert (tmp_path / "out/compare-two.md").read_text().count("\n| ") == 4
    assert r"\toprule" in (tmp_path / "out/compare-two.tex").read_text()
    assert (tmp_path / "out/compare-two.csv").read_text().count("\n") == 4
    assert Image.open(tmp_path / "out/compare-two.jpg").width > 4 * 128
    scored = tmp_path / "runs/two/pix2pix-0/scores.json"
    known = json.loads(scored.read_text())
    known["scores"]["ppa"] = 2
    scored.write_text(json.dumps(known))
    compare.main([*score, "--files", "odd"])
    assert (tmp_path / "out/compare-two-odd.md").exists() and scored.with_name("scores-odd.json").exists()
    compare.main(score)  # it reads the scores of the same checkpoint again
    assert json.loads((tmp_path / "out/compare-two.json").read_text())["runs"]["Pix2Pix"]["0"]["ppa"] == 2

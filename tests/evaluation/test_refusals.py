"""Errors before evaluation begins, and unusual file names."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lab2pix.errors import ConfigError, DataError, WeightsError
from lab2pix.evaluation import evaluator
from lab2pix.evaluation.exported import ProgramSettings, read_settings
from lab2pix.evaluation.pairing import list_sha256, pair_files
from lab2pix.evaluation.protocol import Protocol, load_networks
from lab2pix.evaluation.segmenters import load_segmenter
from lab2pix.training import segmenter
from tests.helpers.commands import Run, sentence
from tests.helpers.images import NAMES, SPACE, ColorReader, Folders, export, write

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "segmenters.md"


def test_names_that_nearly_match_are_named(tmp_path: Path) -> None:
    for folder, name in (("real", "a"), ("real", "b"), ("made", "a_fake"), ("made", "b_fake")):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / folder / f"{name}.png")
    with pytest.raises(DataError, match=r"2 may belong together.*generated images end in '_fake'; rename them without"):
        pair_files(tmp_path / "made", tmp_path / "real", None)


# --- where the report goes ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_page_that_lies_there_is_kept(evaluate: Run, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine")
    sentence(evaluate(), "report.html is there already", "--overwrite")
    assert (tmp_path / "report.html").read_text() == "mine"
    assert evaluate("--overwrite")[0] == 0
    assert "<h1>" in (tmp_path / "report.html").read_text()


def test_a_place_that_cannot_be_written_is_found_before_judging(
    evaluate: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("judged before the place was looked at")

    monkeypatch.setattr(evaluator, "_update", never)
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "file").write_text("")
    sentence(evaluate("--out", tmp_path / "folder.json", "--overwrite"), "folder.json is a folder")
    sentence(evaluate("--out", tmp_path / "file" / "deep" / "x.json"), "cannot write", "Not a directory")
    sentence(evaluate("--out", "/proc/nowhere/x.json"), "cannot write /proc/nowhere/x.json")
    sentence(evaluate("--save-stats", tmp_path / "file" / "x.safetensors"), "cannot write", "x.safetensors")
    assert sorted(file.name for file in tmp_path.iterdir() if file.name != "set") == ["file", "folder.json"]


def test_a_segmenter_that_cannot_be_written_is_not_trained(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("trained before the place was looked at")

    monkeypatch.setattr(segmenter, "build_network", never)
    (tmp_path / "file").write_text("")
    words = ("segmenter", "train", "--format", "scenes", "--out", tmp_path / "file" / "out")
    sentence(run(*words), "cannot write", tmp_path / "file" / "out", "Not a directory")


# --- options that would do nothing -------------------------------------------------------------------------------


@pytest.mark.slow
def test_options_that_would_do_nothing(evaluate: Run, folders: Folders, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    sentence(evaluate("--split", "val"), "--split is a part of a dataset", folders.real)
    sentence(evaluate("--lpips-weights", weights), "--lpips-weights have no effect", "add --lpips")
    sentence(evaluate("--inception-weights", weights), "without --features inception")
    sentence(evaluate("--unpaired", "--lpips", "alex"), "--lpips compares images with photos of the same names")
    stats = tmp_path / "stats.safetensors"
    assert evaluate("--save-stats", stats)[0] == 0
    again = ("--out", tmp_path / "again.json")
    sentence(evaluate(*again, "--split", "val", real=stats), "--split has no effect without --real or --labels")
    sentence(evaluate(*again, "--format", "ade20k", real=stats), "--format has no effect without --real or --labels")


def test_a_feature_network_that_is_named_twice(means: Path, tmp_path: Path) -> None:
    twice = ("efficientnet-lite0", "efficientnet-lite0")
    with pytest.raises(ConfigError, match="'efficientnet-lite0' is given twice; give it once"):
        load_networks(Protocol(features=twice), None)
    other = tmp_path / means.name
    other.write_bytes(means.read_bytes())
    other.with_suffix(".json").write_bytes(means.with_suffix(".json").read_bytes())
    features = ("efficientnet-lite0", str(means), str(other))
    with pytest.raises(ConfigError, match="two feature networks are called 'means'"):
        load_networks(Protocol(features=features), None)


# --- label maps --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported program that reads Cityscapes' road in every pixel; its channels are the guide's."""

    class Road(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.mean(1, keepdim=True) * 0 + torch.arange(19, 0, -1).view(1, 19, 1, 1)

    classes = json.loads(GUIDE.read_text().split("```json")[1].split("```")[0])["classes"]
    return export(Road(), tmp_path_factory.mktemp("road") / "city.pt2", {"size": [32, 48], "classes": classes})


@pytest.mark.slow
@pytest.mark.parametrize("with_photos", [True, False])
def test_label_maps_without_a_pixel_that_counts(
    with_photos: bool, evaluate: Run, folders: Folders, road: Path, tmp_path: Path
) -> None:
    for name in NAMES:  # of Cityscapes' 35 classes, 0 is one that no benchmark counts
        write(folders.labels / f"{name}.png", np.zeros((32, 48), dtype=np.uint8))
    words = ("--labels", folders.labels, "--label-space", "cityscapes", "--segmenter", road)
    result = evaluate(*words, real=folders.real if with_photos else None)
    sentence(result, "no pixel of the label maps belongs to a class that counts")
    assert not (tmp_path / "report.json").exists()


@pytest.mark.slow
def test_photos_of_a_data_set_are_judged_against_its_label_maps(
    run: Run, road: Path, data_root: Path, tmp_path: Path
) -> None:
    """The guide's check of an export, on Cityscapes as it is published."""
    root = tmp_path / "cityscapes"
    source = data_root / "cityscapes"
    size = (48, 32)
    for file in sorted(source.rglob("*_leftImg8bit.png")):
        to = root / file.relative_to(source)
        to.parent.mkdir(parents=True, exist_ok=True)
        Image.open(file).resize(size).save(to)
        label = Path(str(file).replace("leftImg8bit", "gtFine").replace("gtFine.png", "gtFine_labelIds.png"))
        to = root / label.relative_to(source)
        to.parent.mkdir(parents=True, exist_ok=True)
        Image.open(label).resize(size, Image.Resampling.NEAREST).save(to)

    words = GUIDE.read_text().split("Check an export")[1].split("$ lab2pix ")[1].split("```")[0].replace("\\\n", "")
    command = words.replace("--split val", "--split train").split()
    given = {"cityscapes": root, "city.pt2": road, "photos.json": tmp_path / "photos.json"}
    spaces = [place for place, word in enumerate(command) if command[place - 1] in ("--format", "--label-space")]
    command = [word if place in spaces else str(given.get(word, word)) for place, word in enumerate(command)]
    code, _, errors = run(*command, "--device", "cpu")
    assert code == 0, errors
    report = json.loads((tmp_path / "photos.json").read_text())
    labels = np.stack([np.asarray(Image.open(file)) for file in sorted(root.rglob("*_labelIds.png"))])
    scored = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    counting = np.isin(labels, scored)
    assert report["protocol"]["generated"]["count"] == len(labels) > 1
    assert report["scores"]["ppa"]["mean"] == pytest.approx((labels[counting] == 7).mean())


# --- files and their names ---------------------------------------------------------------------------------------


def test_samples_are_told_by_plain_digits_once(tmp_path: Path) -> None:
    gray = np.zeros((16, 16, 3), dtype=np.uint8)
    for name in ("a_0", "a_1", "a_00"):
        write(tmp_path / "doubled" / f"{name}.png", gray)
    with pytest.raises(DataError, match=r"a_0\.png and .*a_00\.png are both sample 0 of 'a'"):
        pair_files(tmp_path / "doubled", None, None, samples=2)
    for name in ("a_0", "a_1", "a_²"):
        write(tmp_path / "squared" / f"{name}.png", gray)
    with pytest.raises(DataError, match=r"a_²\.png is none of 3 samples"):
        pair_files(tmp_path / "squared", None, None, samples=3)


def test_names_that_are_no_utf8(evaluate: Run, folders: Folders, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    for folder in (folders.generated, folders.real):
        try:
            (folder / "a.png").rename(folder / f"{name}.png")
        except OSError:
            pytest.skip("this file system takes names in UTF-8 only")
    code, _, errors = evaluate()
    assert code == 0, errors
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    names = [name, *NAMES[1:]]
    assert report["protocol"]["generated"]["list_sha256"] == list_sha256(names) != list_sha256(NAMES)
    shown = {item["name"] for key in ("best", "worst") for item in report["pictures"][key]}
    assert "caf\\udce9" in shown
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "caf\\udce9" in page
    assert page.count("data:image/") == 3 * 4 * 2  # all are found and shown


# --- exported programs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"size": [0, 48]}, "size.0"),
        ({"size": [True, 48]}, "size.0"),
        ({"std": [1, 0, 1]}, "std.1"),
        ({"std": [1, 1, -1]}, "std.2"),
        ({"mean": [0, float("nan"), 0]}, "mean.1"),
        ({"batch": 0}, "batch"),
        ({"output": True}, "output"),
    ],
)
def test_settings_that_no_network_can_have(settings: dict[str, object], key: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps(settings))
    with pytest.raises(WeightsError, match=rf"x\.json: '{key}' is invalid"):
        read_settings(tmp_path / "x.pt2", ProgramSettings)


def test_label_true_is_no_class_id(tmp_path: Path) -> None:
    file = export(ColorReader(), tmp_path / "x.pt2", {"size": [32, 48], "classes": [True, *SPACE.names[1:]]})
    with pytest.raises(WeightsError, match=r"x\.json: 'classes\.0"):
        load_segmenter(file, SPACE)


def test_a_wrong_file_that_somebody_named_is_not_to_be_deleted(evaluate: Run, tmp_path: Path) -> None:
    mine = tmp_path / "mine.pth"
    mine.write_bytes(b"something else")
    result = evaluate("--features", "inception", "--inception-weights", mine)
    sentence(result, mine, "SHA-256", "name weights-inception-2015-12-05-6726825d.pth instead")
    assert "delete" not in result[2]

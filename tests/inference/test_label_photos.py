from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from lab2pix.data.build import build_dataset
from lab2pix.data.label_maps import read_label
from lab2pix.errors import DataError, LabelError, OutputError
from lab2pix.evaluation.segmenter_base import Segmenter
from lab2pix.evaluation.segmenters import load_segmenter
from lab2pix.inference.label_classes import ClassMapping
from lab2pix.inference.label_photos import LabelSettings, label_photos, predict, read_records
from lab2pix.inference.label_refinement import guided_filter, merge_small_regions
from lab2pix.labels.space import LabelSpace
from lab2pix.recipes import load_config
from tests.helpers.commands import Run, sentence
from tests.helpers.images import ColorReader, export

OWN = LabelSpace.from_dict({"name": "own", "classes": ["red", "green", "blue"], "unknown_value": 3})
SETTINGS = LabelSettings(threshold=0.5, least_region=0, snap=0, val_share=0.3)


class BrightestChannel(Segmenter):
    """Predicts the brightest of red, green and blue; gray is undecided."""

    name, space, ids = "brightest", OWN, torch.arange(3)

    def logits(self, pictures: Tensor) -> Tensor:
        return pictures.float() / 25

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported segmenter of the classes of scenes."""
    file = tmp_path_factory.mktemp("reader") / "colors.pt2"
    return export(ColorReader(), file, {"size": [32, 48], "classes": list(LabelSpace.load("scenes").names)})


def halves(left: tuple[int, int, int], right: tuple[int, int, int], size: tuple[int, int] = (16, 20)) -> Image.Image:
    image = np.empty((*size, 3), np.uint8)
    image[:, : size[1] // 2], image[:, size[1] // 2 :] = left, right
    return Image.fromarray(image)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for number in range(6):
        halves((250, 0, 0), (0, 0, 250)).save(folder / "sub" / f"{number}.png")
    halves((0, 250, 0), (120, 120, 120)).save(folder / "gray.png")
    return folder


def test_photos_become_a_dataset_of_both_splits(photos: Path, tmp_path: Path) -> None:
    out, mapping = tmp_path / "set", ClassMapping.keep(OWN, "set")
    report = label_photos(photos, out, BrightestChannel(), mapping, SETTINGS)
    assert (report.ok, report.written, len(report.photos)) == (True, 7, 7)
    assert {photo.split for photo in report.photos} == {"train", "val"}
    first = report.photos[0]
    assert first.name == "gray"  # the most doubtful first
    assert first.shares == pytest.approx({"green": 0.5, "unknown": 0.5})
    space = LabelSpace.load(out / "classes.yaml")
    ids = read_label(out / "labels" / report.photos[1].split / f"{report.photos[1].name}.png", space)
    assert ids.shape == (16, 20)
    assert ids[0].tolist() == [0] * 10 + [2] * 10
    assert (out / first.photo).read_bytes() == (photos / "gray.png").read_bytes()


def test_a_second_run_continues_and_changes_nothing(photos: Path, tmp_path: Path) -> None:
    out, mapping = tmp_path / "set", ClassMapping.keep(OWN, "set")
    first = label_photos(photos, out, BrightestChannel(), mapping, SETTINGS)
    edited = out / "labels" / first.photos[0].split / "gray.png"
    edited.write_bytes(b"edited by hand")
    halves((0, 250, 0), (0, 0, 250)).save(photos / "new.png")
    with (out / "labeling.jsonl").open("a") as file:
        file.write('{"name": "cut o')
    second = label_photos(photos, out, BrightestChannel(), mapping, SETTINGS)
    assert second.written == 1
    assert len(second.photos) == 8
    assert edited.read_bytes() == b"edited by hand"
    with pytest.raises(OutputError, match="another 'threshold'"):
        label_photos(photos, out, BrightestChannel(), mapping, LabelSettings(threshold=0.9, least_region=0, snap=0))


def test_unreadable_photos_are_reported_and_the_others_labeled(photos: Path, tmp_path: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"no image")
    report = label_photos(photos, tmp_path / "set", BrightestChannel(), ClassMapping.keep(OWN, "set"), SETTINGS)
    assert [path.name for path, _ in report.failed] == ["broken.jpg"]
    assert report.written == 7
    assert not report.ok
    assert {record.name for record in read_records(tmp_path / "set")} == {photo.name for photo in report.photos}


def test_folders_that_cannot_be_labeled_are_refused(photos: Path, tmp_path: Path) -> None:
    mapping = ClassMapping.keep(OWN, "set")
    with pytest.raises(DataError, match="no photos"):
        label_photos(tmp_path / "none", tmp_path / "set", BrightestChannel(), mapping)
    with pytest.raises(OutputError, match="holds the photos"):
        label_photos(photos, photos, BrightestChannel(), mapping)
    with pytest.raises(OutputError, match="other files"):
        label_photos(photos, photos / "sub", BrightestChannel(), mapping)
    halves((0, 0, 0), (0, 0, 0)).save(photos / "gray.jpg")
    halves((0, 0, 0), (0, 0, 0)).save(photos / "gray.k.jpg")  # listed between the two of one name
    with pytest.raises(DataError, match="shares its name"):
        label_photos(photos, tmp_path / "set", BrightestChannel(), mapping)


def classes(tmp_path: Path, **values: Any) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def test_classes_are_merged_renamed_and_dropped(tmp_path: Path) -> None:
    file = classes(tmp_path, classes=[{"name": "warm", "from": ["red", "green"], "color": [9, 9, 9]}])
    mapping = ClassMapping.read(file, OWN)
    assert mapping.space.names == ("warm",)
    assert mapping.table.tolist() == [0, 0, 1]
    photo = torch.tensor([[[200, 0]], [[200, 0]], [[0, 200]]], dtype=torch.uint8)
    ids, certainty = predict(photo, BrightestChannel(), mapping, LabelSettings(threshold=0.9, least_region=0, snap=0))
    assert ids.tolist() == [[0, 1]]  # neither red nor green is as probable as their sum; blue is unknown
    assert certainty > 0.99


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"name": "x", "from": ["rde"]}], "did you mean 'red'"),
        ([{"name": "x", "from": ["red"]}, "red"], "two classes take 'red'"),
        ([{"name": "x", "form": ["red"]}], "unknown key 'form'"),
    ],
)
def test_wrong_classes_are_refused(entries: list[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=message):
        ClassMapping.read(classes(tmp_path, classes=entries), OWN)


def test_small_regions_go_to_the_nearest_large_one() -> None:
    ids = torch.zeros(8, 12, dtype=torch.int64)
    ids[:, 6:] = 1
    expected = ids.clone()
    ids[2, 2], ids[3:5, 9:11], ids[7, 11] = 2, 0, 2
    assert torch.equal(merge_small_regions(ids, 5), expected)
    assert torch.equal(merge_small_regions(ids, 4)[3:5, 9:11], torch.zeros(2, 2, dtype=torch.int64))
    assert torch.equal(merge_small_regions(ids, 0), ids)
    assert torch.equal(merge_small_regions(ids, 1000), ids)


def test_guided_filter_moves_edges_to_those_of_the_guide() -> None:
    guide = torch.zeros(20, 30)
    guide[:, 15:] = 1
    shifted = torch.zeros(1, 20, 30)
    shifted[..., 14:] = 1  # one pixel off
    filtered = guided_filter(shifted, guide, 4)
    assert filtered[0, :, :15].max() < 0.5 < filtered[0, :, 15:].min()
    flat = guided_filter(shifted, torch.full((20, 30), 0.5), 4)
    assert 0.1 < float(flat[0, 10, 14]) < 0.9  # a flat guide averages
    assert torch.equal(guided_filter(shifted, guide, 0), shifted)


def test_label_maps_have_the_size_of_large_photos() -> None:
    photo = torch.zeros(3, 60, 90, dtype=torch.uint8)
    photo[0, :, :45], photo[2, :, 45:] = 250, 250
    ids, _ = predict(photo, BrightestChannel(), ClassMapping.keep(OWN, "set"), LabelSettings(longest_side=33))
    assert ids.shape == (60, 90)
    assert ids[30, 10] == 0
    assert ids[30, 80] == 2


def test_label_command_writes_sheet_and_check(reader: Path, photos: Path, tmp_path: Path, run: Run) -> None:
    code, output, errors = run("label", photos, "--out", tmp_path / "set", "--segmenter", reader, "--least-region", 0)
    assert (code, errors) == (0, "")
    assert "Train on it: lab2pix train v2-small" in output
    assert (tmp_path / "set" / "sheet.png").stat().st_size > 1000
    settings = json.loads((tmp_path / "set" / "labeling.json").read_text())
    assert settings["segmenter"]["weights_sha256"]
    sentence(run("label", photos, "--out", tmp_path / "x", "--segmenter", "torchvision:fcn_resnet5"), "fcn_resnet50")


def test_edges_of_photos_become_sketches(photos: Path, tmp_path: Path, run: Run) -> None:
    pytest.importorskip("skimage", reason="the extra 'sketches' is not installed")
    halves((250, 0, 0), (0, 0, 250), (600, 800)).save(photos / "large.png")
    out = tmp_path / "set"
    code, output, errors = run("label", photos, "--out", out, "--lines", "--sigma", 1)
    assert (code, errors) == (0, "")
    assert "% sure" not in output
    space = LabelSpace.load(out / "classes.yaml")
    [record] = [record for record in read_records(out) if record.name == "large"]
    ids = read_label(out / record.label, space)
    assert ids.shape == (600, 800)
    assert set(ids[:, 390:410].unique().tolist()) == {0, 1}  # the border of the halves
    assert ids[:, :380].sum() + ids[:, 420:].sum() == 0
    # The command that it prints trains on the sketches.
    settings = output.split("lab2pix train ")[1].split(" --out")[0].split()
    config = load_config(settings[0], settings[1:])
    dataset = build_dataset(config.data, "train", LabelSpace.load("sketch"), 0, paired=True)
    assert {tuple(dataset[index]["label"].shape) for index in range(len(dataset))} == {(128, 128)}
    # The same again; other settings ask for another folder.
    assert "0 label maps written" in run("label", photos, "--out", out, "--lines", "--sigma", 1)[1]
    sentence(run("label", photos, "--out", out, "--lines"), "another 'segmenter'")


def test_options_without_effect_are_refused(photos: Path, tmp_path: Path, run: Run) -> None:
    for words, message in (
        ((), "--segmenter NAME for classes, or --lines"),
        (("--lines", "--segmenter", "x"), "--segmenter NAME for classes, or --lines"),
        (("--lines", "--least-region", 3), "--least-region has no effect with --lines"),
        (("--segmenter", "x", "--sigma", 3), "--sigma has no effect without --lines"),
    ):
        sentence(run("label", photos, "--out", tmp_path / "x", *words), message)


def test_segmenters_without_class_names_are_refused(reader: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.pt2"
    program.write_bytes(reader.read_bytes())
    info = json.loads(reader.with_suffix(".json").read_text())
    names = info["classes"]
    (tmp_path / "program.json").write_text(json.dumps({**info, "classes": [*range(len(names))]}))
    with pytest.raises(LabelError, match="no names"):
        load_segmenter(program, None)

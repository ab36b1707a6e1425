"""Dataset validation finds every type of error; contact sheets show the data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lab2pix.data.check import check_dataset
from lab2pix.data.contact_sheet import contact_sheet
from lab2pix.errors import DataError, LabelError, OutputError
from lab2pix.labels.space import LabelClass, LabelSpace

SPACE = LabelSpace(
    "three",
    (LabelClass("sky", (0, 0, 255)), LabelClass("car", (255, 0, 0)), LabelClass("kite", (255, 255, 0))),
    unknown_value=255,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six pairs in two splits, each a quarter car, a quarter unknown, half sky."""
    label = np.zeros((8, 12), dtype=np.uint8)
    label[:4, :6], label[4:, 6:] = 1, 255
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(label).save(tmp_path / f"labels/{split}/{i}.png")
            Image.new("RGB", (12, 8), (40 * i, 90, 60)).save(tmp_path / f"images/{split}/{i}.jpg")
    return tmp_path


def test_check_dataset_reports_a_valid_dataset(root: Path) -> None:
    report = check_dataset(root, "folder", SPACE)
    assert report.ok
    assert report.counts == {"train": 4, "val": 2} and report.sizes == {"8x12": 6}
    assert report.class_shares == {"sky": 0.5, "car": 0.25, "kite": 0.0, "unknown": 0.25}
    assert check_dataset(root, "folder", SPACE, split="val").counts == {"val": 2}
    text = str(report)
    assert "train 4, val 2" in text and " 50.00%  sky" in text and "never    kite" in text
    assert text.endswith("Everything is in order.")


def test_check_dataset_finds_every_fault_at_once(root: Path) -> None:
    photo = root / "images/train/0.jpg"
    photo.write_bytes(photo.read_bytes()[:200])
    Image.fromarray(np.full((8, 12), 7, dtype=np.uint8)).save(root / "labels/train/1.png")
    Image.new("RGB", (10, 8)).save(root / "images/train/2.jpg")
    Image.new("RGB", (12, 8)).save(root / "images/train/2.png")
    (root / "labels/train/3.png").unlink()
    (root / "labels/val/0.png").write_text("no picture")
    report = check_dataset(root, "folder", SPACE)
    assert not report.ok
    assert report.unmatched == ["images/train/3.jpg"]
    assert report.doubles == ["images/train/2.png"]
    assert len(report.unreadable) == 2 and "train/0.jpg" in report.unreadable[0] and "val/0.png" in report.unreadable[1]
    assert len(report.wrong_labels) == 1 and "labels/train/1.png holds id 7" in report.wrong_labels[0]
    assert (
        len(report.sizes_disagree) == 1
        and "8x12 pixels (height x width) and its photo 8x10" in report.sizes_disagree[0]
    )
    assert report.counts == {"train": 3, "val": 2} and sum(report.sizes.values()) == 3
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["ok"] is False and plain["unmatched"] == ["images/train/3.jpg"]
    text = str(report)
    assert "1 without partner:\n  images/train/3.jpg" in text and text.endswith("Mend these before training.")


def test_check_dataset_cuts_long_lists_in_the_text_only(root: Path) -> None:
    for i in range(30):
        (root / f"images/train/x{i:02}.jpg").touch()
    report = check_dataset(root, "folder", SPACE)
    assert len(report.to_dict()["unmatched"]) == 30
    assert "... and 10 more" in str(report) and "x20" not in str(report)


def test_check_dataset_lists_a_damaged_ab_file_once(tmp_path: Path) -> None:
    Image.new("RGB", (64, 32)).save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[: len(data) - 40])
    assert len(check_dataset(tmp_path, "sketch", LabelSpace.load("sketch")).unreadable) == 1


def test_check_dataset_refuses_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Found no images of format 'sketch'"):
        check_dataset(tmp_path, "sketch", SPACE)


def test_contact_sheet_shows_images_and_labels(root: Path, tmp_path: Path) -> None:
    out = contact_sheet(root, "folder", SPACE, tmp_path / "new/sheet.png", count=3)
    sheet = torch.from_numpy(np.array(Image.open(out)))
    assert sheet.shape[1] == 3 * 300 + 40 and sheet.shape[0] > 3 * 200
    colors = {tuple(color) for color in sheet.view(-1, 3).unique(dim=0).tolist()}
    assert {(0, 0, 255), (255, 0, 0), (0, 0, 0)} <= colors and (255, 255, 0) not in colors
    with pytest.raises(OutputError, match=r"sheet\.png is there already"):
        contact_sheet(root, "folder", SPACE, out)
    before = out.stat().st_size
    contact_sheet(root, "folder", SPACE, out, split="val", count=9, overwrite=True)
    assert out.stat().st_size != before


def test_contact_sheet_of_wrong_labels(root: Path, tmp_path: Path) -> None:
    two = LabelSpace("two", SPACE.classes[:1])
    with pytest.raises(LabelError, match="label space 'two'"):
        contact_sheet(root, "folder", two, tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()


@pytest.mark.parametrize(
    ("format", "folder", "space", "pairs"),
    [("cityscapes", "cityscapes", "cityscapes", 4), ("coco-stuff", "coco_stuff", "coco-stuff", 13)],
)
def test_check_dataset_accepts_real_samples(data_root: Path, format: str, folder: str, space: str, pairs: int) -> None:
    report = check_dataset(data_root / folder, format, LabelSpace.load(space))
    assert report.ok, str(report)
    assert report.counts == {"train": pairs}
    assert sum(report.class_shares.values()) == pytest.approx(1)

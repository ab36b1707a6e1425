"""Dataset formats: matching of pairs, and errors for unmatched files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lab2pix.data.formats import find_pairs
from lab2pix.errors import DataError, LabelError
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.registry import DATASET_FORMATS

FACADES = LabelSpace.load("facades")


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


FILES = {
    "folder": ["images/train/s/a.jpg", "labels/train/s/a.png", "instances/train/s/a.tif"],
    "cityscapes": [
        "leftImg8bit/train/ulm/a_leftImg8bit.png",
        "gtFine/train/ulm/a_gtFine_labelIds.png",
        "gtFine/train/ulm/a_gtFine_color.png",
        "gtFine/train/ulm/a_gtFine_instanceIds.png",
    ],
    "coco-stuff": ["train_img/a.jpg", "train_label/a.png", "train_inst/a.png"],
    "ade20k": ["ADEChallengeData2016/images/training/a.jpg", "ADEChallengeData2016/annotations/training/a.png"],
    "facades": ["train/a.jpg"],
    "facades-base": ["train/a.jpg", "train/a.png", "train/a.xml"],
    "sketch": ["train/a_AB.jpg"],
    "ab": ["train/a.png"],
    "ba": ["train/a.png"],
}
NAMES = {"folder": "s/a", "cityscapes": "ulm/a", "sketch": "a_AB"}


def test_dataset_format_names_are_listed() -> None:
    assert list(DATASET_FORMATS) == sorted([*FILES, "scenes", "shards", "unaligned"])


@pytest.mark.parametrize("format", FILES)
def test_find_pairs_of_a_split(tmp_path: Path, format: str) -> None:
    root = touch(tmp_path, *FILES[format])
    (pair,) = find_pairs(format, root, "train")
    assert pair.name == NAMES.get(format, "a")
    assert pair.label.is_file() and pair.image is not None and pair.image.is_file()
    assert (pair.instance is not None) == (format in {"folder", "cityscapes", "coco-stuff"})
    assert (pair.image == pair.label) == (format in {"ab", "ba", "facades", "sketch"})


@pytest.mark.parametrize("format", FILES)
def test_pairs_of_all_splits_have_names_of_their_own(tmp_path: Path, format: str) -> None:
    others = [name.replace("training", "validation").replace("train", "val") for name in FILES[format]]
    root = touch(tmp_path, *FILES[format], *others)
    names = [pair.name for pair in find_pairs(format, root, None)]
    assert len(names) == len(set(names)) == 2
    assert [len(find_pairs(format, root, split)) for split in ("train", "val")] == [1, 1]


@pytest.mark.parametrize("format", FILES)
def test_find_pairs_without_photos(tmp_path: Path, format: str) -> None:
    photos = ("images", "leftImg8bit", "train_img", "ADEChallengeData2016/images")
    labels = [name for name in FILES[format] if not name.startswith(photos)]
    root = touch(tmp_path, *(labels if format != "facades-base" else ["train/a.png"]))
    (pair,) = find_pairs(format, root, "train", need_images=False)
    assert pair.image is None
    with pytest.raises(DataError, match="comes without a photo"):
        pair.read_image()


def test_a_bare_folder_or_file_of_labels(tmp_path: Path) -> None:
    root = touch(tmp_path, "b.png", "sub/a.png")
    assert [pair.name for pair in find_pairs("folder", root, None, need_images=False)] == ["b", "sub/a"]
    (pair,) = find_pairs("folder", root / "b.png", None, need_images=False)
    assert (pair.name, pair.label) == ("b", root / "b.png")


@pytest.mark.parametrize("format", ["folder", "cityscapes", "coco-stuff", "ade20k", "facades-base"])
def test_files_without_partner_are_named(tmp_path: Path, format: str) -> None:
    root = touch(tmp_path, *FILES[format])
    for path in list(root.rglob("*.png")):
        if "images" not in path.parts and "leftImg8bit" not in path.parts:
            path.unlink()
    with pytest.raises(DataError, match=r"a\S*\.(jpg|png|tif).* no partner"):
        find_pairs(format, root, "train")


def test_photo_without_label_and_label_without_photo(tmp_path: Path) -> None:
    root = touch(tmp_path, "images/a.jpg", "images/b.jpg", "labels/a.png", "labels/c.png")
    with pytest.raises(DataError, match=r"c\.png, b\.jpg in .* have no partner in format 'folder'"):
        find_pairs("folder", root, None)
    assert [pair.name for pair in find_pairs("folder", root, None, need_images=False)] == ["a", "c"]


def test_many_without_partner_are_counted(tmp_path: Path) -> None:
    root = touch(tmp_path, "labels/a.png", *(f"images/{i}.jpg" for i in range(9)))
    with pytest.raises(DataError, match=r"a\.png, 0\.jpg, 1\.jpg, 2\.jpg, 3\.jpg and 5 more"):
        find_pairs("folder", root, None)


def test_two_files_of_one_name(tmp_path: Path) -> None:
    root = touch(tmp_path, "images/a.jpg", "images/a.png", "labels/a.png")
    with pytest.raises(DataError, match=r"a\.png in .* share their name"):
        find_pairs("folder", root, None)


def test_find_pairs_names_missing_folders(tmp_path: Path) -> None:
    root = touch(tmp_path, *FILES["folder"])
    with pytest.raises(DataError, match=r"no folder .*images/test; other folders there: train; check"):
        find_pairs("folder", root, "test")
    with pytest.raises(DataError, match="no folder"):
        find_pairs("folder", tmp_path / "none", None)
    with pytest.raises(DataError, match="no file or folder"):
        find_pairs("folder", tmp_path / "none.png", None, need_images=False)
    with pytest.raises(DataError, match="did you mean 'cityscapes'"):
        find_pairs("cityscape", root, None)
    with pytest.raises(DataError, match="'scenes' has no files"):
        find_pairs("scenes", root, None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="Found no pairs of format 'sketch'"):
        find_pairs("sketch", tmp_path / "empty", None)


def test_facades_pair_has_photo_left_and_labels_right(tmp_path: Path) -> None:
    ids = torch.arange(12).repeat_interleave(32).expand(64, -1).reshape(64, 384)
    photo = np.full((64, 384, 3), (10, 200, 90), dtype=np.uint8)
    both = np.concatenate([photo, FACADES.to_colors(ids).permute(1, 2, 0).numpy()], axis=1)
    (tmp_path / "train").mkdir()
    Image.fromarray(both).save(tmp_path / "train/1.jpg", quality=75)
    (pair,) = find_pairs("facades", tmp_path, "train")
    assert (pair.read_label(FACADES) == ids).float().mean() > 0.9
    assert pair.read_image().shape == (3, 64, 384)
    assert (pair.read_image().float().mean(dim=(1, 2)) - torch.tensor([10.0, 200.0, 90.0])).abs().max() < 3


def test_facades_base_pair_reads_ids_and_photo(tmp_path: Path) -> None:
    ids = torch.arange(12).expand(4, -1)
    label = Image.fromarray((ids + 1).numpy().astype(np.uint8))
    label.putpalette(bytes([0, 0, 0]) + bytes(value for item in FACADES.classes for value in item.color))
    label.save(tmp_path / "cmp_b0001.png")
    Image.new("RGB", (12, 4), (1, 2, 3)).save(tmp_path / "cmp_b0001.jpg")
    (pair,) = find_pairs("facades-base", tmp_path, None)
    assert torch.equal(pair.read_label(FACADES), ids)
    assert pair.read_image().shape == (3, 4, 12)


def test_sketch_pair_reads_lines_and_photo(tmp_path: Path) -> None:
    both = np.full((8, 16, 3), 255, dtype=np.uint8)
    both[3, :8] = 0
    both[:, 8:] = (200, 0, 0)
    Image.fromarray(both).save(tmp_path / "1_AB.png")
    (pair,) = find_pairs("sketch", tmp_path, None)
    label = pair.read_label(LabelSpace.load("sketch"))
    assert label.shape == (8, 8) and label[3].tolist() == [1] * 8 and int(label.sum()) == 8
    assert pair.read_image()[:, 0, 0].tolist() == [200, 0, 0]
    with pytest.raises(LabelError, match="use label space 'sketch'"):
        pair.read_label(FACADES)


def test_odd_width_is_no_ab_pair(tmp_path: Path) -> None:
    Image.new("RGB", (7, 4)).save(tmp_path / "1.png")
    for format in ("sketch", "facades"):
        (pair,) = find_pairs(format, tmp_path, None)
        with pytest.raises(DataError, match="7 pixels wide"):
            pair.read_label(LabelSpace.load("sketch"))
        with pytest.raises(DataError, match="7 pixels wide"):
            pair.read_image()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "folder", "space", "count"),
    [
        ("cityscapes", "cityscapes", "cityscapes", 4),
        ("coco-stuff", "coco_stuff", "coco-stuff", 13),
        ("sketch", "edges2shoes", "sketch", 100),
    ],
)
def test_find_pairs_reads_real_samples(data_root: Path, format: str, folder: str, space: str, count: int) -> None:
    pairs = find_pairs(format, data_root / folder, "train")
    assert len(pairs) == count
    label, image = pairs[0].read_label(LabelSpace.load(space)), pairs[0].read_image()
    assert label.shape == image.shape[1:]
    assert len(label.unique()) > 1


def test_a_missing_split_says_how_to_do_without(tmp_path: Path) -> None:
    touch(tmp_path, *FILES["sketch"])
    with pytest.raises(
        DataError, match=r"no folder .*val; other folders there: train; .*data\.val_split; null is none"
    ):
        find_pairs("sketch", tmp_path, "val")

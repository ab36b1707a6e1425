"""What a folder holds, and what is held out."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lab2pix.data.build import build_dataset
from lab2pix.errors import DataError
from lab2pix.fit.dataset import arrange, find_data, held_out_names
from lab2pix.fit.fingerprint import MachineFingerprint, fingerprint_data
from lab2pix.labels.space import LabelSpace
from lab2pix.recipes import load_config
from tests.fit.conftest import Draw, label_map, photo

SPACE = LabelSpace.from_dict({"name": "abc", "classes": ["a", "b", "c"]})


@pytest.mark.parametrize("form", ["photos", "pairs", "unpaired"])
def test_form_of_a_folder(draw: Draw, form: str) -> None:
    found = find_data(draw(form))
    assert (found.form, len(found.photos), found.split) == (form, 24, False)
    assert len(found.labels) == (0 if form == "photos" else 24)


def test_pairs_in_one_folder_differ_in_suffix(tmp_path: Path) -> None:
    for number in range(3):
        photo(number).save(tmp_path / f"{number}.jpg")
        label_map(number).save(tmp_path / f"{number}.png")
    found = find_data(tmp_path)
    assert found.form == "pairs"
    assert {path.suffix for path in found.labels.values()} == {".png"}
    assert {path.suffix for path in found.photos.values()} == {".jpg"}


def test_folders_without_a_form_are_refused(tmp_path: Path, draw: Draw) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        find_data(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no images"):
        find_data(tmp_path)
    root = draw()
    shutil.rmtree(root / "images")
    with pytest.raises(DataError, match="no photos in images or photos"):
        find_data(root)


def test_a_tenth_is_held_out_by_name_alone() -> None:
    names = [str(number) for number in range(60)]
    held_out = held_out_names(names)
    assert len(held_out) == 6
    assert held_out == held_out_names(reversed(names))
    assert len(held_out_names(names[:3])) == 2
    assert len(held_out_names(map(str, range(5000)))) == 100


@pytest.mark.parametrize("form", ["pairs", "unpaired"])
def test_arranged_data_is_what_a_run_reads(draw: Draw, tmp_path: Path, form: str) -> None:
    root = draw(form)
    (root / "labels" / "alone.png").write_bytes((root / "labels" / next((root / "labels").iterdir()).name).read_bytes())
    found = find_data(root)
    data = arrange(found, tmp_path / "data")
    again = arrange(found, tmp_path / "data")
    assert data == again
    paired = form == "pairs"
    lengths = {split: len(pairs) for split, pairs in data.labels.items()}
    assert lengths == ({"train": 22, "val": 2} if paired else {"train": 23, "val": 2})
    config = load_config("v2-small" if paired else "v1-small", {**data.settings, "data.size": [64, 64]}).data
    for split in ("train", "val"):
        assert len(build_dataset(config, split, SPACE, 0, paired=paired)) == lengths[split]  # type: ignore[arg-type]
    assert ("without a partner" in data.note) == paired


def test_a_folder_with_splits_is_read_where_it_is(draw: Draw, tmp_path: Path) -> None:
    root = draw()
    for part in ("labels", "images"):
        for split, names in (("train", range(20)), ("val", range(20, 24))):
            (root / part / split).mkdir()
            for number in names:
                (root / part / f"{number:02}.png").rename(root / part / split / f"{number:02}.png")
    data = arrange(find_data(root), tmp_path / "data")
    assert data.settings["data.root"] == str(root)
    assert not (tmp_path / "data").exists()
    assert [len(data.labels[split]) for split in ("train", "val")] == [20, 4]


def test_fingerprint_counts_classes_and_finds_rare_ones(draw: Draw, tmp_path: Path) -> None:
    root = draw(size=(64, 96))
    space = LabelSpace.from_dict({"name": "abcd", "classes": ["a", "b", "c", "d", "e"]})
    (root / "labels" / "00.png").unlink()
    Image.fromarray(np.full((64, 96), 3, np.uint8)).save(root / "labels" / "00.png")
    found = fingerprint_data(arrange(find_data(root), tmp_path / "data"), space)
    assert (found.train, found.held_out, found.height, found.width) == (22, 2, 64, 96)
    assert found.rare == ("d",)
    assert found.presence["d"] == pytest.approx(1 / 24)
    assert sum(found.shares.values()) == pytest.approx(1)
    assert "in few label maps: d" in str(found)
    assert "in none: e" in str(found)
    assert "unknown" not in str(found)
    space = LabelSpace.from_dict({"name": "ab", "classes": ["a", "b", "c"], "unknown_value": 3})
    found = fingerprint_data(arrange(find_data(root), tmp_path / "data"), space)
    assert "pixels: unknown 4.2%, " in str(found)


def _broken(root: Path) -> None:
    (root / "images" / "03.png").write_bytes(b"nothing")


def _alike(root: Path) -> None:
    for file in (root / "images").iterdir():
        photo(0).save(file)


@pytest.mark.parametrize(
    ("settings", "spoil", "message"),
    [
        ({"count": 8}, None, r"8 photos are too few to learn from; give 20 at least, and 200 or more"),
        ({"size": (32, 32)}, None, r"photos are too small, half of them less than 33 pixels"),
        ({}, _alike, r"only 1 of the 24 photos differ"),
        ({}, _broken, r"03.png is not an image"),
    ],
)
@pytest.mark.parametrize("form", ["pairs", "unpaired"])
def test_photos_that_cannot_be_learned_from_are_refused(
    draw: Draw, tmp_path: Path, settings: dict, spoil: object, message: str, form: str
) -> None:
    root = draw(form, **settings)
    if callable(spoil):
        spoil(root)
    with pytest.raises(DataError, match=message):
        fingerprint_data(arrange(find_data(root), tmp_path / "data"), SPACE)


def test_fingerprint_of_the_machine(tmp_path: Path) -> None:
    found = MachineFingerprint.take(torch.device("cpu"), tmp_path / "new" / "folder")
    assert found.cores >= 1
    assert 0 < found.memory < 2**50
    assert found.disk > 0
    assert "bfloat16" in str(found)

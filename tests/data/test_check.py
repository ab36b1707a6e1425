"""Dataset validation finds every type of error; contact sheets show the data."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from lab2pix.data.check import check_dataset
from lab2pix.data.contact_sheet import contact_sheet
from lab2pix.data.files import to_photo
from lab2pix.data.formats import find_pairs
from lab2pix.data.image_file import ImageFile
from lab2pix.data.source_images import read_source
from lab2pix.errors import DataError, LabelError, OutputError
from lab2pix.labels.space import LabelClass, LabelSpace
from tests.data.conftest import Lock
from tests.helpers.commands import Run, sentence
from tests.helpers.png import GRAY_ALPHA, RGB, write_png

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


def test_source_images_are_not_read_as_label_maps(root: Path, run: Run) -> None:
    (root / "labels").rename(root / "sources")
    Image.new("RGB", (12, 8), (9, 9, 9)).save(root / "sources/train/0.png")
    code, output, _ = run("data", "check", root)
    assert code == 0
    assert "source images: 8 bits" in output or "source images: PNG" in output
    assert "such as sources/train/0.png" in output
    sentence(run("data", "preview", root, "--labels=scenes"), "has images in sources instead of label maps")
    Image.new("RGB", (4, 8)).save(root / "sources/val/1.png")
    report = check_dataset(root, "folder", None)
    assert report.counts == {"train": 4, "val": 2}
    assert report.sizes == {"8x12": 5, "8x4": 1}
    assert len(report.sizes_disagree) == 1 and not report.wrong_labels and not report.class_shares


def test_source_images_of_one_file_with_the_photo(tmp_path: Path, run: Run) -> None:
    Image.new("RGB", (16, 8), (200, 1, 7)).save(tmp_path / "0.png")
    assert run("data", "check", tmp_path, "--format=ab", "--labels=scenes")[0] == 1
    code, output, _ = run("data", "check", tmp_path, "--format=ab", "--sources")
    assert code == 0 and "source images" in output


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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "folder", "space", "pairs"),
    [("cityscapes", "cityscapes", "cityscapes", 4), ("coco-stuff", "coco_stuff", "coco-stuff", 13)],
)
def test_check_dataset_accepts_real_samples(data_root: Path, format: str, folder: str, space: str, pairs: int) -> None:
    report = check_dataset(data_root / folder, format, LabelSpace.load(space))
    assert report.ok, str(report)
    assert report.counts == {"train": pairs}
    assert sum(report.class_shares.values()) == pytest.approx(1)


# --- how files were read, where a set differs, and what was passed over -----------------------------------------------


def write_label(path: Path, values: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)


def test_check_dataset_says_how_each_file_was_read(root: Path) -> None:
    label = np.asarray(Image.open(root / "labels/train/0.png"))
    write_label(root / "labels/train/1.png", label.astype(np.uint16))
    ids = torch.from_numpy(label.astype(np.int64)) % 252
    write_label(root / "labels/train/2.png", SPACE.to_colors(ids).permute(1, 2, 0).numpy())
    Image.new("L", (12, 8), 9).save(root / "images/train/3.jpg")
    write_label(root / "instances/train/0.png", np.zeros((8, 12), dtype=np.uint16))
    report = check_dataset(root, "folder", SPACE)
    assert report.kinds["label maps"] == {
        "ids (PNG, gray, 8 bits)": 4,
        "ids (PNG, gray, 16 bits)": 1,
        "colors (PNG, RGB, 8 bits)": 1,
    }
    assert report.kinds["photos"] == {"JPEG, RGB, 8 bits": 5, "JPEG, gray, 8 bits": 1}
    assert report.kinds["instance maps"] == {"PNG, gray, 16 bits": 1}
    text = str(report)
    assert "  4  label maps: ids (PNG, gray, 8 bits)\n" in text
    assert "  1  label maps: colors (PNG, RGB, 8 bits), such as labels/train/2.png\n" in text
    [note] = report.notes
    assert note.startswith("label maps are read in two ways, 5 as ids (such as ") and "1 as colors" in note
    assert report.ok and text.endswith("No errors; see above what was passed over or is worth a look.")


def test_check_dataset_notes_palettes_that_differ(root: Path) -> None:
    space = LabelSpace.from_dict({"name": "plain", "classes": ["a", "b", "c"]})
    for split, count in (("train", 4), ("val", 2)):
        for i in range(count):
            image = Image.fromarray(np.array([[0, 1, 2] * 4] * 8, dtype=np.uint8)).convert("P")
            image.putdata([0, 1, 2] * 32)
            image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255] if i else [0, 255, 0, 255, 0, 0, 0, 0, 255])
            image.save(root / f"labels/{split}/{i}.png")
    [note] = check_dataset(root, "folder", space).notes
    assert "index 0 is (0, 255, 0) in labels/train/0.png and (255, 0, 0) in labels/train/1.png" in note


def test_check_dataset_notes_transparency(root: Path) -> None:
    image = Image.new("RGBA", (12, 8), (200, 0, 0, 255))
    image.putpixel((3, 3), (0, 0, 0, 0))
    (root / "images/train/0.jpg").unlink()
    image.save(root / "images/train/0.png")
    report = check_dataset(root, "folder", SPACE)
    [note] = report.notes
    assert "photos with transparent pixels: 1, such as images/train/0.png" in note and "data.alpha" in note
    Image.new("RGBA", (12, 8), (200, 0, 0, 255)).save(root / "images/train/0.png")
    assert check_dataset(root, "folder", SPACE).notes == []


@pytest.mark.slow
@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("color", [False, True])
def test_check_dataset_finds_photos_that_use_a_part_of_16_bits(root: Path, bits: int, color: bool) -> None:
    values = np.full((8, 12, 3), 2**bits - 1, dtype=np.uint16)
    path = root / "images/train/0.tif"
    (root / "images/train/0.jpg").unlink()
    tifffile.imwrite(path, values if color else values[..., 0], photometric="rgb" if color else "minisblack")
    report = check_dataset(root, "folder", SPACE)
    assert not report.ok and f"largest value is {2**bits - 1}, as of {bits} bits" in report.dim[0]
    tifffile.imwrite(path, values << (16 - bits), photometric="rgb" if color else None)
    tifffile.imwrite(path, (values << (16 - bits))[..., 0], photometric="minisblack")
    assert check_dataset(root, "folder", SPACE).ok


@pytest.mark.slow
def test_check_dataset_leaves_alpha_out_of_the_depth_of_photos_and_notes_14_bits(root: Path) -> None:
    path = root / "images/train/0.png"
    (root / "images/train/0.jpg").unlink()
    write_png(path, np.full((8, 12), 4080, dtype=np.uint16), GRAY_ALPHA)
    report = check_dataset(root, "folder", SPACE)
    assert "largest value is 4080, as of 12 bits" in report.dim[0]
    assert "PNG, gray and alpha, 16 bits" in report.kinds["photos"]
    write_png(path, np.full((8, 12), 2**14 - 1, dtype=np.uint16), RGB)
    report = check_dataset(root, "folder", SPACE)
    assert report.ok and "as of 14 bits" in report.notes[0] and report.notes[0].endswith("unless the photo is dark")


def rename(path: Path, name: str) -> None:
    path.rename(path.with_name(name))


@pytest.mark.parametrize(
    ("photo", "label", "words"),
    [
        ("IMG_1.jpg", "img_1.png", "photo train/IMG_1 and label map train/img_1: the names differ in capitals alone"),
        ("b.jpg", "b_mask.png", "label maps end in '_mask'; rename them without it"),
        ("b.jpg", "mask_b.png", "label maps start with 'mask_'; rename them without it"),
        ("b_leftImg8bit.jpg", "b_gtFine_labelIds.png", "end in '_leftImg8bit'; .*maps end in '_gtFine_labelIds'"),
        ("b.jpg", "b.seg.png", "label maps end in '.seg'"),
        ("caf\u00e9.jpg", "cafe\u0301.png", "accents are encoded in two ways"),
        ("b .jpg", "b.png", "the names differ in spaces alone"),
        ("deep/b.jpg", "b.png", "they are in different sub-folders"),
    ],
)
def test_check_dataset_guesses_what_is_wrong_with_names(root: Path, photo: str, label: str, words: str) -> None:
    (root / "images/train" / photo).parent.mkdir(exist_ok=True)
    (root / "images/train/0.jpg").rename(root / "images/train" / photo)
    (root / "labels/train/0.png").rename(root / "labels/train" / label)
    report = check_dataset(root, "folder", SPACE)
    assert len(report.unmatched) == 2 and report.counts == {"train": 3, "val": 2}
    [hint] = report.hints
    assert re.search(words, hint)
    assert f"  {hint}" in str(report)
    with pytest.raises(DataError, match=re.escape(hint)):
        find_pairs("folder", root, None)


def test_numbered_names_do_not_match_each_other(root: Path) -> None:
    rename(root / "images/train/0.jpg", "a_1.jpg")
    rename(root / "labels/train/0.png", "a_2.png")
    assert check_dataset(root, "folder", SPACE).hints == []


def test_check_dataset_lists_what_is_passed_over(root: Path) -> None:
    photos = root / "images/train"
    for name, content in {
        "b.heic": b"x", "c.HEIC": b"x", "notes.txt": b"x", "Thumbs.db": b"x", ".hidden.png": b"x", "array.npy": b"x",
        "noending": (photos / "0.jpg").read_bytes(),
    }.items():  # fmt: skip
        (photos / name).write_bytes(content)
    os.mkfifo(photos / "pipe.jpg")
    (photos / "loop").symlink_to(root / "images")
    (root / "masks").mkdir()
    Image.new("L", (4, 4)).save(root / "stray.png")
    report = check_dataset(root, "folder", SPACE)
    assert report.ok and report.counts == {"train": 4, "val": 2}
    found = {line.partition(": ")[2]: line.partition(": ")[0] for line in report.passed_over}
    assert found == {
        "2 files (train/b.heic, train/c.HEIC): .heic is not read; convert them to PNG or JPEG": "images",
        "1 file (train/notes.txt): no images": "images",
        "1 file (train/array.npy): arrays, which are read only in folders without images": "images",
        "1 file (train/noending): these are images without a known ending; rename them to .jpg": "images",
        "1 file (train/pipe.jpg): a pipe, socket or device": "images",
        "1 file (train/loop/): a link back to a folder that contains it, which is not followed": "images",
        "a folder that this format does not read": "masks/",
        "an image outside of the folders that this format reads": "stray.png",
    }
    assert "passed over:\n  images: 1 file (train/array.npy): arrays" in str(report)


def test_check_dataset_names_the_files_beside_those_of_cityscapes(tmp_path: Path) -> None:
    for number in range(3):
        stem = f"ulm/ulm_{number}"
        write_label(tmp_path / f"leftImg8bit/train/{stem}_leftImg8bit.png", np.zeros((4, 4, 3), dtype=np.uint8))
        ending = "labelTrainIds" if number else "labelIds"
        write_label(tmp_path / f"gtFine/train/{stem}_gtFine_{ending}.png", np.zeros((4, 4), dtype=np.uint8))
    report = check_dataset(tmp_path, "cityscapes", LabelSpace.load("cityscapes"), "train")
    assert len(report.unmatched) == 2
    [line] = report.passed_over
    assert "2 files" in line and "names that end in '_gtFine_labelTrainIds'" in line and "'_gtFine_labelIds'" in line


def test_links_to_folders_and_files_are_followed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    for part, suffix in (("images", "jpg"), ("labels", "png")):
        (root / part / "val").rename(other / part)
        (root / part / "val").symlink_to(other / part)
        (root / part / "train" / f"link.{suffix}").symlink_to(root / part / "train" / f"0.{suffix}")
        (root / part / "train" / f"gone.{suffix}").symlink_to("/nowhere/gone")
    report = check_dataset(root, "folder", SPACE)
    assert report.counts == {"train": 6, "val": 2}
    assert [line.partition(" is missing")[0][-8:] for line in report.unreadable] == ["gone.png", "gone.jpg"]


def test_unpaired_folders_are_checked(root: Path) -> None:
    (root / "images/train/0.jpg").unlink()
    report = check_dataset(
        None, "folder", SPACE, labels_root=root / "labels", images_root=root / "images", split="train"
    )
    assert report.ok and report.counts == {"label maps": 4, "photos": 3}
    assert report.kinds["photos"] == {"JPEG, RGB, 8 bits": 3}
    assert str(report).splitlines()[1] == "  files    label maps 4, photos 3"
    (root / "images/train/1.jpg").write_bytes(b"")
    alone = check_dataset(None, "folder", None, images_root=root / "images")
    assert alone.counts == {"photos": 5} and "1.jpg is empty" in alone.unreadable[0] and alone.class_shares == {}
    (root / "labels").rename(root / "trainA")
    (root / "images").rename(root / "trainB")
    unaligned = check_dataset(root, "unaligned", SPACE, "train")
    assert unaligned.counts == {"label maps": 6, "photos": 5}
    with pytest.raises(DataError, match="name the dataset's folder, or --labels-root and --images-root"):
        check_dataset(None, "folder", SPACE)


# --- halves and sources ---------------------------------------------------------------------------------------------


def halves(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.concatenate([left, right], axis=1)


def test_photo_halves_are_examined_as_photos(tmp_path: Path) -> None:
    drawing = np.full((8, 12, 3), 65535, np.uint16)
    drawing[3] = 0
    write_png(tmp_path / "0.png", halves(drawing, np.full((8, 12, 3), 4095, np.uint16)), RGB)
    report = check_dataset(tmp_path, "sketch", LabelSpace.load("sketch"))
    assert not report.ok
    assert f"the right half of {tmp_path / '0.png'} has 16 bits, but its largest value is 4095" in report.dim[0]
    assert report.kinds["photos"] == {"PNG, RGB, 16 bits": 1}


@pytest.mark.parametrize(("side", "role"), [("left", "label maps"), ("right", "photos")])
def test_transparency_of_halves_is_told_apart(tmp_path: Path, side: str, role: str) -> None:
    parts = [np.full((8, 12, 4), (0, 0, 255, 255), np.uint8) for _ in range(2)]
    parts[side == "right"][..., 3] = 0
    Image.fromarray(halves(*parts)).save(tmp_path / "0.png")
    [note] = check_dataset(tmp_path, "ab", SPACE).notes
    assert note.startswith(f"{role} with transparent pixels: 1, such as 0.png")
    assert ("data.alpha" in note) == (role == "photos")


def test_transparent_lines_are_white_and_no_note(tmp_path: Path) -> None:
    drawing = np.full((8, 12, 4), (0, 0, 0, 255), np.uint8)
    drawing[3:, :, 3] = 0
    Image.fromarray(halves(drawing, np.full((8, 12, 4), 255, np.uint8))).save(tmp_path / "0.png")
    assert check_dataset(tmp_path, "sketch", LabelSpace.load("sketch")).notes == []


@pytest.mark.parametrize("form", ["color", "gray with alpha", "array", "half"])
def test_sources_that_use_a_part_of_16_bits_are_noted(tmp_path: Path, form: str) -> None:
    values = np.full((8, 12), 4095, np.uint16)
    folder = tmp_path / "sources"
    for path in (folder, tmp_path / "images"):
        path.mkdir()
    if form == "half":
        write_png(tmp_path / "0.png", halves(values, values * 16), RGB)
    elif form == "array":
        np.save(folder / "0.npy", values)
    else:
        write_png(folder / "0.png", values, RGB if form == "color" else GRAY_ALPHA)
    Image.new("RGB", (12, 8)).save(tmp_path / "images/0.png")
    root = tmp_path
    if form == "half":
        root = tmp_path / "pairs"
        root.mkdir()
        (tmp_path / "0.png").rename(root / "0.png")
    report = check_dataset(root, "ab" if form == "half" else "folder", None)
    [note] = report.notes
    assert "largest value is 4095, as of 12 bits; set data.source.range" in note
    if form == "array":
        np.save(folder / "1.npy", values * 16)
        Image.new("RGB", (12, 8)).save(tmp_path / "images/1.png")
        assert check_dataset(root, "folder", None).notes == []


@pytest.mark.parametrize("kind", [np.int8, np.int16])
def test_signed_photos_and_sources_are_refused(root: Path, tmp_path: Path, kind: type[np.signedinteger]) -> None:
    (root / "images/train/0.jpg").unlink()
    path = root / "images/train/0.tif"
    tifffile.imwrite(path, np.full((8, 12), 100, kind), photometric="minisblack")
    [message] = check_dataset(root, "folder", SPACE).unreadable
    bits = np.iinfo(kind).bits
    assert f"holds signed whole numbers of {bits} bits, which do not say how bright white is" in message
    with pytest.raises(DataError, match=f"signed whole numbers of {bits} bits"):
        read_source(path, None, None)
    with Image.open(path) as image, pytest.raises(DataError, match=f"signed whole numbers of {bits} bits"):
        to_photo(ImageFile.of(image), path)


def test_folder_that_cannot_be_listed_is_one_problem_of_many(root: Path, locked: Lock) -> None:
    locked(root / "images" / "val")
    report = check_dataset(root, "folder", SPACE)
    [message] = report.unreadable
    assert message == f"{root / 'images/val'} cannot be listed (Permission denied); change its permissions"
    assert report.counts == {"train": 4} and report.unmatched == ["labels/val/0.png", "labels/val/1.png"]
    with pytest.raises(DataError, match="change its permissions"):
        find_pairs("folder", root, None)
    locked(root)
    assert "other folders in it are not named" in check_dataset(root, "folder", SPACE).passed_over[0]

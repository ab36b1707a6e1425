"""Line drawings: polarity, resizing without loss, and creation from photos and label maps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import label as components
from torch import Tensor

from lab2pix.config.schema import DataConfig
from lab2pix.data.build import build_dataset
from lab2pix.data.check import check_dataset
from lab2pix.data.contact_sheet import contact_sheet
from lab2pix.data.datasets import UnpairedDataset
from lab2pix.data.label_maps import read_label, write_label_png
from lab2pix.data.line_drawings import find_lines, resize_label, resize_lines
from lab2pix.data.sketches import borders, find_edges
from lab2pix.errors import ConfigError, DataError, LabelError
from lab2pix.labels.space import LabelSpace

SPACE = LabelSpace.load("sketch")


def drawing(size: int = 64) -> np.ndarray:
    """Return a ring and a slanted line, one pixel thin, 1 on 0."""
    rows, columns = np.mgrid[:size, :size]
    ring = np.abs(np.hypot(rows - size / 2, columns - size / 2) - size / 3) < 0.75
    return (ring | (rows == columns // 2)).astype(np.uint8)


def data_of(**settings: object) -> DataConfig:
    return DataConfig.model_validate({"label_space": "sketch", "size": (64, 64), "flip": False, **settings})


def build(split: str = "train", *, paired: bool = True, **settings: object):  # type: ignore[no-untyped-def]
    return build_dataset(data_of(**settings), split, SPACE, 0, paired=paired)  # type: ignore[arg-type]


# --- which pixels are lines -----------------------------------------------------------------------------------------


def gray(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).expand(3, -1, -1)


@given(st.integers(0, 2**32), st.integers(0, 90), st.integers(150, 255), st.integers(0, 12))
def test_find_lines_takes_the_rarer_tone(seed: int, dark: int, light: int, noise: int) -> None:
    rng = np.random.default_rng(seed)
    ids = (rng.random((20, 20)) < 0.3).astype(np.int64)
    ids[0, 0], ids[0, 1] = 0, 1
    shake = rng.integers(-noise, noise + 1, ids.shape)
    on_light, on_dark = (
        gray(np.clip(np.where(ids, line, paper) + shake, 0, 255).astype(np.uint8))
        for line, paper in ((dark, light), (light, dark))
    )
    assert find_lines(on_light, "auto", "f").tolist() == ids.tolist() == find_lines(on_dark, "auto", "f").tolist()
    assert find_lines(on_light, "dark", "f").tolist() == ids.tolist() == find_lines(on_dark, "light", "f").tolist()
    assert find_lines(on_light, "light", "f").tolist() == (1 - ids).tolist()


def test_find_lines_keeps_faint_lines_and_blank_pages() -> None:
    ids = drawing(20)
    assert find_lines(gray(np.where(ids, 190, 250).astype(np.uint8)), "auto", "f").tolist() == ids.tolist()
    rng = np.random.default_rng(0)
    page = gray(rng.integers(235, 256, (20, 20)).astype(np.uint8))
    assert all(find_lines(page, lines, "f").sum() == 0 for lines in ("auto", "dark", "light"))  # type: ignore[arg-type]


def test_find_lines_refuses_colors_but_not_jpeg_noise(tmp_path: Path) -> None:
    pixels = np.repeat(255 * (1 - drawing())[..., None], 3, 2).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "fine.jpg", quality=60)
    assert read_label(tmp_path / "fine.jpg", SPACE).sum() > 50
    pixels[drawing() == 1] = (220, 30, 30)
    for name in ("red.png", "red.jpg"):
        Image.fromarray(pixels).save(tmp_path / name)
        with pytest.raises(LabelError, match=rf"{name} has colors in .*save it in gray"):
            read_label(tmp_path / name, SPACE)


def test_find_lines_refuses_a_label_map(tmp_path: Path) -> None:
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(tmp_path / "ids.png")
    with pytest.raises(LabelError, match=r"ids\.png holds values from 0 to 11, .*data\.sketch\.from=labels"):
        read_label(tmp_path / "ids.png", SPACE)
    Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))).save(tmp_path / "tones.png")
    with pytest.raises(
        LabelError, match=r"tones\.png has tones between line and paper in .*data\.sketch\.from to labels"
    ):
        read_label(tmp_path / "tones.png", SPACE)


@pytest.mark.parametrize("kind", ["gray", "bilevel", "rgb", "16 bit", "ids", "transparent", "palette", "ours"])
def test_find_lines_reads_drawings_of_any_kind(tmp_path: Path, kind: str) -> None:
    ids, file = drawing(), tmp_path / "a.png"
    paper = (255 * (1 - ids)).astype(np.uint8)
    picture = Image.fromarray(paper)
    if kind == "ours":
        write_label_png(file, torch.from_numpy(ids).long(), SPACE)
    elif kind == "16 bit":
        Image.fromarray(paper.astype(np.uint16) * 257).save(file)
    elif kind == "transparent":
        Image.merge("LA", (Image.new("L", picture.size, 0), Image.fromarray(255 * ids))).save(file)
    elif kind == "ids":
        Image.fromarray(ids).save(file)
    else:
        picture.convert({"gray": "L", "bilevel": "1", "rgb": "RGB", "palette": "P"}[kind]).save(file)
    assert read_label(file, SPACE).tolist() == ids.tolist()


def test_light_lines_on_transparent_paper(tmp_path: Path) -> None:
    ids = drawing()
    picture = Image.merge("LA", (Image.new("L", ids.shape, 255), Image.fromarray(255 * ids)))
    picture.save(tmp_path / "a.png")
    assert read_label(tmp_path / "a.png", SPACE, "light").tolist() == ids.tolist()


# --- size -----------------------------------------------------------------------------------------------------------


def parts(lines: Tensor) -> int:
    """Count what is connected, over corners too."""
    return int(components(lines.numpy(), np.ones((3, 3)))[1])


@given(st.integers(5, 64), st.integers(5, 64))
def test_resize_lines_keeps_lines_whole_and_thin(height: int, width: int) -> None:
    large = torch.from_numpy(drawing()).long()
    small = resize_lines(large, (height, width))
    assert small.shape == (height, width) and set(small.unique().tolist()) <= {0, 1}
    assert 1 <= parts(small) <= parts(large)
    assert small.sum() <= large.sum()
    rows, columns = large.nonzero(as_tuple=True)
    assert bool(small[rows * height // 64, columns * width // 64].all())


def test_resize_lines_upsamples_by_repetition() -> None:
    line = torch.eye(4, dtype=torch.int64)
    assert resize_lines(line, (8, 8)).tolist() == torch.kron(line, torch.ones(2, 2, dtype=torch.int64)).tolist()
    assert resize_lines(line, (2, 8)).sum(0).tolist() == [1] * 8
    assert resize_lines(line, (4, 4)) is line
    thin = torch.zeros(64, 64, dtype=torch.int64)
    thin[1] = 1  # which nearest neighbours would skip
    assert resize_label(thin, (16, 16), SPACE).sum() == 16
    assert resize_label(thin, (16, 16), LabelSpace.load("scenes")).sum() == 0


def test_real_drawings_at_half_size(data_root: Path) -> None:
    settings = {"format": "sketch", "root": str(data_root / "edges2shoes"), "val_split": None}
    large, small = (build(**settings, size=(side, side)) for side in (256, 128))
    assert len(large) == 100
    for i in range(0, 100, 10):
        before, after = large[i]["label"], small[i]["label"]
        assert 0.004 < float(before.float().mean()) < 0.1
        # Lines stay one pixel broad, which covers twice as much of the picture, or more where they cut corners.
        assert 1.8 < float(after.float().mean() / before.float().mean()) < 2.6
        assert parts(after) <= parts(before)


# --- made on the fly ------------------------------------------------------------------------------------------------


def test_find_edges_and_borders_match_hand_computed_values() -> None:
    photo = torch.zeros(3, 32, 32, dtype=torch.uint8)
    photo[:, 8:24, 8:24] = 200
    edges = find_edges(photo, 1.0)
    assert edges.dtype == torch.int64 and 40 < int(edges.sum()) < 80 and int(edges[12:20, 12:20].sum()) == 0
    assert int(find_edges(photo, 8.0).sum()) == 0
    ids = torch.tensor([[0, 0, 1], [0, 0, 1], [2, 2, 2]])
    assert borders(ids).tolist() == [[0, 1, 0], [1, 1, 1], [0, 0, 0]]
    assert borders(torch.full((4, 4), 3)).sum() == 0


@pytest.mark.slow
@pytest.mark.parametrize("unpaired", [False, True])
@pytest.mark.parametrize("sketch", [{"from": "photo"}, {"from": "labels", "label_space": "scenes"}])
def test_sketches_of_scenes(sketch: dict[str, str], unpaired: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = {"train_count": 6, "val_count": 2}
    dataset = build(format="scenes", paired=not unpaired, sketch=sketch, scenes=scenes)
    assert len(dataset) == 6 and isinstance(dataset, UnpairedDataset) == unpaired
    first = [dataset[(0, i)] for i in range(6)]
    for sample in first:
        assert sample["label"].shape == (64, 64) and set(sample["label"].unique().tolist()) == {0, 1}
        assert 0.02 < float(sample["label"].float().mean()) < 0.4 and sample["image"] is not None
    with monkeypatch.context() as kept:  # the second epoch draws nothing and looks for no edges
        kept.delattr("lab2pix.data.scenes.dataset._draw")
        kept.delattr("lab2pix.data.sketches.Sketcher.draw")
        again = [dataset[(1, i)] for i in range(6)]
    assert all(torch.equal(a["label"], b["label"]) for a, b in zip(first, again, strict=True))
    held_out = build("val", format="scenes", paired=not unpaired, sketch=sketch, scenes=scenes)
    assert len(held_out) == 2 and held_out[0]["image"] is not None
    assert int(held_out[0]["label"].sum()) > 50


def test_sketches_of_scenes_are_of_their_scene() -> None:
    scenes = {"train_count": 2}
    plain = DataConfig.model_validate({"format": "scenes", "size": (64, 64), "flip": False, "scenes": scenes})
    sample = build_dataset(plain, "train", LabelSpace.load("scenes"), 0, paired=True)[0]
    sketch = build(format="scenes", sketch={"from": "labels", "label_space": "scenes"}, scenes=scenes)[0]
    assert torch.equal(sketch["label"], borders(sample["label"])) and torch.equal(sketch["image"], sample["image"])
    photo = build(format="scenes", sketch={"from": "photo"}, scenes=scenes)[0]
    pixels = ((sample["image"] + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(photo["label"], find_edges(pixels, 2.0))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three pairs of label map (3 classes) and photo, of 60 x 90 pixels."""
    rng = np.random.default_rng(0)
    for kind in ("labels", "images"):
        (tmp_path / kind / "train").mkdir(parents=True)
    (tmp_path / "space.yaml").write_text("classes: [a, b, c]\n")
    for i in range(3):
        ids = np.zeros((60, 90), dtype=np.uint8)
        ids[20 + i : 50, 10 + 5 * i : 60] = 1 + i % 2
        Image.fromarray(ids).save(tmp_path / f"labels/train/{i}.png")
        photo = np.clip(ids[..., None] * 90 + rng.integers(0, 30, (60, 90, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(photo).save(tmp_path / f"images/train/{i}.png")
    return tmp_path


def test_sketches_of_label_maps_and_photos_in_files(root: Path) -> None:
    space = str(root / "space.yaml")
    found = build(root=str(root), sketch={"from": "labels", "label_space": space})[1]
    assert found["image"] is not None and 80 < int(found["label"].sum()) < 200
    edges = build(root=str(root), sketch={"from": "photo"})[1]
    assert 80 < int(edges["label"].sum()) < 200
    with pytest.raises(DataError, match=r"labels/train/1\.png is 60x90 pixels .* and its photo 9x9"):
        Image.new("RGB", (9, 9)).save(root / "images/train/1.png")
        build(root=str(root), sketch={"from": "labels", "label_space": space})[1]


def test_sketches_of_photos_need_photos_alone(root: Path) -> None:
    for file in (root / "labels/train").iterdir():
        file.unlink()
    assert len(build(root=str(root), sketch={"from": "photo"})) == 3
    images = {"root": str(root / "images")}
    dataset = build(images=images, paired=False, sketch={"from": "photo"})
    assert isinstance(dataset, UnpairedDataset) and dataset.partner(0, 1) != 1
    assert all(int(dataset[(0, i)]["label"].sum()) > 80 for i in range(3))
    (root / "images/val").mkdir()
    (root / "images/train/2.png").rename(root / "images/val/2.png")
    held_out = build("val", images=images, paired=False, sketch={"from": "photo"})[0]
    assert held_out["image"] is not None and int(held_out["label"].sum()) > 80


def test_sketches_of_a_crop_are_crops_of_the_sketch(root: Path) -> None:
    whole = build(root=str(root), sketch={"from": "photo"}, size=(60, 90))[0]["label"]
    cropped = build(root=str(root), sketch={"from": "photo"}, size=(32, 32), resize=(60, 90))[(3, 0)]["label"]
    assert bool((whole.unfold(0, 32, 1).unfold(1, 32, 1) == cropped).all(-1).all(-1).any())


def test_line_drawings_in_a_folder(root: Path, tmp_path: Path) -> None:
    (tmp_path / "lines").mkdir()
    for i in range(2):
        Image.fromarray(255 * drawing()).save(tmp_path / f"lines/{i}.png")
    folders = {"labels": {"root": str(tmp_path / "lines")}, "images": {"root": str(root / "images")}, "paired": False}
    assert build(**folders)[1]["label"].tolist() == drawing().tolist()
    assert build(**folders, sketch={"lines": "light"})[1]["label"].tolist() == drawing().tolist()
    assert build(**folders, sketch={"lines": "dark"})[1]["label"].tolist() == (1 - drawing()).tolist()


def test_pairs_of_drawing_and_photo(root: Path) -> None:
    for i in range(3):
        Image.fromarray(255 - 255 * drawing(64)).save(root / f"labels/train/{i}.png")
        Image.new("RGB", (64, 64), "red").save(root / f"images/train/{i}.png")
    sample = build(root=str(root), size=(32, 32))[0]
    assert torch.equal(sample["label"], resize_lines(torch.from_numpy(drawing()).long(), (32, 32)))
    assert sample["image"] is not None


# --- settings, and bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_space": "scenes", "sketch": {"from": "photo"}}, r"data\.sketch\.from is 'photo'.*label_space=sketch"),
        ({"sketch": {"from": "labels"}}, r"data\.sketch\.label_space is missing"),
        ({"sketch": {"from": "files"}}, r"format 'scenes' has .*data\.sketch\.from to photo or labels"),
        ({"sketch": {"from": "labels", "label_space": "ade20k"}}, r"data\.sketch\.label_space is 'ade20k'"),
        ({"sketch": {"from": "photo", "lines": "dark"}}, r"data\.sketch\.lines is 'dark'.*auto"),
        ({"sketch": {"label_space": "scenes"}}, r"data\.sketch\.label_space is 'scenes'.*'files'"),
        ({"sketch": {"from": "photo"}, "instance_edges": True}, r"data\.instance_edges is true, but line drawings"),
        (
            {"sketch": {"from": "photo"}, "labels": {"root": "x"}},
            r"data\.labels\.root is set, but data\.sketch\.from is 'photo'",
        ),
    ],
)
def test_sketch_settings_that_contradict_are_refused(settings: dict[str, object], message: str) -> None:
    data = data_of(format="scenes", **settings) if "label_space" not in settings else None
    data = data or DataConfig.model_validate({"format": "scenes", **settings})
    with pytest.raises(ConfigError, match=message):
        build_dataset(data, "train", LabelSpace.load(data.label_space), 0, paired=False)


def test_check_dataset_reports_a_colored_sketch(tmp_path: Path) -> None:
    pixels = np.full((64, 128, 3), 255, dtype=np.uint8)
    pixels[:, :64][drawing() == 1] = 0
    pixels[:, 64:] = (200, 60, 20)  # right up to the seam, over which JPEG spreads it
    (tmp_path / "train").mkdir()
    Image.fromarray(pixels[:, 7:-7]).save(tmp_path / "train/fine.jpg", quality=50)
    assert check_dataset(tmp_path, "sketch", SPACE).ok
    contact_sheet(tmp_path, "sketch", SPACE, tmp_path / "sheet.png")
    pixels[:, :64][drawing() == 1] = (0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "train/blue.png")
    report = check_dataset(tmp_path, "sketch", SPACE)
    assert len(report.wrong_labels) == 1 and "the left half of" in report.wrong_labels[0]
    assert "blue.png has colors" in report.wrong_labels[0]


@pytest.mark.slow
def test_scikit_image_is_loaded_only_where_edges_are_found() -> None:
    words = "import sys, lab2pix.data, lab2pix.data.build; print('skimage' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

"""Classes that nobody named: derived from label maps by the reading of training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lab2pix.data.label_maps import read_label
from lab2pix.errors import LabelError
from lab2pix.fit.classes import derive_label_space, find_label_space
from lab2pix.fit.dataset import find_data
from lab2pix.labels.space import LabelSpace
from tests.fit.conftest import Draw, label_map, photo

IDS = np.asarray(label_map(0))
COLORS = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200]], np.uint8)


def save(path: Path, pixels: np.ndarray[Any, Any] | Image.Image, **options: object) -> Path:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def save_wide(path: Path, pixels: np.ndarray[Any, Any]) -> Path:
    """Write `[H, W, 3]` of 16 bits, which Pillow cannot."""
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(path, pixels.astype(np.uint16), photometric="rgb")
    return path


def palette(ids: np.ndarray[Any, Any], colors: np.ndarray[Any, Any]) -> Image.Image:
    image = Image.fromarray(ids.astype(np.uint8), mode="P")
    image.putpalette(colors.flatten().tolist())
    return image


def derived(files: list[Path]) -> LabelSpace:
    """Return the label space of files, of which each must be readable with all classes."""
    space = derive_label_space(files, files[0].parent)
    found = torch.cat([read_label(file, space).flatten() for file in files])
    assert sorted(set(found.tolist())) == list(range(space.num_channels))
    return space


def rgb(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.repeat(values[..., None], 3, 2)


GRAY: dict[str, tuple[Callable[[Path], list[Path]], tuple[int, ...], int | None]] = {
    "mask": (lambda p: [save(p / "a.png", IDS.clip(0, 1) * 255)], (0, 255), None),
    "RGB mask": (lambda p: [save(p / "a.png", rgb(IDS.clip(0, 1) * 255))], (0, 255), None),
    "mask of 1 bit": (lambda p: [save(p / "a.png", IDS > 0)], (0, 1), None),
    "masks of 1 and 8 bits": (
        lambda p: [save(p / "a.png", IDS > 0), save(p / "b.png", IDS.clip(0, 1) * 255)],
        (0, 255),
        None,
    ),
    "gray and RGB masks": (
        lambda p: [save(p / "a.png", rgb(IDS * 0)), save(p / "b.png", IDS.clip(0, 1) * 255)],
        (0, 255),
        None,
    ),
    "three levels": (lambda p: [save(p / "a.png", np.array([0, 127, 255], np.uint8)[IDS])], (0, 127, 255), None),
    "ids and unknown": (lambda p: [save(p / "a.png", np.array([0, 2, 255], np.uint8)[IDS])], (0, 2), 255),
    "ids of 16 bits": (lambda p: [save(p / "a.png", IDS.astype(np.uint16) * 300)], (0, 300, 600), None),
    "mask of 16 bits": (lambda p: [save(p / "a.png", IDS.clip(0, 1).astype(np.uint16) * 65535)], (0, 255), None),
    "RGB ids of 16 bits": (lambda p: [save_wide(p / "a.tif", rgb(IDS))], (0, 1, 2), None),
    "-1 for unknown": (lambda p: [save(p / "a.tif", IDS.astype(np.int32) - 1)], (0, 1), -1),
    "RGB ids": (lambda p: [save(p / "a.png", rgb(IDS))], (0, 1, 2), None),
}


@pytest.mark.parametrize("name", GRAY)
def test_values_become_classes(tmp_path: Path, name: str) -> None:
    make, values, unknown = GRAY[name]
    space = derived(make(tmp_path))
    assert (space.class_values, space.unknown_value) == (values, unknown)
    assert space.names == tuple(f"class {value}" for value in values)


def test_palettes_give_values_and_colors(tmp_path: Path) -> None:
    space = derived([save(tmp_path / "a.png", palette(IDS, COLORS))])
    assert (space.palette.tolist(), space.class_values) == (COLORS.tolist(), (0, 1, 2))


COLORED: dict[str, Callable[[Path], list[Path]]] = {
    "RGB": lambda p: [save(p / "a.png", COLORS[IDS])],
    "RGB with alpha": lambda p: [save(p / "a.png", Image.fromarray(COLORS[IDS]).convert("RGBA"))],
    "RGB of 16 bits": lambda p: [save_wide(p / "a.tif", COLORS[IDS].astype(np.uint16) * 257)],
    "palettes that differ": lambda p: [
        save(p / "a.png", palette(IDS, COLORS)),
        save(p / "b.png", palette(2 - IDS, COLORS[::-1])),
    ],
    "palette and RGB": lambda p: [save(p / "a.png", palette(IDS, COLORS)), save(p / "b.png", COLORS[IDS])],
}


@pytest.mark.parametrize("name", COLORED)
def test_colors_become_classes(tmp_path: Path, name: str) -> None:
    space = derived(COLORED[name](tmp_path))
    assert space.palette.tolist() == sorted(COLORS.tolist())
    assert space.unknown_value is None


def smooth(pixels: np.ndarray[Any, Any]) -> Image.Image:
    return Image.fromarray(pixels).resize((96, 96), Image.Resampling.BILINEAR)


def through_jpeg(path: Path, quality: int) -> Image.Image:
    return Image.open(save(path / "a.jpg", COLORS[IDS], quality=quality)).convert("RGB")


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "JPEG colors": (lambda p: save(p / "a.jpg", COLORS[IDS]), "compressed with loss"),
    "JPEG mask": (lambda p: save(p / "a.jpg", IDS.clip(0, 1) * 255), "compressed with loss"),
    "PNG that was JPEG": (lambda p: save(p / "a.png", through_jpeg(p, 75)), "blended"),
    "PNG that was bad JPEG": (lambda p: save(p / "a.png", through_jpeg(p, 30)), "blended"),
    "smoothed colors": (lambda p: save(p / "a.png", smooth(COLORS[IDS])), "blended"),
    "smoothed mask": (lambda p: save(p / "a.png", smooth(IDS.clip(0, 1) * 255)), "blended"),
    "photo": (lambda p: save(p / "a.png", photo(0)), "more values or colors than classes"),
    "red ids": (lambda p: save(p / "a.png", rgb(IDS) * np.array([1, 0, 0], np.uint8)), "red channel alone"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_label_maps_without_clear_classes_are_refused(tmp_path: Path, name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(LabelError, match=message) as error:
        derive_label_space([make(tmp_path)], tmp_path)
    assert "classes.yaml" in str(error.value) or "red" in message


def test_ids_among_colors_are_refused(tmp_path: Path) -> None:
    files = [save(tmp_path / "a.png", COLORS[IDS]), save(tmp_path / "b.png", IDS)]
    with pytest.raises(LabelError, match=r"some hold colors; list the classes with their colors in .*classes\.yaml"):
        derive_label_space(files, tmp_path)


def test_derived_label_space_is_written(draw: Draw, tmp_path: Path) -> None:
    space, where = find_label_space(None, find_data(draw()), tmp_path / "classes.yaml")
    assert space.names == ("class 0", "class 1", "class 2")
    assert LabelSpace.load(where) == space


def test_classes_of_the_folder_are_used(draw: Draw, tmp_path: Path) -> None:
    root = draw()
    (root / "classes.yaml").write_text("classes: [x, y, z]")
    assert find_label_space(None, find_data(root), tmp_path / "own.yaml")[0].names == ("x", "y", "z")
    assert not (tmp_path / "own.yaml").exists()

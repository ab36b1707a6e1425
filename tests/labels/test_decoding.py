"""One meaning of a label map: gray, palette and color files of a set agree, or the file is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lab2pix.data.image_file import open_image
from lab2pix.data.label_maps import decode_label, read_label, write_label_png
from lab2pix.errors import LabelError
from lab2pix.labels.space import LabelSpace

THREE = LabelSpace.from_dict(
    {
        "name": "three",
        "classes": [
            {"name": "sky", "color": [0, 0, 255]},
            {"name": "road", "color": [128, 64, 128]},
            {"name": "tree", "color": [0, 128, 0]},
        ],
    }
)
PLAIN = LabelSpace.from_dict({"name": "plain", "unknown_value": 255, "classes": ["sky", "road", "tree"]})
MASK = LabelSpace.from_dict(
    {"name": "mask", "classes": [{"name": "back", "value": 0}, {"name": "front", "value": 255}]}
)


def gray_space(*tones: int) -> LabelSpace:
    classes = [{"name": f"c{index}", "color": [tone] * 3} for index, tone in enumerate(tones)]
    return LabelSpace.from_dict({"name": "grays", "classes": classes})


BLACK_WHITE, WHITE_BLACK = gray_space(0, 255), gray_space(255, 0)
IDS = np.array([[0, 1, 2, 2], [2, 2, 1, 0]], dtype=np.uint8)


def save_palette(path: Path, indices: np.ndarray, palette: list[list[int]], **options: object) -> Path:
    image = Image.fromarray(indices.astype(np.uint8)).convert("P")
    image.putdata(indices.flatten().tolist())
    image.putpalette([value for color in palette for value in color])
    image.save(path, **options)
    return path


def save(path: Path, values: np.ndarray, mode: str = "L") -> Path:
    """Save gray values `[H, W]` in a mode."""
    gray = values.astype(np.uint8)
    if mode == "1":
        Image.fromarray(gray > 0).save(path)
    elif mode == "I;16":
        Image.fromarray(values.astype(np.uint16)).save(path)
    else:
        Image.fromarray(gray).convert(mode).save(path)
    return path


# --- palettes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("off", [0, 1, 5])
@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.tif", "a.bmp"])
def test_a_palette_that_is_sorted_otherwise_is_read_by_its_colors(tmp_path: Path, off: int, name: str) -> None:
    order = [2, 0, 1]  # index of each class in the file
    palette = [[128, 64 + off, 128 - off], [0, 128 - off, off], [off, 0, 255 - off]]
    path = save_palette(tmp_path / name, np.array(order)[IDS], palette)
    found = decode_label(open_image(path), THREE, str(path))
    assert found.ids.tolist() == IDS.tolist() and found.reading == "palette colors"


@pytest.mark.parametrize("options", [{}, {"transparency": 0}, {"bits": 2}])
def test_a_palette_in_the_order_of_the_classes_is_read_by_its_indices(tmp_path: Path, options: dict) -> None:
    path = save_palette(tmp_path / "a.png", IDS, [[2, 1, 254], [127, 64, 128], [0, 128, 3]], **options)
    found = decode_label(open_image(path), THREE, str(path))
    assert found.ids.tolist() == IDS.tolist() and found.reading == "palette indices"


def test_a_palette_in_other_colors_is_refused(tmp_path: Path) -> None:
    path = save_palette(tmp_path / "a.png", IDS, [[0, 0, 255], [9, 200, 9], [0, 128, 0]])
    with pytest.raises(LabelError, match=r"palette whose color \(9, 200, 9\), of index 1, belongs to no class .*three"):
        read_label(path, THREE)


def test_without_given_colors_the_indices_count(tmp_path: Path) -> None:
    generated = PLAIN.palette.tolist()
    path = save_palette(tmp_path / "a.png", IDS, [generated[2], generated[0], generated[1]])
    assert read_label(path, PLAIN).tolist() == IDS.tolist()


@pytest.mark.parametrize("palette", [[[0, 0, 0]] * 256, [[index] * 3 for index in range(256)]])
def test_an_empty_or_gray_palette_says_nothing(tmp_path: Path, palette: list[list[int]]) -> None:
    assert read_label(save_palette(tmp_path / "a.png", IDS, palette), THREE).tolist() == IDS.tolist()


def test_a_palette_of_black_alone_is_refused_where_black_is_another_class(tmp_path: Path) -> None:
    space = LabelSpace.from_dict({**THREE.to_dict(), "unknown_value": 255})
    path = save_palette(tmp_path / "a.png", IDS * 0, [[0, 0, 0]])
    with pytest.raises(LabelError, match="value 0, which is both the id of 'sky' and the color of 'unknown'"):
        read_label(path, space)


# --- generated colors ------------------------------------------------------------------------------------------------


def test_a_palette_with_the_exact_color_of_another_class_is_read_by_its_colors(tmp_path: Path) -> None:
    space = LabelSpace.from_dict({"name": "mine", "classes": ["wall", {"name": "window", "color": [0, 117, 255]}]})
    image = Image.new("RGB", (4, 4), (0, 117, 255)).quantize(4)
    image.save(tmp_path / "a.png")
    assert read_label(tmp_path / "a.png", space).unique().tolist() == [1]


def test_ids_in_color_files_are_not_the_black_of_unknown(tmp_path: Path) -> None:
    """Black means unknown only where the label space says so; id 0 in RGB may be the first class."""
    classes = [{"name": "back", "color": [0, 0, 255]}, {"name": "front", "color": [255, 0, 0]}]
    space = {"name": "mine", "unknown_value": 255, "classes": classes}
    file = save(tmp_path / "a.png", np.zeros((4, 4)), "RGB")
    with pytest.raises(LabelError, match=r"both the id of 'back' and the color of 'unknown'.*an `unknown_color`"):
        read_label(file, LabelSpace.from_dict(space))
    assert read_label(file, LabelSpace.from_dict({**space, "unknown_color": [0, 0, 0]})).unique().tolist() == [2]
    valued = [{**item, "value": value} for value, item in enumerate(classes)]
    assert read_label(file, LabelSpace.from_dict({**space, "classes": valued})).unique().tolist() == [0]


def test_generated_colors_never_decode(tmp_path: Path) -> None:
    """Black and white are the colors of unknown and of the first class, but the file holds the ids 0 and 255."""
    values = np.array([[0, 255], [255, 0]])
    for mode in ("L", "RGB", "RGBA", "LA"):
        assert read_label(save(tmp_path / f"{mode}.png", values, mode), PLAIN).tolist() == [[0, 3], [3, 0]]
    coco = LabelSpace.load("coco-stuff")
    assert read_label(tmp_path / "RGB.png", coco).tolist() == [[0, 182], [182, 0]]
    Image.fromarray(PLAIN.to_colors(torch.tensor([[0, 1, 2]])).permute(1, 2, 0).numpy()).save(tmp_path / "color.png")
    with pytest.raises(LabelError, match="is in color, but label space 'plain' gives no colors; give every class"):
        read_label(tmp_path / "color.png", PLAIN)


def test_a_stored_label_space_reads_as_the_original() -> None:
    for space in (THREE, PLAIN, MASK, BLACK_WHITE, LabelSpace.load("coco-stuff"), LabelSpace.load("cityscapes")):
        stored = LabelSpace.from_dict(json.loads(json.dumps(space.to_dict())))
        assert stored == space and stored.file_colors == space.file_colors and stored.file_values == space.file_values


def test_written_label_maps_are_read_in_every_space(tmp_path: Path) -> None:
    for space in (THREE, PLAIN, MASK, BLACK_WHITE, WHITE_BLACK, LabelSpace.load("cityscapes")):
        ids = torch.arange(space.num_channels).repeat(2, 1)
        write_label_png(tmp_path / "a.png", ids, space)
        assert torch.equal(read_label(tmp_path / "a.png", space), ids), space.name


# --- masks of 0 and 255 ----------------------------------------------------------------------------------------------

HALF = np.array([[0, 255, 255, 0]])


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "1", "I;16"])
def test_values_of_classes_describe_masks(tmp_path: Path, mode: str) -> None:
    assert read_label(save(tmp_path / "a.png", HALF, mode), MASK).tolist() == [[0, 1, 1, 0]]


def test_values_of_classes_describe_black_and_white_palettes(tmp_path: Path) -> None:
    path = save_palette(tmp_path / "a.png", HALF == 0, [[255] * 3, [0] * 3])
    assert read_label(path, MASK).tolist() == [[0, 1, 1, 0]]
    save(tmp_path / "a.gif", HALF)
    assert read_label(tmp_path / "a.gif", MASK).tolist() == [[0, 1, 1, 0]]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "1", "I;16"])
@pytest.mark.parametrize("scale", [1, 257])
def test_gray_class_colors_count_in_gray_files(tmp_path: Path, mode: str, scale: int) -> None:
    values = HALF * (scale if mode == "I;16" else 1)
    assert read_label(save(tmp_path / "a.png", values, mode), BLACK_WHITE).tolist() == [[0, 1, 1, 0]]


def test_gray_class_colors_count_for_single_files_of_a_colored_set(tmp_path: Path) -> None:
    """Programs save a colored picture in gray where it has no colors."""
    classes = [*THREE.to_dict()["classes"], {"name": "wall", "color": [90] * 3}]
    space = LabelSpace.from_dict({"name": "four", "classes": classes})
    assert read_label(save(tmp_path / "a.png", np.full((2, 2), 90)), space).unique().tolist() == [3]


def test_a_mask_without_values_is_refused_with_the_cure(tmp_path: Path) -> None:
    space = LabelSpace.from_dict({"name": "two", "classes": ["back", "front"]})
    with pytest.raises(LabelError, match=r"holds id 255, but label space 'two' has 0 to 1; .*give classes the `value`"):
        read_label(save(tmp_path / "a.png", HALF), space)
    with pytest.raises(LabelError, match=r"holds id 7, but label space 'mask' has 0, 255;"):
        read_label(save(tmp_path / "b.png", HALF // 36), MASK)


@pytest.mark.parametrize("mode", ["L", "1"])
def test_values_with_two_meanings_are_refused(tmp_path: Path, mode: str) -> None:
    with pytest.raises(LabelError, match="value 0, which is both the id of 'c0' and the color of 'c1'"):
        read_label(save(tmp_path / "a.png", HALF * 0, mode), WHITE_BLACK)
    assert read_label(save(tmp_path / "b.png", HALF, "RGB"), WHITE_BLACK).tolist() == [[1, 0, 0, 1]]
    assert read_label(save(tmp_path / "c.png", HALF, "L"), WHITE_BLACK).tolist() == [[1, 0, 0, 1]]


def test_ids_in_the_red_channel_are_refused(tmp_path: Path) -> None:
    classes = [{"name": str(index), "color": [index * 40, 0, index]} for index in range(6)]
    space = LabelSpace.from_dict({"name": "dark", "classes": classes})
    red = np.zeros((2, 3, 3), dtype=np.uint8)
    red[..., 0] = [[0, 1, 2], [3, 4, 5]]
    Image.fromarray(red).save(tmp_path / "a.png")
    with pytest.raises(LabelError, match="values up to 5 in its red channel alone, as simulators store ids"):
        read_label(tmp_path / "a.png", space)


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ([{"name": "a", "value": 3}, {"name": "b", "value": 3}], "value 3 both for class 'a' and for class 'b'"),
        ([{"name": "a", "value": 1}, "b"], "value 1 both for class 'a' and for class 'b'"),
        ([{"name": "a", "value": 9}], "value 9 both for unknown and for class 'a'"),
        ([{"name": "a", "value": 70000}], "has value 70000; it must be 0 to 65535"),
        ([{"name": "a", "value": "1"}], "'value' must be of type int"),
    ],
)
def test_mistakes_in_values_are_named(classes: list, words: str) -> None:
    with pytest.raises(LabelError, match=words):
        LabelSpace.from_dict({"name": "x", "unknown_value": 9, "classes": classes})


def test_gray_jpegs_are_read_only_in_gray_class_colors(tmp_path: Path) -> None:
    big = np.kron(HALF, np.ones((16, 16)))
    for mode in ("L", "RGB"):
        Image.fromarray(big.astype(np.uint8)).convert(mode).save(tmp_path / f"{mode}.jpg")
        assert read_label(tmp_path / f"{mode}.jpg", BLACK_WHITE).tolist() == (big > 0).astype(int).tolist()
        for space in (MASK, PLAIN, THREE):
            with pytest.raises(LabelError, match="is gray and compressed with loss"):
                read_label(tmp_path / f"{mode}.jpg", space)

"""Rendering of label maps without a label space: own colors, a color per id, drawings as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lab2pix.errors import DataError
from lab2pix.web.study.labels import distinct_colors, render_raw_labels

Color = tuple[int, ...]


def save(file: Path, rows: object, kind: type = np.uint8, **settings: object) -> Path:
    Image.fromarray(np.array(rows, dtype=kind)).save(file, **settings)
    return file


def seen(*files: Path) -> list[list[list[Color]]]:
    """Return the rendered files of a study, as rows of colors."""
    show = render_raw_labels(files)
    shown = [show(file) for file in files]
    assert all(one.classes == [] for one in shown)
    assert all(str(one.image.dtype) == "torch.uint8" for one in shown)
    return [[[tuple(color) for color in row] for row in one.image.permute(1, 2, 0).tolist()] for one in shown]


# --- images with colors ------------------------------------------------------------------------------------------


def test_rgb_label_keeps_its_colors(tmp_path: Path) -> None:
    rows = [[(1, 2, 3), (200, 0, 9)], [(7, 7, 7), (0, 0, 0)]]
    assert seen(save(tmp_path / "a.png", rows)) == [rows]


def test_transparent_label_is_on_white(tmp_path: Path) -> None:
    file = save(tmp_path / "a.png", [[(10, 20, 30, 255), (0, 0, 0, 0)]])
    drawing = save(tmp_path / "b.png", [[(0, 255), (0, 0)]])
    assert Image.open(drawing).mode == "LA"
    assert seen(file, drawing) == [[[(10, 20, 30), (255, 255, 255)]], [[(0, 0, 0), (255, 255, 255)]]]


def test_palette_label_keeps_its_colors(tmp_path: Path) -> None:
    image = Image.frombytes("P", (3, 1), bytes([0, 4, 2]))
    image.putpalette([128, 64, 128, 1, 1, 1, 70, 70, 70, 2, 2, 2, 0, 0, 142])
    image.save(tmp_path / "a.png")
    assert seen(tmp_path / "a.png") == [[[(128, 64, 128), (0, 0, 142), (70, 70, 70)]]]


# --- one number per pixel -------------------------------------------------------------------------------------------


def test_ids_have_the_same_color_in_all_files(tmp_path: Path) -> None:
    one = save(tmp_path / "a.png", [[0, 3, 3], [0, 3, 7]])
    two = save(tmp_path / "b.png", [[255, 7, 3]])
    wide = save(tmp_path / "c.png", [[24001, 3, 0]], np.uint16)
    assert Image.open(wide).mode.startswith("I")
    first, second, third = seen(one, two, wide)
    zero, three, seven = first[0][0], first[0][1], first[1][2]
    assert first == [[zero, three, three], [zero, three, seven]]
    assert second == [[second[0][0], seven, three]]
    assert third == [[third[0][0], three, zero]]
    colors = {zero, three, seven, second[0][0], third[0][0]}
    assert len(colors) == 5 and (0, 0, 0) not in colors
    assert min(np.linalg.norm(np.subtract(a, b)) for a in colors for b in colors if a != b) > 150
    assert seen(wide, two, one) == [third, second, first]


def test_opaque_gray_alpha_contains_ids(tmp_path: Path) -> None:
    plain = save(tmp_path / "a.png", [[5, 1, 2]])
    opaque = save(tmp_path / "b.png", [[(2, 255), (5, 255), (1, 255)]])
    assert Image.open(opaque).mode == "LA"
    ((five, one, two),), other = seen(plain, opaque)
    assert other == [[two, five, one]]
    assert len({one, two, five}) == 3


@pytest.mark.parametrize("ids", [(0, 1), (0, 100), (6, 6)])
def test_two_close_ids_are_not_a_drawing(tmp_path: Path, ids: tuple[int, int]) -> None:
    (((first, second),),) = seen(save(tmp_path / "a.png", [ids]))
    assert [first, second] == [distinct_colors(2)[ids.index(value)] for value in ids]


def test_ids_with_unknown_are_not_a_drawing(tmp_path: Path) -> None:
    one, two = seen(save(tmp_path / "a.png", [[0, 255]]), save(tmp_path / "b.png", [[1, 255]]))
    zero, unknown = one[0]
    assert two[0][1] == unknown
    assert len({zero, unknown, two[0][0]}) == 3


def test_line_drawings_stay_black_and_white(tmp_path: Path) -> None:
    one = save(tmp_path / "a.png", [[0, 255, 255]])
    blank = save(tmp_path / "b.png", [[255, 255]])
    wide = save(tmp_path / "c.png", [[65535, 0]], np.uint16)
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "d.png")
    assert Image.open(tmp_path / "d.png").mode == "1"
    black, white = (0, 0, 0), (255, 255, 255)
    assert seen(one, blank, wide, tmp_path / "d.png") == [
        [[black, white, white]],
        [[white, white]],
        [[white, black]],
        [[white, black]],
    ]


def test_drawing_in_two_grays_is_kept(tmp_path: Path) -> None:
    assert seen(save(tmp_path / "a.png", [[20, 230]])) == [[[(20, 20, 20), (230, 230, 230)]]]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 256, 1330, 5000])
def test_distinct_colors_are_distinct(count: int) -> None:
    colors = distinct_colors(count)
    assert len(set(colors)) == len(colors) == count
    assert (0, 0, 0) not in colors
    assert all(0 <= part <= 255 for color in colors for part in color)
    assert colors == distinct_colors(count) and colors == distinct_colors(5000)[:count]


# --- what cannot be shown -------------------------------------------------------------------------------------------


def test_file_without_valid_ids_is_refused(tmp_path: Path) -> None:
    lossy = save(tmp_path / "a.jpg", [[0, 3], [4, 5]])
    with pytest.raises(DataError, match=r"a\.jpg is gray and compressed with loss.*--label-space sketch"):
        render_raw_labels([lossy])
    fractions = save(tmp_path / "b.tif", [[0.5, 1.0]], np.float32)
    with pytest.raises(DataError, match=r"b\.tif contains fractions"):
        render_raw_labels([fractions])
    large = save(tmp_path / "c.tif", [[-1, 70000]], np.int32)
    with pytest.raises(DataError, match=r"c\.tif contains values from -1 to 70000, but ids are 0 to 65535"):
        render_raw_labels([large])


def test_color_jpeg_is_rendered(tmp_path: Path) -> None:
    (((color, *_), *_),) = seen(save(tmp_path / "a.jpg", [[(250, 0, 0)] * 8] * 8))
    assert color[0] > 200 and color[1] < 50


def test_damaged_label_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a\.png is (no|not)"):
        render_raw_labels([tmp_path / "a.png"])

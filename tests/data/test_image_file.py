"""All bits of image files: 16 bits per channel in every layout, pages, transparency, and files that are no images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image

from lab2pix.data.files import read_image
from lab2pix.data.image_file import ImageFile, open_image
from lab2pix.data.label_maps import decode_label, read_instances, read_label
from lab2pix.data.pairs import Pair
from lab2pix.data.source_images import read_source
from lab2pix.errors import DataError, LabelError
from lab2pix.labels.space import LabelClass, LabelSpace
from tests.helpers.png import GRAY, GRAY_ALPHA, RGB, RGBA, write_chunks, write_png

COLORS = [(0, 0, 255), (128, 64, 128), (0, 128, 0)]
THREE = LabelSpace("three", tuple(LabelClass(name, color) for name, color in zip("abc", COLORS, strict=True)))
MANY = LabelSpace.from_dict({"name": "many", "classes": [f"c{index}" for index in range(400)]})
IDS = np.array([[0, 0, 1, 1, 2], [2, 2, 2, 1, 0], [0, 1, 2, 0, 1]], dtype=np.uint16)
TIFF_LAYOUTS = {
    "little": {"byteorder": "<"},
    "big": {"byteorder": ">"},
    "deflate": {"compression": "zlib"},
    "deflate-big": {"compression": "zlib", "byteorder": ">"},
    "tiles": {"tile": (16, 16)},
    "bigtiff": {"bigtiff": True},
    "planes": {"planarconfig": "separate"},
    "planes-big": {"planarconfig": "separate", "byteorder": ">"},
}


def write_tiff(path: Path, values: NDArray[np.uint16], layout: str) -> Path:
    """Write `[H, W, 3]` as a TIFF of 16 bits."""
    options = TIFF_LAYOUTS[layout]
    planar = "planarconfig" in options
    tifffile.imwrite(path, np.moveaxis(values, -1, 0) if planar else values, photometric="rgb", **options)
    return path


@pytest.mark.parametrize("kind", [GRAY, GRAY_ALPHA, RGB, RGBA])
def test_ids_of_16_bits_are_read_from_every_png(tmp_path: Path, kind: int) -> None:
    assert read_label(write_png(tmp_path / "a.png", IDS, kind), THREE).tolist() == IDS.tolist()
    large = IDS + np.uint16(300)
    assert read_label(write_png(tmp_path / "b.png", large, kind), MANY).tolist() == large.tolist()
    with pytest.raises(LabelError, match="holds ids 300, 301, 302"):
        read_label(tmp_path / "b.png", THREE)
    assert read_instances(tmp_path / "b.png").unique().numel() == 3


@pytest.mark.parametrize("scale", [1, 256, 257])
@pytest.mark.parametrize("kind", [RGB, RGBA])
def test_colors_of_16_bits_are_read_at_each_scale(tmp_path: Path, kind: int, scale: int) -> None:
    colors = np.array(COLORS, dtype=np.uint16)[IDS] * np.uint16(scale)
    assert read_label(write_png(tmp_path / "a.png", colors, kind), THREE).tolist() == IDS.tolist()


@pytest.mark.parametrize("layout", TIFF_LAYOUTS)
def test_tiffs_of_16_bits_are_read_in_every_layout(tmp_path: Path, layout: str) -> None:
    large = np.random.default_rng(0).integers(0, 400, (40, 50), dtype=np.uint16)
    path = write_tiff(tmp_path / "ids.tif", np.repeat(large[..., None], 3, axis=2), layout)
    assert read_label(path, MANY).tolist() == large.tolist()
    noise = np.random.default_rng(1).integers(0, 65536, (40, 50, 3), dtype=np.uint16)
    path = write_tiff(tmp_path / "noise.tif", noise, layout)
    assert np.array_equal(open_image(path).wide, noise)
    assert torch.equal(read_image(path), torch.from_numpy((noise >> 8).astype(np.uint8)).permute(2, 0, 1))
    source = read_source(path, 3, None).permute(1, 2, 0).numpy()
    assert np.abs(source - (noise / 32767.5 - 1)).max() < 1e-4
    combined = noise.astype(np.int64) @ np.array([2**32, 2**16, 1])
    assert read_instances(path).tolist() == combined.tolist()


def test_halves_of_16_bits_are_read_with_all_of_them(tmp_path: Path) -> None:
    left, right = IDS + np.uint16(300), IDS * np.uint16(5000)
    path = write_png(tmp_path / "ab.png", np.concatenate([left, right], axis=1), RGB)
    assert Pair("ab", path, path, form="input-left").read_label(MANY).tolist() == left.tolist()
    assert Pair("ab", path, path, form="input-left").read_image()[0].tolist() == (right >> 8).tolist()
    path = write_png(tmp_path / "ba.png", np.concatenate([right, left], axis=1), RGBA)
    assert Pair("ba", path, path, form="photo-left").read_label(MANY).tolist() == left.tolist()


def test_compressed_planes_of_16_bits_are_refused_where_all_bits_count(tmp_path: Path) -> None:
    path, noise = tmp_path / "a.tif", np.random.default_rng(1).integers(0, 65536, (40, 50, 3), dtype=np.uint16)
    tifffile.imwrite(path, np.moveaxis(noise, -1, 0), photometric="rgb", planarconfig="separate", compression="zlib")
    assert torch.equal(read_image(path), torch.from_numpy((noise >> 8).astype(np.uint8)).permute(2, 0, 1))
    for read in (read_instances, lambda file: read_label(file, MANY), lambda file: read_source(file, 3, None)):
        with pytest.raises(DataError, match=r"a\.tif stores 16 bits per color in compressed planes"):
            read(path)


def test_numbers_of_16_bits_that_are_neither_ids_nor_colors_are_refused(tmp_path: Path) -> None:
    packed = np.stack([IDS, IDS * np.uint16(1000), IDS * np.uint16(0)], axis=-1)
    with pytest.raises(LabelError, match="values up to 2000 with 16 bits per color, which are neither ids nor colors"):
        read_label(write_png(tmp_path / "a.png", packed, RGB), THREE)


def test_instances_of_16_bits_per_color_stay_apart(tmp_path: Path) -> None:
    numbers = np.zeros((4, 4, 3), dtype=np.uint16)
    numbers[..., 1] = np.arange(16).reshape(4, 4)  # all alike in the upper byte
    assert read_instances(write_png(tmp_path / "a.png", numbers, RGB)).unique().numel() == 16
    assert read_instances(write_png(tmp_path / "b.png", numbers, RGBA)).unique().numel() == 16


def test_instances_are_exact_numbers(tmp_path: Path) -> None:
    values = np.array([[70000, 70001], [1, 2]])
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "whole.tif")
    assert read_instances(tmp_path / "whole.tif").tolist() == values.tolist()
    Image.fromarray(np.full((2, 2), 0.5, dtype=np.float32)).save(tmp_path / "half.tif")
    with pytest.raises(DataError, match=r"half\.tif holds fractions instead of instance ids"):
        read_instances(tmp_path / "half.tif")
    Image.fromarray(values.astype(np.uint8)).save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"a\.jpg is compressed with loss"):
        read_instances(tmp_path / "a.jpg")


@pytest.mark.parametrize("white", [2, 3, 100, 300, 4095])
def test_ids_that_the_decoder_stretches_are_read_as_they_are_stored(tmp_path: Path, white: int) -> None:
    file = tmp_path / "ids.pgm"
    file.write_bytes(f"P5 5 3 {white}\n".encode() + IDS.astype("u1" if white < 256 else ">u2").tobytes())
    assert np.array_equal(read_label(file, THREE).numpy(), IDS)
    gray = LabelSpace("gray", (LabelClass("a", (0, 0, 0)), LabelClass("b", (255, 255, 255))))
    file.write_bytes(b"P5 3 1 100\n" + bytes([0, 100, 0]))
    assert read_label(file, gray).tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("bits", [2, 4])
def test_gray_of_few_bits_holds_ids(tmp_path: Path, bits: int) -> None:
    places = (IDS[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    rows = np.packbits(places.reshape(3, -1).astype(np.uint8), axis=1)
    write_chunks(tmp_path / "ids.png", (5, 3, bits, GRAY), b"".join(b"\0" + row.tobytes() for row in rows))
    assert open_image(tmp_path / "ids.png").describe() == f"PNG, gray, {bits} bits"
    assert np.array_equal(read_label(tmp_path / "ids.png", THREE).numpy(), IDS)


@pytest.mark.parametrize("white", [2, 65535])
def test_colors_that_the_decoder_rounds_are_refused_as_ids(tmp_path: Path, white: int) -> None:
    file = tmp_path / "ids.ppm"
    rgb = np.repeat(IDS[..., None], 3, axis=2).astype("u1" if white < 256 else ">u2")
    file.write_bytes(f"P6 5 3 {white}\n".encode() + rgb.tobytes())
    with pytest.raises(LabelError, match=f"has colors of 0 to {white}, which are rounded to 8 bits"):
        read_label(file, THREE)
    with pytest.raises(DataError, match="rounded to 8 bits"):
        read_instances(file)


def test_an_opened_image_of_16_bits_is_read_from_its_file(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", IDS + np.uint16(300), RGB)
    with Image.open(path) as image:
        assert decode_label(ImageFile.of(image), MANY, "it").ids.tolist() == (IDS + 300).tolist()
    with path.open("rb") as file, pytest.raises(DataError, match="16 bits per color, which Pillow reduces to 8"):
        ImageFile.of(Image.open(file))


def test_photos_of_12_bits_and_of_white_zero_are_as_bright_as_they_should_be(tmp_path: Path) -> None:
    tones = np.array([[0, 1000, 65535]], dtype=np.uint16)
    tifffile.imwrite(tmp_path / "white.tif", tones, photometric="miniswhite")
    assert read_image(tmp_path / "white.tif")[0].tolist() == [[255, 252, 0]]
    with pytest.raises(LabelError, match="stores white as 0"):
        read_label(tmp_path / "white.tif", THREE)


@pytest.mark.parametrize("name", ["a.tif", "a.gif", "a.png", "a.webp"])
@pytest.mark.parametrize("read", [read_image, read_instances, lambda path: read_label(path, THREE)])
def test_files_of_several_pages_are_refused(tmp_path: Path, name: str, read: object) -> None:
    pages = [Image.fromarray(IDS.astype(np.uint8) * value) for value in (40, 80, 120)]
    lossless = {"lossless": True} if name == "a.webp" else {}
    pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:], **lossless)
    with pytest.raises(DataError, match=rf"{name} holds 3 pages or frames, of which only one can be meant"):
        read(tmp_path / name)


def test_small_copies_in_a_tiff_are_no_pages(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(IDS.astype(np.uint8), photometric="minisblack")
        file.write(IDS[::2, ::2].astype(np.uint8), photometric="minisblack", subfiletype=1)
    assert read_label(tmp_path / "a.tif", THREE).tolist() == IDS.tolist()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_becomes_what_is_asked_for(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (4, 2), (90, 90, 90, 255))
    image.paste((90, 90, 90, 0), (0, 0, 2, 2))
    if mode == "P":
        indexed = Image.fromarray(np.array([[0, 0, 1, 1]] * 2, dtype=np.uint8)).convert("P")
        indexed.putpalette([90] * 6)
        indexed.save(tmp_path / "a.png", transparency=0)
    else:
        image.convert(mode).save(tmp_path / "a.png")
    found = {alpha: read_image(tmp_path / "a.png", alpha)[0, 0].tolist() for alpha in ("drop", "white", "black")}
    assert found == {"drop": [90] * 4, "white": [255, 255, 90, 90], "black": [0, 0, 90, 90]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty; replace"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
        (b"\n<!doctype html><html>404</html>", "is a web page or other markup"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "is HEIC, which cannot be read here; convert it to JPEG or PNG"),
        (b"\x93NUMPY\x01\0", "is an array of NumPy"),
        (b"II*\0\xff\xff\xff\xff", "is a damaged TIFF"),
        (b"hello", "is not an image, or a damaged one"),
    ],
)
def test_files_that_are_no_images_are_told_for_what_they_are(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.jpg {words}"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((4, 4, 5), np.uint8), "is a TIFF of 5 bands of whole numbers with 8 bits"),
        (np.zeros((4, 4, 3), np.float32), "is a TIFF of 3 bands of fractions with 32 bits"),
        (np.zeros((4, 4), np.float64), "is a TIFF of 1 band of fractions with 64 bits"),
        (np.zeros((4, 4, 2), np.uint16), "is a TIFF of 2 bands of whole numbers with 16 bits"),
    ],
)
@pytest.mark.parametrize("bigtiff", [False, True])
def test_tiffs_of_other_kinds_are_described(tmp_path: Path, values: np.ndarray, words: str, bigtiff: bool) -> None:
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", planarconfig="contig", bigtiff=bigtiff)
    with pytest.raises(DataError, match=f"{words}, which is not a gray, palette or RGB image; save .*as .npy"):
        read_image(tmp_path / "a.tif")


def test_too_many_pixels_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: object) -> None:
    Image.new("RGB", (60, 50)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1400)
    with pytest.raises(DataError, match=r"a\.png has .* million pixels, more than the .* that are read; cut it"):
        read_image(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    assert read_image(tmp_path / "a.png").shape == (3, 50, 60)

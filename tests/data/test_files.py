"""Readers of images, label maps and instance maps, and their errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lab2pix.data.files import find_images, list_files, read_image
from lab2pix.data.image_file import ImageFile
from lab2pix.data.label_maps import decode_label, read_instances, read_label, write_label_png
from lab2pix.data.source_images import read_source
from lab2pix.errors import DataError, LabelError
from lab2pix.labels.space import LabelClass, LabelSpace
from tests.data.conftest import Lock

SPACE = LabelSpace(
    "four",
    (
        LabelClass("sky", (0, 0, 255)),
        LabelClass("car", (255, 0, 0)),
        LabelClass("road", (90, 90, 90)),
        LabelClass("tree", (0, 160, 0)),
    ),
    unknown_value=255,
)
IDS = torch.tensor([[0, 1, 2, 3, 4, 1]] * 4 + [[3, 3, 3, 0, 0, 2]] * 5)
ROTATED = 6
"""EXIF orientation of a photo that was taken with the camera turned."""


def values() -> np.ndarray:
    return SPACE.encode_values(IDS).numpy().astype(np.uint8)


def colors() -> np.ndarray:
    return SPACE.to_colors(IDS).permute(1, 2, 0).numpy()


def label_files(folder: Path) -> dict[str, Path]:
    rgb = Image.fromarray(colors())
    palette = Image.fromarray(values())
    palette.putpalette(bytes(3 * 256))
    files: dict[str, tuple[Image.Image, str]] = {
        "ids8": (Image.fromarray(values()), "png"),
        "ids16": (Image.fromarray(values().astype(np.uint16)), "png"),
        "ids-bmp": (Image.fromarray(values()), "bmp"),
        "ids-tif": (Image.fromarray(values().astype(np.uint16)), "tif"),
        "ids-alpha": (Image.fromarray(values()).convert("LA"), "png"),
        "ids-rgb": (Image.fromarray(np.repeat(values()[..., None], 3, axis=2)), "png"),
        "palette-black": (palette, "png"),
        "colours": (rgb, "png"),
        "colours-alpha": (rgb.convert("RGBA"), "png"),
        "colours-quantized": (rgb.quantize(), "png"),
        "colours-tif": (rgb, "tiff"),
    }
    paths = {}
    for name, (image, suffix) in files.items():
        paths[name] = folder / f"{name}.{suffix}"
        image.save(paths[name])
    rgb.save(folder / "colours.webp", lossless=True)
    write_label_png(folder / "written.png", IDS, SPACE)
    return {**paths, "colours-webp": folder / "colours.webp", "written": folder / "written.png"}


def test_every_kind_of_label_file_reads_the_same(tmp_path: Path) -> None:
    for name, path in label_files(tmp_path).items():
        found = read_label(path, SPACE)
        assert found.dtype == torch.int64
        assert torch.equal(found, IDS), name


def test_quantized_palettes_are_sorted_otherwise(tmp_path: Path) -> None:
    """The case that makes colours count: without it the test above would not show anything."""
    path = label_files(tmp_path)["colours-quantized"]
    assert not np.array_equal(np.asarray(Image.open(path)), values())


@pytest.mark.parametrize(("name", "expected"), [("car", 1), ("tree", 3), ("road", 2)])
def test_a_palette_of_one_class_counts_by_its_color(tmp_path: Path, name: str, expected: int) -> None:
    """Quantising gives the only colour index 0, whose class is another."""
    ids = torch.full((4, 4), SPACE.names.index(name))
    Image.fromarray(SPACE.to_colors(ids).permute(1, 2, 0).numpy()).quantize().save(tmp_path / "a.png")
    assert read_label(tmp_path / "a.png", SPACE).unique().tolist() == [expected]


def test_colored_jpeg_reads_like_the_png(tmp_path: Path) -> None:
    large = IDS.repeat_interleave(24, 0).repeat_interleave(24, 1)
    Image.fromarray(SPACE.to_colors(large).permute(1, 2, 0).numpy()).save(tmp_path / "a.jpg", quality=75)
    assert (read_label(tmp_path / "a.jpg", SPACE) == large).float().mean() > 0.97


def test_gray_rgb_in_class_colors_is_colors(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (90, 90, 90)).save(tmp_path / "road.png")
    assert read_label(tmp_path / "road.png", SPACE).unique().tolist() == [2]


def test_black_and_white_is_two_ids(tmp_path: Path) -> None:
    Image.fromarray(np.eye(5, dtype=bool)).save(tmp_path / "bits.png")
    assert torch.equal(read_label(tmp_path / "bits.png", SPACE), torch.eye(5, dtype=torch.int64))


def test_written_labels_show_the_class_colors(tmp_path: Path) -> None:
    write_label_png(tmp_path / "a.png", IDS, SPACE)
    image = Image.open(tmp_path / "a.png")
    assert image.mode == "P"
    assert np.array_equal(np.asarray(image.convert("RGB")), colors())
    assert np.array_equal(np.asarray(image), values())


def test_more_than_256_classes_are_written_with_16_bits(tmp_path: Path) -> None:
    space = LabelSpace("many", tuple(LabelClass(f"c{i}", (i % 256, i // 256, 7)) for i in range(300)))
    ids = torch.arange(300).view(15, 20)
    write_label_png(tmp_path / "a.png", ids, space)
    assert torch.equal(read_label(tmp_path / "a.png", space), ids)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "1", "CMYK"])
def test_photos_of_every_kind_become_rgb(tmp_path: Path, mode: str) -> None:
    source = Image.fromarray((np.arange(8 * 6 * 3) % 256).astype(np.uint8).reshape(8, 6, 3)).convert(mode)
    path = tmp_path / ("photo.jpg" if mode == "CMYK" else "photo.png")
    source.save(path)
    image = read_image(path)
    assert image.shape == (3, 8, 6) and image.dtype == torch.uint8
    if mode != "CMYK":
        expected = torch.from_numpy(np.array(source.convert("RGB"))).permute(2, 0, 1)
        assert torch.equal(image, expected)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_photos_of_16_bits_keep_the_upper_8(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(np.array([[0, 255, 256, 65535]], dtype=np.uint16)).save(tmp_path / f"a.{suffix}")
    assert read_image(tmp_path / f"a.{suffix}")[0].tolist() == [[0, 0, 1, 255]]


@pytest.mark.parametrize(("kind", "word"), [(np.int32, "signed whole numbers of 32 bits"), (np.float32, "fractions")])
def test_photos_of_which_nobody_knows_which_is_white_are_refused(tmp_path: Path, kind: type, word: str) -> None:
    Image.fromarray(np.array([[0, 1, 200, 255]], dtype=kind)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=rf"a\.tif holds {word}, .* save photos with 8 or 16 bits"):
        read_image(tmp_path / "a.tif")


@pytest.mark.slow
@pytest.mark.parametrize(
    "suffix", ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "tif", "tiff", "gif", "avif", "jp2", "JPG", "Gif"]
)
def test_read_image_accepts_every_suffix(tmp_path: Path, suffix: str) -> None:
    if f".{suffix.lower()}" not in Image.registered_extensions():
        pytest.skip(f"Pillow reads no {suffix} here")
    Image.new("RGB", (5, 7), (200, 30, 30)).save(tmp_path / f"a.{suffix}")
    image = read_image(tmp_path / f"a.{suffix}").float()
    assert image.shape == (3, 7, 5)
    assert (image.mean(dim=(1, 2)) - torch.tensor([200.0, 30.0, 30.0])).abs().max() < 4
    assert list(find_images(tmp_path)) == [tmp_path / f"a.{suffix}"]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_exif_rotation_turns_photo_and_label_alike(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = ROTATED
    lossless = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(colors()).save(tmp_path / f"a.{suffix}", exif=exif, **lossless)
    assert read_image(tmp_path / f"a.{suffix}").shape == (3, 6, 9)
    if suffix != "jpg":
        assert torch.equal(read_label(tmp_path / f"a.{suffix}", SPACE), IDS.rot90(-1))
        opened = ImageFile.of(Image.open(tmp_path / f"a.{suffix}"))
        assert torch.equal(decode_label(opened, SPACE, "the image").ids, IDS.rot90(-1))


def test_read_instances_reads_16_bit_color_and_palette_files(tmp_path: Path) -> None:
    numbers = np.array([[24001, 24002], [7, 65535]], dtype=np.uint16)
    Image.fromarray(numbers).save(tmp_path / "a.png")
    assert read_instances(tmp_path / "a.png").tolist() == numbers.tolist()
    Image.fromarray(colors()).save(tmp_path / "b.png")
    assert len(read_instances(tmp_path / "b.png").unique()) == len(IDS.unique())
    Image.fromarray(values()).save(tmp_path / "c.png")
    assert torch.equal(read_instances(tmp_path / "c.png"), torch.from_numpy(values().astype(np.int64)))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_truncated_files_are_named(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"half.{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for read in (read_image, read_instances, lambda file: read_label(file, SPACE)):
        with pytest.raises(DataError, match=f"half[.]{suffix} .*; replace or remove it") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_missing_empty_and_foreign_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("no picture")
    for name in ("none.png", "empty.png", "text.jpg"):
        with pytest.raises(DataError, match=name):
            read_image(tmp_path / name)


def test_read_label_refuses_files_without_ids(tmp_path: Path) -> None:
    Image.fromarray(values()).save(tmp_path / "gray.jpg")
    with pytest.raises(LabelError, match=r"gray\.jpg is gray and compressed with loss"):
        read_label(tmp_path / "gray.jpg", SPACE)
    Image.fromarray(np.full((3, 3), 0.5, dtype=np.float32)).save(tmp_path / "half.tif")
    with pytest.raises(LabelError, match="fractions"):
        read_label(tmp_path / "half.tif", SPACE)
    Image.fromarray(np.full((3, 3), 17, dtype=np.uint8)).save(tmp_path / "wrong.png")
    with pytest.raises(LabelError, match=r"wrong\.png holds id 17, but label space 'four' has 0 to 3 and 255"):
        read_label(tmp_path / "wrong.png", SPACE)
    Image.new("RGB", (3, 3), (250, 250, 0)).save(tmp_path / "yellow.png")
    with pytest.raises(LabelError, match=r"yellow\.png has colors .*\(250, 250, 0\), in 100\.0%"):
        read_label(tmp_path / "yellow.png", SPACE)


def test_ids_are_refused_wherever_compression_changes_them(tmp_path: Path) -> None:
    big = np.kron(values(), np.ones((16, 16), dtype=np.uint8)) % 4
    Image.fromarray(big).save(tmp_path / "exact.webp", lossless=True)
    Image.fromarray(big).save(tmp_path / "lossy.webp")
    Image.fromarray(big).convert("RGBA").save(tmp_path / "alpha.webp", exif=Image.Exif())
    Image.fromarray(np.dstack([big] * 3)).save(tmp_path / "lossy.jpg")
    Image.fromarray(big).save(tmp_path / "lossy.tif", compression="jpeg")
    assert torch.equal(read_label(tmp_path / "exact.webp", SPACE), torch.from_numpy(big).long())
    for name in ("lossy.webp", "alpha.webp", "lossy.jpg", "lossy.tif"):
        with pytest.raises(LabelError, match=f"{name} is gray and compressed with loss"):
            read_label(tmp_path / name, SPACE)


def test_hidden_files_are_left_out(tmp_path: Path) -> None:
    for name in ("b/2.png", "a/1.PNG", ".cache/3.png", "a/._1.png", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(find_images(tmp_path)) == [tmp_path / "a/1.PNG", tmp_path / "b/2.png"]


# --- without permission ---------------------------------------------------------------------------------------------


def test_folder_that_cannot_be_listed_is_an_error_with_its_cure(tmp_path: Path, locked: Lock) -> None:
    (tmp_path / "in" / "locked").mkdir(parents=True)
    Image.new("L", (2, 2)).save(tmp_path / "in" / "0.png")
    locked(tmp_path / "in" / "locked")
    with pytest.raises(DataError, match=r"locked cannot be listed \(Permission denied\); change its permissions$"):
        list(find_images(tmp_path))
    messages: list[str] = []
    assert list(list_files(tmp_path, unreadable=messages.append)) == ["in/0.png"]
    assert len(messages) == 1


@pytest.mark.parametrize("name", ["a.png", "a.npy"])
def test_file_without_permission_needs_permissions(tmp_path: Path, locked: Lock, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    locked(tmp_path / name)
    with pytest.raises(DataError, match=r"cannot be read \(Permission denied\); change its permissions$"):
        read_source(tmp_path / name, None, None)

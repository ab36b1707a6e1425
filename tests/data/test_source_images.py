from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import rgb_to_grayscale

from lab2pix.config.schema import DataConfig, SideConfig, SourceConfig
from lab2pix.data.build import build_dataset
from lab2pix.data.samples import collate
from lab2pix.data.source_images import read_source
from lab2pix.errors import ConfigError, DataError
from lab2pix.labels.space import LabelSpace
from tests.helpers.png import RGB, write_png

SPACE = LabelSpace.load("scenes")
RAMP = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def test_read_source_maps_the_whole_range_of_each_type(tmp_path: Path) -> None:
    full = np.array([[0, 255]], np.uint8)
    deep = np.array([[0, 65535]], np.uint16)
    Image.fromarray(full).save(tmp_path / "gray8.png")
    Image.fromarray(deep).save(tmp_path / "gray16.png")
    Image.fromarray(deep).save(tmp_path / "gray16.tif")
    Image.fromarray(np.array([[0, 1]], np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(full).convert("1").save(tmp_path / "bits.png")
    np.save(tmp_path / "float.npy", np.array([[0.0, 1.0]]))
    np.save(tmp_path / "deep.npy", deep)
    for name in ("gray8.png", "gray16.png", "gray16.tif", "float.tif", "bits.png", "float.npy", "deep.npy"):
        assert read_source(tmp_path / name, 1, None).tolist() == [[[-1, 1]]], name


def test_read_source_keeps_16_bits_per_color(tmp_path: Path) -> None:
    pixels = np.array([[[0, 257, 65535], [1, 2, 3]]], np.uint16)
    write_png(tmp_path / "color.png", pixels, RGB)
    read = read_source(tmp_path / "color.png", 3, None)
    assert torch.allclose((read + 1) * 32767.5, torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1), atol=0.01)


def test_read_source_fits_channels(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    color = random.integers(0, 256, (4, 5, 4), dtype=np.uint8)
    Image.fromarray(color).save(tmp_path / "rgba.png")
    Image.fromarray(RAMP).save(tmp_path / "gray.png")
    np.save(tmp_path / "nine.npy", random.integers(0, 256, (4, 5, 9), dtype=np.uint8))
    rgba = read_source(tmp_path / "rgba.png", 4, None)
    rgb = read_source(tmp_path / "rgba.png", 3, None)
    assert torch.equal(rgba[:3], rgb)
    assert torch.allclose(read_source(tmp_path / "rgba.png", 1, None), rgb_to_grayscale(rgb), atol=1e-3)
    assert torch.equal(*read_source(tmp_path / "gray.png", 3, None)[:2])
    assert read_source(tmp_path / "nine.npy", 9, None).shape == (9, 4, 5)
    with pytest.raises(DataError, match=r"nine\.npy has 9 channels, but data\.source\.channels is 3"):
        read_source(tmp_path / "nine.npy", 3, None)


def test_read_source_takes_the_range_that_is_set(tmp_path: Path) -> None:
    np.save(tmp_path / "height.npy", np.array([[-100.0, 400.0]]))
    assert read_source(tmp_path / "height.npy", 1, (-100, 400)).tolist() == [[[-1, 1]]]
    with pytest.raises(DataError, match=r"holds values from -100 to 400, outside of 0 to 1; set data\.source\.range"):
        read_source(tmp_path / "height.npy", 1, None)
    np.save(tmp_path / "whole.npy", np.array([[1, 2]]))
    with pytest.raises(DataError, match="holds int64"):
        read_source(tmp_path / "whole.npy", 1, None)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00"])
def test_read_source_names_damaged_arrays(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npy is not a NumPy array"):
        read_source(tmp_path / "a.npy", 1, None)


# --- datasets ----------------------------------------------------------------------------------------------------


def paired_files(root: Path) -> None:
    """Write photos whose red is the source, in three formats."""
    for folder in ("ab/train", "ba/train", "folder/images/train", "folder/sources/train"):
        (root / folder).mkdir(parents=True)
    random = np.random.default_rng(1)
    for name in "abcd":
        source = random.integers(0, 256, (8, 8), dtype=np.uint8)
        gray, photo = np.stack([source] * 3, -1), np.stack([source, source * 0, source * 0], -1)
        Image.fromarray(np.concatenate([gray, photo], 1)).save(root / f"ab/train/{name}.png")
        Image.fromarray(np.concatenate([photo, gray], 1)).save(root / f"ba/train/{name}.png")
        Image.fromarray(photo).save(root / f"folder/images/train/{name}.png")
        np.save(root / f"folder/sources/train/{name}.npy", source)


@pytest.mark.parametrize("format", ["ab", "ba", "folder"])
def test_pairs_of_images_are_cropped_and_mirrored_together(tmp_path: Path, format: str) -> None:
    paired_files(tmp_path)
    data = DataConfig(
        input="images", format=format, root=str(tmp_path / format), source=SourceConfig(channels=1),
        size=(4, 4), resize=(8, 8),
    )  # fmt: skip
    dataset = build_dataset(data, "train", SPACE, seed=0, paired=True)
    batch = collate([dataset[(epoch, index)] for epoch in range(3) for index in range(4)])
    assert batch.source is not None and batch.image is not None
    assert batch.label.shape == (12, 0, 0) and batch.size == (4, 4)
    assert torch.allclose(batch.source[:, 0], batch.image[:, 0], atol=1e-2)


def test_unpaired_images_meet_at_random(tmp_path: Path) -> None:
    for domain, values in (("A", (0, 1, 2)), ("B", (100, 101, 102, 103))):
        (tmp_path / f"train{domain}").mkdir()
        for value in values:
            Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(tmp_path / f"train{domain}/{value}.png")
    data = DataConfig(input="images", format="unaligned", root=str(tmp_path), size=(8, 8))
    dataset = build_dataset(data, "train", SPACE, seed=0, paired=False)
    batch = collate([dataset[(epoch, index)] for epoch in range(8) for index in range(len(dataset))])
    assert batch.source is not None and batch.image is not None
    values = [((part[:, 0, 0, 0] + 1) * 127.5).round().int().tolist() for part in (batch.source, batch.image)]
    assert set(values[0]) == {0, 1, 2}
    assert set(values[1]) == {100, 101, 102, 103}
    assert len({*zip(*values, strict=True)}) > 4
    with pytest.raises(ConfigError, match=r"data\.format is 'unaligned', but the method learns from pairs"):
        build_dataset(data, "train", SPACE, seed=0, paired=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input": "labels", "source": SourceConfig(channels=1)}, r"data\.source is set, but data\.input is 'labels'"),
        ({"input": "images", "instance_edges": True}, r"data\.instance_edges is for label maps"),
        ({"input": "images", "labels": SideConfig(root="maps")}, r"data\.labels\.root is for label maps"),
        ({"input": "images", "format": "scenes"}, r"data\.format=scenes is for label maps"),
    ],
)
def test_settings_of_the_other_input_are_refused(settings: dict[str, object], message: str) -> None:
    data = DataConfig(root=".").model_copy(update=settings)
    with pytest.raises(ConfigError, match=message):
        build_dataset(data, "train", SPACE, seed=0, paired=False)

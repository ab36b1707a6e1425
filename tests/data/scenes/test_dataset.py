"""Procedural scenes: reproducibility, class coverage and writing."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lab2pix.config.schema import DataConfig
from lab2pix.data.build import build_dataset
from lab2pix.data.files import read_image
from lab2pix.data.formats import find_pairs
from lab2pix.data.label_maps import read_label
from lab2pix.data.samples import collate
from lab2pix.data.scenes.canvas import CLASSES, fbm, ground_noise
from lab2pix.data.scenes.dataset import ScenesDataset, draw_scene, write_scenes
from lab2pix.errors import ConfigError, OutputError
from lab2pix.labels.space import LabelSpace

SIZE = (64, 64)


@pytest.fixture(scope="module")
def hundred() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*(draw_scene(0, index, SIZE) for index in range(100)), strict=True)
    return torch.stack(images), torch.stack(labels)


def test_label_space_names_what_is_painted_in_distinct_colors() -> None:
    space = LabelSpace.load("scenes")
    assert space.names == tuple(CLASSES)
    assert {space.names[index] for index in space.background_ids} == {
        *("sky", "cloud", "mountain", "snow", "water", "sand", "grass", "tree", "road")
    }
    for first, second in itertools.combinations(space.classes, 2):
        assert np.linalg.norm(np.subtract(first.color, second.color)) >= 60, (first.name, second.name)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (48, 100), (130, 70), (33, 47)])
def test_draw_scene_takes_any_size(size: tuple[int, int]) -> None:
    for index in range(6):
        image, label = draw_scene(7, index, size)
        assert image.shape == (3, *size) and image.dtype == torch.uint8
        assert label.shape == size and label.dtype == torch.int64
        assert label.min() >= 0 and label.max() < len(CLASSES)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("index", [26, 61, 69, 73])
def test_draw_scene_of_a_road_whose_first_row_begins_above_the_horizon(index: int) -> None:
    """A root of a negative depth is NaN there; NumPy warns of it, and of its cast to a byte."""
    image, _ = draw_scene(0, index, (32, 32))
    assert image.amax((0, 2)).min() > 0


def test_draw_scene_depends_on_seed_and_index_alone() -> None:
    image, label = draw_scene(3, 5, SIZE)
    draw_scene(4, 0, (40, 40))
    again, label_again = draw_scene(3, 5, SIZE)
    assert torch.equal(image, again) and torch.equal(label, label_again)
    for other in (draw_scene(3, 6, SIZE), draw_scene(4, 5, SIZE)):
        assert (other[1] != label).float().mean() > 0.1


@pytest.mark.slow
def test_scene_composition_is_equal_at_every_size() -> None:
    for index in range(5):
        small, label = draw_scene(1, index, SIZE)
        large, label_large = draw_scene(1, index, (192, 192))
        assert (label_large[1::3, 1::3] == label).float().mean() > 0.9
        shrunk = torch.nn.functional.avg_pool2d(large.float(), 3)
        assert (shrunk - small.float()).abs().mean() < 8


@pytest.mark.slow
def test_every_class_appears_and_no_scene_is_uniform(hundred: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, labels = hundred
    counts = torch.nn.functional.one_hot(labels, len(CLASSES)).sum(dim=(1, 2))
    seen = (counts >= 8).float().mean(0)
    rare = {name: float(seen[index]) for name, index in CLASSES.items() if seen[index] < 0.08}
    assert not rare
    assert counts.max() < 0.7 * SIZE[0] * SIZE[1]
    assert ((counts >= 8).sum(1) >= 3).all()
    assert (images.float().flatten(1).std(1) > 15).all()


def test_scene_classes_have_their_own_colors(hundred: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, labels = hundred
    pixels = images.permute(0, 2, 3, 1).float()
    mean = {name: pixels[labels == index].mean(0) for name, index in CLASSES.items()}
    red, green, blue = range(3)
    assert mean["sky"][blue] > mean["sky"][red]
    assert mean["grass"][green] > mean["grass"][red] > mean["grass"][blue]
    assert mean["sand"][red] > mean["sand"][green] > mean["sand"][blue]
    assert mean["water"][blue] > mean["water"][red]
    assert mean["tree"].sum() < mean["grass"].sum()
    assert min(mean["cloud"].sum(), mean["snow"].sum(), mean["sun"].sum()) > mean["mountain"].sum() + 60


def test_scene_surfaces_have_texture(hundred: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, labels = hundred
    gray = images.float().mean(1)
    step = (gray[:, :, 1:] - gray[:, :, :-1]).abs()
    inside = labels[:, :, 1:] == labels[:, :, :-1]
    for name in ("grass", "water", "tree", "house", "rock", "mountain"):
        assert step[inside & (labels[:, :, 1:] == CLASSES[name])].mean() > 1.5, name


def test_scene_noise_does_not_depend_on_resolution() -> None:
    coarse, fine = (np.arange(n, dtype=np.float32)[:] / n for n in (20, 60))
    assert np.allclose(fbm(coarse, coarse, 5, 3, 11.5), fbm(fine, fine, 5, 3, 11.5)[::3, ::3], atol=1e-3)
    assert np.abs(fbm(fine, fine, 9, 4, 0.25)).max() < 2
    ground = ground_noise(fine, fine + 0.01, 4, 3.0, stretch=2, finest=100)
    assert ground.shape == (60, 60) and np.abs(ground).max() <= 1.001 and ground.std() > 0.1


@pytest.mark.slow
def test_scene_light_keeps_the_label_maps() -> None:
    told, free = ([draw_scene(0, index, SIZE, light) for index in range(40)] for light in ("sun", "any"))
    assert all(torch.equal(first[1], second[1]) for first, second in zip(told, free, strict=True))
    assert torch.equal(draw_scene(0, 3, SIZE, "any")[0], free[3][0])

    sunny = [index for index, (_, label) in enumerate(told) if (label == CLASSES["sun"]).any()]
    change = torch.stack([free[index][0].float().mean((1, 2)) - told[index][0].float().mean((1, 2)) for index in sunny])
    assert len(sunny) > 15 and (change.abs().amax(1) > 10).float().mean() > 0.6
    assert change.amin() < -40 and change.amax() > 20


@pytest.mark.parametrize(("seed", "index", "size"), [(0, 0, (31, 64)), (-1, 0, SIZE), (0, -1, SIZE)])
def test_draw_scene_refuses_invalid_arguments(seed: int, index: int, size: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="choose"):
        draw_scene(seed, index, size)


def test_scenes_dataset_samples_have_image_and_label() -> None:
    data = ScenesDataset(3, SIZE, seed=2, first_index=10, train=False)
    image, label = draw_scene(2, 11, SIZE)
    sample = data[1]
    assert len(data) == 3 and sample["name"] == "scene-2-000011" and sample["edges"] is None
    assert torch.equal(sample["label"], label)
    assert torch.allclose((sample["image"] + 1) * 127.5, image.float(), atol=1e-3)
    assert all(torch.equal(data[epoch, 1]["label"], label) for epoch in range(6))
    with pytest.raises(IndexError):
        data[3]
    batch = collate([data[0], data[1]])
    assert batch.label.shape == (2, *SIZE) and batch.image is not None and batch.image.shape == (2, 3, *SIZE)


def test_scenes_dataset_flips_by_epoch_and_reproducibly() -> None:
    data, twin = (ScenesDataset(2, SIZE, seed=0) for _ in range(2))
    _, label = draw_scene(0, 1, SIZE)
    mirrored = []
    for epoch in range(12):
        sample = data[epoch, 1]
        assert torch.equal(sample["image"], twin[epoch, 1]["image"])
        mirrored.append(torch.equal(sample["label"], label.flip(-1)))
        assert mirrored[-1] or torch.equal(sample["label"], label)
    assert 0 < sum(mirrored) < 12
    still = ScenesDataset(2, SIZE, seed=0, flip=False)
    assert all(torch.equal(still[epoch, 1]["label"], label) for epoch in range(6))


def test_scenes_dataset_draws_once_and_returns_copies() -> None:
    data = ScenesDataset(1, SIZE, seed=0, train=False)
    first = data[0]
    first["label"].zero_()
    first["image"].zero_()
    assert data[0]["label"].max() > 0 and data[0]["image"].abs().max() > 0


def test_scenes_file_hash_tells_datasets_apart() -> None:
    hashes = {ScenesDataset(*args).file_hash() for args in [(2, SIZE, 0), (3, SIZE, 0), (2, (64, 96), 0), (2, SIZE, 1)]}
    assert len(hashes) == 4
    assert ScenesDataset(2, SIZE, 0).file_hash() in hashes
    assert ScenesDataset(2, SIZE, 0, light="any").file_hash() not in hashes


def test_scenes_light_setting_reaches_the_dataset() -> None:
    config = DataConfig.model_validate(
        {"format": "scenes", "size": SIZE, "scenes": {"light": "any", "train_count": 3}, "flip": False}
    )
    data = build_dataset(config, "train", LabelSpace.load("scenes"), seed=0, paired=True)
    assert torch.equal(data.read_photo(2), draw_scene(0, 2, SIZE, "any")[0])


def test_empty_scenes_dataset_is_refused() -> None:
    with pytest.raises(ConfigError, match="empty"):
        ScenesDataset(0, SIZE, 0)


def test_scenes_config_builds_disjoint_splits() -> None:
    config = DataConfig(format="scenes", size=SIZE)
    space = LabelSpace.load("scenes")
    train, val = (build_dataset(config, split, space, 0, paired=True) for split in ("train", "val"))
    assert len(train) == 2000 and len(val) == 64
    assert train[0]["name"] != val[0]["name"]
    assert not torch.equal(train[0]["label"], val[0]["label"])


def test_write_scenes_writes_a_folder_dataset(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "scenes"
    write_scenes(out, 2, (40, 56), seed=1, first=4)
    space = LabelSpace.load("scenes")
    pairs = find_pairs("folder", out, None)
    assert [pair.name for pair in pairs] == ["scene-1-000004", "scene-1-000005"]
    for index, pair in enumerate(pairs, start=4):
        image, label = draw_scene(1, index, (40, 56))
        assert pair.image is not None
        assert torch.equal(read_image(pair.image), image)
        assert torch.equal(read_label(pair.label, space), label)
        with Image.open(pair.label) as picture:
            assert picture.mode == "P"


def test_write_scenes_keeps_what_is_there(tmp_path: Path) -> None:
    write_scenes(tmp_path, 1, SIZE, seed=0)
    with pytest.raises(OutputError, match="already holds these scenes"):
        write_scenes(tmp_path, 1, SIZE, seed=0)
    write_scenes(tmp_path, 1, SIZE, seed=0, overwrite=True)
    precious = tmp_path / "images" / "mine.txt"
    precious.write_text("keep")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"mine\.txt"):
            write_scenes(tmp_path, 1, SIZE, seed=0, overwrite=overwrite)
    assert precious.read_text() == "keep"
    with pytest.raises(OutputError, match="is a file"):
        write_scenes(precious, 1, SIZE, seed=0)
    with pytest.raises(OutputError, match="cannot write"):
        write_scenes(precious / "below", 1, SIZE, seed=0)
    with pytest.raises(ConfigError):
        write_scenes(tmp_path / "none", 0, SIZE, seed=0)


def test_scene_size_beyond_memory_is_refused() -> None:
    with pytest.raises(ConfigError, match="at most 8192"):
        draw_scene(0, 0, (100_000, 100_000))

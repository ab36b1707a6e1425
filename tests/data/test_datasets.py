"""Samples and batches: content, reproducibility and errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from lab2pix.config.schema import DataConfig
from lab2pix.data.build import build_dataset
from lab2pix.data.datasets import PairDataset
from lab2pix.data.samples import collate
from lab2pix.data.transforms import instance_edges
from lab2pix.errors import ConfigError, DataError, LabelError
from lab2pix.labels.space import LabelClass, LabelSpace

SPACE = LabelSpace("two", (LabelClass("a", (255, 0, 0)), LabelClass("b", (0, 0, 255))), unknown_value=255)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "labels", "instances"):
            (tmp_path / kind / split).mkdir(parents=True)
        for i in range(count):
            label = rng.choice([0, 1, 255], (20, 30)).astype(np.uint8)
            Image.fromarray(label).save(tmp_path / f"labels/{split}/{i}.png")
            Image.fromarray(label.astype(np.uint16) * 100).save(tmp_path / f"instances/{split}/{i}.png")
            photo = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(photo).save(tmp_path / f"images/{split}/{i}.png")
    return tmp_path


def build(root: Path, split: str = "train", seed: int = 0, **settings: object) -> PairDataset:
    data = DataConfig.model_validate({"root": str(root), "size": (16, 16), "resize": (20, 24), **settings})
    dataset = build_dataset(data, split, SPACE, seed, paired=True)  # type: ignore[arg-type]
    assert isinstance(dataset, PairDataset)
    return dataset


def test_pair_dataset_sample_has_image_label_and_edges(root: Path) -> None:
    dataset = build(root, instance_edges=True)
    sample = dataset[(3, 1)]
    assert len(dataset) == 4 and sample["name"] == "1"
    assert sample["label"].shape == (16, 16) and sample["label"].dtype == torch.int64
    assert set(sample["label"].unique().tolist()) <= {0, 1, 2}
    image, edges, instances = sample["image"], sample["edges"], sample["instances"]
    assert instances is not None and instances.dtype == torch.int64
    assert torch.equal(instance_edges(instances), edges)
    assert image is not None and image.shape == (3, 16, 16) and image.dtype == torch.float32
    assert -1 <= float(image.min()) < -0.5 and 0.5 < float(image.max()) <= 1
    assert edges is not None and edges.shape == (1, 16, 16) and set(edges.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(("alpha", "tone"), [("drop", 0.0), ("white", 1.0), ("black", -1.0)])
def test_transparent_photos_get_the_background_that_is_set(root: Path, alpha: str, tone: float) -> None:
    Image.new("RGBA", (30, 20), (128, 128, 128, 0)).save(root / "images/train/1.png")
    image = build(root, alpha=alpha)[1]["image"]
    assert image is not None and (image - tone).abs().max() < 0.01
    assert build(root)[1]["image"].abs().max() < 0.01  # hidden colors, unless it is set


def test_samples_depend_on_seed_epoch_and_index_alone(root: Path) -> None:
    one, two = build(root), build(root)
    forward = [one[(1, i)]["image"] for i in range(4)]
    backward = [two[(1, i)]["image"] for i in reversed(range(4))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True))
    other_epoch = [one[(2, i)]["image"] for i in range(4)]
    other_seed = [build(root, seed=1)[(1, i)]["image"] for i in range(4)]
    for others in (other_epoch, other_seed):
        assert not all(torch.equal(a, b) for a, b in zip(forward, others, strict=True))
    assert torch.equal(one[2]["label"], one[(0, 2)]["label"])


def test_validation_samples_are_uncropped_and_equal_in_every_epoch(root: Path) -> None:
    dataset = build(root, "val", size=(20, 30), resize=None)
    assert len(dataset) == 2
    stored = np.array(Image.open(root / "images/val/1.png")).transpose(2, 0, 1)
    for epoch in range(3):
        image = dataset[(epoch, 1)]["image"]
        assert image is not None
        assert torch.allclose((image + 1) * 127.5, torch.from_numpy(stored).float(), atol=1e-3)


def test_batches_from_workers_are_the_same(root: Path) -> None:
    dataset = build(root)
    keys = [[(0, 0), (0, 1)], [(0, 2), (0, 3)]]
    here = [collate([dataset[key] for key in batch]) for batch in keys]
    there = list(DataLoader(dataset, batch_sampler=keys, num_workers=1, collate_fn=collate))
    for a, b in zip(here, there, strict=True):
        assert torch.equal(a.label, b.label) and torch.equal(a.image, b.image)
        assert a.names == b.names and a.edges is None and len(a) == 2


def test_collate_without_photos(root: Path) -> None:
    sample = build(root)[0]
    assert collate([sample, {**sample, "image": None}]).image is None


def test_file_hash_knows_names_and_sizes_but_not_the_place(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = build(root).file_hash()
    assert before == build(root).file_hash() != build(root, "val").file_hash()
    moved = root.rename(tmp_path_factory.mktemp("elsewhere") / "set")
    assert build(moved).file_hash() == before
    Image.new("RGB", (30, 20)).save(moved / "images/train/0.png")
    assert build(moved).file_hash() != before


def test_dataset_names_files_whose_sizes_disagree(root: Path) -> None:
    Image.new("RGB", (30, 21)).save(root / "images/train/2.png")
    with pytest.raises(DataError, match=r"labels/train/2\.png is 20x30 pixels \(height x width\) and its photo 21x30"):
        build(root)[2]
    Image.fromarray(np.zeros((5, 5), dtype=np.uint8)).save(root / "instances/train/1.png")
    with pytest.raises(
        DataError, match=r"labels/train/1\.png is 20x30 pixels \(height x width\) and its instance map 5x5"
    ):
        build(root, instance_edges=True)[1]


def test_dataset_names_the_file_with_wrong_ids(root: Path) -> None:
    Image.fromarray(np.full((20, 30), 9, dtype=np.uint8)).save(root / "labels/train/3.png")
    with pytest.raises(LabelError, match=r"labels/train/3\.png holds id 9"):
        build(root)[3]


def test_missing_instances_are_named_at_once(root: Path) -> None:
    (root / "instances/train/1.png").unlink()
    assert len(build(root)) == 4
    with pytest.raises(DataError, match=r"1\.png comes without an instance map; .*data\.instance_edges=false"):
        build(root, instance_edges=True)


def test_build_dataset_refuses_contradicting_settings(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.root is missing"):
        build_dataset(DataConfig(format="folder"), "train", SPACE, 0, paired=True)
    with pytest.raises(ConfigError, match=r"data\.val_split is null"):
        build(root, "val", val_split=None)
    with pytest.raises(ConfigError, match=r"data\.label_space is 'two', but format 'scenes'"):
        build_dataset(DataConfig(format="scenes"), "train", SPACE, 0, paired=True)


@pytest.mark.slow
def test_cityscapes_samples_load_as_batches(data_root: Path) -> None:
    space = LabelSpace.load("cityscapes")
    data = DataConfig(
        format="cityscapes",
        root=str(data_root / "cityscapes"),
        label_space="cityscapes",
        size=(32, 64),
        instance_edges=True,
    )
    batch = collate([build_dataset(data, "train", space, 0, paired=True)[(0, i)] for i in range(2)])
    assert batch.image is not None and batch.image.shape == (2, 3, 32, 64)
    assert batch.edges is not None and 0.02 < float(batch.edges.mean()) < 0.5
    assert {7, 11} <= set(batch.label.unique().tolist())  # road, building


def test_drawn_scenes_to_train_on_and_to_hold_out_differ() -> None:
    space = LabelSpace.load("scenes")
    data = DataConfig(format="scenes", size=(32, 32))
    train, val = (build_dataset(data, split, space, 0, paired=True) for split in ("train", "val"))
    assert (len(train), len(val)) == (data.scenes.train_count, data.scenes.val_count)
    assert train[(0, 0)]["name"] != val[(0, 0)]["name"] and train.file_hash() != val.file_hash()
    with pytest.raises(ConfigError, match=r"data\.resize has no effect"):
        build_dataset(data.model_copy(update={"resize": (40, 40)}), "train", space, 0, paired=True)
    with pytest.raises(ConfigError, match=r"data\.instance_edges is true"):
        build_dataset(data.model_copy(update={"instance_edges": True}), "train", space, 0, paired=True)

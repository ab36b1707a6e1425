"""A data set of four tiny pairs, settings to train on it in a second, and a run that was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lab2pix.configuration import load_config

SIZE = 64
TINY = (
    "generator.width=2",
    "generator.modulation_hidden=4",
    "generator.global_encoder.width=2",
    "generator.global_encoder.max_width=4",
    "discriminator.width=2",
    "discriminator.max_width=4",
    "data.scenes.train_count=4",
    "data.scenes.val_count=2",
    "train.batch_size=2",
    "train.steps=2",
    "monitor.samples=2",
    "monitor.tensorboard=false",
)


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """Overrides of `v2-small` that make it as small and short as it gets."""
    return TINY


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps on scenes; nobody may change it."""
    from lab2pix.training.loop import train

    folder = tmp_path_factory.mktemp("runs") / "scenes"
    train(load_config("v2-small", TINY), folder, device="cpu")
    return folder


def write_pair(root: Path, name: str, *, split: str = "train", size: int = SIZE, label_size: int | None = None) -> None:
    """Write a photo of noise and a label map of two classes that depend on the name."""
    rng = np.random.default_rng(len(name))
    for kind in ("images", "labels"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    photo = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(photo).save(root / "images" / split / f"{name}.png")
    label = np.zeros((label_size or size, label_size or size), dtype=np.uint8)
    label[SIZE // 2 :] = ord(name[0]) % 6
    Image.fromarray(label).save(root / "labels" / split / f"{name}.png")


@pytest.fixture
def folder_data(tmp_path: Path) -> Path:
    """Four good pairs in the layout `folder`, two of them held out."""
    root = tmp_path / "data"
    for name, split in (("a", "train"), ("b", "train"), ("c", "val"), ("d", "val")):
        write_pair(root, name, split=split)
    return root

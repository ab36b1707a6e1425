"""Repeat factor sampling: factors of images, and their use in a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from lab2pix.config.schema import DataConfig
from lab2pix.data.balance import repeat_factors
from lab2pix.data.build import build_dataset
from lab2pix.errors import ConfigError
from lab2pix.labels.space import LabelSpace
from lab2pix.recipes import load_config
from lab2pix.training import loop, train
from lab2pix.training.loop import read_batches
from tests.helpers.small_runs import small

SPACE = LabelSpace.from_dict({"name": "three", "classes": ["often", "rare", "speck"], "unknown_value": 255})


@pytest.mark.parametrize("paired", [True, False])
def test_factors_follow_the_rarest_class_of_an_image(tmp_path: Path, paired: bool) -> None:
    for part in ("labels", "images"):
        (tmp_path / part / "train").mkdir(parents=True)
    for index in range(8):
        label = torch.zeros(16, 16, dtype=torch.uint8)
        label[8:] = {0: 1, 1: 1}.get(index, 255)  # two images of eight have the rare class
        label[0, 0] = 2 if index == 2 else 0  # one pixel of 256 is too small to count
        Image.fromarray(label.numpy()).save(tmp_path / f"labels/train/{index}.png")
        Image.new("RGB", (16, 16)).save(tmp_path / f"images/train/{index}.png")
    data = DataConfig(root=str(tmp_path), size=(16, 16), flip=False)
    factors = repeat_factors(build_dataset(data, "train", SPACE, 0, paired=paired), SPACE, 0.5)
    torch.testing.assert_close(factors, torch.tensor([2**0.5] * 2 + [1.0] * 6))


@pytest.mark.slow
def test_a_run_draws_images_by_their_factors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        loop, "repeat_factors", lambda dataset, space, threshold: torch.eye(len(dataset))[2] * threshold
    )
    samplers = []
    monkeypatch.setattr(
        loop,
        "read_batches",
        lambda data, sampler, *rest, **more: samplers.append(sampler) or read_batches(data, sampler, *rest, **more),
    )
    train(small("v2-small", "train.steps=2", "data.repeat_threshold=0.5"), tmp_path / "run", device="cpu")
    assert {index for part in samplers[0] for _, index in part} == {2}


def test_images_have_no_classes_to_balance() -> None:
    with pytest.raises(ConfigError, match=r"data.repeat_threshold balances classes of label maps, but data.input"):
        load_config("pix2pix-small", ["data.input=images", "data.repeat_threshold=0.1"])

"""Batches: padding by reflection, and training at sizes that the networks do not take."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab2pix import Synthesizer, load_config
from lab2pix.batch import Batch
from lab2pix.training import train


@given(height=st.integers(2, 9), width=st.integers(2, 9), data=st.data())
def test_padding_is_the_reflection_of_torch(height: int, width: int, data: st.DataObject) -> None:
    size = (data.draw(st.integers(height, 2 * height - 1)), data.draw(st.integers(width, 2 * width - 1)))
    image, label = torch.rand(2, 3, height, width), torch.randint(0, 9, (2, height, width))
    padded = Batch(label, image).pad(size)
    expected = torch.nn.functional.pad(image, (0, size[1] - width, 0, size[0] - height), mode="reflect")
    assert padded.image is not None
    assert torch.equal(padded.image, expected)
    assert padded.label.shape == (2, *size)
    assert torch.equal(padded.label[:, :height, :width], label)
    sources = Batch(torch.empty(2, 0, 0, dtype=torch.int64), source=image).pad(size)
    assert sources.size == size
    assert sources.label.shape == (2, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["v2-small", "pix2pix-small"])
def test_training_and_images_take_sizes_between_the_multiples(preset: str, tmp_path: Path) -> None:
    config = load_config(
        preset,
        ["data.size=[70,90]", "generator.width=4", "discriminator.width=4", "train.batch_size=2", "train.steps=1"]
        + (["generator.depth=4"] if preset == "pix2pix-small" else ["generator.global_encoder.width=4"]),
    )
    train(config, out=tmp_path / "run", device="cpu")
    pictures = Synthesizer.load(tmp_path / "run", device="cpu")(torch.zeros(70, 90, dtype=torch.int64)).tensor
    assert pictures.shape == (1, 3, 70, 90)

"""Regions with seeds and styles of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from lab2pix.errors import ConfigError, DataError, LabelError
from lab2pix.inference import ModelInfo, Synthesizer
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import build_generator, build_sampling, example_inputs, generate
from lab2pix.recipes import load_config
from tests.helpers.generators import tiny_synthesizer
from tests.helpers.style import SIZE, style_synthesizer

SKY, TREE, GRASS = 0, 8, 7


@pytest.fixture(scope="module")
def synthesizer() -> Synthesizer:
    return tiny_synthesizer()


@pytest.fixture
def label() -> Tensor:
    ids = torch.full((64, 64), SKY)
    ids[32:], ids[24:48, 20:36] = GRASS, TREE
    return ids


def small(preset: str, *settings: str) -> Synthesizer:
    """Return an untrained model whose batch statistics are those of what it draws."""
    torch.manual_seed(0)
    config = load_config(preset, ["data.size=[64,64]", "data.label_space=scenes", "generator.width=2", *settings])
    space = LabelSpace.load("scenes")
    network, sampling = build_generator(config, space), build_sampling(config, space)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and not is_parametrized(module):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        generate(network.train(), sampling, *example_inputs(sampling, (64, 64), 2))
    return Synthesizer(network, ModelInfo(config, space, 1), device="cpu")


@pytest.mark.parametrize(
    "preset",
    [
        ("v2-small", "generator.noise_dim=4"),
        ("v1-small", "generator.noise_dim=4"),
        ("spade-small-style",),
        ("cc-fpse-small", "generator.input=noise"),
        ("oasis-small", "generator.num_upsamples=2"),
        ("usis-small", "generator.num_upsamples=2"),
        ("pix2pix-small", "generator.depth=6", "generator.dropout=0.5", "generator.sampling=train"),
        ("munit-small", "generator.blocks=1", "generator.encoding=one-hot"),
    ],
    ids=lambda preset: preset[0],
)
def test_a_class_changes_and_all_other_pixels_keep_every_bit(label: Tensor, preset: tuple[str, ...]) -> None:
    model = small(*preset)
    base, other = (model(label, seed=seed).tensor[0] for seed in (0, 3))
    mixed = model(label, seed={"tree": 3}).tensor[0]
    tree = label == TREE
    assert torch.equal(mixed[:, ~tree], base[:, ~tree])
    assert torch.equal(mixed[:, tree], other[:, tree])
    assert (mixed[:, tree] != base[:, tree]).any()


def test_seeds_of_pixels_and_of_the_other_classes(synthesizer: Synthesizer, label: Tensor) -> None:
    seeds = np.full((64, 64), 7, np.uint16)
    seeds[label.numpy() == TREE] = 3
    expected = synthesizer(label, seed={None: 7, "tree": 3}, samples=2).tensor
    assert torch.equal(synthesizer(label, seed=seeds, samples=2).tensor, expected)
    assert torch.equal(expected[1][:, label == SKY], synthesizer(label, seed=7, samples=2).tensor[1][:, label == SKY])
    assert not torch.equal(expected[0], expected[1])
    # A map has the size of the label map, which is resized as the label map is.
    large, double = (np.kron(part, np.ones((2, 2), np.int64)) for part in (label.numpy(), seeds.astype(np.int64)))
    assert torch.equal(synthesizer(large, seed=torch.from_numpy(double), samples=2).tensor, expected)


def test_fused_generators_keep_the_pixels_too(synthesizer: Synthesizer, label: Tensor) -> None:
    fused = Synthesizer(synthesizer.generator, synthesizer.info, device="cpu", optimize="fast")
    tree = label == TREE
    mixed, base = fused(label, seed={"tree": 3}).tensor[0], fused(label).tensor[0]
    assert torch.equal(mixed[:, ~tree], base[:, ~tree])
    assert (mixed[:, tree] != base[:, tree]).any()


def test_a_class_takes_the_style_of_a_picture() -> None:
    model = style_synthesizer()
    ids = torch.zeros(SIZE, dtype=torch.int64)
    ids[16:] = TREE
    bright, dark = (np.full((*SIZE, 3), value, np.uint8) for value in (250, 5))
    mixed = model(ids, style={"tree": bright, None: dark}, seed={"tree": 3}).tensor[0]
    assert torch.equal(mixed[:, ids == SKY], model(ids, style=dark).tensor[0][:, ids == SKY])
    assert torch.equal(mixed[:, ids == TREE], model(ids, style=bright, seed=3).tensor[0][:, ids == TREE])
    assert not torch.equal(mixed, model(ids, style=dark).tensor[0])


@pytest.mark.parametrize(
    ("seed", "error", "message"),
    [
        ({"tre": 3}, LabelError, "did you mean 'tree'"),
        (np.zeros((64, 32), np.int64), DataError, "label map's size"),
        (np.zeros((64, 64)), DataError, "whole numbers"),
    ],
)
def test_wrong_seeds_are_refused(
    synthesizer: Synthesizer, label: Tensor, seed: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        synthesizer(label, seed=seed)


def test_generators_without_noise_or_classes_say_so(label: Tensor) -> None:
    with pytest.raises(ConfigError, match="takes no noise"):
        tiny_synthesizer(method="spade", input="label")(label, seed={"tree": 3})
    with pytest.raises(ConfigError, match="no image encoder"):
        tiny_synthesizer()(label, style={"tree": np.zeros((64, 64, 3), np.uint8)})
    transfer = small("tsit-transfer-small", "data.resize=null", "generator.num_upsamples=3")
    with pytest.raises(ConfigError, match="give a map of seeds"):
        transfer(np.zeros((64, 64, 3), np.uint8), seed={"tree": 3}, style=np.zeros((64, 64, 3), np.uint8))

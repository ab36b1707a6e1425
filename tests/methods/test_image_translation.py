from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from lab2pix.errors import CheckpointError
from lab2pix.interop.keymap import rename
from lab2pix.methods.image_translation import read_discriminator, read_generator, released_names, released_rules
from lab2pix.nn.normalization import Norm
from lab2pix.nn.patchgan import PatchGAN, PixelGAN
from lab2pix.nn.resnet import ResNetGenerator
from lab2pix.nn.unet import UNetGenerator

NORMS: tuple[Norm, ...] = ("batch", "instance", "none")


def released(network: nn.Module) -> dict[str, Tensor]:
    """Return random weights of a network under their names in the authors' code."""
    weights = rename(network, released_rules(network))
    return {name: torch.randn_like(weight.float()).to(weight.dtype) for name, weight in weights.items()}


def check_reads_back(network: nn.Module, reader: object) -> None:
    weights = released(network)
    read, _ = reader({f"module.{name}": weight for name, weight in weights.items()})  # type: ignore[operator]
    assert str(read) == str(network)
    assert all(torch.equal(weights[name], weight) for name, weight in rename(read, released_rules(read)).items())


@pytest.mark.parametrize(("norm", "levels"), list(product(NORMS, (2, 3, 7))))
def test_read_generator_reads_unets(norm: Norm, levels: int) -> None:
    check_reads_back(UNetGenerator(5, 2, width=2, levels=levels, norm=norm), read_generator)


@pytest.mark.parametrize(("norm", "blocks", "dropout"), list(product(NORMS, (1, 6), (None, 0.5))))
def test_read_generator_reads_resnets(norm: Norm, blocks: int, dropout: float | None) -> None:
    network = ResNetGenerator(4, 5, width=2, blocks=blocks, norm=norm, dropout=dropout)
    check_reads_back(network, read_generator)


@pytest.mark.parametrize(("norm", "layers"), list(product(NORMS, (1, 2, 3, 5))))
def test_read_discriminator_reads_patchgans(norm: Norm, layers: int) -> None:
    check_reads_back(PatchGAN(5, width=2, layers=layers, norm=norm), read_discriminator)


@pytest.mark.parametrize("norm", NORMS)
def test_read_discriminator_reads_pixelgans(norm: Norm) -> None:
    check_reads_back(PixelGAN(5, width=2, norm=norm), read_discriminator)


def test_read_generator_drops_statistics_of_instance_norms() -> None:
    network = ResNetGenerator(3, width=2, blocks=1)
    weights = released(network)
    read, _ = read_generator(weights | {"model.2.running_mean": torch.zeros(2)})
    assert str(read) == str(network)


def test_released_names_nest_the_levels_of_a_unet() -> None:
    names = released_names(UNetGenerator(3, width=1, levels=4))
    assert {ours: names[f"{ours}.weight"] for ours in ("down.0.conv", "down.1.norm", "down.3.conv")} == {
        "down.0.conv": "model.model.0.weight",
        "down.1.norm": "model.model.1.model.2.weight",
        "down.3.conv": "model.model.1.model.3.model.3.model.1.weight",
    }
    assert {
        ours: names[f"{ours}.weight"] for ours in ("up.0.conv", "up.2.conv", "up.2.norm", "up.3.conv", "up.3.norm")
    } == {
        "up.0.conv": "model.model.3.weight",
        "up.2.conv": "model.model.1.model.3.model.5.weight",
        "up.2.norm": "model.model.1.model.3.model.6.weight",
        "up.3.conv": "model.model.1.model.3.model.3.model.3.weight",
        "up.3.norm": "model.model.1.model.3.model.3.model.4.weight",
    }


@pytest.mark.parametrize(
    ("without", "message"), [("model.1.weight", "neither"), ("model.4.weight", r"generator lacks model\.4")]
)
def test_read_generator_refuses_incomplete_weights(without: str, message: str) -> None:
    weights = released(ResNetGenerator(3, width=2, blocks=1))
    del weights[without]
    with pytest.raises(CheckpointError, match=message):
        read_generator(weights)


def test_read_discriminator_refuses_a_generator() -> None:
    with pytest.raises(CheckpointError, match="not those of a PatchGAN"):
        read_discriminator(released(ResNetGenerator(3, width=2, blocks=1)))

"""Toy method with a style image."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from lab2pix.inference import ModelInfo, Synthesizer
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import Condition, Sampling, register
from tests.helpers.toy import ToyConfig, ToyGenerator, ToyMethod

SIZE = (32, 32)
SPACE = LabelSpace.load("scenes")


class StyleGenerator(ToyGenerator):
    """Adds the mean color of the style image to the noise."""

    def forward(self, condition: Tensor, noise: Tensor, style: Tensor | None = None) -> Tensor:
        if style is not None:
            noise = noise + 4 * torch.nn.functional.pad(style.mean((2, 3)), (0, 1))
        return super().forward(condition, noise)


class StyleConfig(ToyConfig):
    method: Literal["toy-style"] = "toy-style"
    needed: bool = False


@register
class StyleMethod(ToyMethod):
    name = "toy-style"
    Config = StyleConfig

    @classmethod
    def build_sampling(cls, config: StyleConfig, label_space: LabelSpace) -> Sampling:
        return Sampling(Condition(label_space), noise_channels=4, style="required" if config.needed else "optional")

    @classmethod
    def build_generator(cls, config: StyleConfig, label_space: LabelSpace) -> StyleGenerator:
        return StyleGenerator()


def style_config(**changes: Any) -> StyleConfig:
    scenes = {"format": "scenes", "size": list(SIZE), "scenes": {"train_count": 4, "val_count": 4}}
    return StyleConfig.model_validate(
        {"name": "toy", "data": scenes, "train": {"batch_size": 2, "steps": 1}, **changes}
    )


def style_synthesizer(**changes: Any) -> Synthesizer:
    """Return an untrained model whose images clearly depend on label map, noise and style image."""
    torch.manual_seed(0)
    generator = StyleGenerator()
    torch.nn.init.kaiming_normal_(generator.last.weight)
    return Synthesizer(generator, ModelInfo(style_config(**changes), SPACE, 1), device="cpu")


def plain_synthesizer() -> Synthesizer:
    """Return an untrained model of the same size without style."""
    torch.manual_seed(0)
    return Synthesizer(ToyGenerator(), ModelInfo(ToyConfig(data=style_config().data), SPACE, 1), device="cpu")

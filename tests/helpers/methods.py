"""Methods of narrow presets, and inputs of their training steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lab2pix.batch import Batch
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import build_method, example_inputs
from lab2pix.recipes import load_config


def narrow_method(preset: str, *settings: str) -> Any:
    """Return the method of a preset with settings, its weights drawn by seed 0, those of backbones too."""
    config = load_config(preset, settings)
    torch.manual_seed(0)
    return build_method(config, LabelSpace.load(config.data.label_space), pretrained=False)


def training_inputs(method: Any, count: int = 2, seed: int = 0) -> tuple[Batch, Tensor | None]:
    """Return random inputs with images, and noise."""
    size = method.config.data.size
    batch, noise = example_inputs(method.sampling, size, count, seed)
    image = torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return replace(batch, image=image), noise

"""Small generators whose images clearly depend on label map and noise."""

from __future__ import annotations

import torch
from torch import nn

from lab2pix.batch import Batch
from lab2pix.inference import ModelInfo, Synthesizer
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import build_generator, build_sampling, generate, read_config

TINY = {
    "width": 4,
    "modulation_hidden": 8,
    "noise_dim": 16,
    "spectral_norm": False,
    "global_encoder": {"width": 4, "max_width": 16},
}


def tiny_synthesizer(
    space: str = "scenes",
    *,
    method: str = "lab2pix-v2",
    data: dict[str, object] | None = None,
    lively: bool = True,
    **generator: object,
) -> Synthesizer:
    """Return an untrained model, 64x64 by default, whose batch statistics are those of what it draws.

    Args:
        space: its label space.
        method: its method.
        data: settings of the section `data`.
        lively: draw the weights so large that label map and noise show.
        generator: settings of the section `generator`, instead of `TINY`'s.
    """
    torch.manual_seed(0)
    settings = {"format": "folder", "label_space": space, "size": (64, 64), **(data or {})}
    own = {**TINY, "input": "style"} if method == "spade" else TINY
    if method == "spade":
        own.pop("global_encoder")
    config = read_config({"method": method, "name": "tiny", "data": settings, "generator": {**own, **generator}})
    label_space, (height, width) = LabelSpace.load(space), config.data.size
    network = build_generator(config, label_space)
    with torch.no_grad():
        for parameter in network.parameters():
            if lively and parameter.ndim > 1:
                nn.init.kaiming_normal_(parameter, nonlinearity="linear")
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # cumulative statistics, as after training
        coarse = torch.randint(0, label_space.num_classes, (8, height // 8, width // 8))
        label = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)
        batch, noise = Batch(label, edges=torch.zeros(8, 1, height, width)), torch.randn(8, config.generator.noise_dim)
        generate(network.train(), build_sampling(config, label_space), batch, noise)
    return Synthesizer(network, ModelInfo(config, label_space, 7), device="cpu")

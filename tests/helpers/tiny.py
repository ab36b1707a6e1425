"""Tiny Lab2Pix-V1, and the phases of its step."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import Progress, StepContext, build_method
from lab2pix.recipes import load_config

NARROW = {
    "base": "v1-small",
    "data": {"size": [64, 64]},
    "generator": {
        "width": 2,
        "modulation_hidden": 4,
        "global_encoder": {"width": 2, "max_width": 8},
        "num_upsamples": 5,
    },
    "discriminator": {"width": 4, "max_width": 8},
    "segmenter": {"width": 4, "blocks": [1, 1, 1, 1]},
    "loss": {"diversity": 0, "cycle_warmup": 0},
}
SKETCH = ("data.label_space=sketch", "generator.encoder=sketch", "loss.foreground_rate=1")
NO_BACKBONE = ("discriminator.kind=patch", "loss.consistency=0")


def tiny(*overrides: str):
    return load_config(NARROW, list(overrides))


def space_of(config) -> LabelSpace:
    return LabelSpace.load(config.data.label_space)


def build(*overrides: str, config=None):
    config = config or tiny(*overrides)
    torch.manual_seed(0)
    return build_method(config, space_of(config), pretrained=False)


def at(fraction: float) -> Progress:
    """Return the progress at a part of a run."""
    return Progress(round(fraction * 1000), 1001)


def still(method):
    """Stop what changes from call to call, batch statistics and power iterations; let images not start all gray."""
    for network in method.networks.values():
        network.eval()
    with torch.no_grad():
        for head in method.networks["generator"].to_image:
            head.weight.mul_(1000)
    return method


def batch(config, count: int = 2, seed: int = 0) -> Batch:
    generator, size = torch.Generator().manual_seed(seed), config.data.size
    classes = space_of(config).num_classes
    small = torch.randint(0, classes, (count, size[0] // 16, size[1] // 16), generator=generator)
    image = torch.rand(count, 3, *size, generator=generator) * 2 - 1
    edges = (torch.rand(count, 1, *size, generator=generator) > 0.9).float() if config.data.instance_edges else None
    return Batch(label=small.repeat_interleave(16, 1).repeat_interleave(16, 2), image=image, edges=edges)


def noise(count: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(count, 128, generator=torch.Generator().manual_seed(seed))


def generator_half(method, data: Batch | None = None, z: Tensor | None = None, context: StepContext | None = None):
    """Return what the generator's phase hands on, and its losses."""
    for network in method.networks.values():
        network.zero_grad(set_to_none=True)
    data = batch(method.config) if data is None else data
    z = noise(len(data)) if z is None else z
    context = replace(context or StepContext(progress=at(0.5)), cache={})
    losses = method.generator_backward(data, z, context)
    return context.cache["outputs"], losses


def discriminator_half(method, outputs, context: StepContext | None = None):
    """Return the losses of the discriminators' phase."""
    return method.discriminator_backward(None, None, replace(context or StepContext(), cache={"outputs": outputs}))


def step(method, data: Batch | None = None, z: Tensor | None = None, context: StepContext | None = None):
    outputs, ours = generator_half(method, data, z, context)
    untouched = all(p.grad is None for p in method.networks["discriminator"].parameters())
    theirs = discriminator_half(method, outputs, context or StepContext(progress=at(0.5)))
    return ours, theirs, untouched


def learners(method) -> nn.ModuleDict:
    """Return the networks that learn in the generator's phase."""
    return nn.ModuleDict({name: network for name, network in method.networks.items() if name != "discriminator"})


def gradients(network) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in network.named_parameters()}


def assert_alike(ours: dict[str, Tensor], theirs: dict[str, Tensor], factor: float = 1.0) -> None:
    """Compare gradients, each relative to its own size."""
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        expected = factor * gradient
        assert (theirs[name] - expected).norm() <= 2e-3 * expected.norm() + 1e-8, name

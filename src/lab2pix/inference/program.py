"""Copy of a generator for export: one-hot encoding in the graph, and folded normalization."""

from __future__ import annotations

from typing import Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lab2pix.inference.synthesizer import Synthesizer
from lab2pix.methods import Sampling
from lab2pix.nn.encoders import NoiseEncoder
from lab2pix.nn.fast.inference.layers import batch_norm_affine, fold_conv
from lab2pix.nn.normalization import SPADE

Inputs = dict[str, Tensor]
"""Inputs of a program by name."""


class _DynamicNoiseEncoder(NoiseEncoder):
    """Noise encoder f_z that always resizes, because a traced program has no branches; an identity at its own size."""

    @classmethod
    def of(cls, encoder: NoiseEncoder) -> Self:
        made = cls(encoder.in_features, encoder.channels, encoder.size)
        made.load_state_dict(encoder.state_dict())
        return made

    def forward(self, noise: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Map `[N, noise_dim]` to `[N, channels, h, w]`."""
        x = super().forward(noise)
        return F.interpolate(x, size=size or self.size, mode="bilinear", align_corners=False)


class Program(nn.Module):
    """Copy of a generator that takes class ids and noise, with folded normalization.

    Attributes:
        stride: height and width must be multiples of it.
        size: height and width of the model, padded to what the generator takes.
    """

    def __init__(self, synthesizer: Synthesizer, dtype: torch.dtype, dynamic: bool) -> None:
        super().__init__()
        self.name = synthesizer.config.name
        self.sampling: Sampling = synthesizer.sampling
        self.size = self.sampling.padded_size(synthesizer.size)
        _ = synthesizer.label_space.palette  # A first access during tracing would cache a tensor without data.
        self.dtype = dtype
        # Not a deepcopy: removing the parametrization changes the class, which copies share with the original.
        with torch.random.fork_rng(devices=[]):
            self.generator = synthesizer.info.build().eval()
        self.generator.load_state_dict(synthesizer.generator.state_dict())
        self.stride = self.sampling.size_multiple
        with torch.no_grad():
            for module in list(self.generator.modules()):
                _fold(module)
                for name, child in module.named_children():
                    if dynamic and isinstance(child, NoiseEncoder):
                        setattr(module, name, _DynamicNoiseEncoder.of(child))
        self.generator.to(dtype).requires_grad_(False)

    def forward(
        self,
        label: Tensor | None = None,
        noise: Tensor | None = None,
        instances: Tensor | None = None,
        source: Tensor | None = None,
        style: Tensor | None = None,
    ) -> Tensor:
        """Return `[N, 3, H, W]` float32 in [-1, 1].

        Args:
            label: `[N, H, W]` int64 class ids.
            noise: `[N, noise_dim]` float32, if the generator takes noise.
            instances: `[N, H, W]` int64, if the generator takes instance edges.
            source: `[N, C, H, W]` float32 in [-1, 1], instead of `label`, if the generator takes images.
            style: `[N, 3, H, W]` float32 in [-1, 1], if the generator requires a style image.
        """
        given = label if source is None else source
        assert given is not None
        condition = self.sampling.condition.traceable(given, instances, self.dtype)
        styles = {} if style is None else {"style": style.to(self.dtype)}
        images = self.generator(condition, None if noise is None else noise.to(self.dtype), **styles)
        return cast(Tensor, images if isinstance(images, Tensor) else images[0]).float()

    def example(self, count: int, height: int, width: int) -> Inputs:
        """Return random example inputs; label maps consist of 8x8 patches of random classes."""
        random, condition = torch.Generator().manual_seed(count), self.sampling.condition
        if condition.source == "images":
            inputs = {"source": torch.rand(count, condition.channels, height, width, generator=random) * 2 - 1}
        else:
            channels = condition.label_space.num_channels
            patches = torch.randint(channels, (count, -(-height // 8), -(-width // 8)), generator=random)
            inputs = {"label": patches.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :height, :width]}
        if (shape := self.sampling.noise_shape((height, width))) is not None:
            inputs["noise"] = torch.randn(count, *shape, generator=random)
        if condition.edges or condition.instance_ids:
            inputs["instances"] = inputs["label"].roll(4, -1)
        if self.sampling.style == "required":
            inputs["style"] = torch.rand(count, 3, height, width, generator=random) * 2 - 1
        return inputs


def _fold(module: nn.Module) -> None:
    """Fold spectral norm into weights and the batch norm of SPADE into gamma and beta."""
    if parametrize.is_parametrized(module, "weight"):
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    if isinstance(module, SPADE):
        factor, summand = batch_norm_affine(module.norm)
        (scale, one), (shift, zero) = fold_conv(module.gamma), fold_conv(module.beta)
        # (x * factor + summand) * (1 + gamma) + beta = x * (1 + gamma') + beta'
        assert module.gamma.bias is not None and module.beta.bias is not None
        module.gamma.weight.copy_(scale * factor.view(-1, 1, 1, 1))
        module.gamma.bias.copy_((one + 1) * factor - 1)
        module.beta.weight.copy_(shift + scale * summand.view(-1, 1, 1, 1))
        module.beta.bias.copy_(zero + (one + 1) * summand)
        module.norm = nn.Identity()  # type: ignore[assignment]

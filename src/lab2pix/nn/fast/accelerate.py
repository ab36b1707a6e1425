"""Conversion of a finished network for faster and smaller training steps."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from lab2pix.nn.attention import LSCA
from lab2pix.nn.backbones import Backbone, BackboneFeatures
from lab2pix.nn.blocks import SLOPE, ConvNormAct, GenResBlk
from lab2pix.nn.encoders import GlobalEncoder, NoiseEncoder
from lab2pix.nn.fast import _torch
from lab2pix.nn.fast.autograd import batch_norm_modulate, can_fuse, instance_norm_leaky_relu, relu_add_
from lab2pix.nn.fast.conv import EvalConv2d, FastConv2d, autocast_dtype
from lab2pix.nn.fast.memory_format import is_channels_last, memory_format_of
from lab2pix.nn.fast.spectral_norm import FastSpectralConv2d, FastSpectralNorm, has_spectral_norm
from lab2pix.nn.fast.upsample_conv import upsample2x_conv3x3, upsample_conv3x3_relu
from lab2pix.nn.generators import GeneratorBase, Lab2PixV1Generator, Lab2PixV2Generator
from lab2pix.nn.normalization import SPADE, DGNorm, resize_nearest


class FastSPADE(SPADE):
    """SPADE that saves no normalized map, and computes scale and shift once for several noises of a label map."""

    def guidance(self, label: Tensor, global_feature: Tensor | None) -> Tensor:
        """See `SPADE.guidance`; computed in place."""
        return label if self.shared is None else F.relu_(self.shared(label))

    def modulate(self, x: Tensor, label: Tensor, global_feature: Tensor | None, slope: float = 1.0) -> Tensor:
        """Return `leaky_relu(spade(x), slope)`; x is `[k * N, channels, h, w]` for k noises per label map."""
        hidden = self.guidance(resize_nearest(label, (x.shape[-2], x.shape[-1])), global_feature)
        scale = self.gamma(hidden).add_(1)
        shift = self.beta(hidden)
        if can_fuse(self.norm, x, scale, shift):
            return batch_norm_modulate(self.norm, x, scale, shift, slope)
        normalized = self.norm(x).unflatten(0, (-1, len(scale)))
        modulated = torch.addcmul(shift, normalized, scale).flatten(0, 1)
        return modulated if slope == 1 else F.leaky_relu(modulated, slope, inplace=True)

    def forward(self, x: Tensor, label: Tensor, global_feature: Tensor | None = None) -> Tensor:
        """See `SPADE.forward`."""
        return self.modulate(x, label, global_feature) if self.training else super().forward(x, label, global_feature)


class FastDGNorm(FastSPADE, DGNorm):
    """DG-Norm that adds the global feature in place."""

    def guidance(self, label: Tensor, global_feature: Tensor | None) -> Tensor:
        """See `SPADE.guidance`; computed in place."""
        if self.shared is None or global_feature is None:
            return super().guidance(label, None)
        return relu_add_(self.shared(label), global_feature)


class FastGenResBlk(GenResBlk):
    """Residual block whose norms include the LeakyReLU."""

    norm_0: FastSPADE
    norm_1: FastSPADE
    norm_s: FastSPADE | None

    def forward(self, x: Tensor, label: Tensor, global_feature: Tensor | None = None) -> Tensor:
        """See `GenResBlk.forward`."""
        if not self.training:
            return super().forward(x, label, global_feature)
        h = self.conv_0(self.norm_0.modulate(x, label, global_feature, SLOPE))
        h = self.conv_1(self.norm_1.modulate(h, label, global_feature, SLOPE))
        shortcut = x if self.norm_s is None or self.conv_s is None else self.conv_s(self.norm_s(x, label))
        return cast(Tensor, shortcut + h)


class FastConvNormAct(ConvNormAct):
    """Discriminator block that keeps its map channels-last."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, in_channels, h, w]` to `[N, out_channels, h / stride, w / stride]`."""
        conv, norm, act = self
        x = conv(x)
        if isinstance(norm, nn.InstanceNorm2d) and self.training and torch.is_grad_enabled() and is_channels_last(x):
            return instance_norm_leaky_relu(x, norm.eps, SLOPE)
        result: Tensor = act(norm(x))
        return result


class FastLSCA(LSCA):
    """Co-attention that convolves the small map before its upsampling, and concatenates no maps."""

    def forward(self, previous: Tensor, current: Tensor, label: Tensor) -> Tensor:
        """See `LSCA.forward`."""
        if not self.training or not torch.is_grad_enabled():
            return super().forward(previous, current, label)
        h = F.relu(upsample2x_conv3x3(previous, self.merge.weight, self.merge.bias))
        guide = self.norm_label(F.relu(self.label(label)))
        a = torch.sigmoid(self._attend([self.norm_previous(h), self.norm_current(current), guide]))
        return torch.lerp(current, h, a.to(current.dtype))

    def _attend(self, maps: list[Tensor]) -> Tensor:
        """Return `attention` of concatenated maps, `[N, 1, h, w]`, summed in float32 or finer.

        A 1x1 convolution of each map to nine channels, one per tap of the 3x3 kernel, then their sum: a 3x3 convolution
        to one channel takes several times as long on a CPU.
        """
        height, width = maps[0].shape[-2:]
        exact = torch.promote_types(maps[0].dtype, torch.float32)
        taps = torch.split(self.attention.weight[0].flatten(1).t()[:, :, None, None], [x.shape[1] for x in maps], 1)
        nine = torch.stack([F.conv2d(x, tap).to(exact) for x, tap in zip(maps, taps, strict=True)]).sum(0)
        assert self.attention.bias is not None
        # `fold` scatters where a convolution gathers, so the kernel is flipped.
        return F.fold(nine.flip(1).flatten(2), (height, width), 3, padding=1) + self.attention.bias.view(1, -1, 1, 1)


class FastGlobalEncoder(GlobalEncoder):
    """Global encoder that expands its features in any memory format, with few operations in the backward pass."""

    def forward(self, label: Tensor) -> list[Tensor]:
        """See `GlobalEncoder.forward`."""
        if not self.training or self.upsample == "bilinear":
            return super().forward(label)
        x = label
        for conv in self.down:
            x = F.leaky_relu(conv(x), SLOPE, inplace=True)
        convs = [(conv.weight, conv.bias) for conv in self.scales if isinstance(conv, nn.Conv2d)]
        return [upsample_conv3x3_relu(x, weight, bias, 2**scale) for scale, (weight, bias) in enumerate(convs)]


class FastNoiseEncoder(NoiseEncoder):
    """Noise encoder that ignores autocast, as casting its large weight takes longer than the product."""

    def forward(self, noise: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """See `NoiseEncoder.forward`."""
        kind = noise.device.type
        if not self.training or not torch.is_autocast_enabled(kind):
            return super().forward(noise, size)
        dtype = torch.get_autocast_dtype(kind)
        with torch.autocast(kind, enabled=False):
            flat = F.linear(noise.to(self.weight.dtype), self.weight, self.bias).to(dtype)
        return self.to_map(flat, size)


class _FastGenerator(GeneratorBase):
    """Generator whose label path runs once for several noises, on a condition in the type of the convolutions."""

    def match_noise(self, condition: Tensor, noise: Tensor | None) -> Tensor:
        """Return the condition as it is: `FastSPADE` broadcasts it. One-hot values are exact in every type."""
        if not self.training:
            return super().match_noise(condition, noise)
        if not torch.is_grad_enabled():
            return condition
        weight = next(p for p in self.parameters() if p.ndim == 4 and p[0, 0].numel() > 1)
        return condition.to(autocast_dtype(condition), memory_format=memory_format_of(weight))


class FastLab2PixV1Generator(_FastGenerator, Lab2PixV1Generator):
    """Accelerated generator of Lab2Pix-V1."""


class FastLab2PixV2Generator(_FastGenerator, Lab2PixV2Generator):
    """Accelerated generator of Lab2Pix-V2."""


class FastBackbone(Backbone):
    """Backbone that runs channels-last on a CPU where depthwise convolutions or pooling in a low type are faster so."""

    def forward(self, image: Tensor, **features: int) -> BackboneFeatures:
        """See `Backbone.forward`."""
        convs = (module for module in self.modules() if isinstance(module, nn.Conv2d))
        if any(conv.groups > 1 or conv.weight.dtype != torch.float32 for conv in convs):
            image = image.contiguous(memory_format=torch.channels_last)
        return super().forward(image, **features)  # type: ignore[arg-type]


_FAST: dict[type[nn.Module], type[nn.Module]] = {
    SPADE: FastSPADE,
    DGNorm: FastDGNorm,
    GenResBlk: FastGenResBlk,
    LSCA: FastLSCA,
    GlobalEncoder: FastGlobalEncoder,
    NoiseEncoder: FastNoiseEncoder,
    Lab2PixV1Generator: FastLab2PixV1Generator,
    Lab2PixV2Generator: FastLab2PixV2Generator,
}
_FAST_ON_CPU: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: FastConv2d, ConvNormAct: FastConvNormAct}


def accelerate(network: nn.Module, device: torch.device) -> nn.Module:
    """Replace the layers of a network by subclasses with faster training steps, in place.

    Parameters, buffers, their order and the state dict stay the same; so do copies, optimizers and wrappers of the
    network. In evaluation mode all layers compute as before, except those of frozen backbones. Call it before the
    network is wrapped, and not if it is compiled: compilers optimize the plain network.

    The layers cannot be differentiated twice: do not accelerate a network with a gradient penalty.

    Args:
        network: any network, on its device.
        device: type of device; some layers are faster on a CPU only.

    Returns:
        The same network.
    """
    backbones = [module for module in network.modules() if isinstance(module, Backbone)]
    frozen = {id(module) for backbone in backbones for module in backbone.modules()}
    table = _FAST | (_FAST_ON_CPU if device.type == "cpu" else {})
    for module in list(network.modules()):
        kind = type(module)
        if kind is _torch.SpectralNorm:
            _convert(module, FastSpectralNorm)
        elif isinstance(module, nn.Conv2d) and has_spectral_norm(module) and kind.__bases__ == (nn.Conv2d,):
            _convert(module, FastSpectralConv2d)
        elif isinstance(module, Backbone) and not isinstance(module, FastBackbone) and device.type == "cpu":
            _convert(module, FastBackbone)
        elif kind in table:
            _convert(module, EvalConv2d if table[kind] is FastConv2d and id(module) in frozen else table[kind])
    return network


def _convert(module: nn.Module, fast: type[nn.Module]) -> None:
    """Make a module an instance of a subclass, or of a new one where both its class and the fast one have more."""
    kind = type(module)
    module.__class__ = fast if issubclass(fast, kind) else type(f"Fast{kind.__name__}", (fast, kind), {})


@torch.no_grad()
def to_low_precision(network: nn.Module, dtype: torch.dtype) -> None:
    """Store the convolutions of a frozen network in a lower type, so that autocast need not cast them at every pass.

    Batch norms are folded into the convolutions that precede them, in float32. Later passes must run under autocast.
    """
    for parent in list(network.modules()):
        children = list(parent.named_children())
        for (_, conv), (name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and conv.bias is None:
                assert norm.running_mean is not None and norm.running_var is not None
                conv.weight, conv.bias = fuse_conv_bn_weights(
                    conv.weight, None, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
                )
                setattr(parent, name, getattr(norm, "act", nn.Identity()))  # timm keeps the activation in the norm
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(dtype=dtype)

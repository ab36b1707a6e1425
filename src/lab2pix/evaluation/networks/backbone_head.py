"""Segmentation head on a frozen backbone, whose ImageNet weights come with the package."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.methods.features import load_backbone
from lab2pix.nn.backbones import IMAGENET_MEAN, IMAGENET_STD, BackboneFeatures
from lab2pix.nn.segmentation import FPNHead

WIDTH = 48
"""Channels of the head."""


class _Encoder(nn.Module):
    """The five perceptual features of a frozen backbone, finest first.

    Args:
        name: backbone of `load_backbone`.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.backbone = load_backbone(name)
        self.out_channels = self.backbone.perceptual_channels

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the features of `[N, 3, H, W]`, normalized by ImageNet's mean and deviation."""
        mean, std = (torch.tensor(part, device=images.device).view(3, 1, 1) for part in (IMAGENET_MEAN, IMAGENET_STD))
        normalized = self.backbone.normalize(2 * (images * std + mean) - 1)
        features: BackboneFeatures = self.backbone(normalized, levels=0, perceptual=True)
        return features.perceptual


class BackboneHead(nn.Module):
    """`FPNHead` on the features of a frozen backbone; its state dict has the weights of the head alone.

    Args:
        encoder: backbone of `load_backbone`, such as `efficientnet-lite0`.
        classes: channels of the result.
    """

    def __init__(self, encoder: str, classes: int) -> None:
        super().__init__()
        self.encoder = _Encoder(encoder)
        self.head = FPNHead(self.encoder.out_channels, classes, width=WIDTH)
        self.register_state_dict_post_hook(_drop_encoder)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_forgive_encoder)  # type: ignore[no-untyped-call]

    def forward(self, images: Tensor) -> Tensor:
        """Map `[N, 3, H, W]`, normalized by ImageNet's mean and deviation, to logits `[N, classes, H, W]`."""
        logits: Tensor = self.head(self.encoder(images))
        return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)


def _drop_encoder(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}encoder.")]:
        del state[name]


def _forgive_encoder(module: nn.Module, keys: Any) -> None:
    keys.missing_keys[:] = [name for name in keys.missing_keys if ".encoder." not in f".{name}"]

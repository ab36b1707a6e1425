"""Normalisation guided by the label map: SPADE, and DG-Norm, which adds a global feature (3.1.2, Fig. 4, Eq. 3-5)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.nn.convolutions import Conv2d
from lab2pix.nn.fused import add_to_relu, fuses, is_exporting, normalise_and_modulate

__all__ = ["SPADE", "DGNorm", "resize_nearest"]


def resize_nearest(label: Tensor, size: tuple[int, int]) -> Tensor:
    """Return `[N, C, H, W]` label channels at another size, by nearest neighbour; the same tensor where it fits."""
    if tuple(label.shape[-2:]) == size:
        return label
    return F.interpolate(label, size=size, mode="nearest")


class SPADE(nn.Module):
    """Parameter-free batch norm, then scale and shift per pixel, predicted from the label map.

    `normalised * (1 + gamma) + beta`: Eq. 5 prints the 1 inside the other bracket, where the layer could not start
    near the identity; it stands here as in the released networks.

    Args:
        channels: width of the feature to normalise.
        label_channels: width of the one-hot label map.
        hidden: channels between the label map and scale and shift.
    """

    def __init__(self, channels: int, label_channels: int, *, hidden: int = 128) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.shared = Conv2d(label_channels, hidden, 3, padding=1)
        self.gamma = Conv2d(hidden, channels, 3, padding=1)
        self.beta = Conv2d(hidden, channels, 3, padding=1)

    def guidance(self, label: Tensor, global_feature: Tensor | None) -> Tensor:
        """Return the `[N, hidden, h, w]` feature that scale and shift are predicted from."""
        del global_feature
        return F.relu(self.shared(label), inplace=True)

    def forward(self, x: Tensor, label: Tensor, global_feature: Tensor | None = None, *, slope: float = 1.0) -> Tensor:
        """Normalise `[N, channels, h, w]`, or `[k * N, channels, h, w]`: k features of the same label maps, in turn.

        Args:
            x: the feature.
            label: `[N, label_channels, H, W]` one-hot; resized by nearest neighbour where its size is another.
            global_feature: `[N, hidden, h, w]`; SPADE has no use for it.
            slope: of a LeakyReLU after it, below zero; 1 for none.
        """
        hidden = self.guidance(resize_nearest(label, (x.shape[-2], x.shape[-1])), global_feature)
        # In place, and one fused multiply-add: these are the largest tensors of the generator.
        scale = self.gamma(hidden).add_(1)
        shift = self.beta(hidden)
        if fuses(self.norm, x, scale, shift):
            return normalise_and_modulate(self.norm, x, scale, shift, slope)
        normalised = self.norm(x)
        # Exported programs are for as many features as label maps, which a tracer cannot tell.
        if is_exporting() or len(x) == len(scale):
            modulated = torch.addcmul(shift, normalised, scale)
        else:  # scale and shift are the same for all features of a label map
            modulated = torch.addcmul(shift, normalised.unflatten(0, (-1, len(scale))), scale).flatten(0, 1)
        return modulated if slope == 1 else F.leaky_relu(modulated, slope, inplace=True)


class DGNorm(SPADE):
    """Double-Guided Normalisation: SPADE whose hidden feature is added to the global feature of that scale (Fig. 4)."""

    def guidance(self, label: Tensor, global_feature: Tensor | None) -> Tensor:
        """Return label feature plus global feature; the label feature alone where there is none (shortcuts)."""
        if global_feature is None:
            return super().guidance(label, None)
        return add_to_relu(self.shared(label), global_feature)

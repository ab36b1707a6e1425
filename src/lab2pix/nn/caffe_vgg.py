"""VGG16 as published for Caffe (Simonyan and Zisserman, 2015), for MUNIT's perceptual loss."""

from __future__ import annotations

from torch import Tensor

from lab2pix.nn.backbones import VGG16

_BGR_MEAN = (103.939, 116.779, 123.680)
_LEFT_OUT, _END = 23, 30
"""Indices of the pooling between conv4_3 and conv5_1, and of that after relu5_3."""


class CaffeVGG16(VGG16):
    """Convolutions of VGG16 up to relu5_3, frozen, without the pooling between conv4_3 and conv5_1.

    The weights are those for BGR images of 0 to 255 minus the mean color, not torchvision's. Initial ones are random.
    """

    def forward(self, image: Tensor) -> Tensor:  # type: ignore[override]
        """Map RGB images `[N, 3, H, W]` in [-1, 1] to relu5_3, `[N, 512, H/8, W/8]`."""
        pixels = (image.float().flip(1) + 1) * 127.5
        x = pixels - pixels.new_tensor(_BGR_MEAN).view(3, 1, 1)
        for index, layer in enumerate(self.layers[:_END]):
            x = x if index == _LEFT_OUT else layer(x)
        return x

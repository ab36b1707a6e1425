"""VGG16 as published for Caffe (Simonyan and Zisserman, 2015), for MUNIT's perceptual loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

_DEPTHS = (2, 2, 3, 3, 3)
_WIDTHS = (64, 128, 256, 512, 512)
_BGR_MEAN = (103.939, 116.779, 123.680)


class CaffeVGG16(nn.Module):
    """Convolutions of VGG16 up to relu5_3, frozen, without the pooling between conv4_3 and conv5_1.

    The weights are those for BGR images of 0 to 255 minus the mean color, not torchvision's. Initial ones are random.
    """

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for stage, (depth, width) in enumerate(zip(_DEPTHS, _WIDTHS, strict=True)):
            if 0 < stage < 4:
                layers.append(nn.MaxPool2d(2))
            for _ in range(depth):
                conv = nn.Conv2d(before, width, 3, padding=1)
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
                nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
                layers += [conv, nn.ReLU(inplace=True)]
                before = width
        self.layers = nn.Sequential(*layers)
        self.register_buffer("mean", torch.tensor(_BGR_MEAN).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, also if a parent calls `train()`."""
        return super().train(False)

    def forward(self, image: Tensor) -> Tensor:
        """Map RGB images `[N, 3, H, W]` in [-1, 1] to relu5_3, `[N, 512, H/8, W/8]`."""
        pixels = (image.float().flip(1) + 1) * 127.5 - self.mean
        feature: Tensor = self.layers(pixels)
        return feature

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Load the state dict of a whole classifier with torchvision's names, such as `features.0.weight`.

        Raises:
            KeyError, RuntimeError: weights are missing or of another shape.
        """
        convs = [f"layers.{index}" for index, layer in enumerate(self.layers) if isinstance(layer, nn.Conv2d)]
        found = sorted({int(name.split(".")[1]) for name in state if name.startswith("features.")})
        names = {conv: f"features.{index}" for conv, index in zip(convs, found, strict=False)}
        self.load_state_dict(
            {
                f"{conv}.{kind}": state[f"{source}.{kind}"]
                for conv, source in names.items()
                for kind in ("weight", "bias")
            }
        )

"""FCN-8s (Long et al., 2015) on VGG16, as Pix2Pix scores Cityscapes with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

_DEPTHS = (2, 2, 3, 3, 3)


class FCN8s(nn.Module):
    """Fully convolutional network at stride 8; layers have the names of its Caffe model.

    Args:
        classes: output channels; the last one of the published network is no class.
        widths: widths of VGG16's five stages.
        hidden: channels of the two layers before the classifier.
    """

    def __init__(self, classes: int = 20, widths: Sequence[int] = (64, 128, 256, 512, 512), hidden: int = 4096) -> None:
        super().__init__()
        before = 3
        for stage, (depth, width) in enumerate(zip(_DEPTHS, widths, strict=True), 1):
            for number in range(1, depth + 1):
                padding = 100 if (stage, number) == (1, 1) else 1
                self.add_module(f"conv{stage}_{number}", nn.Conv2d(before, width, 3, padding=padding))
                before = width
        self.fc6_cs = nn.Conv2d(before, hidden, 7)
        self.fc7_cs = nn.Conv2d(hidden, hidden, 1)
        self.score_fr = nn.Conv2d(hidden, classes, 1)
        self.score_pool4 = nn.Conv2d(widths[3], classes, 1)
        self.score_pool3 = nn.Conv2d(widths[2], classes, 1)
        self.upscore2 = nn.ConvTranspose2d(classes, classes, 4, stride=2, bias=False)
        self.upscore_pool4 = nn.ConvTranspose2d(classes, classes, 4, stride=2, bias=False)
        self.upscore8 = nn.ConvTranspose2d(classes, classes, 16, stride=8, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """Map BGR `[N, 3, H, W]` of 0 to 255 minus the mean to logits `[N, classes, H, W]`."""
        x, pools = image, []
        for stage, depth in enumerate(_DEPTHS, 1):
            for number in range(1, depth + 1):
                x = self.get_submodule(f"conv{stage}_{number}")(x).relu()
            x = F.max_pool2d(x, 2, ceil_mode=True)
            pools.append(x)
        x = self.upscore2(self.score_fr(self.fc7_cs(self.fc6_cs(x).relu()).relu()))
        x = self.upscore_pool4(x + _crop(self.score_pool4(pools[3]), 5, x))
        x = self.upscore8(x + _crop(self.score_pool3(pools[2]), 9, x))
        return _crop(x, 31, image)


def _crop(x: Tensor, offset: int, like: Tensor) -> Tensor:
    """Cut a part of the size of `like`, `offset` pixels from the top and the left."""
    height, width = like.shape[-2:]
    return x[..., offset : offset + height, offset : offset + width]

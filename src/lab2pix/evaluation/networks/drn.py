"""DRN-D, a dilated residual network (Yu et al., 2017), as a segmenter of Cityscapes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lab2pix.evaluation.networks.bottleneck import EXPANSION, bottlenecks


class DRN(nn.Module):
    """Dilated residual network of type D with a 1x1 classifier and a transposed convolution to the full size.

    The defaults are those of DRN-D-105.

    Args:
        classes: output channels.
        widths: widths of the eight levels, the first of which also is that of the stem.
        depths: residual blocks of levels 3 to 6.
    """

    def __init__(
        self,
        classes: int = 19,
        widths: Sequence[int] = (16, 32, 64, 128, 256, 512, 512, 512),
        depths: Sequence[int] = (3, 4, 23, 3),
    ) -> None:
        super().__init__()
        wide = [width * EXPANSION for width in widths[2:6]]
        self.base = nn.Sequential(
            _convolution(3, widths[0], kernel=7),
            _convolution(widths[0], widths[0]),
            _convolution(widths[0], widths[1], stride=2),
            bottlenecks(widths[1], widths[2], depths[0], stride=2),
            bottlenecks(wide[0], widths[3], depths[1], stride=2),
            bottlenecks(wide[1], widths[4], depths[2], dilation=2),
            bottlenecks(wide[2], widths[5], depths[3], dilation=4),
            _convolution(wide[3], widths[6], dilation=2),
            _convolution(widths[6], widths[7]),
        )
        self.seg = nn.Conv2d(widths[7], classes, 1)
        self.up = nn.ConvTranspose2d(classes, classes, 16, stride=8, padding=4, groups=classes, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """Map normalized RGB `[N, 3, H, W]`, sides divisible by 8, to logits `[N, classes, H, W]`."""
        logits: Tensor = self.up(self.seg(self.base(image)))
        return logits


def _convolution(
    in_channels: int, out_channels: int, *, kernel: int = 3, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))

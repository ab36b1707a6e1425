from __future__ import annotations

import torch
import torch.nn.functional as F

from lab2pix.nn.resample import BlurDownsample, BlurUpsample, ReplicationPad


def test_downsampling_blurs_a_reflected_image_and_keeps_every_second_pixel() -> None:
    x = torch.randn(2, 3, 6, 7)
    down = BlurDownsample(3)
    row = torch.tensor([0.25, 0.5, 0.25])
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    blurred = sum(row[i] * row[j] * padded[..., i : i + 6, j : j + 7] for i in range(3) for j in range(3))
    assert down(x).shape == (2, 3, 3, 4)
    assert torch.allclose(down(x), blurred[..., ::2, ::2], atol=1e-6)
    assert torch.equal(down.filt.sum((1, 2, 3)), torch.ones(3))


def test_upsampling_doubles_a_replicated_image_by_weights_of_three_quarters_and_one() -> None:
    x = torch.randn(1, 2, 3, 4)
    up = BlurUpsample(2)(x)
    assert up.shape == (1, 2, 6, 8)
    assert torch.allclose(up, F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False), atol=1e-6)
    assert torch.allclose(BlurUpsample(1)(torch.ones(1, 1, 3, 3)), torch.ones(1, 1, 6, 6))


def test_padding_replicates_the_border() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(ReplicationPad(3)(x), F.pad(x, (3, 3, 3, 3), mode="replicate"))

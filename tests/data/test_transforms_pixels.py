from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import functional

from lab2pix.data.transforms import float_to_uint8, resize_image, to_pil, uint8_to_float


def test_uint8_and_float_conversions_round_trip() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    image = uint8_to_float(pixels)
    assert (image[0].item(), image[-1].item()) == (-1.0, 1.0)
    assert torch.equal(float_to_uint8(image), pixels)


def test_float_to_uint8_clips_out_of_range_values() -> None:
    assert float_to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_to_pil_keeps_height_width_and_channels() -> None:
    pixels = torch.zeros(3, 2, 5, dtype=torch.uint8)
    pixels[1, 1, 4] = 200
    picture = to_pil(pixels)
    assert picture.size == (5, 2)
    assert picture.getpixel((4, 1)) == (0, 200, 0)


@pytest.mark.parametrize("size", [(20, 40), (9, 9), (64, 48), (31, 17)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_resize_image_is_torchvisions_antialiased_bicubic(size: tuple[int, int], dtype: torch.dtype) -> None:
    random = torch.randint(0, 256, (31, 17, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    pixels = random.permute(2, 0, 1) if dtype is torch.uint8 else uint8_to_float(random.permute(2, 0, 1))
    expected = functional.resize(pixels, list(size), interpolation=functional.InterpolationMode.BICUBIC)
    expected = expected if dtype is torch.uint8 else expected.clamp(-1, 1)
    assert torch.equal(resize_image(pixels, size), expected)

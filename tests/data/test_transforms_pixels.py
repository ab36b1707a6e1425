from __future__ import annotations

import torch

from lab2pix.data.transforms import float_to_uint8, to_pil, uint8_to_float


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

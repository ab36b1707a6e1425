from __future__ import annotations

import torch

from lab2pix.data.pixels import from_bytes, to_bytes, to_picture


def test_every_byte_survives_the_way_there_and_back() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    image = from_bytes(pixels)
    assert (image[0].item(), image[-1].item()) == (-1.0, 1.0)
    assert torch.equal(to_bytes(image), pixels)


def test_what_lies_outside_is_clipped() -> None:
    assert to_bytes(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_a_picture_has_height_width_and_colours_in_place() -> None:
    pixels = torch.zeros(3, 2, 5, dtype=torch.uint8)
    pixels[1, 1, 4] = 200
    picture = to_picture(pixels)
    assert picture.size == (5, 2)
    assert picture.getpixel((4, 1)) == (0, 200, 0)

"""Sizes that reflection can pad to those that networks take."""

from __future__ import annotations

import re
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab2pix.config.sizes import can_pad, nearest_size, padded_size
from lab2pix.errors import ConfigError
from lab2pix.nn.official_v1 import OfficialV1Generator
from lab2pix.recipes import load_config

SIDES = st.integers(1, 30)


@given(st.tuples(SIDES, SIDES), st.sampled_from([1, 2, 4, 5, 8]), st.integers(1, 20), st.sampled_from([1, 2]))
def test_padded_size_is_the_smallest_valid_one(size: tuple[int, int], multiple: int, least: int, squares: int) -> None:
    def valid(height: int, width: int) -> bool:
        fits = all(side >= least and side % multiple == 0 for side in (height, width))
        return fits and height * width >= squares * multiple**2

    padded = padded_size(size, multiple, least, squares)
    assert valid(*padded)
    larger = product(range(size[0], padded[0] + 1), range(size[1], padded[1] + 1))
    assert [other for other in larger if valid(*other)] == [padded]


@settings(deadline=None)
@given(st.tuples(SIDES, SIDES), st.sampled_from([1, 2, 4, 5, 8]), st.integers(1, 20), st.sampled_from([1, 2]))
def test_nearest_size_is_accepted_and_none_is_nearer(
    size: tuple[int, int], multiple: int, least: int, squares: int
) -> None:
    def change(other: tuple[int, int]) -> int:
        return abs(other[0] - size[0]) + abs(other[1] - size[1])

    near = nearest_size(size, multiple, least, squares)
    assert can_pad(near, multiple, least, squares)
    accepted = (other for other in product(range(1, 45), repeat=2) if can_pad(other, multiple, least, squares))
    assert change(near) == min(map(change, accepted))


@pytest.mark.parametrize(
    ("preset", "size", "others", "near"),
    [
        ("v2-small", (30, 70), [], (33, 70)),
        ("v2-small", (7, 7), [], (33, 33)),
        ("v2-small", (1000, 30), [], (1000, 33)),
        ("spade-small", (10, 10), ["train.batch_size=1"], (17, 33)),
        ("spade-small", (10, 10), [], (17, 17)),
        ("cc-fpse-small", (9, 64), ["train.batch_size=1", "generator.num_upsamples=6"], (33, 65)),
        ("oasis-small", (1, 90), ["train.batch_size=1"], (9, 90)),
        ("tsit-small", (1, 4), [], (17, 33)),
        ("tsit-small", (32, 20), [], (33, 20)),
    ],
)
def test_refused_training_size_names_the_nearest(
    preset: str, size: tuple[int, int], others: list[str], near: tuple[int, int]
) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"the nearest valid size is {list(near)}")):
        load_config(preset, [*others, f"data.size={list(size)}"])
    assert load_config(preset, [*others, f"data.size={list(near)}"]).data.size == near


@pytest.mark.parametrize(("size", "near"), [((128, 128), "128x256"), ((160, 70), "256x128"), ((60, 130), "128x256")])
def test_official_v1_generator_names_the_nearest_size(size: tuple[int, int], near: str) -> None:
    network = OfficialV1Generator(2, width=1, hidden=1, norm="instance", noise_dim=1)
    assert network.stride == 128
    with pytest.raises(ConfigError, match=f"the nearest valid size is {near}"):
        network.check_size(*size)
    network.check_size(*map(int, near.split("x")))

"""Joint resize, crop and flip: consistency, reproducibility, and no new ids."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lab2pix.data.transforms import JointTransform, instance_edges, resize_nearest
from lab2pix.errors import ConfigError

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, st.integers(0, 2), st.booleans(), st.integers(0, 9))
def test_resize_never_invents_ids(
    old: tuple[int, int], new: tuple[int, int], grow: int, train: bool, seed: int
) -> None:
    label = torch.randint(0, 200, old, generator=generator(seed)) * 5
    transform = JointTransform(new, (new[0] + grow, new[1] + grow), train=train)
    result, image, instance = transform(label, None, label * 3, generator(seed))
    assert result.shape == new and result.dtype == torch.int64 and image is None
    assert set(result.unique().tolist()) <= set(label.unique().tolist())
    assert torch.equal(instance, result * 3)


def test_resize_nearest_takes_the_center_pixel() -> None:
    assert resize_nearest(torch.arange(6)[None], (1, 3)).tolist() == [[1, 3, 5]]
    assert resize_nearest(torch.arange(3)[None], (2, 6)).tolist() == [[0, 0, 1, 1, 2, 2]] * 2
    assert resize_nearest(torch.arange(5)[:, None], (3, 1)).flatten().tolist() == [0, 2, 4]


def test_transform_keeps_photo_and_label_aligned() -> None:
    label = torch.zeros(60, 60, dtype=torch.int64)
    label[10:30, 35:55] = 1
    image = (label * 255).to(torch.uint8).expand(3, -1, -1).contiguous()
    transform = JointTransform((32, 32), (40, 40))
    mirrored = set()
    for seed in range(12):
        ids, photo, _ = transform(label, image, None, generator(seed))
        assert photo is not None and photo.dtype == torch.uint8 and photo.shape == (3, 32, 32)
        agree = (photo[0] > 127) == (ids > 0)
        assert agree.float().mean() > 0.97
        mirrored.add(bool((ids[:, :16].sum() > ids[:, 16:].sum()).item()))
    assert mirrored == {True, False}


def test_random_crops_reach_every_position() -> None:
    label = torch.arange(16).view(4, 4)
    transform = JointTransform((2, 2), (4, 4), flip=False)
    corners = {int(transform(label, None, None, generator(seed))[0][0, 0]) for seed in range(200)}
    assert corners == {0, 1, 2, 4, 5, 6, 8, 9, 10}


def test_validation_transform_is_not_random() -> None:
    label = torch.arange(64).view(8, 8)
    transform = JointTransform((4, 4), (6, 6), train=False)
    results = {tuple(transform(label, None, None, generator(seed))[0].flatten().tolist()) for seed in range(8)}
    assert results == {tuple(resize_nearest(label, (4, 4)).flatten().tolist())}


def test_transform_without_flip_does_not_flip() -> None:
    label = torch.arange(16).view(4, 4)
    for seed in range(10):
        assert torch.equal(JointTransform((4, 4), flip=False)(label, None, None, generator(seed))[0], label)


def test_transform_refuses_a_resize_below_the_crop_size() -> None:
    with pytest.raises(ConfigError, match=r"data\.resize=\[256, 200\] is smaller than data\.size=\[256, 256\]"):
        JointTransform((256, 256), (256, 200))


def test_instance_edges_mark_both_sides() -> None:
    instance = torch.tensor([[1, 1, 1, 2], [1, 1, 1, 2], [1, 1, 1, 1], [1, 1, 1, 1]])
    expected = [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
    edges = instance_edges(instance)
    assert edges.shape == (1, 4, 4) and edges.dtype == torch.float32
    assert edges[0].tolist() == expected


@given(st.integers(1, 9), st.integers(1, 9))
def test_one_instance_has_no_edges(height: int, width: int) -> None:
    assert int(instance_edges(torch.full((height, width), 26001)).sum()) == 0


@pytest.mark.parametrize("shape", [(1, 2_000_000), (2_000_000, 1)])
def test_resize_takes_little_memory(shape: tuple[int, int]) -> None:
    ids = torch.arange(2_000_000).reshape(shape)
    resized = resize_nearest(ids, (20_000, 4) if shape[0] == 1 else (4, 20_000))  # the other order takes 300 GiB
    expected = torch.tensor([250_000, 750_000, 1_250_000, 1_750_000])
    assert torch.equal(resized[0] if shape[0] == 1 else resized[:, 0], expected)
    assert (resized == (resized[:1] if shape[0] == 1 else resized[:, :1])).all()

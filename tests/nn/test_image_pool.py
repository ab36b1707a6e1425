from __future__ import annotations

import torch
from torch import Tensor

from lab2pix.nn.image_pool import ImagePool


def pair(number: int) -> Tensor:
    return torch.tensor([2.0 * number, 2.0 * number + 1]).view(2, 1, 1, 1)


def test_image_pool_exchanges_where_the_first_draw_says_so() -> None:
    pool = ImagePool(2)
    draws = torch.tensor([[0.9, 0.6], [0.5, 0.0]])
    returned = [pool.query(pair(number), lambda *_: draws).flatten().int().tolist() for number in range(3)]
    assert returned == [[0, 1], [1, 3], [2, 5]]
    assert pool.state().flatten().int().tolist() == [0, 4]


def test_image_pool_without_size_returns_every_image() -> None:
    pool = ImagePool(0)
    assert torch.equal(pool.query(pair(7), torch.rand), pair(7))
    assert not pool.images


def test_image_pool_exchanges_half_of_the_images() -> None:
    pool = ImagePool(10)
    for number in range(5):
        pool.query(pair(number), torch.rand)
    offered = torch.arange(10, 4010).float().view(-1, 1, 1, 1)
    older = (pool.query(offered, torch.rand) != offered).float().mean().item()
    assert 0.46 < older < 0.54


def test_image_pool_continues_from_its_state() -> None:
    pool, other = ImagePool(3), ImagePool(3)
    empty = pool.state()
    for number in range(6):
        pool.query(pair(number), torch.rand)
    other.load_state(pool.state())
    for number in range(6, 20):
        torch.manual_seed(number)
        ours = pool.query(pair(number), torch.rand)
        torch.manual_seed(number)
        assert torch.equal(ours, other.query(pair(number), torch.rand))
    other.load_state(empty)
    assert other.images == []

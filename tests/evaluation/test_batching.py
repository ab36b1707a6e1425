import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lab2pix.evaluation.batching import map_chunks


@given(count=st.integers(0, 40), side=st.sampled_from([64, 128, 512]))
def test_map_chunks_equals_the_whole_batch(count: int, side: int) -> None:
    sizes = []

    def work(a: Tensor, b: Tensor) -> Tensor:
        sizes.append(len(a))
        return a * 2 + b

    a, b = torch.arange(count * 3.0).view(count, 3), torch.rand(count, 1)
    assert torch.equal(map_chunks(work, (side, side), torch.device("cpu"), a, b), a * 2 + b)
    assert sum(sizes) == count
    assert max(sizes) * side * side <= max(2**17, side * side)


@pytest.mark.parametrize(("device", "calls"), [("cpu", 8), ("cuda", 1)])
def test_map_chunks_splits_on_cpu_only(device: str, calls: int) -> None:
    seen = []
    map_chunks(lambda part: seen.append(len(part)) or part, (512, 512), torch.device(device), torch.zeros(8, 1))
    assert (len(seen), sum(seen)) == (calls, 8)

"""Generation on a CUDA device, where there is one."""

from __future__ import annotations

import copy

import pytest
import torch

from lab2pix.inference import Synthesizer
from tests.helpers.generators import tiny_synthesizer


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_images_on_a_gpu_are_those_on_a_cpu() -> None:
    """They are equal to 1e-5 before rounding to 8 bits, so they differ by a level at most."""
    on_cpu = tiny_synthesizer()
    on_gpu = Synthesizer(copy.deepcopy(on_cpu.generator), on_cpu.info, device="cuda")
    label = torch.arange(64 * 64).view(64, 64) % 14
    difference = on_gpu(label, seed=3).tensor.cpu().int() - on_cpu(label, seed=3).tensor.int()
    assert difference.abs().max() <= 1

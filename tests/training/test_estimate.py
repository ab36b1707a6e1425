"""Estimate of time and memory: counted operations, and memory that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lab2pix.errors import ConfigError
from lab2pix.training import estimate
from lab2pix.training.estimate import GPUS, estimate_run
from lab2pix.utils.hardware import peak_resident
from tests.helpers.methods import narrow_method

pytestmark = pytest.mark.slow


def counted(*overrides: str, gpu: str | None = "a100") -> estimate.Estimate:
    narrow = ("data.size=[64,64]", "generator.width=2", "discriminator.width=2")
    method = narrow_method("pix2pix-small", *narrow, *overrides)
    return estimate_run(method, device="cpu", gpu=gpu)


def test_operations_and_memory_grow_with_the_batch() -> None:
    one, two = (counted(f"train.batch_size={n}") for n in (2, 4))
    parts = counted("train.batch_size=4", "train.accumulate=2")
    assert two.flops == pytest.approx(2 * one.flops, rel=0.02)  # what depends on weights alone is counted once
    assert 2 * one.flops <= parts.flops < 2.5 * one.flops  # parts recompute the fake image
    assert max(one.memory, parts.memory) < two.memory
    assert one.checkpoint == two.checkpoint


def test_half_precision_needs_half_the_activations_at_the_rate_of_the_gpu() -> None:
    single, half = (counted(f"train.precision={p}") for p in ("fp32", "bf16"))
    assert single.flops == half.flops
    assert half.memory < single.memory
    assert half.where == f"a100, counted, at 30% of {GPUS['a100'].half:g} TFLOP/s"


def test_memory_is_that_of_living_tensors() -> None:
    with estimate._Counter() as counter:
        first = torch.empty(1000, device="meta")
        second = first.view(10, 100) + 1
        del first
        third = nn.functional.relu(second)
        del second, third
        assert torch.bincount(torch.zeros(9, dtype=torch.int64, device="meta")).is_meta  # its size depends on values
        torch.empty(100, device="meta")
    assert counter.peak == 8000


def test_steps_that_do_not_fit_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "available_memory", lambda device: 2**20)
    found = counted(gpu=None)
    assert found.seconds is None
    assert found.where == "cpu, which has 0.0 GiB of memory"


def test_unknown_gpu_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown GPU 'a1000'; did you mean 'a100'"):
        counted(gpu="a1000")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_peak_memory_includes_what_was_freed() -> None:
    before = peak_resident()
    torch.ones(2**26).sum()  # 256 MiB
    assert peak_resident() >= max(before, 2**28)


def test_large_batches_are_measured_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "_CPU_WORK", 1)
    found = counted("train.batch_size=4", gpu=None)
    assert found.where.endswith("random inputs, 1 of 4 samples at a time")

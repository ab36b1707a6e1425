"""Modes of inference: the plain generator, or a fused one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lab2pix.errors import ConfigError, did_you_mean
from lab2pix.methods import Sampling, example_inputs, generate_deterministic
from lab2pix.nn.fast import fuse

__all__ = ["MODES", "InferenceMode", "Mode", "choose"]

Mode = Literal["auto", "plain", "fast", "fast-bf16"]
MODES: tuple[str, ...] = get_args(Mode)
"""The modes of inference.

- `plain`: the network as it was trained.
- `fast`: a fused generator, equal to 1e-4, which caches what it computed of the latest label maps.
- `fast-bf16`: the same in bfloat16, faster on processors with bfloat16 instructions. Rounding errors accumulate and can
  change details of an image.
- `auto`: the faster one of the first two here, which is measured.
"""

_EQUAL = 1e-4
"""Largest difference of a fused generator that `auto` takes."""


@dataclass(frozen=True)
class InferenceMode:
    """A way to draw.

    Attributes:
        mode: `plain`, `fast` or `fast-bf16`.
        generator: what draws.
        seconds: per mode that was measured, the time of one picture of a label map seen for the first time.
    """

    mode: str
    generator: nn.Module
    seconds: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """Say what was chosen, and why."""
        measured = ", ".join(f"{mode} {seconds:.2f} s" for mode, seconds in self.seconds.items())
        return f"{self.mode}" + (f" (one picture: {measured})" if measured else "")


def choose(generator: nn.Module, sampling: Sampling, size: tuple[int, int], optimize: str = "auto") -> InferenceMode:
    """Choose how to sample.

    `auto` makes one image each way, and takes the fused generator where it is faster and equal to 1e-4. `fast-bf16` is
    taken only where it is asked for.

    Args:
        generator: in evaluation mode, on its device.
        sampling: how its images are made.
        size: height and width to measure at.
        optimize: one of `MODES`.

    Raises:
        ConfigError: no such mode, or a generator that cannot be fused in a mode that is forced.
    """
    if optimize not in MODES:
        raise ConfigError(f"there is no way to draw called '{optimize}'{did_you_mean(optimize, MODES)}")
    if optimize == "plain":
        return InferenceMode("plain", generator)
    if optimize != "auto":
        dtype = torch.bfloat16 if optimize == "fast-bf16" else torch.float32
        return InferenceMode(optimize, fuse(generator, dtype=dtype))
    try:
        return _measured(generator, fuse(generator), sampling, size)
    except (ConfigError, NotImplementedError, RuntimeError):  # an architecture or a device that is not supported
        return InferenceMode("plain", generator)


def _measured(plain: nn.Module, fused: nn.Module, sampling: Sampling, size: tuple[int, int]) -> InferenceMode:
    device = next(plain.parameters()).device
    batch, noise = example_inputs(sampling, size)
    batch, noise = batch.to(device), None if noise is None else noise.to(device)
    seconds, images = {}, {}
    for mode, network in (("plain", plain), ("fast", fused)):

        def draw(network: nn.Module = network) -> list[Tensor]:
            return generate_deterministic(network, sampling, batch, noise)

        seconds[mode], images[mode] = _timed(draw, device)
    difference = _difference(images["plain"], images["fast"])
    # Pixels that are not finite are for the plain generator to tell of.
    fast = difference <= _EQUAL and seconds["fast"] < seconds["plain"]
    return InferenceMode("fast", fused, seconds) if fast else InferenceMode("plain", plain, seconds)


def _difference(images: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    return max(float((one - other).abs().max()) for one, other in zip(images, others, strict=True))


def _timed(draw: Callable[[], list[Tensor]], device: torch.device) -> tuple[float, list[Tensor]]:
    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    if device.type != "cpu":  # the first time there is for kernels to be loaded
        draw()
    start = now()
    images = draw()
    return now() - start, images

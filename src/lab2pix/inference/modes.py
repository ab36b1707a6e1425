"""Inference modes: the plain or the fused generator, by choice or by measurement."""

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

Mode = Literal["auto", "plain", "fast", "fast-bf16"]
MODES: tuple[str, ...] = get_args(Mode)
"""Inference modes.

- `plain`: the network as it was trained.
- `fast`: a fused generator, equal to 1e-4, which caches the features of recent label maps.
- `fast-bf16`: the same in bfloat16, faster on CPUs with bfloat16 instructions. Rounding errors accumulate and can
  change details of an image.
- `auto`: `plain` or `fast`, whichever is measured to be faster.
"""

_EQUAL = 1e-4
"""Largest difference from the plain generator that `auto` accepts."""


@dataclass(frozen=True)
class InferenceMode:
    """Chosen inference mode with its generator.

    Attributes:
        mode: `plain`, `fast` or `fast-bf16`.
        generator: the network to sample with.
        seconds: per measured mode, the time of one image of a new label map.
    """

    mode: str
    generator: nn.Module
    seconds: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the mode and the measured times."""
        measured = ", ".join(f"{mode} {seconds:.2f} s" for mode, seconds in self.seconds.items())
        return f"{self.mode}" + (f" (one image: {measured})" if measured else "")


def choose(generator: nn.Module, sampling: Sampling, size: tuple[int, int], optimize: str = "auto") -> InferenceMode:
    """Choose the inference mode.

    `auto` generates one image in each mode, and selects the fused generator if it is faster and equal to 1e-4; it never
    selects `fast-bf16`.

    Raises:
        ConfigError: unknown mode, or a fast mode for a generator that cannot be fused.
    """
    if optimize not in MODES:
        raise ConfigError(f"there is no inference mode '{optimize}'{did_you_mean(optimize, MODES)}")
    if optimize == "plain":
        return InferenceMode("plain", generator)
    if optimize != "auto":
        dtype = torch.bfloat16 if optimize == "fast-bf16" else torch.float32
        return InferenceMode(optimize, fuse(generator, dtype=dtype))
    try:
        return _measured(generator, fuse(generator), sampling, size)
    except (ConfigError, NotImplementedError, RuntimeError):  # unsupported architecture or device
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
    # NaN compares false, so the plain generator reports pixels that are not finite.
    fast = difference <= _EQUAL and seconds["fast"] < seconds["plain"]
    return InferenceMode("fast", fused, seconds) if fast else InferenceMode("plain", plain, seconds)


def _difference(images: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    return max(float((one - other).abs().max()) for one, other in zip(images, others, strict=True))


def _timed(draw: Callable[[], list[Tensor]], device: torch.device) -> tuple[float, list[Tensor]]:
    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    if device.type != "cpu":  # warm-up: loads kernels
        draw()
    start = now()
    images = draw()
    return now() - start, images

"""Which way a synthesizer draws: through the networks as they are written, or through a prepared generator."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config import Config
from lab2pix.errors import ConfigError, did_you_mean
from lab2pix.labels import LabelSpace
from lab2pix.methods import draw_exactly
from lab2pix.nn.prepared import prepare

__all__ = ["MODES", "Chosen", "Mode", "choose"]

Mode = Literal["auto", "plain", "fast", "fast-bf16"]
MODES: tuple[str, ...] = get_args(Mode)
"""The ways to draw.

- `plain`: through the network as it is written.
- `fast`: through a prepared generator, equal to 1e-4, which keeps what it made of the latest label maps.
- `fast-bf16`: the same in bfloat16: faster where the processor has it, equal to about 1e-2 only.
- `auto`: whichever of the first two draws a picture sooner here, which is tried.
"""

_EQUAL = 1e-4
"""The most that a prepared generator may differ by, to be chosen by itself."""


@dataclass(frozen=True)
class Chosen:
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


def choose(generator: nn.Module, config: Config, label_space: LabelSpace, optimize: str = "auto") -> Chosen:
    """Choose how to draw.

    `auto` draws one picture of the run's size each way, and takes the prepared generator where it is faster and equal
    to 1e-4; bfloat16, which is rougher, is taken only where it is asked for.

    Args:
        generator: in evaluation mode, on its device.
        config: the run it is of.
        label_space: what the class ids mean.
        optimize: one of `MODES`.

    Raises:
        ConfigError: no such mode, or a generator of a kind that cannot be prepared in a mode that is forced.
    """
    if optimize not in MODES:
        raise ConfigError(f"there is no way to draw called '{optimize}'{did_you_mean(optimize, MODES)}")
    if optimize == "plain":
        return Chosen("plain", generator)
    if optimize != "auto":
        dtype = torch.bfloat16 if optimize == "fast-bf16" else torch.float32
        return Chosen(optimize, prepare(generator, dtype=dtype))
    try:
        prepared = prepare(generator)
        return _measured(generator, prepared, config, label_space)
    except (ConfigError, NotImplementedError, RuntimeError):  # a kind, or a device, that nothing is prepared for
        return Chosen("plain", generator)


def _measured(plain: nn.Module, prepared: nn.Module, config: Config, label_space: LabelSpace) -> Chosen:
    device = next(plain.parameters()).device
    batch, noise = _example(config, label_space)
    batch, noise = batch.to(device), noise.to(device)
    seconds, images = {}, {}
    for mode, network in (("plain", plain), ("fast", prepared)):

        def draw(network: nn.Module = network) -> list[Tensor]:
            return draw_exactly(network, config, label_space, batch, noise)

        seconds[mode], images[mode] = _timed(draw, device)
    difference = max(
        float((one - other).abs().max()) for one, other in zip(images["plain"], images["fast"], strict=True)
    )
    # Pixels that are not finite are for the plain generator to tell of.
    fast = difference <= _EQUAL and seconds["fast"] < seconds["plain"]
    return Chosen("fast", prepared, seconds) if fast else Chosen("plain", plain, seconds)


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


def _example(config: Config, label_space: LabelSpace) -> tuple[Batch, Tensor]:
    """Return a label map of the run's size whose regions are shaped about as in real ones, and noise."""
    random = torch.Generator().manual_seed(0)
    height, width = config.data.size
    coarse = (max(2, height // 32), max(2, width // 32))
    heights = torch.rand(1, label_space.num_channels, *coarse, generator=random)
    ids = F.interpolate(heights, size=(height, width), mode="bilinear", align_corners=False).argmax(1)
    if config.generator.encoder == "sketch":
        ids = (ids != ids.roll(1, -1)).long()
    edges = (ids != ids.roll(1, -1)).float().unsqueeze(1)
    return Batch(label=ids, edges=edges), torch.randn(1, config.generator.noise_dim, generator=random)

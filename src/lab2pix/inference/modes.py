"""Which way a synthesizer draws: through the networks as they are written, or through a prepared generator."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config.schema import Config
from lab2pix.errors import ConfigError, did_you_mean
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import generate_deterministic
from lab2pix.nn.prepared import PreparedGenerator, prepare

__all__ = ["MODES", "InferenceMode", "Mode", "choose"]

Mode = Literal["auto", "plain", "fast", "fast-bf16"]
MODES: tuple[str, ...] = get_args(Mode)
"""The ways to draw.

- `plain`: through the network as it is written.
- `fast`: through a prepared generator, equal to 1e-4, which keeps what it made of the latest label maps.
- `fast-bf16`: the same in bfloat16, faster where the processor has it; equal to 3e-2, for which as many of the first
  blocks stay in float32, or all, as made label maps show to be needed.
- `auto`: whichever of the first two draws a picture sooner here, which is tried.
"""

_EQUAL = 1e-4
"""The most that a prepared generator may differ by, to be chosen by itself."""
_NEARLY_EQUAL = 3e-2
"""The most that one in bfloat16 may differ by; half of it on the examples, as other label maps may turn out worse."""
_SHAPED, _ALONE = 3, 16
"""How many examples have regions as real label maps do, and the most that have a single class: those stray farthest."""


@dataclass(frozen=True)
class InferenceMode:
    """A way to draw.

    Attributes:
        mode: `plain`, `fast` or `fast-bf16`.
        generator: what draws.
        seconds: per mode that was measured, the time of one picture of a label map seen for the first time.
        in_float32: how many blocks, from the first, `fast-bf16` leaves in float32 so as to draw nearly the same; where
            all are and not even that is enough, so is everything else.
    """

    mode: str
    generator: nn.Module
    seconds: dict[str, float] = field(default_factory=dict)
    in_float32: int = 0

    def __str__(self) -> str:
        """Say what was chosen, and why."""
        if self.in_float32:
            return f"{self.mode} ({self.in_float32} blocks in float32)"
        measured = ", ".join(f"{mode} {seconds:.2f} s" for mode, seconds in self.seconds.items())
        return f"{self.mode}" + (f" (one picture: {measured})" if measured else "")


def choose(generator: nn.Module, config: Config, label_space: LabelSpace, optimize: str = "auto") -> InferenceMode:
    """Choose how to draw.

    `auto` draws one picture of the run's size each way, and takes the prepared generator where it is faster and equal
    to 1e-4. `fast-bf16` is taken only where it is asked for; it leaves as many of the first blocks in float32 as it
    takes for made label maps, some of a single class, to come out within half of 3e-2.

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
        return InferenceMode("plain", generator)
    if optimize == "fast":
        return InferenceMode(optimize, prepare(generator))
    if optimize == "fast-bf16":
        return _nearly_equal(generator, config, label_space)
    try:
        prepared = prepare(generator)
        return _measured(generator, prepared, config, label_space)
    except (ConfigError, NotImplementedError, RuntimeError):  # a kind, or a device, that nothing is prepared for
        return InferenceMode("plain", generator)


def _measured(plain: nn.Module, prepared: nn.Module, config: Config, label_space: LabelSpace) -> InferenceMode:
    device = next(plain.parameters()).device
    batch, noise = _example(config, label_space, device)
    seconds, images = {}, {}
    for mode, network in (("plain", plain), ("fast", prepared)):

        def draw(network: nn.Module = network) -> list[Tensor]:
            return generate_deterministic(network, config, label_space, batch, noise)

        seconds[mode], images[mode] = _timed(draw, device)
    difference = _difference(images["plain"], images["fast"])
    # Pixels that are not finite are for the plain generator to tell of.
    fast = difference <= _EQUAL and seconds["fast"] < seconds["plain"]
    return InferenceMode("fast", prepared, seconds) if fast else InferenceMode("plain", plain, seconds)


def _nearly_equal(plain: nn.Module, config: Config, label_space: LabelSpace) -> InferenceMode:
    """Prepare in bfloat16, with as few of the first blocks in float32 as draw nearly the same.

    The first ones, as what they round off is carried on by all others.
    """
    rough, exact = prepare(plain, dtype=torch.bfloat16), prepare(plain)
    device = next(plain.parameters()).device
    examples = _examples(config, label_space, device)

    def draw(network: PreparedGenerator, example: tuple[Batch, Tensor]) -> list[Tensor]:
        images = generate_deterministic(network, config, label_space, *example)
        network.forget()
        return images

    drawn = [(example, draw(exact, example)) for example in examples]

    def enough(in_float32: int) -> bool:
        rough.compute_as(exact, range(in_float32))
        for place, (example, images) in enumerate(drawn):
            if _difference(images, draw(rough, example)) > _NEARLY_EQUAL / 2:
                drawn.insert(0, drawn.pop(place))  # the next number of blocks has to pass this one first
                return False
        return True

    blocks = len(rough.blocks)
    fewest = 0 if enough(0) else bisect_left(range(blocks + 1), True, lo=1, key=enough)
    if fewest > blocks:  # even what is left in bfloat16 differs by too much
        return InferenceMode("fast-bf16", exact, in_float32=blocks)
    rough.compute_as(exact, range(fewest))
    return InferenceMode("fast-bf16", rough, in_float32=fewest)


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


def _examples(config: Config, label_space: LabelSpace, device: torch.device) -> list[tuple[Batch, Tensor]]:
    """Return label maps of regions, and of classes alone, evenly chosen where there are many; with noise."""
    shaped = [_example(config, label_space, device, seed) for seed in range(_SHAPED)]
    classes = 1 if config.generator.encoder == "sketch" else label_space.num_classes  # a sketch alone is an empty one
    alone = []
    for place in range(min(classes, _ALONE)):
        batch, noise = shaped[place % _SHAPED]
        label = torch.full_like(batch.label, place * classes // min(classes, _ALONE))
        edges = None if batch.edges is None else torch.zeros_like(batch.edges)
        alone.append((Batch(label=label, edges=edges), noise))
    return shaped + alone


def _example(config: Config, label_space: LabelSpace, device: torch.device, seed: int = 0) -> tuple[Batch, Tensor]:
    """Return a label map of the run's size whose regions are shaped about as in real ones, and noise."""
    random = torch.Generator().manual_seed(seed)
    height, width = config.data.size
    coarse = (max(2, height // 32), max(2, width // 32))
    heights = torch.rand(1, label_space.num_channels, *coarse, generator=random)
    ids = F.interpolate(heights, size=(height, width), mode="bilinear", align_corners=False).argmax(1)
    if config.generator.encoder == "sketch":
        ids = (ids != ids.roll(1, -1)).long()
    edges = (ids != ids.roll(1, -1)).float().unsqueeze(1)
    noise = torch.randn(1, config.generator.noise_dim, generator=random)
    return Batch(label=ids, edges=edges).to(device), noise.to(device)

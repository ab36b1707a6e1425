"""What every method offers the training loop: networks, and what each player minimises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config.schema import Config
from lab2pix.labels.space import LabelSpace

__all__ = ["PRECISIONS", "Losses", "Method", "StepContext"]

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What passes compute in, by the name that `train.precision` has for it."""

Losses = dict[str, Tensor]
"""Named loss terms of one player, weighted as they enter its sum; detached scalars on the training device."""


@dataclass(frozen=True)
class StepContext:
    """How the loop wants forward and backward passes run; the plain default is float32 on one process.

    Attributes:
        autocast: opens a context for forward passes in the chosen precision.
        scale: multiplies a loss before its backward pass (gradient accumulation, fp16 loss scaling).
        progress: how much of the run is behind this step, from 0 at the first to 1 at the last.
    """

    autocast: Callable[[], AbstractContextManager[Any]] = field(default=nullcontext)
    scale: Callable[[Tensor], Tensor] = field(default=lambda loss: loss)
    progress: float = 0.0


class Method(ABC):
    """A generator, its opponents and their losses.

    A training step is, per optimiser step: `generator_backward` for each part of the batch, the generator's optimiser;
    `discriminator_backward` with what each part handed over, the discriminators' optimiser. The wrapped networks that
    the loop passes in (bare, or inside DistributedDataParallel) are the ones whose gradients are filled.
    """

    name: ClassVar[str]

    def __init__(self, config: Config, label_space: LabelSpace, *, pretrained: bool = True) -> None:
        del pretrained  # for the methods that have backbones; false leaves those at random weights
        self.config = config
        self.label_space = label_space
        self.generator: nn.Module
        self.discriminator: nn.Module

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """The networks that learn, by name."""
        return {"generator": self.generator, "discriminator": self.discriminator}

    @property
    def compile_targets(self) -> Sequence[nn.Module]:
        """The networks that the passes of a step call, each a program of its own where the run is compiled."""
        return [self.generator, self.discriminator]

    @abstractmethod
    def to(self, device: torch.device, memory_format: torch.memory_format = torch.preserve_format) -> None:
        """Move players and frozen backbones to a device."""

    @abstractmethod
    def generator_backward(
        self, generator: nn.Module, batch: Batch, noise: Tensor, engine: StepContext
    ) -> tuple[Any, Losses]:
        """Fill the generator's gradients for one part of a batch.

        Returns:
            What `discriminator_backward` needs of this pass (generated images, features), and the loss terms.
        """

    @abstractmethod
    def discriminator_backward(self, discriminator: nn.Module, carry: Any, engine: StepContext) -> Losses:
        """Fill the discriminators' gradients for the part of a batch that `carry` came from."""

    @property
    @abstractmethod
    def score_names(self) -> tuple[str, ...]:
        """What `validation_scores` will return."""

    @abstractmethod
    def validation_scores(self, batch: Batch, generated: Tensor) -> dict[str, Tensor]:
        """Return scores (mean over the batch) of images generated from held-out label maps; lower is better."""

"""Stateless sampling of training data and noise, as functions of seed and step only.

A run reads an infinite stream of samples: the concatenated permutations of epochs 0, 1, 2, ... Step k takes the k-th
`batch_size` of them, independent of the number of workers and of interruptions.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from lab2pix.errors import ConfigError
from lab2pix.utils.seeding import stable_seed


def draw_noise(seed: int, step: int, rank: int, count: int, shape: tuple[int, ...]) -> Tensor:
    """Sample z ~ N(0, I), `[count, *shape]` float32 (Eq. 21), for the share of one process in the batch of a step."""
    generator = torch.Generator().manual_seed(stable_seed("noise", seed, step, rank))
    return torch.randn(count, *shape, generator=generator)


class StreamSampler(Sampler[list[tuple[int, int]]]):
    """Distributed batch sampler over the stream; yields a list of `(epoch, index)` per micro-batch.

    `batch_size` counts over all processes and micro-batches, `accumulate` is the number of micro-batches per process.
    With `weights`, `[length]`, an epoch has as many independent samples in proportion to them, not a permutation.

    Raises:
        ConfigError: the batch cannot be split evenly over processes and micro-batches.
    """

    def __init__(
        self,
        length: int,
        *,
        seed: int,
        batch_size: int,
        steps: range,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
        weights: Tensor | None = None,
    ) -> None:
        parts = world_size * accumulate
        if batch_size % parts:
            raise ConfigError(
                f"train.batch_size={batch_size} cannot be split evenly over {world_size} process(es) times "
                f"train.accumulate={accumulate}; choose a multiple of {parts}, such as "
                f"{(batch_size // parts + 1) * parts}"
            )
        self.length = length
        self.seed = seed
        self.batch_size = batch_size
        self.steps = steps
        self.accumulate = accumulate
        self.rank = rank
        self.world_size = world_size
        self.weights = weights
        self._permutations: dict[int, list[int]] = {}

    @property
    def part_size(self) -> int:
        """Samples per micro-batch."""
        return self.batch_size // (self.world_size * self.accumulate)

    def __len__(self) -> int:
        """Return the number of micro-batches of this process."""
        return len(self.steps) * self.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the micro-batches, `accumulate` per step."""
        for step in self.steps:
            first = step * self.batch_size + self.rank * self.part_size * self.accumulate
            for part in range(self.accumulate):
                start = first + part * self.part_size
                yield [self.sample(position) for position in range(start, start + self.part_size)]

    def sample(self, position: int) -> tuple[int, int]:
        """Return the `(epoch, index)` at a position of the stream."""
        epoch, offset = divmod(position, self.length)
        if epoch not in self._permutations:
            generator = torch.Generator().manual_seed(stable_seed("order", self.seed, epoch))
            # The previous epoch is kept, because a batch can span two epochs.
            self._permutations = {e: p for e, p in self._permutations.items() if e == epoch - 1}
            if self.weights is None:
                order = torch.randperm(self.length, generator=generator)
            else:
                order = torch.multinomial(self.weights, self.length, replacement=True, generator=generator)
            self._permutations[epoch] = order.tolist()
        return epoch, self._permutations[epoch][offset]

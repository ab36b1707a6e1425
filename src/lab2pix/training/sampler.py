"""Stateless sampling of training data and noise, as functions of seed and step only.

A run reads an infinite stream of samples: the concatenated permutations of epochs 0, 1, 2, ... Step k takes the k-th
`batch_size` of them, independent of the number of processes and workers and of interruptions. The position in the
stream stands for epoch and place in the epoch, and seeds the random numbers of a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from lab2pix.errors import ConfigError
from lab2pix.methods import RandomSource
from lab2pix.utils.seeding import stable_seed


def draw_noise(seed: int, positions: range, shape: tuple[int, ...]) -> Tensor:
    """Sample z ~ N(0, I), `[len(positions), *shape]` float32 (Eq. 21), for the samples at positions of the stream."""
    generators = [torch.Generator().manual_seed(stable_seed("noise", seed, position)) for position in positions]
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


class SampleRandom(RandomSource):
    """Random source whose numbers depend on the seed and, per sample, on its position in the stream.

    Args:
        seed: seed of the run.
        step: step of the run, which seeds what all samples share.
        positions: positions of the samples.
        device: device of the numbers, which differ between kinds of devices.

    Raises:
        ValueError: `normal` or `uniform` is asked for another number of rows than there are samples.
    """

    def __init__(self, seed: int, step: int, positions: range, device: torch.device) -> None:
        super().__init__(device)
        self.seed, self.step, self.positions = seed, step, positions
        self._samples = [self._generator("sample", position) for position in positions]
        self._shared = self._generator("shared", step)

    def of_samples(self, start: int, stop: int) -> SampleRandom:
        """Return the source of the samples `start` to `stop - 1`."""
        return SampleRandom(self.seed, self.step, self.positions[start:stop], self.device)

    def normal(self, count: int, *shape: int) -> Tensor:
        """See `RandomSource.normal`."""
        return self._rows(torch.randn, count, shape)

    def uniform(self, count: int, *shape: int) -> Tensor:
        """See `RandomSource.uniform`."""
        return self._rows(torch.rand, count, shape)

    def shared_uniform(self, count: int) -> Tensor:
        """See `RandomSource.shared_uniform`."""
        return torch.rand(count, generator=self._shared, device=self.device)

    def permutation(self, count: int) -> Tensor:
        """See `RandomSource.permutation`."""
        return torch.randperm(count, generator=self._shared, device=self.device)

    def _generator(self, *key: object) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(stable_seed("step", self.seed, *key))

    def _rows(self, draw: Callable[..., Tensor], count: int, shape: tuple[int, ...]) -> Tensor:
        if count != len(self._samples):
            raise ValueError(
                f"{count} random rows for {len(self._samples)} samples; draw what they share with shared_uniform"
            )
        return torch.stack([draw(shape, generator=generator, device=self.device) for generator in self._samples])


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

    def positions(self, step: int) -> range:
        """Return the positions of a step's samples in the stream, those of this process."""
        share = self.part_size * self.accumulate
        start = step * self.batch_size + self.rank * share
        return range(start, start + share)

    def __len__(self) -> int:
        """Return the number of micro-batches of this process."""
        return len(self.steps) * self.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the micro-batches, `accumulate` per step."""
        for step in self.steps:
            samples = [self.sample(position) for position in self.positions(step)]
            for start in range(0, len(samples), self.part_size):
                yield samples[start : start + self.part_size]

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

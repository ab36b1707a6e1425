"""Learning-rate schedules: factors of a learning rate as functions of where in the run a step is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Progress", "constant", "epoch_decay", "linear_decay"]


@dataclass(frozen=True)
class Progress:
    """Where in the run a step is.

    Attributes:
        step: optimizer steps made before this one.
        total: steps of the whole run.
        samples: size of the training set.
        batch_size: samples per step, over all processes and micro-batches.
    """

    step: int = 0
    total: int = 1
    samples: int = 1
    batch_size: int = 1

    @property
    def fraction(self) -> float:
        """0 at the first step, 1 at the last."""
        return self.step / max(1, self.total - 1)

    @property
    def epoch(self) -> int:
        """Complete passes over the training set before this step."""
        return self.step * self.batch_size // self.samples

    @property
    def epochs(self) -> int:
        """Passes over the training set that the whole run makes, the last of them perhaps in part."""
        return -(-self.total * self.batch_size // self.samples)

    @property
    def step_in_epoch(self) -> int:
        """Steps of this epoch before this one."""
        return self.step - -(-self.epoch * self.samples // self.batch_size)


def constant(progress: Progress) -> float:
    """Return 1: the learning rate does not change."""
    return 1.0


def linear_decay(fraction: float) -> Callable[[Progress], float]:
    """Return a schedule: 1, then linearly to 0 (5.2).

    Args:
        fraction: last part of the run in which the factor falls; it would reach 0 one step after the last.
    """

    def schedule(progress: Progress) -> float:
        start = progress.total - round(progress.total * fraction)
        if progress.step < start or progress.total <= start:
            return 1.0
        return (progress.total - progress.step) / (progress.total - start)

    return schedule


def epoch_decay(fraction: float, *, reach_zero: bool = False) -> Callable[[Progress], float]:
    """Return a schedule: 1, then down by the same amount after each epoch, as Pix2Pix and CycleGAN train.

    Args:
        fraction: last part of the epochs in which the factor falls.
        reach_zero: fall one epoch earlier, so that the last epoch trains at rate 0, as the authors' code does up to
            2023; without it the last of n falling epochs trains at 1 / (n + 1), as since 2025.
    """

    def schedule(progress: Progress) -> float:
        falling = round(progress.epochs * fraction)
        fallen = progress.epoch + 1 + reach_zero - (progress.epochs - falling)
        return 1 - min(max(0, fallen), falling + 1) / (falling + 1) if falling else 1.0

    return schedule

"""Learning-rate schedules: functions from training progress to a factor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Position of a step in the run.

    Attributes:
        step: index of the step, from 0.
        total: number of steps in the run.
        samples: size of the training set.
        batch_size: samples per step, over all processes and micro-batches.
    """

    step: int = 0
    total: int = 1
    samples: int = 1
    batch_size: int = 1

    @property
    def fraction(self) -> float:
        """Progress from 0 (first step) to 1 (last step)."""
        return self.step / max(1, self.total - 1)

    @property
    def epoch(self) -> int:
        """Complete passes over the training set before this step."""
        return self.step * self.batch_size // self.samples

    @property
    def epochs(self) -> int:
        """Number of epochs in the run, including a partial last one."""
        return -(-self.total * self.batch_size // self.samples)

    @property
    def step_in_epoch(self) -> int:
        """Index of the step in its epoch, from 0."""
        return self.step - -(-self.epoch * self.samples // self.batch_size)


def constant(progress: Progress) -> float:
    """Constant schedule: always 1."""
    return 1.0


def linear_decay(fraction: float) -> Callable[[Progress], float]:
    """Return a schedule that is 1, then decays linearly to 0 (5.2).

    Args:
        fraction: final fraction of the run in which the factor decays; it would reach 0 one step after the last.
    """

    def schedule(progress: Progress) -> float:
        start = progress.total - round(progress.total * fraction)
        if progress.step < start or progress.total <= start:
            return 1.0
        return (progress.total - progress.step) / (progress.total - start)

    return schedule


def epoch_decay(fraction: float, *, reach_zero: bool = False) -> Callable[[Progress], float]:
    """Return a schedule that is 1, then decays linearly per epoch, as in Pix2Pix and CycleGAN.

    It is below 1 from the first decaying epoch on; `late_epoch_decay` is still 1 there.

    Args:
        fraction: final fraction of the epochs in which the factor decays.
        reach_zero: start one epoch earlier, so that the factor is 0 in the last epoch, as in the authors' code up to
            2023; otherwise it is 1 / (n + 1) in the last of n decaying epochs, as since 2025.
    """

    def schedule(progress: Progress) -> float:
        falling = round(progress.epochs * fraction)
        fallen = progress.epoch + 1 + reach_zero - (progress.epochs - falling)
        return 1 - min(max(0, fallen), falling + 1) / (falling + 1) if falling else 1.0

    return schedule


def step_decay(interval: int, factor: float = 0.5) -> Callable[[Progress], float]:
    """Return a schedule that multiplies by `factor` every `interval` steps, first in step `interval - 1` (from 0)."""
    return lambda progress: factor ** ((progress.step + 1) // interval)


def late_epoch_decay(fraction: float) -> Callable[[Progress], float]:
    """Return a schedule that is 1, then decays linearly per epoch, as in Pix2PixHD, SPADE, CC-FPSE and TSIT.

    It decays one epoch later than `epoch_decay`.

    Args:
        fraction: final fraction of the epochs in which the factor decays: 1 in the first of n such epochs, 1 / n in the
            last one.
    """

    def schedule(progress: Progress) -> float:
        falling = round(progress.epochs * fraction)
        fallen = progress.epoch - (progress.epochs - falling)
        return 1 - min(max(0, fallen), falling) / falling if falling else 1.0

    return schedule

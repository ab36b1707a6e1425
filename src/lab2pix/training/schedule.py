"""How many steps a run has and how its learning rates fall, as functions of the step alone."""

from __future__ import annotations

import math

from lab2pix.config.schema import TrainConfig
from lab2pix.errors import ConfigError

__all__ = ["learning_rate_factor", "total_steps"]


def total_steps(train: TrainConfig, samples: int) -> int:
    """Return the number of optimiser steps of a whole run over a training set of so many samples.

    Raises:
        ConfigError: both or neither of `train.steps` and `train.epochs` are given.
    """
    if train.steps is not None and train.epochs is not None:
        raise ConfigError("train.steps and train.epochs are both set; set one of them and the other to null")
    if train.steps is not None:
        return train.steps
    if train.epochs is None:
        raise ConfigError("neither train.steps nor train.epochs is set; set one of them to say how long to train")
    return math.ceil(train.epochs * samples / train.batch_size)


def learning_rate_factor(step: int, total: int, decay_fraction: float) -> float:
    """Return what the learning rates are multiplied by at a step: 1, then linearly to 0 (5.2).

    Args:
        step: steps already made, 0 to `total - 1`.
        total: steps of the whole run.
        decay_fraction: last part of the run in which the factor falls; it would reach 0 at step `total`.
    """
    start = total - round(total * decay_fraction)
    if step < start:
        return 1.0
    return (total - step) / (total - start) if total > start else 1.0

"""Number of steps of a run."""

from __future__ import annotations

import math

from lab2pix.config.schema import TrainConfig
from lab2pix.errors import ConfigError


def total_steps(train: TrainConfig, samples: int) -> int:
    """Return the number of optimizer steps of a complete run with the given number of training samples.

    Raises:
        ConfigError: both or neither of `train.steps` and `train.epochs` are set.
    """
    if train.steps is not None and train.epochs is not None:
        raise ConfigError("train.steps and train.epochs are both set; set one of them and the other to null")
    if train.steps is not None:
        return train.steps
    if train.epochs is None:
        raise ConfigError("neither train.steps nor train.epochs is set; set one of them")
    return math.ceil(train.epochs * samples / train.batch_size)

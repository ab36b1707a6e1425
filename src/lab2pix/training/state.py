"""Everything that one step changes: what a checkpoint must hold for the next step to be the same."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Adam, Optimizer

from lab2pix.config.schema import Config
from lab2pix.methods import Method
from lab2pix.training.ema import ModelEma

__all__ = ["Best", "TrainingState", "build_state", "set_learning_rates"]


@dataclass(frozen=True)
class Best:
    """The best value of the chosen score so far: the lowest, or of some of the evaluator's scores the highest."""

    score: str
    value: float
    step: int


@dataclass
class TrainingState:
    """The players, their optimisers and the counters.

    Attributes:
        method: holds the players.
        optimizers: one per player.
        scaler: loss scaling of fp16; does nothing otherwise.
        average: the generator's moving average, where it is on.
        step: optimiser steps made.
        seconds: time spent on them, over all sessions.
        best: the best score so far, where `checkpoint.best` asks for one.
    """

    method: Method
    optimizers: dict[str, Optimizer]
    scaler: torch.amp.GradScaler
    average: ModelEma | None
    step: int = 0
    seconds: float = 0.0
    best: Best | None = None

    @property
    def sampling_generator(self) -> nn.Module:
        """The generator to draw with: the average where there is one."""
        return self.method.generator if self.average is None else self.average.network


def _rates(config: Config) -> dict[str, float]:
    return {"generator": config.optimizer.generator_lr, "discriminator": config.optimizer.discriminator_lr}


def _adam(network: nn.Module, lr: float, betas: tuple[float, float], device: torch.device) -> Optimizer:
    # One kernel for all parameters, where the device has it; elsewhere PyTorch's own choice.
    fused = True if device.type in ("cpu", "cuda") else None
    return Adam(network.parameters(), lr=lr, betas=betas, fused=fused)


def build_state(method: Method, config: Config, device: torch.device) -> TrainingState:
    """Return the state before the first step; the method is on its device already."""
    rates, betas = _rates(config), config.optimizer.betas
    decay = config.train.ema_decay
    return TrainingState(
        method=method,
        optimizers={name: _adam(player, rates[name], betas, device) for name, player in method.networks.items()},
        scaler=torch.amp.GradScaler(device.type, enabled=config.train.precision == "fp16"),
        average=None if decay is None else ModelEma(method.generator, decay),
    )


def set_learning_rates(state: TrainingState, factor: float) -> None:
    """Let every optimiser use its configured learning rate times the factor in the next step."""
    rates = _rates(state.method.config)
    for name, player in state.optimizers.items():
        for group in player.param_groups:
            group["lr"] = rates[name] * factor

"""Everything that one step changes: what a checkpoint must hold for the next step to be the same."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from lab2pix.batch import Batch
from lab2pix.methods import Method, OptimizerSpec, Progress
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
    """Networks, optimizers, averages and counters.

    Attributes:
        method: holds the networks.
        optimizers: by name.
        scaler: loss scaling of fp16; does nothing otherwise.
        averages: moving averages of networks, by name; empty where `train.ema_decay` is null.
        step: optimizer steps made.
        seconds: time spent on them, over all sessions.
        best: the best score so far, where `checkpoint.best` asks for one.
        refresh_batches: returns the training batches that `Method.refresh` is given, with their noise.
    """

    method: Method
    optimizers: dict[str, Optimizer]
    scaler: torch.amp.GradScaler
    averages: dict[str, ModelEma]
    step: int = 0
    seconds: float = 0.0
    best: Best | None = None
    refresh_batches: Callable[[], Iterable[tuple[Batch, Tensor | None]]] = tuple
    _refreshed: tuple[int, nn.Module] | None = None

    @property
    def sampling_networks(self) -> Mapping[str, nn.Module]:
        """The networks to sample with: averages where there are any."""
        return {**self.method.networks, **{name: average.network for name, average in self.averages.items()}}

    @property
    def sampling_generator(self) -> nn.Module:
        """What is scored and saved: a method that estimates statistics again does so on a copy, once per step."""
        generator = self.method.sampling_generator(self.sampling_networks)
        if not self.method.refresh_batches:
            return generator
        if self._refreshed is None or self._refreshed[0] != self.step:
            generator = copy.deepcopy(generator)
            self.method.refresh(generator, self.refresh_batches())
            self._refreshed = self.step, generator.eval().requires_grad_(False)
        return self._refreshed[1]


def _parameters(method: Method, spec: OptimizerSpec) -> list[nn.Parameter]:
    named = (item for name in spec.networks for item in method.networks[name].named_parameters())
    return [parameter for name, parameter in named if parameter.requires_grad and re.match(spec.pattern, name)]


def _adam(method: Method, spec: OptimizerSpec, device: torch.device) -> Optimizer:
    # One kernel for all parameters, where the device has it; elsewhere PyTorch's own choice.
    fused = True if device.type in ("cpu", "cuda") else None
    parameters = _parameters(method, spec)
    return Adam(parameters, lr=spec.lr, betas=spec.betas, weight_decay=spec.weight_decay, fused=fused)


def build_state(method: Method, device: torch.device) -> TrainingState:
    """Return the state before the first step; the method is on its device already."""
    config, decay = method.config, method.config.train.ema_decay
    averaged = {} if decay is None else method.averaged
    return TrainingState(
        method=method,
        optimizers={name: _adam(method, spec, device) for name, spec in method.optimizers.items()},
        scaler=torch.amp.GradScaler(device.type, enabled=config.train.precision == "fp16"),
        averages={name: ModelEma(method.networks[name], decay or 0.0, settings) for name, settings in averaged.items()},
    )


def set_learning_rates(state: TrainingState, progress: Progress) -> None:
    """Let every optimizer use its learning rate times its schedule's factor in the next step."""
    for name, spec in state.method.optimizers.items():
        for group in state.optimizers[name].param_groups:
            group["lr"] = spec.lr * spec.schedule(progress)

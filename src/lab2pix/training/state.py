"""Training state: everything that a step changes and a checkpoint must hold for exact resume."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from lab2pix.batch import Batch
from lab2pix.config.schema import RunConfig
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import Method, OptimizerSpec, Progress, build_method
from lab2pix.nn.fast import accelerate
from lab2pix.training.ema import ModelEma
from lab2pix.utils.distributed import DistributedContext
from lab2pix.utils.seeding import stable_seed


@dataclass(frozen=True)
class Best:
    """Best value so far of the score named by `checkpoint.best`."""

    score: str
    value: float
    step: int


@dataclass
class TrainingState:
    """Networks, optimizers, moving averages and counters.

    Attributes:
        method: the method, which holds the networks.
        optimizers: optimizers by name.
        scaler: fp16 loss scaling; disabled for other precisions.
        averages: moving averages of networks by name; empty if `train.ema_decay` is null.
        step: optimizer steps made.
        seconds: training time, over all sessions.
        best: best score so far, if `checkpoint.best` is set.
        refresh_batches: returns training batches with noise for `Method.refresh`.
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
        """Networks to sample with: the moving average of each network if it has one."""
        return {**self.method.networks, **{name: average.network for name, average in self.averages.items()}}

    @property
    def sampling_generator(self) -> nn.Module:
        """Generator to score and save; a method with `refresh` re-estimates statistics on a copy, once per step."""
        generator = self.method.sampling_generator(self.sampling_networks)
        if not self.method.refresh_batches:
            return generator
        if self._refreshed is None or self._refreshed[0] != self.step:
            generator = copy.deepcopy(generator)
            self.method.refresh(generator, self.refresh_batches())
            self._refreshed = self.step, generator.eval().requires_grad_(False)
        return self._refreshed[1]


def _adam(method: Method, spec: OptimizerSpec, device: torch.device) -> Optimizer:
    # Fused kernel where the device supports it, otherwise the default of PyTorch.
    fused = True if device.type in ("cpu", "cuda") else None
    parameters = spec.parameters(method.networks)
    return Adam(parameters, lr=spec.lr, betas=spec.betas, weight_decay=spec.weight_decay, fused=fused)


def build_state(method: Method, device: torch.device) -> TrainingState:
    """Build the initial state of a method that is already on its device."""
    config, decay = method.config, method.config.train.ema_decay
    averaged = {} if decay is None else method.averaged
    return TrainingState(
        method=method,
        optimizers={name: _adam(method, spec, device) for name, spec in method.optimizers.items()},
        scaler=torch.amp.GradScaler(device.type, enabled=config.train.precision == "fp16"),
        averages={name: ModelEma(method.networks[name], decay or 0.0, settings) for name, settings in averaged.items()},
    )


def build_training(
    config: RunConfig, label_space: LabelSpace, dist: DistributedContext, *, pretrained: bool = True
) -> TrainingState:
    """Build the initial training state, identical in every process.

    `pretrained` loads the weights of the backbones; otherwise they are random, for measurements.
    """
    torch.manual_seed(stable_seed("weights", config.seed))
    method = build_method(config, label_space, pretrained=pretrained)
    method.networks = {name: dist.convert_sync_batchnorm(network) for name, network in method.networks.items()}
    method.to(dist.device, torch.channels_last if config.train.channels_last else torch.preserve_format)
    if not config.train.compile:  # the compiler optimizes the plain networks
        for name, network in method.networks.items():
            if name not in method.plain_networks:
                accelerate(network, dist.device)
    return build_state(method, dist.device)


def set_learning_rates(state: TrainingState, progress: Progress) -> None:
    """Set the learning rate of each optimizer according to its schedule."""
    for name, spec in state.method.optimizers.items():
        for group in state.optimizers[name].param_groups:
            group["lr"] = spec.lr * spec.schedule(progress)

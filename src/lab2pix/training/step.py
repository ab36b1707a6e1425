"""One training step: the generator's turn, then the discriminators' (5.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lab2pix.batch import Batch
from lab2pix.config.schema import Config
from lab2pix.errors import TrainingError
from lab2pix.methods import Losses, StepContext
from lab2pix.methods.base import PRECISIONS
from lab2pix.training.state import TrainingState
from lab2pix.utils.distributed import DistributedContext

__all__ = ["build_step_context", "training_step"]


def build_step_context(config: Config, state: TrainingState, device: torch.device) -> StepContext:
    """Return how forward and backward passes run: their precision, and the scale of accumulated losses."""
    precision, parts = config.train.precision, config.train.accumulate

    def autocast() -> AbstractContextManager[Any]:
        if precision == "fp32":
            return nullcontext()
        return torch.autocast(device.type, dtype=PRECISIONS[precision])

    def scale(loss: Tensor) -> Tensor:
        scaled: Tensor = state.scaler.scale(loss / parts if parts > 1 else loss)
        return scaled

    return StepContext(autocast=autocast, scale=scale)


def training_step(
    state: TrainingState,
    networks: Mapping[str, nn.Module],
    parts: Sequence[tuple[Batch, Tensor]],
    engine: StepContext,
    team: DistributedContext,
) -> dict[str, Losses]:
    """Make one optimiser step of each player whose turn it is, and count it.

    Args:
        state: what the step changes.
        networks: the players by name, wrapped so that gradients are averaged over processes.
        parts: this process' batch in parts, each with its `[n, noise_dim]` noise, on the device.
        engine: how passes run.
        team: the processes that must agree before weights change.

    Returns:
        Each player's loss terms, mean over the parts of this process; only of those that had their turn.

    Raises:
        TrainingError: a loss is not finite in any process; no weight of that player has changed by it.
    """
    method, generator, discriminator = state.method, networks["generator"], networks["discriminator"]
    carries, losses = [], []
    for index, (batch, noise) in enumerate(parts):
        with _no_sync(generator, last=index == len(parts) - 1):
            carry, terms = method.generator_backward(generator, batch, noise, engine)
        carries.append(carry)
        losses.append(terms)
    found = {"generator": _finish(state, "generator", losses, team)}
    losses = []
    if (state.step + 1) % method.config.optimizer.discriminator_every == 0:
        while carries:
            with _no_sync(discriminator, last=len(carries) == 1):
                losses.append(method.discriminator_backward(discriminator, carries.pop(0), engine))
        found["discriminator"] = _finish(state, "discriminator", losses, team)
    state.scaler.update()
    if state.average is not None:
        state.average.update(method.generator, state.step)
    state.step += 1
    return found


def _no_sync(network: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """Let processes exchange gradients in the last part only."""
    if last or not isinstance(network, DistributedDataParallel):
        return nullcontext()
    return network.no_sync()


def _finish(state: TrainingState, player: str, losses: Sequence[Losses], team: DistributedContext) -> Losses:
    """Check a player's losses, then let its optimiser use the gradients."""
    names = list(losses[0])
    values = torch.stack([torch.stack([terms[name].detach().float() for name in names]) for terms in losses])
    _check_finite(state, player, names, values, team)
    optimizer = state.optimizers[player]
    state.scaler.step(optimizer)
    optimizer.zero_grad(set_to_none=True)
    return dict(zip(names, values.mean(0).unbind(), strict=True))


def _check_finite(
    state: TrainingState, player: str, names: Sequence[str], values: Tensor, team: DistributedContext
) -> None:
    # Before the optimiser's turn: it would carry the damage into every weight.
    broken = team.maximum((~values.isfinite()).any(0).int()).tolist()
    if any(broken):
        where = [names[index] for index, flag in enumerate(broken) if flag]
        shown = ", ".join(f"'{name}' ({_describe(float(values[:, names.index(name)].sum()))})" for name in where)
        raise TrainingError(
            f"loss {shown} of the {player} is not finite at step {state.step + 1}; training stopped and the last "
            "checkpoint is kept: resume from it, or start again with lower learning rates or train.precision=fp32"
        )


def _describe(value: float) -> str:
    return "in another process" if math.isfinite(value) else str(value)

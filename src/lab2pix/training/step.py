"""Training step: backward pass and optimizer steps of each phase of the method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from lab2pix.batch import Batch
from lab2pix.errors import TrainingError
from lab2pix.methods import Losses, Phase, RandomSource, StepContext
from lab2pix.methods.base import PRECISIONS
from lab2pix.training.state import TrainingState
from lab2pix.utils.distributed import DistributedContext


def build_step_context(state: TrainingState, device: torch.device) -> StepContext:
    """Build the step context: autocast precision, and loss scaling for fp16 and gradient accumulation."""
    train = state.method.config.train
    precision, micro_batches = train.precision, train.accumulate

    def autocast() -> AbstractContextManager[Any]:
        if precision == "fp32":
            return nullcontext()
        return torch.autocast(device.type, dtype=PRECISIONS[precision])

    def scale(loss: Tensor) -> Tensor:
        scaled: Tensor = state.scaler.scale(loss / micro_batches if micro_batches > 1 else loss)
        return scaled

    return StepContext(autocast=autocast, scale=scale, micro_batches=micro_batches, random=RandomSource(device))


def training_step(
    state: TrainingState,
    micro_batches: Sequence[tuple[Batch, Tensor | None]],
    context: StepContext,
    dist: DistributedContext,
) -> dict[str, Losses]:
    """Run all active phases, update the moving averages, and increment the step counter.

    `micro_batches` is the share of this process in the batch, each part with its noise, on the device.

    Returns:
        Loss terms of each phase, averaged over the micro-batches of this process.

    Raises:
        TrainingError: a loss is not finite in any process; the optimizers of its phase have not stepped.
    """
    method = state.method
    dist.broadcast_buffers(method.networks.values())
    ends = list(accumulate(len(batch) for batch, _ in micro_batches))
    contexts = [
        replace(context, cache={}, random=context.random.of_samples(end - len(batch), end))
        for end, (batch, _) in zip(ends, micro_batches, strict=True)
    ]
    found: dict[str, Losses] = {}
    stepped: set[str] = set()
    for phase in method.phases:
        if not phase.when(context.progress):
            continue
        losses = [phase.backward(*part, own) for part, own in zip(micro_batches, contexts, strict=True)]
        found[phase.name] = _finish(state, phase, losses, stepped, dist)
    state.scaler.update()
    for name, average in state.averages.items():
        average.update(method.networks[name], state.step)
    state.step += 1
    return found


def _finish(
    state: TrainingState, phase: Phase, losses: Sequence[Losses], stepped: set[str], dist: DistributedContext
) -> Losses:
    """Check the losses of a phase, average gradients over processes, step its optimizers, and clear all gradients."""
    names = list(losses[0])
    values = torch.stack([torch.stack([terms[name].detach().float() for name in names]) for terms in losses])
    _check_finite(state, phase.name, names, values, dist)
    dist.average_gradients(
        parameter
        for name in phase.optimizers
        for group in state.optimizers[name].param_groups
        for parameter in group["params"]
    )
    for name in phase.optimizers:
        if name in stepped:  # the scaler allows one step per optimizer between updates
            state.scaler.update()
            stepped.clear()
        state.scaler.step(state.optimizers[name])
        stepped.add(name)
    for network in state.method.networks.values():
        network.zero_grad(set_to_none=True)
    return dict(zip(names, values.mean(0).unbind(), strict=True))


def _check_finite(
    state: TrainingState, phase: str, names: Sequence[str], values: Tensor, dist: DistributedContext
) -> None:
    # Checked before the optimizers step, which would spread NaN to all weights.
    broken = dist.maximum((~values.isfinite()).any(0).int()).tolist()
    if any(broken):
        where = [names[index] for index, flag in enumerate(broken) if flag]
        shown = ", ".join(f"'{name}' ({_describe(float(values[:, names.index(name)].sum()))})" for name in where)
        raise TrainingError(
            f"loss {shown} of the {phase} is not finite at step {state.step + 1}; training stopped and the last "
            "checkpoint is kept: resume from it, or start again with lower learning rates or train.precision=fp32"
        )


def _describe(value: float) -> str:
    return "in another process" if math.isfinite(value) else str(value)

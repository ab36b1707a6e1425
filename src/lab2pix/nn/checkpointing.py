"""Trading time for memory: blocks whose activations are computed again in the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

__all__ = ["checkpointed"]


@contextmanager
def _without_side_effects(block: nn.Module) -> Iterator[None]:
    """Let a block in training mode run again as it just ran: same results, no statistic moved a second time.

    Batch norm keeps using the batch's statistics, with momentum 0 and no counter; spectral norm keeps the singular
    vectors of the first run.
    """
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    parametrizations = [
        parametrization
        for module in block.modules()
        if isinstance(module, parametrize.ParametrizationList)
        for parametrization in module
        if parametrization.training
    ]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    for parametrization in parametrizations:
        parametrization.eval()
    try:
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter
        for parametrization in parametrizations:
            parametrization.train()


def checkpointed(block: nn.Module, *inputs: Tensor | None) -> Tensor:
    """Run a block without keeping its activations; the backward pass computes them again.

    The block's backward pass must come before its next forward pass, as in any plain training step: the vectors of
    spectral norm are those of the latest run.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _without_side_effects(block)

    result = checkpoint(block, *inputs, use_reentrant=False, context_fn=contexts, preserve_rng_state=False)
    assert isinstance(result, torch.Tensor)
    return result

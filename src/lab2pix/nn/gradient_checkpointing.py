"""Gradient checkpointing of blocks with batch norm and spectral norm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def _without_side_effects(block: nn.Module) -> Iterator[None]:
    """Make a block's second pass in training mode equal to its first, without updating buffers again.

    Batch norm keeps using batch statistics, with momentum 0 and no counter. Spectral norm keeps the singular vectors of
    the first pass, with no power iteration.
    """
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm)]
    spectral_norms = [module for module in block.modules() if hasattr(module, "n_power_iterations")]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    iterations = [norm.n_power_iterations for norm in spectral_norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    for spectral_norm in spectral_norms:
        spectral_norm.n_power_iterations = 0  # type: ignore[assignment]
    try:
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter
        for spectral_norm, count in zip(spectral_norms, iterations, strict=True):
            spectral_norm.n_power_iterations = count


def checkpointed(block: nn.Module, *inputs: Tensor | None) -> Tensor:
    """Run a block without keeping its activations; the backward pass recomputes them.

    The block's backward pass must come before its next forward pass, as in any plain training step, because spectral
    norm keeps only the vectors of the latest pass.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _without_side_effects(block)

    if not torch.is_grad_enabled():
        result = block(*inputs)
    else:
        result = checkpoint(block, *inputs, use_reentrant=False, context_fn=contexts, preserve_rng_state=False)
    assert isinstance(result, Tensor)
    return result

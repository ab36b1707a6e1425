"""Backward passes: networks that are only read, and losses whose graph is freed before the next one is built."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["ImageGradients", "frozen"]


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Let gradients pass through networks without filling their own."""
    parameters = [weight for network in networks for weight in network.parameters() if weight.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


class ImageGradients:
    """Collects the gradient of losses at images, then sends it through the generator in one pass.

    Args:
        images: the generator's images, with their graph.
        scale: multiplies a loss before its backward pass.

    Attributes:
        leaves: the images without their graph: losses are computed of these.
        losses: the terms so far, detached; of one name their sum.
    """

    def __init__(self, images: Sequence[Tensor], scale: Callable[[Tensor], Tensor]) -> None:
        self.images, self.scale = list(images), scale
        self.leaves = [image.detach().requires_grad_() for image in images]
        self.losses: dict[str, Tensor] = {}

    def record(self, losses: Mapping[str, Tensor]) -> None:
        """Add terms to `losses`."""
        for name, value in losses.items():
            self.losses[name] = self.losses[name] + value.detach() if name in self.losses else value.detach()

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        """Send the sum of terms back to the leaves, which frees their graph."""
        self.record(losses)
        self.scale(torch.stack(list(losses.values())).sum()).backward()  # type: ignore[no-untyped-call]

    def flush(self, losses: Mapping[str, Tensor]) -> None:
        """Send what the leaves collected through the generator, and further terms with it."""
        self.record(losses)
        ends = [self.scale(value) for value in losses.values()]
        torch.autograd.backward([*self.images, *ends], [*(leaf.grad for leaf in self.leaves), *(None for _ in ends)])

"""Backward-pass helpers: frozen networks, and gradient accumulation at generated images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def backward(losses: Mapping[str, Tensor], scale: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Backpropagate the scaled sum of loss terms, and return the terms detached."""
    scale(torch.stack(list(losses.values())).sum()).backward()  # type: ignore[no-untyped-call]
    return {name: value.detach() for name, value in losses.items()}


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Set `requires_grad` of all parameters to False within the context; gradients still flow to the inputs."""
    parameters = [weight for network in networks for weight in network.parameters() if weight.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@contextmanager
def trainable(network: nn.Module) -> Iterator[None]:
    """Set `requires_grad` of all parameters to True within the context, inside of `frozen`."""
    parameters = [weight for weight in network.parameters() if not weight.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)


class ImageGradients:
    """Accumulates gradients of several losses at detached images, then runs one backward pass of the generator.

    The graph of each loss is freed before the next one is built, which saves memory.

    Args:
        images: generated images with their graph.
        scale: scales a loss before its backward pass.

    Attributes:
        leaves: detached images to compute the losses from.
        losses: detached terms so far; terms of the same name are summed.
    """

    def __init__(self, images: Sequence[Tensor], scale: Callable[[Tensor], Tensor]) -> None:
        self.images, self.scale = list(images), scale
        self.leaves = [image.detach().requires_grad_() for image in images]
        self.losses: dict[str, Tensor] = {}

    def record(self, losses: Mapping[str, Tensor]) -> None:
        """Add terms to `losses`, detached."""
        for name, value in losses.items():
            self.losses[name] = self.losses[name] + value.detach() if name in self.losses else value.detach()

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        """Backpropagate the sum of terms to the leaves and free its graph."""
        self.record(backward(losses, self.scale))

    def flush(self, losses: Mapping[str, Tensor]) -> None:
        """Backpropagate the leaves' gradients, and further terms, through the generator in one pass."""
        self.record(losses)
        ends = [self.scale(value) for value in losses.values()]
        used = [pair for pair in zip(self.images, self.leaves, strict=True) if pair[1].grad is not None]
        images, leaves = zip(*used, strict=True)
        torch.autograd.backward([*images, *ends], [*(leaf.grad for leaf in leaves), *(None for _ in ends)])

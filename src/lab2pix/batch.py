"""The one thing that travels from the data to the methods."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Batch"]


@dataclass(frozen=True)
class Batch:
    """Label maps and the photos they belong to.

    Attributes:
        label: `[N, H, W]` int64 class ids, 0 to K-1; K stands for unknown where the label space has it.
        image: `[N, 3, H, W]` float32 RGB in [-1, 1], or None where labels alone are at hand.
        edges: `[N, 1, H, W]` float32, 1 where a 4-neighbour belongs to another instance; None where not asked for.
        names: what each sample is called, for messages and file names.
    """

    label: Tensor
    image: Tensor | None = None
    edges: Tensor | None = None
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of samples."""
        return int(self.label.shape[0])

    def pin_memory(self) -> Batch:
        """Return the same batch in memory that a GPU can fetch from by itself."""
        image, edges = (None if part is None else part.pin_memory() for part in (self.image, self.edges))
        return replace(self, label=self.label.pin_memory(), image=image, edges=edges)

    def to(self, device: torch.device | str) -> Batch:
        """Return the same batch on another device."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return replace(
            self, label=self.label.to(device, non_blocking=True), image=move(self.image), edges=move(self.edges)
        )

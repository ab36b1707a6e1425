"""Batch of training samples, or of inputs to generate from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

_TENSORS = ("label", "image", "edges", "instances", "source", "style")


@dataclass(frozen=True)
class Batch:
    """Batch of inputs with their target images.

    Attributes:
        label: `[N, H, W]` int64 class ids, 0 to K-1, and K for unknown where the label space has an unknown class.
            Empty, `[N, 0, 0]`, if the run generates from images.
        image: `[N, 3, H, W]` float32 RGB in [-1, 1], or None without targets.
        edges: `[N, 1, H, W]` float32, 1 where a 4-neighbor belongs to another instance; None if not used.
        instances: `[N, H, W]` int64, equal numbers mark one object; None if not used.
        source: `[N, C, H, W]` float32 in [-1, 1], images to generate from; None with label maps.
        style: `[N, 3, H, W]` float32 in [-1, 1], style images; None if not used.
        names: sample names, for messages and file names.
    """

    label: Tensor
    image: Tensor | None = None
    edges: Tensor | None = None
    instances: Tensor | None = None
    source: Tensor | None = None
    style: Tensor | None = None
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of samples."""
        return int(self.label.shape[0])

    @classmethod
    def concatenate(cls, batches: Sequence[Batch]) -> Batch:
        """Concatenate batches of equal image size; a field that is None in any of them becomes None."""
        parts = {name: [getattr(batch, name) for batch in batches] for name in _TENSORS}
        tensors = {name: torch.cat(own) for name, own in parts.items() if all(part is not None for part in own)}
        return cls(**tensors, names=tuple(name for batch in batches for name in batch.names))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the inputs."""
        inputs = self.label if self.source is None else self.source
        return int(inputs.shape[-2]), int(inputs.shape[-1])

    def __getitem__(self, rows: slice | list[int]) -> Batch:
        """Return the selected samples as a batch."""
        chosen = list(range(len(self))[rows]) if isinstance(rows, slice) else rows
        names = tuple(self.names[row] for row in chosen) if self.names else ()
        return replace(self._map(lambda tensor: tensor[rows]), names=names)

    def pad(self, size: tuple[int, int]) -> Batch:
        """Pad by reflection at the bottom and on the right.

        Args:
            size: height and width to pad to, each less than twice the present one.
        """
        if self.size == size:
            return self
        (rows, height), (columns, width) = ((_reflection(a, b), a) for a, b in zip(self.size, size, strict=True))

        def padded(tensor: Tensor) -> Tensor:
            if tuple(tensor.shape[-2:]) != (height, width):  # a label map of a method that generates from images
                return tensor
            return tensor.index_select(-2, rows.to(tensor.device)).index_select(-1, columns.to(tensor.device))

        return self._map(padded)

    def pin_memory(self) -> Batch:
        """Return a copy in page-locked memory."""
        return self._map(Tensor.pin_memory)

    def to(self, device: torch.device | str) -> Batch:
        """Return a copy on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        given = {name: getattr(self, name) for name in _TENSORS}
        changed: dict[str, Any] = {name: function(tensor) for name, tensor in given.items() if tensor is not None}
        return replace(self, **changed)


def _reflection(length: int, padded: int) -> Tensor:
    """Return the indices of a row that is padded by reflection without repeating its last pixel."""
    indices = torch.arange(padded)
    return torch.where(indices < length, indices, 2 * (length - 1) - indices)

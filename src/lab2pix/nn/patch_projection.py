"""Projection heads of contrastive translation (Park et al., 2020): features of patches as unit vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PatchProjection(nn.Module):
    """An MLP of two layers per feature, applied to the feature at some positions; rows are divided by their norm.

    Parameters have the names of the authors' code.

    Args:
        channels: widths of the features.
        width: width of the MLPs and of the vectors.
    """

    def __init__(self, channels: Sequence[int], width: int = 256) -> None:
        super().__init__()
        for index, own in enumerate(channels):
            mlp = nn.Sequential(nn.Linear(own, width), nn.ReLU(), nn.Linear(width, width))
            self.add_module(f"mlp_{index}", mlp)

    def forward(self, features: Sequence[Tensor], positions: Sequence[Tensor]) -> list[Tensor]:
        """Return vectors `[N * P, width]` per feature, image by image.

        Args:
            features: `[N, C, h, w]` each.
            positions: `[P]` int64 each, `y * w + x`, the same for all images.
        """
        vectors = []
        for mlp, feature, places in zip(self.children(), features, positions, strict=True):
            rows = mlp(feature.flatten(2)[:, :, places].transpose(1, 2).flatten(0, 1)).float()
            vectors.append(rows / (torch.linalg.vector_norm(rows, dim=1, keepdim=True) + 1e-7))
        return vectors

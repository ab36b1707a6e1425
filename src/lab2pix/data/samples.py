"""Training sample type and collate function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import torch
from torch import Tensor

from lab2pix.batch import Batch


class Sample(TypedDict):
    """Training sample.

    `label`: `[H, W]` int64 class ids; `image`: `[3, H, W]` float32 RGB in [-1, 1]; `edges`: `[1, H, W]` float32, 1 on
    instance boundaries, or None; `instances`: `[H, W]` int64 instance ids, or None; `name`: name for messages;
    `source`: source image `[C, H, W]` float32 in [-1, 1] of image-to-image translation, where `label` is empty,
    `[0, 0]`.
    """

    label: Tensor
    image: Tensor | None
    edges: Tensor | None
    name: str
    instances: NotRequired[Tensor | None]
    source: NotRequired[Tensor | None]


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples of one size into a batch; an optional part is dropped unless every sample has it."""

    def stack(parts: list[Tensor | None]) -> Tensor | None:
        present = [part for part in parts if part is not None]
        return torch.stack(present) if len(present) == len(parts) else None

    return Batch(
        label=torch.stack([sample["label"] for sample in samples]),
        image=stack([sample["image"] for sample in samples]),
        edges=stack([sample["edges"] for sample in samples]),
        instances=stack([sample.get("instances") for sample in samples]),
        source=stack([sample.get("source") for sample in samples]),
        names=tuple(sample["name"] for sample in samples),
    )

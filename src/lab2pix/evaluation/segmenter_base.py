"""Interface of segmenters, and the mapping of their channels to classes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lab2pix.errors import LabelError
from lab2pix.evaluation.metrics.segmentation import AbsentClasses, ScoredClasses
from lab2pix.labels.space import LabelSpace


class Segmenter(ABC):
    """Predicts label maps from images.

    Attributes:
        name: name in reports.
        space: label space of its predictions.
        ids: canonical id of each output channel, -1 for none of the classes.
        network: the network.
        device: its device.
        label_size: height and width of the label maps that predictions are compared with; None: those of the images.
        absent: classes that the label maps lack; see `SegmentationScores`.
    """

    name: str
    space: LabelSpace
    ids: Tensor
    network: Any
    device = torch.device("cpu")
    label_size: tuple[int, int] | None = None
    absent: AbsentClasses = "predicted"

    @abstractmethod
    def logits(self, images: Tensor) -> Tensor:
        """Return the network's scores per class, `[N, C, h', w']` float32, of `[N, 3, h, w]` uint8 images."""

    def __call__(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """Return canonical ids `[N, *size]` int64 (-1: none of the classes) of `[N, 3, h, w]` uint8 images."""
        logits = self.logits(images)
        return read_logits(logits, size, self.ids.to(logits.device)).cpu()

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return everything that must be equal for two scores to be comparable."""

    def to(self, device: torch.device) -> None:
        """Move to a device."""
        self.network.to(device)
        self.device = device


def read_logits(logits: Tensor, size: tuple[int, int], ids: Tensor) -> Tensor:
    """Upsample logits `[N, C, h, w]` bilinearly, and return the class ids of the largest channels."""
    if tuple(logits.shape[-2:]) != size:
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    return ids[logits.argmax(1)]


def map_classes(classes: Sequence[str | int | None], space: LabelSpace, where: str) -> Tensor:
    """Return the class id of each output channel, -1 for none.

    Raises:
        LabelError: a name or id that the label space does not have, or a scored class without a channel.
    """
    ids = []
    for entry in classes:
        if isinstance(entry, str) and entry not in space.names:
            raise LabelError(
                f"{where}: label space '{space.name}' has no class '{entry}'; write one of its names, or null"
            )
        if isinstance(entry, int) and not 0 <= entry < space.num_classes:
            raise LabelError(f"{where}: label space '{space.name}' has ids 0 to {space.num_classes - 1}, not {entry}")
        ids.append(space.names.index(entry) if isinstance(entry, str) else -1 if entry is None else entry)
    scored = ScoredClasses.of(space)
    covered = {int(scored.table[number]) for number in ids if number >= 0}
    lacking = [name for number, name in enumerate(scored.names) if number not in covered]
    if lacking:
        raise LabelError(
            f"{where} predicts {len(covered - {-1})} of the {len(scored.names)} classes that label space "
            f"'{space.name}' scores and lacks '{lacking[0]}'; give a segmenter made for that label space"
        )
    return torch.tensor(ids)

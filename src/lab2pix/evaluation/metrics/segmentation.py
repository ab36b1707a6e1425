"""PPA, PCA and C-IoU (5.3) of a segmenter's predictions, from one confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

from lab2pix.errors import DataError
from lab2pix.labels.space import LabelSpace

AbsentClasses = Literal["predicted", "labeled", "zero"]
"""Classes in the means: those in label maps or (C-IoU) predictions, those in label maps, or all, absent ones as 0."""


@dataclass(frozen=True)
class ScoredClasses:
    """The classes that are scored.

    Attributes:
        names: names of the scored classes in the order of their scored ids.
        table: `[num_channels]` int64, scored id of each canonical id; -1 for unknown and for classes that a benchmark
            leaves out.
    """

    names: tuple[str, ...]
    table: Tensor

    @classmethod
    def of(cls, space: LabelSpace) -> Self:
        """Return a label space's evaluation classes, or all its classes where it names none.

        Classes that share an evaluation id count as one, under the first one's name.
        """
        targets = space.evaluation or tuple(range(space.num_classes))
        wanted = sorted({target for target in targets if target is not None})
        names = tuple(space.names[targets.index(target)] for target in wanted)
        table = [-1 if target is None else wanted.index(target) for target in targets]
        return cls(names, torch.tensor(table + [-1] * (space.num_channels - space.num_classes)))


class SegmentationScores:
    """Confusion matrix of pixels; memory is constant.

    Pixels whose label is unknown or left out do not count. A prediction of unknown or of a class that is left out is
    wrong.

    Args:
        classes: the scored classes.
        absent: which classes are in the means.
    """

    def __init__(self, classes: ScoredClasses, absent: AbsentClasses = "predicted") -> None:
        self.classes = classes
        self.absent = absent
        count = len(classes.names)
        # Rows: labels. Columns: predictions; the last one is for everything else than scored classes.
        self.table = torch.zeros(count, count + 1, dtype=torch.int64)

    def update(self, predicted: Tensor, label: Tensor) -> Tensor:
        """Add a batch.

        Args:
            predicted: `[N, H, W]` canonical ids; -1 for none of the classes.
            label: `[N, H, W]` canonical ids.

        Returns:
            `[N]` float64, the share of correct pixels of each image; NaN where no pixel counts.
        """
        if predicted.shape != label.shape:
            raise ValueError(f"predicted is {tuple(predicted.shape)} but label {tuple(label.shape)}")
        count = len(self.classes.names)
        table = self.classes.table.to(label.device)
        there, read = table[label], table[predicted.clamp(min=0)]
        read = torch.where((read < 0) | (predicted < 0), count, read)
        counting = there >= 0
        cells = (there * (count + 1) + read)[counting]
        self.table += torch.bincount(cells, minlength=self.table.numel()).view_as(self.table).cpu()
        right = ((there == read) & counting).flatten(1).sum(1).double()
        return (right / counting.flatten(1).sum(1)).cpu()

    def merge(self, other: SegmentationScores) -> None:
        """Add the counts of another one."""
        self.table += other.table

    def compute(self) -> dict[str, float]:
        """Return the scores.

        Returns:
            `ppa`: share of correct pixels; `pca`: mean accuracy over the classes in label maps; `ciou`: mean
            intersection over union over the classes in label maps or predictions (all in 0 to 1), unless `absent`
            says otherwise.

        Raises:
            DataError: no pixel counted.
        """
        if not int(self.table.sum()):
            raise DataError(
                "no pixel of the label maps belongs to a class that counts, so PPA, PCA and C-IoU are undefined; "
                "give label maps of the label space that was named"
            )
        right, there, union = self._parts()
        every = torch.full_like(there, self.absent == "zero", dtype=torch.bool)
        united = there if self.absent == "labeled" else union
        return {
            "ppa": float(right.sum() / there.sum()),
            "pca": float((right / there.clamp(min=1))[every | (there > 0)].mean()),
            "ciou": float((right / union.clamp(min=1))[every | (united > 0)].mean()),
        }

    def per_class(self) -> list[dict[str, Any]]:
        """Return each class's `name`, `iou`, `accuracy` (None where undefined) and `pixels` in the label maps."""
        right, there, union = self._parts()
        rows = zip(self.classes.names, right.tolist(), there.tolist(), union.tolist(), strict=True)
        return [
            {
                "name": name,
                "iou": hit / joint if joint else None,
                "accuracy": hit / total if total else None,
                "pixels": int(total),
            }
            for name, hit, total, joint in rows
        ]

    def left_out(self) -> list[str]:
        """Return the classes in neither label maps nor predictions, which no mean includes."""
        return [row["name"] for row in self.per_class() if row["iou"] is None]

    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return correct pixels, labeled pixels, and the union with predicted pixels, by class, float64."""
        table = self.table.double()
        square = table[:, :-1]
        right, there = square.diag(), table.sum(1)
        return right, there, there + square.sum(0) - right

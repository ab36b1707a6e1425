"""Repeat factor sampling: training images of rare classes are drawn more often."""

from __future__ import annotations

import torch
from torch import Tensor

from lab2pix.data.build import AnyDataset
from lab2pix.data.datasets import UnpairedDataset
from lab2pix.labels.space import LabelSpace

_SHARE = 0.01
"""Smallest share of an image's pixels for which a class counts as present."""


def repeat_factors(dataset: AnyDataset, label_space: LabelSpace, threshold: float) -> Tensor:
    """Return how often to draw each image relative to one without rare classes (Gupta et al., LVIS, 2019).

    The factor of a class in a share f of all images is sqrt(threshold / f), at least 1; that of an image is the largest
    of its classes. Reads all label maps.

    Args:
        dataset: training set.
        label_space: its classes; unknown pixels do not count.
        threshold: share of images below which a class is rare.

    Returns:
        `[len(dataset)]` float32.

    Raises:
        DataError: a file is unreadable.
        LabelError: a label map has ids or colors outside the label space.
    """
    source = dataset.labels if isinstance(dataset, UnpairedDataset) else dataset
    present = torch.empty(len(source), label_space.num_classes, dtype=torch.bool)
    for index in range(len(source)):
        label = source.read_label(index)[0]
        counts = torch.bincount(label.flatten(), minlength=label_space.num_channels)
        present[index] = present_classes(counts, label_space.num_classes)
    factors = (threshold / present.float().mean(0)).sqrt().clamp(min=1)
    return torch.where(present, factors, 1.0).amax(1)


def present_classes(counts: Tensor, num_classes: int) -> Tensor:
    """Return which classes an image has, without those of a few pixels.

    Args:
        counts: `[..., C]` pixels by class id, those of unknown last.
        num_classes: number of classes K.

    Returns:
        `[..., K]` bool.
    """
    return counts[..., :num_classes] >= _SHARE * counts.sum(-1, keepdim=True)

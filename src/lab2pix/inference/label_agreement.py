"""Agreement of generated images with their label maps, as a segmenter sees it: noisy pixels and difficult classes.

After FreeMask (Yang et al., NeurIPS 2023): pixels whose loss is large for their class are ignored (filtering), and
label maps of difficult classes are drawn more often (re-sampling).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lab2pix.evaluation.segmenter_base import Segmenter
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.extras import import_extra

_LEAST_PROBABILITY = 1e-8


def label_loss(segmenter: Segmenter, image: Tensor, ids: Tensor, label_space: LabelSpace) -> Tensor:
    """Return the cross-entropy of a label map in an image, pixel by pixel.

    Args:
        segmenter: a segmenter of the label space.
        image: `[3, H, W]` uint8.
        ids: `[H, W]` canonical ids.
        label_space: the classes.

    Returns:
        `[H, W]` float32; 0 where the label is unknown, or a class that the segmenter lacks.
    """
    logits = segmenter.logits(image[None])
    if logits.shape[-2:] != ids.shape:
        logits = F.interpolate(logits, tuple(ids.shape), mode="bilinear", align_corners=False)
    own = logits.softmax(1)[0].float().cpu()
    known = segmenter.ids >= 0
    # Channels of one class are summed; the last row is for unknown.
    probabilities = torch.zeros(label_space.num_classes + 1, *ids.shape)
    probabilities.index_add_(0, segmenter.ids[known], own[known])
    losses = -probabilities.gather(0, ids[None])[0].clamp(min=_LEAST_PROBABILITY).log()
    covered = torch.zeros(label_space.num_classes + 1, dtype=torch.bool)
    covered[segmenter.ids[known]] = True
    return losses.where(covered[ids], 0)


class ClassDifficulty:
    """Mean loss of the pixels of each class over images.

    Args:
        num_classes: number of classes K.
    """

    def __init__(self, num_classes: int) -> None:
        self._sums = torch.zeros(num_classes + 1, dtype=torch.float64)
        self._counts = torch.zeros(num_classes + 1, dtype=torch.float64)

    def update(self, losses: Tensor, ids: Tensor) -> None:
        """Add an image: losses `[H, W]` and canonical ids `[H, W]`."""
        self._sums.index_add_(0, ids.flatten(), losses.flatten().double())
        self._counts += torch.bincount(ids.flatten(), minlength=len(self._counts))

    def means(self) -> Tensor:
        """Return the mean loss of each class, `[K]` float64; that of all pixels for a class without pixels."""
        sums, counts = self._sums[:-1], self._counts[:-1]
        overall = sums.sum() / counts.sum().clamp(min=1)
        return torch.where(counts > 0, sums / counts.clamp(min=1), overall)


def agreeing_pixels(losses: Tensor, ids: Tensor, means: Tensor, tolerance: float, region_share: float) -> Tensor:
    """Return the pixels whose label the segmenter agrees with, `[H, W]` bool.

    A pixel disagrees if its loss exceeds the mean loss of its class by the tolerance; so does a whole 4-connected
    region of a class if fewer of its pixels agree than `region_share`.

    Args:
        losses: `[H, W]`; see `label_loss`.
        ids: `[H, W]` canonical ids, K where unknown; unknown pixels never agree.
        means: `[K]` mean loss of each class.
        tolerance: factor of the mean loss.
        region_share: smallest share of agreeing pixels of a region; 0: pixels alone count.

    Raises:
        ConfigError: regions count, and the extra `label` is not installed.
    """
    limits = torch.cat([means * tolerance, means.new_zeros(1)])
    known = ids < len(means)
    agree = known & (losses.double() <= limits[ids])
    if region_share <= 0:
        return agree
    image = import_extra("scipy.ndimage", "label", "agreement by region")
    for number in torch.unique(ids[known]).tolist():
        regions = torch.from_numpy(image.label((ids == number).numpy())[0]).long()
        sizes = torch.bincount(regions.flatten())
        right = torch.bincount(regions[agree], minlength=len(sizes))
        poor = right < region_share * sizes
        poor[0] = False  # the rest of the image
        agree &= ~poor[regions]
    return agree


def map_difficulty(ids: Tensor, means: Tensor) -> float:
    """Return the mean difficulty of the classes of a label map's known pixels; 0 without any."""
    counts = torch.bincount(ids.flatten(), minlength=len(means) + 1)[: len(means)].double()
    return float((counts * means).sum() / counts.sum().clamp(min=1))


def resample(difficulties: Sequence[float], samples: int, strength: float) -> list[int]:
    """Return how many images each label map gets, by the rank of its difficulty.

    Args:
        difficulties: of each label map.
        samples: mean number of images per label map.
        strength: 0: all get the same; 1: from nearly twice `samples` for the most difficult to nearly 0.

    Returns:
        Counts, whose sum is `samples` times the number of label maps.
    """
    total = len(difficulties)
    order = sorted(range(total), key=lambda place: (-difficulties[place], place))
    counts, sum_so_far = [0] * total, 0.0
    for rank, place in enumerate(order):
        before = sum_so_far
        sum_so_far += samples * (1 + strength * (1 - (2 * rank + 1) / total))
        counts[place] = round(sum_so_far) - round(before)
    return counts

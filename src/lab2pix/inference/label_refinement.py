"""Refinement of predicted label maps: edges that follow the photo, no specks, and unsure pixels as unknown."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lab2pix.utils.extras import import_extra


def guided_filter(values: Tensor, guide: Tensor, radius: int, epsilon: float = 1e-3) -> Tensor:
    """Filter maps so that their edges follow a guide image (guided filter: He et al., 2013, Eq. 5, 6 and 8).

    Args:
        values: `[C, H, W]`, such as probabilities.
        guide: gray image `[H, W]` in [0, 1].
        radius: radius of the windows in pixels; 0 returns the values.
        epsilon: variance of the guide below which a window counts as flat, and is averaged.

    Returns:
        `[C, H, W]`.
    """
    if radius == 0:
        return values

    def mean(x: Tensor) -> Tensor:
        # Reflection would need maps larger than the radius; the average over what a window holds does not.
        return F.avg_pool2d(x, (2 * radius + 1, 1), 1, (radius, 0), count_include_pad=False)

    def box(x: Tensor) -> Tensor:
        return mean(mean(x[:, None]).transpose(-1, -2)).transpose(-1, -2)[:, 0]

    center = box(guide[None])
    variance = box(guide[None] ** 2) - center**2
    slope = (box(values * guide) - box(values) * center) / (variance + epsilon)
    return box(slope) * guide + box(box(values) - slope * center)


def merge_small_regions(ids: Tensor, least: int) -> Tensor:
    """Give each 4-connected region of fewer than `least` pixels to the nearest larger one, pixel by pixel.

    Args:
        ids: `[H, W]` int64.
        least: fewest pixels of a region that stays.

    Returns:
        `[H, W]` int64; the input if no region is large enough.

    Raises:
        ConfigError: the extra `label` is not installed.
    """
    if least <= 1:
        return ids
    image = import_extra("scipy.ndimage", "label", "merging small regions")
    array = ids.numpy()
    small = torch.zeros(ids.shape, dtype=torch.bool).numpy()
    for number in torch.unique(ids).tolist():
        regions, count = image.label(array == number)
        sizes = torch.bincount(torch.from_numpy(regions).flatten().long(), minlength=count + 1)
        small |= (sizes < least).numpy()[regions] & (regions > 0)
    if not small.any() or small.all():
        return ids
    rows, columns = image.distance_transform_edt(small, return_distances=False, return_indices=True)
    return torch.from_numpy(array[rows, columns])

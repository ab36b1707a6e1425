"""Distance of an image to the nearest photo, in the features of a network."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from lab2pix.data.files import find_images, read_image
from lab2pix.data.transforms import resize_image
from lab2pix.errors import DataError
from lab2pix.evaluation.features import FeatureNetwork
from lab2pix.utils.sequences import evenly_spaced

MOST_PHOTOS = 2000
"""Photos that are compared with, evenly spaced in their list."""


class PhotoDistance:
    """Distance of an image to the nearest photo, relative to the median distance of a photo to its nearest one.

    The features and nearest neighbors are those of improved precision (Kynkäänniemi et al., 2019), which asks whether
    the distance is below that between the photo and its neighbors.

    Args:
        network: feature network.
        photos: features of photos, `[M, D]` float32.

    Attributes:
        unit: the median distance.
    """

    def __init__(self, network: FeatureNetwork, photos: Tensor) -> None:
        self.network, self.photos = network, photos.double()
        apart = torch.cdist(self.photos, self.photos).fill_diagonal_(torch.inf)
        self.unit = float(apart.amin(1).median().clamp(min=1e-12))

    @classmethod
    def of(cls, network: FeatureNetwork, folder: Path, size: tuple[int, int]) -> Self:
        """Return the distance to the photos of a folder, resized to a height and width; at most `MOST_PHOTOS` count.

        Raises:
            DataError: fewer than two photos, or an unreadable one.
        """
        photos = list(find_images(folder))
        if len(photos) < 2:
            raise DataError(
                f"there are {len(photos)} photos in {folder}, but distances are relative to that between photos; give "
                "a folder with at least two"
            )
        chosen = (photos[place] for place in evenly_spaced(len(photos), MOST_PHOTOS))
        return cls(network, torch.cat([network(resize_image(read_image(photo), size)[None]) for photo in chosen]))

    def __call__(self, image: Tensor) -> float:
        """Return the distance of `[3, H, W]` uint8: about 1 for photos, more for images unlike them."""
        features = self.network(image[None]).double()
        return float(torch.cdist(features, self.photos).min()) / self.unit

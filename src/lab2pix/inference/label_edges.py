"""Sketches of photos: their edges, as a segmenter of blank and line."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lab2pix.data.line_drawings import SKETCH
from lab2pix.data.sketches import find_edges
from lab2pix.evaluation.segmenter_base import Segmenter
from lab2pix.inference.label_classes import ClassMapping
from lab2pix.labels.space import LabelSpace

_CERTAIN = 100.0


class EdgeDetector(Segmenter):
    """Canny edge detector of scikit-image, whose predictions are certain.

    Args:
        sigma: standard deviation of the blur before edge detection, in pixels of the segmented size.
    """

    def __init__(self, sigma: float) -> None:
        self.name, self.sigma, self.space, self.ids = "edges", sigma, LabelSpace.load(SKETCH), torch.arange(2)

    @property
    def mapping(self) -> ClassMapping:
        """Both classes as they are; no pixel is unknown."""
        return ClassMapping(self.space, self.ids)

    def logits(self, images: Tensor) -> Tensor:
        """Return scores of blank and line, `[N, 2, h, w]`, of `[N, 3, h, w]` uint8 images.

        Raises:
            ConfigError: the extra `sketches` is not installed.
        """
        lines = torch.stack([find_edges(image, self.sigma) for image in images])
        return _CERTAIN * F.one_hot(lines, 2).movedim(-1, 1).float()

    def describe(self) -> dict[str, Any]:
        """Return the name and the blur."""
        return {"name": self.name, "sigma": self.sigma}

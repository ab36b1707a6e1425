"""Settings, manifest and report of synthetic training data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab2pix.data.layouts import LayoutSettings
from lab2pix.utils.text import describe_failures, plural


@dataclass(frozen=True)
class AugmentSettings:
    """How a set of label maps is augmented.

    Attributes:
        samples: images per label map, on average if difficult label maps are drawn more often.
        seed: determines layouts and noise.
        layout: how layouts vary; the first image of each label map has its layout unchanged.
        tolerance: a pixel becomes unknown if its loss exceeds the mean loss of its class by this factor.
        region_share: a region becomes unknown if the segmenter agrees with fewer of its pixels.
        least_agreement: an image is dropped if the segmenter agrees with a smaller share of the known pixels.
        resample: how much more often difficult label maps are drawn; 0: all alike.
        max_distance: an image is dropped if its distance to the nearest photo is larger.
        batch_size: images per batch.
    """

    samples: int = 4
    seed: int = 0
    layout: LayoutSettings = field(default_factory=LayoutSettings)
    tolerance: float = 1.25
    region_share: float = 0.5
    least_agreement: float = 0.5
    resample: float = 0.5
    max_distance: float = 2.0
    batch_size: int = 8


@dataclass(frozen=True)
class AugmentedImage:
    """A line of the manifest.

    Attributes:
        name: name of image and label map, below their folders and without suffix.
        source: name of the label map.
        seed: seed of the noise.
        run: the model: its name, training step and a hash of its weights.
        layout: what was done to the layout; empty if nothing.
        kept: whether image and label map were written.
        agreement: share of the known pixels that the segmenter agrees with; None without a segmenter.
        distance: distance to the nearest photo; None without photos.
    """

    name: str
    source: str
    seed: int
    run: str
    layout: dict[str, Any]
    kept: bool
    agreement: float | None = None
    distance: float | None = None


@dataclass
class AugmentReport:
    """Result of an augmentation.

    Attributes:
        out: the dataset.
        images: the manifest.
        written: images written now.
        failed: label maps that could not be used, with the reason.
    """

    out: Path
    images: list[AugmentedImage] = field(default_factory=list)
    written: int = 0
    failed: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether no label map failed."""
        return not self.failed

    @property
    def kept(self) -> list[AugmentedImage]:
        """The images that were not dropped."""
        return [image for image in self.images if image.kept]

    def __str__(self) -> str:
        """Return a line of counts, the mean scores, and a line per failed label map."""
        kept = self.kept
        lines = [f"{plural(len(kept), 'pair')} in {self.out}, {self.written} of them written now"]
        if dropped := len(self.images) - len(kept):
            lines[0] += f"; {plural(dropped, 'image')} dropped"
        for name in ("agreement", "distance"):
            values = [value for image in self.images if (value := getattr(image, name)) is not None]
            if values:
                lines.append(f"{name}: mean {sum(values) / len(values):.3f}, {min(values):.3f} to {max(values):.3f}")
        return "\n".join([*lines, *describe_failures(self.failed, "label map")])

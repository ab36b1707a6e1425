"""Accumulates the statistics of all metrics over batches of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lab2pix.errors import DataError
from lab2pix.evaluation.features import FeatureNetwork, distance_names
from lab2pix.evaluation.metrics.distribution import FeatureMoments, frechet_distance, kernel_distance, precision_recall
from lab2pix.evaluation.metrics.image import (
    LPIPS,
    checkerboard_ratio,
    diversity,
    gradients_by_parity,
    pixel_distance,
    psnr,
    ssim,
)
from lab2pix.evaluation.metrics.segmentation import ScoredClasses, SegmentationScores
from lab2pix.evaluation.report import Score
from lab2pix.evaluation.segmenter_base import Segmenter

KERNEL = {"subsets": 100, "subset_size": 1000}
"""Sampling of the kernel distance, as in the usual protocol of KID."""


@dataclass
class Networks:
    """The networks of an evaluation.

    Attributes:
        features: feature networks of the Fréchet and kernel distances.
        segmenter: segmenter of PPA, PCA and C-IoU.
        lpips: LPIPS between an image and its photo, or between two images of a label map.
    """

    features: list[FeatureNetwork] = field(default_factory=list)
    segmenter: Segmenter | None = None
    lpips: LPIPS | None = None

    def to(self, device: torch.device) -> None:
        """Move all networks to a device."""
        for network in (*self.features, self.segmenter):
            if network is not None:
                network.to(device)
        if self.lpips is not None:
            self.lpips.to(device)


class MetricAccumulator:
    """Accumulates metrics; each image is seen once, and memory grows by a few numbers per image only.

    Args:
        networks: the networks.
        sample_sets: images per label map.
        seed: selects the subsets of the kernel distance.
        precision_recall: also compute precision and recall in the features of each network.
    """

    def __init__(
        self, networks: Networks, sample_sets: int = 1, *, seed: int = 0, precision_recall: bool = False
    ) -> None:
        self.networks = networks
        self.sample_sets = sample_sets
        self.seed = seed
        self.precision_recall = precision_recall
        self.generated = [self._moments() for _ in range(sample_sets)]
        self.real = self._moments()
        self.pixels: list[SegmentationScores] = []
        if networks.segmenter is not None:
            classes, absent = ScoredClasses.of(networks.segmenter.space), networks.segmenter.absent
            self.pixels = [SegmentationScores(classes, absent) for _ in range(sample_sets)]
        # Values by score and sample set; diversity has only the first set.
        self.each: dict[str, list[list[float]]] = {}
        self.ranking: list[tuple[str, float]] = []
        self.gradients = torch.zeros(sample_sets + 1, 2, 2, dtype=torch.float64)  # by sample set; last: of the photos

    def _moments(self) -> dict[str, FeatureMoments]:
        return {network.name: FeatureMoments(network.dimension) for network in self.networks.features}

    def update_real(self, names: Sequence[str], images: Tensor) -> None:
        """Add photos `[N, 3, H, W]` uint8."""
        self.gradients[-1] += gradients_by_parity(images)
        for network in self.networks.features:
            self.real[network.name].update(network(images), names)

    def update(
        self, names: Sequence[str], samples: Sequence[Tensor], real: Tensor | None = None, label: Tensor | None = None
    ) -> None:
        """Add the images of some label maps.

        Args:
            names: names of the label maps.
            samples: images `[N, 3, H, W]` uint8 of each sample set.
            real: their photos, of the same size; they are added as by `update_real` too.
            label: `[N, h, w]` canonical ids, of the segmenter's `label_size` if it has one.
        """
        if real is not None:
            self.update_real(names, real)
        ranks: Tensor | None = None
        for number, images in enumerate(samples):
            self.gradients[number] += gradients_by_parity(images)
            for network in self.networks.features:
                self.generated[number][network.name].update(network(images), names)
            likeness = self._compare(number, images, real)
            if label is not None and self.networks.segmenter is not None:
                read = self.networks.segmenter(images, (label.shape[-2], label.shape[-1]))
                likeness = self.pixels[number].update(read, label)
            ranks = likeness if number == 0 else ranks
        if len(samples) > 1:
            lpips = self.networks.lpips
            name = "diversity_pixels" if lpips is None else f"diversity_{lpips.name}"
            self._note(name, 0, diversity(torch.stack(list(samples)), lpips or pixel_distance))
        if ranks is not None:
            self.ranking += list(zip(names, ranks.tolist(), strict=True))

    def _compare(self, number: int, images: Tensor, real: Tensor | None) -> Tensor | None:
        if real is None:
            return None
        likeness = ssim(images, real)
        self._note("psnr", number, psnr(images, real))
        self._note("ssim", number, likeness)
        if self.networks.lpips is not None:
            self._note(self.networks.lpips.name, number, self.networks.lpips(images, real))
        return likeness

    def _note(self, name: str, number: int, values: Tensor | Sequence[float]) -> None:
        sets = self.each.setdefault(name, [[] for _ in range(self.sample_sets)])
        sets[number].extend(values.tolist() if isinstance(values, Tensor) else values)

    @property
    def ranked_by(self) -> str:
        """The score by which images are ranked."""
        return "ppa" if self.pixels else "ssim"

    # --- merging processes ------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return the statistics as plain values."""
        return {
            "generated": [{name: part.state() for name, part in moments.items()} for moments in self.generated],
            "real": {name: part.state() for name, part in self.real.items()},
            "pixels": [part.table for part in self.pixels],
            "each": self.each,
            "gradients": self.gradients,
            "ranking": self.ranking,
        }

    def merge(self, state: dict[str, Any]) -> None:
        """Add the state of another process."""
        for mine, theirs in zip([*self.generated, self.real], [*state["generated"], state["real"]], strict=True):
            for name, moments in mine.items():
                moments.merge(FeatureMoments.from_state(theirs[name]))
        for scores, table in zip(self.pixels, state["pixels"], strict=True):
            scores.table += table
        for name, sets in state["each"].items():
            for number, values in enumerate(sets):
                self._note(name, number, values)
        self.ranking += state["ranking"]
        self.gradients += state["gradients"]

    # --- scores ---------------------------------------------------------------------------------------------------

    def compute(self, real: dict[str, FeatureMoments] | None = None) -> dict[str, Score]:
        """Return all scores for which there is data.

        Args:
            real: statistics of the photos by feature network; None: of those that were added.

        Raises:
            DataError: a set of fewer than two images, no labeled pixel, or nothing to compare with.
        """
        found: dict[str, Score] = {}
        if self.pixels:
            parts = [part.compute() for part in self.pixels]
            found.update({name: Score.of_sets([part[name] for part in parts]) for name in ("ppa", "pca", "ciou")})
        statistics = self.real if real is None else real
        for network in self.networks.features:
            found.update(self._distances(network.name, statistics[network.name]))
        # Scores against photos come before diversity.
        for name, sets in sorted(self.each.items(), key=lambda item: (item[0].startswith("diversity"), item[0])):
            score = Score.of_each(sets, "label maps" if name.startswith("diversity") else "images")
            if score is not None:
                found[name] = score
        if not found:
            raise DataError("nothing can be compared: give photos, or label maps with a segmenter")
        ratios = [checkerboard_ratio(gradients) for gradients in self.gradients]
        real_ratio = {"photos": ratios[-1]} if self.gradients[-1].any() else {}
        found["checkerboard"] = Score.of_sets(ratios[:-1], **real_ratio)
        return found

    def _distances(self, name: str, real: FeatureMoments) -> dict[str, Score]:
        if not real.count:
            return {}
        sets = [moments[name] for moments in self.generated]
        frechet = [frechet_distance(part, real) for part in sets]
        kernel = [kernel_distance(part, real, **KERNEL, seed=self.seed) for part in sets]
        names = distance_names(name)
        spread = [round(deviation, 10) for _, deviation in kernel]
        found = {
            names[0]: Score.of_sets(frechet),
            names[1]: Score.of_sets([mean for mean, _ in kernel], std_over_subsets=spread),
        }
        if self.precision_recall:
            pairs = [precision_recall(part, real) for part in sets]
            found |= {f"precision_{name}": Score.of_sets([precision for precision, _ in pairs])}
            found |= {f"recall_{name}": Score.of_sets([recall for _, recall in pairs])}
        return found

    def notes(self) -> list[str]:
        """Return remarks on the reliability of the scores."""
        few = [
            (network.name, part.count, network.dimension)
            for network in self.networks.features
            if (part := self.generated[0][network.name]).rank_deficient
        ]
        equal = sum(math.isinf(value) for values in self.each.get("psnr", []) for value in values)
        shown = "1 image equals its photo" if equal == 1 else f"{equal} images equal their photos"
        infinite = [f"{shown}, where PSNR is infinite: its mean leaves them out"] if equal else []
        return infinite + [
            f"{count} images are few for {dimension} features of {name}: compare this Frechet distance only with "
            "others of as many images"
            for name, count, dimension in few
        ]

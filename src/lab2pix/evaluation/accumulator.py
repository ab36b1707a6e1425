"""The judge: takes pictures in batches, whoever made them and wherever they come from, and keeps what scores need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lab2pix.errors import DataError
from lab2pix.evaluation.features import FeatureNetwork, distance_names
from lab2pix.evaluation.metrics.distribution import FeatureMoments, frechet_distance, kernel_distance
from lab2pix.evaluation.metrics.image import LPIPS, diversity, pixel_distance, psnr, ssim
from lab2pix.evaluation.metrics.segmentation import ScoredClasses, SegmentationScores
from lab2pix.evaluation.report import Score
from lab2pix.evaluation.segmenters import Segmenter

__all__ = ["MetricAccumulator", "Networks"]

KERNEL = {"subsets": 100, "subset_size": 1000}
"""How the kernel distance samples, as KID's usual protocol does."""


@dataclass
class Networks:
    """What a judge looks through.

    Attributes:
        features: for the distances between sets.
        segmenter: for PPA, PCA and C-IoU.
        lpips: for the perceptual distance between two pictures.
    """

    features: list[FeatureNetwork] = field(default_factory=list)
    segmenter: Segmenter | None = None
    lpips: LPIPS | None = None

    def to(self, device: torch.device) -> None:
        """Compute on a device."""
        for network in (*self.features, self.segmenter):
            if network is not None:
                network.to(device)
        if self.lpips is not None:
            self.lpips.to(device)


class MetricAccumulator:
    """Looks at each picture once; memory does not grow with them, beyond a few numbers for each.

    Args:
        networks: what it looks through.
        sample_sets: pictures per label map.
        seed: decides the kernel distance's subsets.
    """

    def __init__(self, networks: Networks, sample_sets: int = 1, *, seed: int = 0) -> None:
        self.networks = networks
        self.sample_sets = sample_sets
        self.seed = seed
        self.generated = [self._moments() for _ in range(sample_sets)]
        self.real = self._moments()
        space = None if networks.segmenter is None else networks.segmenter.space
        self.pixels = [SegmentationScores(ScoredClasses.of(space)) for _ in range(sample_sets)] if space else []
        # By score and sample set. What tells a label map's samples apart stands under the first.
        self.each: dict[str, list[list[float]]] = {}
        self.ranking: list[tuple[str, float]] = []

    def _moments(self) -> dict[str, FeatureMoments]:
        return {network.name: FeatureMoments(network.dimension) for network in self.networks.features}

    def update_real(self, names: Sequence[str], pictures: Tensor) -> None:
        """Take in photos `[N, 3, H, W]` uint8."""
        for network in self.networks.features:
            self.real[network.name].update(network(pictures), names)

    def update(
        self, names: Sequence[str], samples: Sequence[Tensor], real: Tensor | None = None, label: Tensor | None = None
    ) -> None:
        """Take in the pictures of some label maps.

        Args:
            names: of the label maps.
            samples: per sample set `[N, 3, H, W]` uint8.
            real: the photos that belong to them, of the same size; they are taken in as such, too.
            label: `[N, H, W]` canonical ids.
        """
        if real is not None:
            self.update_real(names, real)
        ranks: Tensor | None = None
        for number, pictures in enumerate(samples):
            for network in self.networks.features:
                self.generated[number][network.name].update(network(pictures), names)
            likeness = self._compare(number, pictures, real)
            if label is not None and self.networks.segmenter is not None:
                read = self.networks.segmenter(pictures, (label.shape[-2], label.shape[-1]))
                likeness = self.pixels[number].update(read, label)
            ranks = likeness if number == 0 else ranks
        if len(samples) > 1:
            lpips = self.networks.lpips
            name = "diversity_pixels" if lpips is None else f"diversity_{lpips.name}"
            self._note(name, 0, diversity(torch.stack(list(samples)), lpips or pixel_distance))
        if ranks is not None:
            self.ranking += list(zip(names, ranks.tolist(), strict=True))

    def _compare(self, number: int, pictures: Tensor, real: Tensor | None) -> Tensor | None:
        if real is None:
            return None
        likeness = ssim(pictures, real)
        self._note("psnr", number, psnr(pictures, real))
        self._note("ssim", number, likeness)
        if self.networks.lpips is not None:
            self._note(self.networks.lpips.name, number, self.networks.lpips(pictures, real))
        return likeness

    def _note(self, name: str, number: int, values: Tensor | Sequence[float]) -> None:
        sets = self.each.setdefault(name, [[] for _ in range(self.sample_sets)])
        sets[number].extend(values.tolist() if isinstance(values, Tensor) else values)

    @property
    def ranked_by(self) -> str:
        """The score that pictures are ranked by."""
        return "ppa" if self.pixels else "ssim"

    # --- joining what several processes saw -----------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return all that was seen, as plain values."""
        return {
            "generated": [{name: part.state() for name, part in moments.items()} for moments in self.generated],
            "real": {name: part.state() for name, part in self.real.items()},
            "pixels": [part.table for part in self.pixels],
            "each": self.each,
            "ranking": self.ranking,
        }

    def merge(self, state: dict[str, Any]) -> None:
        """Add what another process saw."""
        for mine, theirs in zip([*self.generated, self.real], [*state["generated"], state["real"]], strict=True):
            for name, moments in mine.items():
                moments.merge(FeatureMoments.from_state(theirs[name]))
        for scores, table in zip(self.pixels, state["pixels"], strict=True):
            scores.table += table
        for name, sets in state["each"].items():
            for number, values in enumerate(sets):
                self._note(name, number, values)
        self.ranking += state["ranking"]

    # --- scores ---------------------------------------------------------------------------------------------------

    def compute(self, real: dict[str, FeatureMoments] | None = None) -> dict[str, Score]:
        """Return every score that what was seen allows.

        Args:
            real: the photos' statistics by feature network; None: of those that were seen.

        Raises:
            DataError: a set of fewer than two pictures, no pixel that counts, or nothing to compare with.
        """
        found: dict[str, Score] = {}
        if self.pixels:
            parts = [part.compute() for part in self.pixels]
            found.update({name: Score.of_sets([part[name] for part in parts]) for name in ("ppa", "pca", "ciou")})
        statistics = self.real if real is None else real
        for network in self.networks.features:
            found.update(self._distances(network.name, statistics[network.name]))
        # What compares pictures with their photos first, whichever was seen first.
        for name, sets in sorted(self.each.items(), key=lambda item: (item[0].startswith("diversity"), item[0])):
            score = Score.of_each(sets, "label maps" if name.startswith("diversity") else "pictures")
            if score is not None:
                found[name] = score
        if not found:
            raise DataError("nothing could be compared: there are no photos, and nothing reads label maps; name some")
        return found

    def _distances(self, name: str, real: FeatureMoments) -> dict[str, Score]:
        if not real.count:
            return {}
        sets = [moments[name] for moments in self.generated]
        frechet = [frechet_distance(part, real) for part in sets]
        kernel = [kernel_distance(part, real, **KERNEL, seed=self.seed) for part in sets]
        names = distance_names(name)
        spread = [round(deviation, 10) for _, deviation in kernel]
        return {
            names[0]: Score.of_sets(frechet),
            names[1]: Score.of_sets([mean for mean, _ in kernel], std_over_subsets=spread),
        }

    def notes(self) -> list[str]:
        """Return what a reader of the scores should know."""
        few = [
            (network.name, part.count, network.dimension)
            for network in self.networks.features
            if (part := self.generated[0][network.name]).rank_deficient
        ]
        equal = sum(math.isinf(value) for values in self.each.get("psnr", []) for value in values)
        shown = "1 picture equals its photo" if equal == 1 else f"{equal} pictures equal their photos"
        infinite = [f"{shown}, where PSNR is infinite: its mean leaves them out"] if equal else []
        return infinite + [
            f"{count} pictures are few for {dimension} features of {name}: compare this Frechet distance only with "
            "others of as many pictures"
            for name, count, dimension in few
        ]

"""Evaluation protocol: its settings, its networks, and its record in the report."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Self

from lab2pix.config.schema import Alpha
from lab2pix.errors import ConfigError
from lab2pix.evaluation.accumulator import KERNEL, MetricAccumulator, Networks
from lab2pix.evaluation.features import load_features
from lab2pix.evaluation.loading import ReadingLog
from lab2pix.evaluation.metrics.distribution import KERNEL_POOL, NEIGHBORS
from lab2pix.evaluation.metrics.image import LPIPS
from lab2pix.evaluation.metrics.segmentation import AbsentClasses
from lab2pix.evaluation.published import protocol_settings
from lab2pix.evaluation.segmenters import load_segmenter
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.distributed import DistributedContext

ABSENT: dict[AbsentClasses, str] = {
    "predicted": "not in the means",
    "labeled": "not in the means, even if predicted",
    "zero": "0 in the means",
}
RESIZE = "antialiased bicubic (label maps: nearest neighbor)"


@dataclass(frozen=True)
class Protocol:
    """How images are evaluated; equal protocols give comparable scores.

    Attributes:
        features: feature networks of the Fréchet and kernel distances; see `load_features`.
        segmenter: predicts label maps from images; see `load_segmenter`.
        lpips: network of LPIPS; None leaves it out.
        inception_weights, lpips_weights: files of weights; None: the torch hub cache, downloaded where missing.
        precision_recall: also score precision and recall in the features of each network.
        size: height and width to which all images are resized; None: each image's own. Folders only.
        batch_size: images per batch; changes speed and memory only.
        seed: selects the subsets of the kernel distance, and the noise of a run's first sample set.
        style_from: origin of the style for a method with an image encoder: noise, or the held-out photos, whose scores
            are not comparable with others. Runs only.
        allow_missing: leave out names without a partner. Folders only.
        skip_broken: leave out samples of which a file cannot be read. Folders only.
        alpha: what becomes of transparency: `drop` shows the hidden colors, `white` and `black` are backgrounds.
            Folders only; a run has `data.alpha`.
    """

    features: Sequence[str] = ("efficientnet-lite0",)
    segmenter: str | Path | None = None
    lpips: Literal["alex", "vgg"] | None = None
    inception_weights: str | Path | None = None
    lpips_weights: str | Path | None = None
    precision_recall: bool = False
    size: tuple[int, int] | None = None
    batch_size: int = 32
    seed: int = 0
    style_from: Literal["noise", "photos"] = "noise"
    allow_missing: bool = False
    skip_broken: bool = False
    alpha: Alpha = "drop"

    @classmethod
    def published(cls, name: str, weights: str | Path | None = None, **settings: Any) -> Self:
        """Return a published protocol (5.3): its segmenter, and Inception's features where the paper reports FID.

        Args:
            name: see `PROTOCOLS`.
            weights: the segmenter's weights of its authors: a file, or the folder of UperNet's two files.
            settings: further settings; they replace those of the protocol.

        Raises:
            ConfigError: the protocol is unknown, or has no segmenter.
            WeightsError: the segmenter's weights are not given.
        """
        return cls(**{**protocol_settings(name, weights), **settings})

    @property
    def scoring(self) -> dict[str, Any]:
        """Settings of `MetricAccumulator`."""
        return {"seed": self.seed, "precision_recall": self.precision_recall}

    def check(self) -> None:
        """Raise ConfigError where a file of weights belongs to a network that is not used."""
        if self.lpips_weights is not None and self.lpips is None:
            raise ConfigError("--lpips-weights have no effect without --lpips; add --lpips or omit them")
        if self.precision_recall and not self.features:
            raise ConfigError("--precision-recall needs features; add --features, or omit it")
        if self.inception_weights is not None and "inception" not in self.features:
            raise ConfigError("--inception-weights have no effect without --features inception; add it or omit them")

    def check_for_run(self) -> None:
        """Raise ConfigError where a setting has no effect on a run."""
        for setting in ("size", "allow_missing", "skip_broken", "alpha"):
            if getattr(self, setting) not in (None, False, "drop"):
                option = f"--{setting.replace('_', '-')}"
                raise ConfigError(f"{option} belongs to --generated, because a run has its own data; omit it")
        self.check()


def load_networks(protocol: Protocol, space: LabelSpace | None) -> Networks:
    """Load the networks of a protocol.

    Raises:
        ConfigError: an unknown network, one named twice, or a segmenter without a label space.
        LabelError: the segmenter has other classes.
        WeightsError: weights are missing or have another hash.
    """
    twice = next((spec for spec in protocol.features if list(protocol.features).count(spec) > 1), None)
    if twice is not None:
        raise ConfigError(f"the feature network '{twice}' is given twice; give it once")
    features = [load_features(spec, weights=protocol.inception_weights) for spec in protocol.features]
    names = [network.name for network in features]
    same = next((name for name in names if names.count(name) > 1), None)
    if same is not None:
        raise ConfigError(f"two feature networks are called '{same}', as their scores would be; rename one file")
    segmenter = None
    if protocol.segmenter is not None:
        if space is None:
            raise ConfigError("a segmenter's predictions are compared with label maps: add --labels and --label-space")
        segmenter = load_segmenter(str(protocol.segmenter), space)
    lpips = None if protocol.lpips is None else LPIPS(protocol.lpips, protocol.lpips_weights)
    return Networks(features, segmenter, lpips)


def protocol_facts(
    accumulator: MetricAccumulator, log: ReadingLog, protocol: Protocol, size: Any, distributed: DistributedContext
) -> dict[str, Any]:
    """Return the part of the protocol that folders and runs have in common."""
    segmenter = accumulator.networks.segmenter
    lpips = accumulator.networks.lpips
    return {
        "size": size,
        "sizes": {f"{height}x{width}": count for (height, width), count in sorted(log.sizes.items())},
        "resize": RESIZE,
        "resized": {what: log.resized[what] for what in ("generated", "real", "labels")},
        "features": {network.name: network.describe() for network in accumulator.networks.features},
        "kernel": {**KERNEL, "pool": KERNEL_POOL, "degree": 3},
        "segmenter": None if segmenter is None else segmenter.describe(),
        "precision_recall": {"neighbors": NEIGHBORS} if protocol.precision_recall else None,
        "lpips": None if lpips is None else lpips.name,
        "ssim": "Gaussian window 11x11, sigma 1.5, borders omitted, mean over colors",
        "classes_without_pixels": ABSENT["predicted" if segmenter is None else segmenter.absent],
        "seed": protocol.seed,
        "skip_broken": protocol.skip_broken,
        "alpha": protocol.alpha,
        "allow_missing": protocol.allow_missing,
        "device": distributed.device.type,
        "processes": distributed.size,
        "versions": _versions(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in ("lab2pix", "torch", "torchvision", "torchmetrics", "torch-fidelity", "segmentation-models-pytorch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found

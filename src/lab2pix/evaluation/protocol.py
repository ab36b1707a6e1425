"""How pictures are judged: what is asked for, the networks that it names, and what the report says of it."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from lab2pix.errors import ConfigError
from lab2pix.evaluation.accumulator import KERNEL, MetricAccumulator, Networks
from lab2pix.evaluation.features import load_features
from lab2pix.evaluation.loading import ReadingLog
from lab2pix.evaluation.metrics.distribution import KERNEL_POOL
from lab2pix.evaluation.metrics.image import LPIPS
from lab2pix.evaluation.segmenters import load_segmenter
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.distributed import DistributedContext

__all__ = ["RESIZE", "Protocol", "check_weights", "load_networks", "protocol_facts"]

RESIZE = "antialiased bicubic (label maps: nearest neighbour)"


@dataclass(frozen=True)
class Protocol:
    """How pictures are judged.

    Attributes:
        features: networks that the distances between sets look through; see `load_features`.
        segmenter: reads label maps in pictures; see `load_segmenter`.
        lpips: network of the perceptual distance between two pictures; None leaves it out.
        inception_weights, lpips_weights: files; None: the torch hub cache, or the net.
        size: height and width to bring all pictures to; None: each picture's own.
        batch_size: pictures at once; changes speed and memory only.
        seed: decides the subsets of the kernel distance.
        allow_missing: leave out names that lack a partner.
        skip_broken: leave out label maps of which a file cannot be read.
    """

    features: tuple[str, ...] = ("efficientnet-lite0",)
    segmenter: str | None = None
    lpips: Literal["alex", "vgg"] | None = None
    inception_weights: Path | None = None
    lpips_weights: Path | None = None
    size: tuple[int, int] | None = None
    batch_size: int = 32
    seed: int = 0
    allow_missing: bool = False
    skip_broken: bool = False


def check_weights(protocol: Protocol) -> None:
    """Refuse files of weights that nothing asked for would look through.

    Raises:
        ConfigError: there is one.
    """
    if protocol.lpips_weights is not None and protocol.lpips is None:
        raise ConfigError("--lpips-weights are for LPIPS, which was not asked for: add --lpips, or leave them out")
    if protocol.inception_weights is not None and "inception" not in protocol.features:
        raise ConfigError("--inception-weights are for Inception: add --features inception, or leave them out")


def load_networks(protocol: Protocol, space: LabelSpace | None) -> Networks:
    """Load what a protocol names.

    Raises:
        ConfigError: no such network, one named twice, or a segmenter without a label space.
        LabelError: the segmenter reads other classes.
        WeightsError: weights are missing or not what they should be.
    """
    twice = next((spec for spec in protocol.features if protocol.features.count(spec) > 1), None)
    if twice is not None:
        raise ConfigError(f"the feature network '{twice}' is named twice; name it once")
    features = [load_features(spec, weights=protocol.inception_weights) for spec in protocol.features]
    names = [network.name for network in features]
    same = next((name for name in names if names.count(name) > 1), None)
    if same is not None:
        raise ConfigError(f"two feature networks are called '{same}', as their scores would be; rename one file")
    segmenter = None
    if protocol.segmenter is not None:
        if space is None:
            raise ConfigError("a segmenter's reading is compared with label maps: add --labels and --label-space")
        segmenter = load_segmenter(protocol.segmenter, space)
    lpips = None if protocol.lpips is None else LPIPS(protocol.lpips, protocol.lpips_weights)
    return Networks(features, segmenter, lpips)


def protocol_facts(
    judge: MetricAccumulator, log: ReadingLog, protocol: Protocol, size: Any, team: DistributedContext
) -> dict[str, Any]:
    """Return how scores come about, whatever was compared."""
    segmenter = judge.networks.segmenter
    lpips = judge.networks.lpips
    return {
        "size": size,
        "sizes": {f"{height}x{width}": count for (height, width), count in sorted(log.sizes.items())},
        "resize": RESIZE,
        "resized": {what: log.resized[what] for what in ("generated", "real", "labels")},
        "features": {network.name: network.describe() for network in judge.networks.features},
        "kernel": {**KERNEL, "pool": KERNEL_POOL, "degree": 3},
        "segmenter": None if segmenter is None else segmenter.describe(),
        "lpips": None if lpips is None else lpips.name,
        "ssim": "Gaussian window 11x11, sigma 1.5, borders left out, mean over colours",
        "classes_without_pixels": "left out of the means",
        "seed": protocol.seed,
        "skip_broken": protocol.skip_broken,
        "allow_missing": protocol.allow_missing,
        "device": team.device.type,
        "processes": team.size,
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

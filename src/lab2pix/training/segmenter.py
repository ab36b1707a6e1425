"""Training of semantic segmentation networks for evaluation (PPA, PCA, C-IoU)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config.schema import DataConfig
from lab2pix.data.build import AnyDataset, build_dataset
from lab2pix.data.samples import collate
from lab2pix.data.transforms import float_to_uint8
from lab2pix.errors import ConfigError, OutputError, TrainingError
from lab2pix.evaluation.metrics.segmentation import ScoredClasses, SegmentationScores
from lab2pix.evaluation.report import check_writable
from lab2pix.evaluation.segmenters import (
    HEAD,
    SEGMENTER_FILE,
    SEGMENTER_FORMAT,
    WEIGHTS_FILE,
    build_network,
    normalize,
)
from lab2pix.labels.space import LabelSpace
from lab2pix.training.loader import read_batches
from lab2pix.training.sampler import StreamSampler
from lab2pix.utils.distributed import choose_device
from lab2pix.utils.files import atomic_write, output_errors, write_atomically
from lab2pix.utils.tensors import save_tensors

STRIDE = 32
"""Height and width must be multiples of it, for every encoder."""


@dataclass(frozen=True)
class SegmenterSettings:
    """Hyperparameters of a segmenter.

    Attributes:
        architecture: architecture of segmentation-models-pytorch, such as `unet`, `fpn`, `deeplabv3plus`, `upernet`;
            or `fpn-head`, a head on a frozen backbone.
        encoder: encoder of segmentation-models-pytorch; for `fpn-head` a backbone, such as `efficientnet-lite0`.
        encoder_weights: pretrained weights to download, such as `imagenet`; None: from scratch.
        steps: optimizer steps.
        batch_size: images per step.
        learning_rate: peak learning rate of AdamW, reached after a tenth of the steps (one cycle).
        seed: seed of weights, order, flips and jitter.
        color_jitter: largest relative change of brightness, contrast and saturation of a photo; 0: none.
        weights: weights in the loss of the pairs in subfolders of the training split, such as `("synthetic", 0.5)`;
            1 for all others.
    """

    architecture: str = "unet"
    encoder: str = "resnet18"
    encoder_weights: str | None = None
    steps: int = 2000
    batch_size: int = 16
    learning_rate: float = 2e-3
    seed: int = 0
    color_jitter: float = 0.0
    weights: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class SegmenterResult:
    """Result of segmenter training.

    Attributes:
        folder: the output folder, for `load_segmenter`.
        scores: `ppa`, `pca` and `ciou` on the held-out pairs.
        seconds: time of training and scoring.
    """

    folder: Path
    scores: dict[str, float]
    seconds: float

    def __str__(self) -> str:
        """Return scores and folder."""
        scores = ", ".join(f"{name} {value:.4f}" for name, value in self.scores.items())
        return f"held-out pairs: {scores}\n{self.folder}"


def train_segmenter(
    data: DataConfig,
    out: Path | str,
    settings: SegmenterSettings | None = None,
    *,
    device: str | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> SegmenterResult:
    """Train a segmenter on the training pairs of a dataset, and score it on the held-out pairs.

    Args:
        data: the dataset; its size is the input size of the segmenter.
        out: folder for the weights and `segmenter.json`.
        settings: hyperparameters; None: the defaults.
        device: device to train on; None: the best one available.
        overwrite: replace an existing segmenter.
        on_progress: called with the number of finished steps and their total.

    Raises:
        ConfigError: no pairs, no held-out split, unsupported size, or unknown architecture.
        DataError, LabelError: unusable files.
        OutputError: the folder is not empty.
        TrainingError: non-finite loss.
    """
    settings, out = settings or SegmenterSettings(), Path(out)
    _check(data, out, overwrite)
    space = LabelSpace.load(data.label_space)
    train = build_dataset(data, "train", space, settings.seed, paired=True)
    held_out = build_dataset(data, "val", space, settings.seed, paired=True)
    chosen = choose_device(device)
    torch.manual_seed(settings.seed)
    network = build_network(settings.architecture, settings.encoder, space.num_classes, settings.encoder_weights)
    network.to(chosen, memory_format=torch.channels_last)  # type: ignore[call-overload]
    began = time.monotonic()
    losses = _optimize(network, train, data, space, settings, chosen, on_progress)
    scores = _score(network, held_out, data, space, chosen)
    seconds = time.monotonic() - began
    packages = ["lab2pix", "torch"]
    if settings.architecture != HEAD:
        packages.append("segmentation-models-pytorch")
    info = {
        "format": SEGMENTER_FORMAT,
        "architecture": settings.architecture,
        "encoder": settings.encoder,
        "size": list(data.size),
        "held_out": {**scores, "pairs": len(held_out)},
        "training": {
            "steps": settings.steps,
            "batch_size": settings.batch_size,
            "learning_rate": settings.learning_rate,
            "encoder_weights": settings.encoder_weights,
            "seed": settings.seed,
            "color_jitter": settings.color_jitter,
            "weights": dict(settings.weights),
            "format": data.format,
            "pairs": len(train),
            "losses": losses,
            "seconds": round(seconds, 1),
        },
        "versions": {name: version(name) for name in packages},
        "label_space": space.to_dict(),
    }
    _write(out, network, info)
    return SegmenterResult(out, scores, seconds)


def _check(data: DataConfig, out: Path, overwrite: bool) -> None:
    if data.val_split is None:
        raise ConfigError("a segmenter is scored on held-out pairs, so name their split: --val-split val")
    if data.size[0] % STRIDE or data.size[1] % STRIDE:
        raise ConfigError(
            f"--size is {data.size[0]}x{data.size[1]}, but both sides must be multiples of {STRIDE}; such as "
            f"{max(1, round(data.size[0] / STRIDE)) * STRIDE}x{max(1, round(data.size[1] / STRIDE)) * STRIDE}"
        )
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (overwrite and (out / SEGMENTER_FILE).exists())):
        raise OutputError(f"{out} holds something already; choose another folder, or --overwrite a segmenter there")
    check_writable(out / SEGMENTER_FILE)


def _optimize(
    network: nn.Module,
    dataset: AnyDataset,
    data: DataConfig,
    space: LabelSpace,
    settings: SegmenterSettings,
    device: torch.device,
    on_progress: Callable[[int, int], None] | None,
) -> list[float]:
    """Train with pixel-wise cross-entropy on labeled pixels; return the mean loss of each tenth of the steps."""
    learned = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=settings.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.steps, pct_start=0.1
    )
    sampler = StreamSampler(
        len(dataset), seed=settings.seed, batch_size=settings.batch_size, steps=range(settings.steps)
    )
    sums, every = torch.zeros(10, dtype=torch.float64), torch.zeros(10)
    with closing(read_batches(dataset, sampler, data.workers)) as batches:
        for step, [batch] in enumerate(batches):
            loss = _loss(network, batch.to(device), data.size, space, settings)
            if not bool(loss.isfinite()):
                raise TrainingError(f"the segmenter's loss is not finite at step {step + 1}; lower --learning-rate")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            tenth = step * 10 // settings.steps
            sums[tenth] += loss.item()
            every[tenth] += 1
            if on_progress is not None:
                on_progress(step + 1, settings.steps)
    return [round(value, 4) for value in (sums / every.clamp(min=1)).tolist()]


def _loss(
    network: nn.Module, batch: Batch, size: tuple[int, int], space: LabelSpace, settings: SegmenterSettings
) -> Tensor:
    if batch.image is None:
        raise ConfigError("a segmenter learns from pairs, but this dataset has label maps without photos")
    images = float_to_uint8(jitter_colors(batch.image, settings.color_jitter)).to(batch.label.device)
    logits = network(normalize(images, size))
    losses = F.cross_entropy(logits, batch.label, ignore_index=space.num_classes, reduction="none")
    weights = pair_weights(batch.names, settings.weights).to(losses.device)[:, None, None]
    return (weights * losses).sum() / (weights * (batch.label != space.num_classes)).sum()


def pair_weights(names: Sequence[str], weights: Sequence[tuple[str, float]]) -> Tensor:
    """Return the weight of each pair in the loss, `[N]` float32: that of its subfolder, or 1."""
    found = ([weight for folder, weight in weights if name.startswith(f"{folder}/")] for name in names)
    return torch.tensor([own[0] if own else 1.0 for own in found])


def jitter_colors(images: Tensor, strength: float) -> Tensor:
    """Change brightness, contrast and saturation of each image by random factors.

    Args:
        images: `[N, 3, H, W]` float32 in [-1, 1].
        strength: factors are drawn from `1 - strength` to `1 + strength`; 0 returns the images.

    Returns:
        `[N, 3, H, W]` float32, not clipped.
    """
    if not strength:
        return images
    factors = 1 + strength * (2 * torch.rand(3, len(images), 1, 1, 1) - 1)
    brightness, contrast, saturation = factors.to(images.device)
    images = (images + 1) * brightness - 1
    images = images.mean((1, 2, 3), keepdim=True).lerp(images, contrast)
    return images.mean(1, keepdim=True).lerp(images, saturation)


def held_out_batches(dataset: AnyDataset, at_once: int) -> Iterator[Batch]:
    """Yield batches of all samples of a dataset in order, without flips.

    Raises:
        ConfigError: the dataset has no photos.
    """
    for start in range(0, len(dataset), at_once):
        batch = collate([dataset[(0, index)] for index in range(start, min(start + at_once, len(dataset)))])
        if batch.image is None:
            raise ConfigError("a segmenter is scored on pairs, but this dataset has label maps without photos")
        yield batch


@torch.inference_mode()
def _score(
    network: nn.Module, dataset: AnyDataset, data: DataConfig, space: LabelSpace, device: torch.device
) -> dict[str, float]:
    network.eval()
    scores = SegmentationScores(ScoredClasses.of(space))
    for batch in held_out_batches(dataset, 16):
        assert batch.image is not None
        logits = network(normalize(float_to_uint8(batch.image).to(device), data.size))
        scores.update(logits.argmax(1).cpu(), batch.label)
    return {name: round(value, 4) for name, value in scores.compute().items()}


def _write(out: Path, network: nn.Module, info: dict[str, Any]) -> None:
    """Write the weights, then `segmenter.json`, which marks the segmenter as complete."""
    with output_errors(out, "choose another folder"):
        out.mkdir(parents=True, exist_ok=True)
        (out / SEGMENTER_FILE).unlink(missing_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
        with atomic_write(out / WEIGHTS_FILE) as [unfinished]:
            save_tensors(tensors, unfinished)
        write_atomically(out / SEGMENTER_FILE, json.dumps(info, indent=1, ensure_ascii=False) + "\n")

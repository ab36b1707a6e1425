"""Evaluation of images in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lab2pix.data.image_file import to_rgb
from lab2pix.errors import ConfigError, DataError
from lab2pix.evaluation.accumulator import MetricAccumulator
from lab2pix.evaluation.evaluator import build_report
from lab2pix.evaluation.loading import ReadingLog
from lab2pix.evaluation.protocol import Protocol, load_networks
from lab2pix.evaluation.report import Report
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.distributed import DistributedContext, choose_device

ImageBatch = Tensor | NDArray[np.uint8] | Sequence[Image.Image | Tensor | NDArray[np.uint8]]
"""Images of one size: a uint8 tensor `[N, 3, H, W]`, array `[N, H, W, 3]`, or list of single or Pillow images."""


def evaluate_images(
    generated: ImageBatch,
    real: ImageBatch | None = None,
    protocol: Protocol | None = None,
    *,
    labels: Tensor | NDArray[Any] | None = None,
    label_space: LabelSpace | str | None = None,
    unpaired: bool = False,
    name: str = "images",
    device: str | None = None,
) -> Report:
    """Evaluate generated images in memory; see `evaluate_folders` for the scores.

    Args:
        generated: the images.
        real: photos of the same size; pairs in the same order, unless `unpaired`.
        protocol: networks, batch size and seed; None: the defaults.
        labels: label maps in the order of the images, canonical ids `[N, H, W]`, for a protocol with a segmenter.
        label_space: label space of `labels`.
        unpaired: whether the order of photos and images is unrelated.
        name: name of the method in the report.
        device: `cpu`, `cuda` or `mps`; None: the best one available.

    Raises:
        ConfigError: conflicting arguments, or an unknown network.
        DataError: images that are not uint8 RGB, or that differ in number or size.
        WeightsError: weights are missing or have another hash.
    """
    protocol = protocol or Protocol()
    pixels, photos = _pixels(generated, "generated"), None if real is None else _pixels(real, "real")
    space = LabelSpace.load(label_space) if isinstance(label_space, str) else label_space
    ids = None if labels is None else torch.as_tensor(labels).to(torch.int64)
    _check(pixels, photos, ids, space, protocol, unpaired)
    networks = load_networks(protocol, space)
    used = choose_device(device)
    networks.to(used)
    accumulator, log, step = MetricAccumulator(networks, 1, **protocol.scoring), ReadingLog(), protocol.batch_size
    names = [f"{index:06d}" for index in range(max(len(pixels), 0 if photos is None else len(photos)))]
    for start in range(0, len(pixels), step):
        part = slice(start, start + step)
        pair = None if photos is None or unpaired else photos[part]
        shown, label = pixels[part], None if ids is None else ids[part]
        if label is not None and networks.segmenter is not None and networks.segmenter.label_size is not None:
            resized = F.interpolate(label[:, None].float(), networks.segmenter.label_size, mode="nearest-exact")
            label = resized[:, 0].long()
        accumulator.update(names[start : start + len(shown)], [shown], pair, label)
    if photos is not None and unpaired:
        for start in range(0, len(photos), step):
            more = photos[start : start + step]
            accumulator.update_real(names[start : start + len(more)], more)
    size = (pixels.shape[-2], pixels.shape[-1])
    log.sizes[size] += len(pixels)
    counts = {"generated": {"count": len(pixels)}, "real": None if photos is None else {"count": len(photos)}}
    sources = {**counts, "labels": None if ids is None else {"count": len(ids)}, "sample_sets": 1}
    return build_report(accumulator, log, name, sources, protocol, list(size), DistributedContext(0, 1, used), space)


def _pixels(images: ImageBatch, what: str) -> Tensor:
    """Return images as `[N, 3, H, W]` uint8."""
    if isinstance(images, np.ndarray):
        pixels = torch.from_numpy(images).movedim(-1, 1) if images.ndim == 4 else torch.from_numpy(images)
    elif isinstance(images, Tensor):
        pixels = images.cpu()
    else:
        converted = [_one(image) for image in images]
        if len({image.shape for image in converted}) > 1:
            raise DataError(f"the {what} images differ in size; resize them to one size")
        pixels = torch.stack(converted) if converted else torch.empty(0)
    if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.dtype != torch.uint8 or not len(pixels):
        raise DataError(
            f"the {what} images must be RGB of uint8, a tensor [N, 3, height, width] or an array [N, height, width, "
            f"3], not {pixels.dtype} {list(pixels.shape)}; convert x "
            "of [0, 1] by (x * 255).round().to(torch.uint8), and x of [-1, 1] by "
            "((x + 1) * 127.5).round().to(torch.uint8)"
        )
    return pixels.contiguous()


def _one(image: Image.Image | Tensor | NDArray[np.uint8]) -> Tensor:
    """Return one image as `[3, H, W]`, if it is RGB."""
    if isinstance(image, Tensor):
        return image.cpu()
    return torch.from_numpy(image).movedim(-1, 0) if isinstance(image, np.ndarray) else to_rgb(image)


def _check(
    pixels: Tensor,
    photos: Tensor | None,
    ids: Tensor | None,
    space: LabelSpace | None,
    protocol: Protocol,
    unpaired: bool,
) -> None:
    if (ids is None) != (space is None) or (ids is None) != (protocol.segmenter is None):
        raise ConfigError("labels, label_space and the protocol's segmenter belong together: give all three, or none")
    if photos is None and ids is None:
        raise ConfigError("there is nothing to compare the images with: pass real, or labels with a segmenter")
    if photos is not None and not unpaired and photos.shape != pixels.shape:
        raise DataError(
            f"{list(pixels.shape)} generated and {list(photos.shape)} real images do not pair; pass as many of the "
            "same size, or unpaired=True"
        )
    if ids is not None and len(ids) != len(pixels):
        raise DataError(f"{len(pixels)} images and {len(ids)} label maps do not pair; pass one for each")

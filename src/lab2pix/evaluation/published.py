"""Segmenters of published scores, and the protocols that use them, as in their authors' scripts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.errors import ConfigError, WeightsError, did_you_mean
from lab2pix.evaluation.metrics.segmentation import AbsentClasses, ScoredClasses
from lab2pix.evaluation.networks.deeplab import DeepLabV2
from lab2pix.evaluation.networks.drn import DRN
from lab2pix.evaluation.networks.fcn import FCN8s
from lab2pix.evaluation.networks.upernet import UperNet
from lab2pix.evaluation.segmenter_base import Segmenter, map_classes, read_logits
from lab2pix.interop.checkpoints import read_checkpoint
from lab2pix.labels.space import LabelSpace
from lab2pix.nn.backbones import IMAGENET_MEAN, IMAGENET_STD
from lab2pix.utils.caffemodel import read_caffemodel
from lab2pix.utils.pretrained import file_sha256


@dataclass(frozen=True)
class PublishedNetwork:
    """A network of published scores.

    Attributes:
        title: its name in papers.
        build: returns the network.
        space: label space whose scored classes are its first channels, in order.
        origin: where the weights are to be had.
        mean, std: mean and deviation per channel of pixels of 0 to 255, in the network's own order of colors.
        bgr: whether the first channel is blue.
        size: height and width of its input; None: the image's own.
        short_sides: lengths of the short side at which the image is read, and the probabilities averaged.
        unused: channels after those of the classes.
        parts: files of a folder of weights, by the prefix of their names; empty: the weights are one file.
        absent: see `SegmentationScores`.
    """

    title: str
    build: Callable[[], nn.Module]
    space: str
    origin: str
    mean: tuple[float, ...]
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    bgr: bool = False
    size: tuple[int, int] | None = None
    short_sides: tuple[int, ...] = ()
    unused: int = 0
    parts: tuple[tuple[str, str], ...] = ()
    absent: AbsentClasses = "predicted"


PUBLISHED = {
    "drn-d-105": PublishedNetwork(
        "DRN-D-105",
        DRN,
        "cityscapes",
        "drn_d_105's weights for Cityscapes from http://go.yf.io/drn-cityscapes-models",
        mean=tuple(255 * value for value in (0.290101, 0.328081, 0.286964)),
        std=tuple(255 * value for value in (0.182954, 0.186566, 0.184475)),
        size=(1024, 2048),
    ),
    "fcn-8s": PublishedNetwork(
        "FCN-8s",
        FCN8s,
        "cityscapes",
        "fcn-8s-cityscapes.caffemodel from "
        "http://people.eecs.berkeley.edu/~tinghuiz/projects/pix2pix/fcn-8s-cityscapes/fcn-8s-cityscapes.caffemodel",
        mean=(72.78044, 83.21195, 73.45286),
        bgr=True,
        size=(1024, 2048),
        unused=1,
        absent="zero",
    ),
    "upernet-101": PublishedNetwork(
        "UperNet-101",
        UperNet,
        "ade20k",
        "encoder_epoch_50.pth and decoder_epoch_50.pth into one folder from "
        "http://sceneparsing.csail.mit.edu/model/pytorch/ade20k-resnet101-upernet",
        mean=tuple(255 * value for value in IMAGENET_MEAN),
        std=tuple(255 * value for value in IMAGENET_STD),
        short_sides=(300, 375, 450, 525, 600),
        parts=(("encoder.", "encoder_epoch_50.pth"), ("decoder.", "decoder_epoch_50.pth")),
        absent="zero",
    ),
    "deeplab-v2-101": PublishedNetwork(
        "DeepLab-V2-101",
        DeepLabV2,
        "coco-stuff",
        "deeplabv2_resnet101_msc-cocostuff164k-100000.pth from "
        "https://github.com/kazuto1011/deeplab-pytorch/releases/tag/v1.0",
        mean=(104.008, 116.669, 122.675),
        bgr=True,
        absent="labeled",
    ),
}
"""The networks, by their name in `--segmenter NAME:WEIGHTS`."""

PROTOCOLS: dict[str, str | None] = {
    "cityscapes": "drn-d-105",
    "cityscapes-fcn": "fcn-8s",
    "ade20k": "upernet-101",
    "coco-stuff": "deeplab-v2-101",
    "facades": None,
}
"""Segmenter of each published protocol (5.3); Facades is scored by PSNR and SSIM alone."""

LONGEST_SIDE, MULTIPLE = 1000, 32
"""Longest side, and the divisor of both sides, where an image is read at several sizes."""


def protocol_settings(name: str, weights: str | Path | None) -> dict[str, Any]:
    """Return the settings of `Protocol` for a published protocol.

    Args:
        name: one of `PROTOCOLS`.
        weights: the segmenter's weights: a file, or a folder where they are two files.

    Raises:
        ConfigError: the protocol is unknown, or it has no segmenter but weights are given.
        WeightsError: the segmenter's weights are not given.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"--protocol is '{name}'{did_you_mean(name, PROTOCOLS)}")
    segmenter = PROTOCOLS[name]
    if segmenter is None:
        if weights is not None:
            raise ConfigError(f"protocol '{name}' scores by PSNR and SSIM without a segmenter; omit --segmenter")
        return {"features": ()}
    if weights is None:
        network = PUBLISHED[segmenter]
        raise WeightsError(
            f"protocol '{name}' scores with {network.title}: fetch {network.origin}, and pass "
            f"--segmenter {'FOLDER' if network.parts else 'FILE'}"
        )
    return {"features": ("inception",), "segmenter": f"{segmenter}:{weights}"}


def load_published(name: str, weights: Path, expected: LabelSpace | None) -> Segmenter:
    """Load a segmenter of published scores.

    Args:
        name: one of `PUBLISHED`.
        weights: its authors' file, or the folder of their files.
        expected: label space of the label maps; None: that of the network.

    Raises:
        LabelError: the label space has scored classes that the network lacks.
        WeightsError: the files are missing, or of another network.
    """
    return _Published(name, PUBLISHED[name], weights, expected)


class _Published(Segmenter):
    """A segmenter of published scores; it reads one image at a time, as its authors' script does."""

    def __init__(self, name: str, network: PublishedNetwork, weights: Path, expected: LabelSpace | None) -> None:
        self.name, self.settings = name, network
        own = LabelSpace.load(network.space)
        self.space = expected or own
        names = ScoredClasses.of(own).names
        channels = [known if known in self.space.names else None for known in names]
        self.ids = map_classes([*channels, *[None] * network.unused], self.space, network.title)
        self.label_size, self.absent = network.size, network.absent
        files = _files(network, weights)
        self.sha256 = {file.name: file_sha256(file) for file in files.values()}
        with torch.device("meta"):
            self.network = network.build()
        _load(self.network, network, files)
        self.network.eval().requires_grad_(False)

    def logits(self, images: Tensor) -> Tensor:
        size = (images.shape[-2], images.shape[-1])
        return torch.cat([self._scores(image[None], size).cpu() for image in images])

    def __call__(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        ids = self.ids.to(self.device)
        return torch.cat([read_logits(self._scores(image[None], size), size, ids).cpu() for image in images])

    @torch.inference_mode()
    def _scores(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Return scores per class of `[1, 3, h, w]` uint8: logits, or mean probabilities at `size`."""
        height, width = image.shape[-2:]
        if not self.settings.short_sides:
            return self._read(image, self.settings.size or (height, width))
        scores = torch.zeros(())
        for side in self.settings.short_sides:
            scale = min(side / min(height, width), LONGEST_SIDE / max(height, width))
            sides = [ceil(int(length * scale) / MULTIPLE) * MULTIPLE for length in (height, width)]
            logits = F.interpolate(self._read(image, (sides[0], sides[1])), size, mode="bilinear", align_corners=False)
            scores = scores.to(self.device) + logits.softmax(1) / len(self.settings.short_sides)
        return scores

    def _read(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the logits of an image on the CPU, which is resized as Pillow does: bilinear, antialiased, uint8."""
        if tuple(image.shape[-2:]) != size:
            image = F.interpolate(image.cpu(), size, mode="bilinear", antialias=True)
        pixels = image.to(self.device).float()
        pixels = pixels.flip(1) if self.settings.bgr else pixels
        mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in (self.settings.mean, self.settings.std))
        logits: Tensor = self.network((pixels - mean) / std)
        return logits

    def describe(self) -> dict[str, Any]:
        how = "the image size" if self.settings.size is None else "{}x{}".format(*self.settings.size)
        if self.settings.short_sides:
            how = f"short sides of {', '.join(map(str, self.settings.short_sides))}, probabilities averaged"
        shared = {"name": self.name, "weights_sha256": self.sha256, "classes": self.ids.tolist()}
        return {**shared, "input": how, "label_size": None if self.label_size is None else list(self.label_size)}


def _files(network: PublishedNetwork, weights: Path) -> dict[str, Path]:
    """Return the files of weights by the prefix of their names.

    Raises:
        WeightsError: a file is missing.
    """
    files = {prefix: weights / name for prefix, name in network.parts} or {"": weights}
    missing = next((file for file in files.values() if not file.is_file()), None)
    if missing is not None:
        raise WeightsError(f"{missing} is not a file, but {network.title} needs its weights: fetch {network.origin}")
    return files


def _load(module: nn.Module, network: PublishedNetwork, files: dict[str, Path]) -> None:
    """Load the weights; other entries of the files, such as a training's counters, are ignored.

    Raises:
        CheckpointError: a file is damaged, or holds more than weights.
        WeightsError: weights are missing or of another shape.
    """
    state = {}
    own = module.state_dict()
    for prefix, file in files.items():
        found = read_caffemodel(file) if file.suffix == ".caffemodel" else read_checkpoint(file)
        for name in (name for name in own if name.startswith(prefix)):
            tensor = found.get(name.removeprefix(prefix))
            if tensor is None or tensor.shape != own[name].shape:
                has = "does not have" if tensor is None else f"has {list(tensor.shape)} for"
                raise WeightsError(
                    f"{file} {has} the weight '{name.removeprefix(prefix)}' {list(own[name].shape)} of "
                    f"{network.title}; fetch {network.origin}"
                )
            state[name] = tensor.to(own[name].dtype)
    module.load_state_dict(state, assign=True)

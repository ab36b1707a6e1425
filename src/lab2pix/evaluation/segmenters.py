"""Segmenters: trained by `lab2pix segmenter train`, exported, or from the Hugging Face hub."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from lab2pix.errors import ConfigError, LabelError, WeightsError
from lab2pix.evaluation.batching import map_chunks
from lab2pix.evaluation.exported import PROGRAM_SUFFIXES, ExportedModel, ProgramSettings, Whole, read_settings
from lab2pix.evaluation.metrics.segmentation import ScoredClasses
from lab2pix.labels.space import LabelSpace
from lab2pix.nn.backbones import IMAGENET_MEAN, IMAGENET_STD
from lab2pix.utils.extras import import_extra
from lab2pix.utils.pretrained import file_sha256
from lab2pix.utils.tensors import load_tensors
from lab2pix.utils.text import reason_of

__all__ = [
    "SEGMENTER_FILE",
    "SEGMENTER_FORMAT",
    "WEIGHTS_FILE",
    "Segmenter",
    "build_network",
    "load_segmenter",
    "normalize",
]

SEGMENTER_FORMAT = "lab2pix-segmenter/1"
SEGMENTER_FILE = "segmenter.json"
WEIGHTS_FILE = "model.safetensors"


class Segmenter(ABC):
    """Predicts label maps from images.

    Attributes:
        name: name in reports.
        space: label space of its predictions.
        network: the network.
        device: its device.
    """

    name: str
    space: LabelSpace
    network: Any
    device = torch.device("cpu")

    @abstractmethod
    def __call__(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """Return canonical ids `[N, *size]` int64 (-1: none of the classes) of `[N, 3, h, w]` uint8 images."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return everything that must be equal for two scores to be comparable."""

    def to(self, device: torch.device) -> None:
        """Move to a device."""
        self.network.to(device)
        self.device = device


def _read(logits: Tensor, size: tuple[int, int], ids: Tensor) -> Tensor:
    """Upsample logits `[N, C, h, w]` bilinearly, and return the class ids of the largest channels."""
    if tuple(logits.shape[-2:]) != size:
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    return ids[logits.argmax(1)]


def normalize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize `[N, 3, H, W]` uint8 images and normalize them by ImageNet's mean and deviation."""
    image = images.float()
    if tuple(image.shape[-2:]) != size:
        image = F.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 255)
    mean, std = (torch.tensor(part, device=image.device).view(3, 1, 1) * 255 for part in (IMAGENET_MEAN, IMAGENET_STD))
    return (image - mean) / std


def build_network(architecture: str, encoder: str, classes: int, encoder_weights: str | None = None) -> nn.Module:
    """Return a network of segmentation-models-pytorch.

    Raises:
        ConfigError: the package is missing, or the architecture or encoder is unknown.
        WeightsError: the pretrained weights cannot be downloaded.
    """
    smp = import_extra("segmentation_models_pytorch", "segmenter", "a segmenter")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it logs each attempt to download
    try:
        network: nn.Module = smp.create_model(
            architecture, encoder_name=encoder, encoder_weights=encoder_weights, classes=classes
        )
    except (KeyError, RuntimeError, ValueError, OSError) as error:
        if encoder_weights is not None and isinstance(error, OSError):
            raise WeightsError(
                f"the weights '{encoder_weights}' of encoder '{encoder}' are not in the cache and could not be "
                "downloaded; run this where there is a network and bring the Hugging Face or torch hub cache here, or "
                "omit --encoder-weights"
            ) from error
        reason = " ".join(str(error).strip("'\"").split())[:160]
        raise ConfigError(f"no segmenter '{architecture}' on encoder '{encoder}' can be built: {reason}") from error
    return network


class _Trained(Segmenter):
    """A segmenter of `lab2pix segmenter train`."""

    def __init__(self, folder: Path) -> None:
        weights = folder / WEIGHTS_FILE
        try:
            self.info: dict[str, Any] = json.loads((folder / SEGMENTER_FILE).read_text(encoding="utf-8"))
            if self.info.get("format") != SEGMENTER_FORMAT:
                raise WeightsError(
                    f"{folder / SEGMENTER_FILE} is of format {self.info.get('format')!r}; train it again"
                )
            self.space = LabelSpace.from_dict(self.info["label_space"], where=str(folder / SEGMENTER_FILE))
            self.network = build_network(self.info["architecture"], self.info["encoder"], self.space.num_classes)
            self.network.load_state_dict(load_tensors(weights))
        except (OSError, ValueError, KeyError, SafetensorError, RuntimeError) as error:
            raise WeightsError(
                f"{folder} does not hold a complete segmenter ({reason_of(error)}); train it again"
            ) from error
        self.name = folder.resolve().name
        self.size = (int(self.info["size"][0]), int(self.info["size"][1]))
        self.sha256 = file_sha256(weights)
        self.network.eval().requires_grad_(False)

    @torch.inference_mode()
    def __call__(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        ids = torch.arange(self.space.num_classes, device=self.device)

        def read(part: Tensor) -> Tensor:
            return _read(self.network(normalize(part.to(self.device), self.size)), size, ids).cpu()

        return map_chunks(read, self.size, self.device, images)

    def describe(self) -> dict[str, Any]:
        keys = ("architecture", "encoder", "size", "held_out")
        kept = {key: self.info[key] for key in keys if key in self.info}
        return {"name": self.name, "weights_sha256": self.sha256, **kept}


class _ExportedSettings(ProgramSettings):
    """See `ProgramSettings`.

    Attributes:
        classes: class of each output channel: a name or id of the label space, or null for none.
    """

    classes: tuple[str | Whole | None, ...]


class _Exported(Segmenter):
    """An exported program with output `[N, C, h, w]` logits."""

    def __init__(self, file: Path, space: LabelSpace) -> None:
        self.settings: _ExportedSettings = read_settings(file, _ExportedSettings)
        self.network = ExportedModel(file, self.settings)
        self.name, self.space = file.stem, space
        self.ids = _mapping(self.settings.classes, space, str(file.with_suffix(".json")))

    def __call__(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        logits = self.network(images)
        if logits.ndim != 4 or logits.shape[1] != len(self.ids):
            raise LabelError(
                f"{self.network.file} returns {list(logits.shape)}, but {self.network.file.stem}.json names "
                f"{len(self.ids)} classes; list one entry per output channel, null for none"
            )
        return _read(logits, size, self.ids)

    def describe(self) -> dict[str, Any]:
        how = self.settings.model_dump(mode="json", exclude={"batch", "classes"})
        return {"name": self.name, "weights_sha256": self.network.sha256, "input": how, "classes": self.ids.tolist()}


class _HuggingFace(Segmenter):
    """A semantic-segmentation model of the Hugging Face hub; its classes are matched by name."""

    def __init__(self, name: str, space: LabelSpace) -> None:
        transformers = import_extra("transformers", "huggingface", f"hf:{name}")
        try:
            self.processor = transformers.AutoImageProcessor.from_pretrained(name)
            self.network = transformers.AutoModelForSemanticSegmentation.from_pretrained(name).eval()
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"hf:{name} cannot be loaded ({reason_of(error)}); correct the name, or give a folder"
            ) from error
        labels = self.network.config.id2label
        known = {_plain(item): item for item in space.names}
        classes = [known.get(_plain(labels[channel])) for channel in range(len(labels))]
        self.name, self.space = name, space
        self.ids = _mapping(classes, space, f"hf:{name}")

    @torch.inference_mode()
    def __call__(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        inputs = self.processor(images=list(images.permute(0, 2, 3, 1).numpy()), return_tensors="pt").to(self.device)
        return _read(self.network(**inputs).logits.float().cpu(), size, self.ids)

    def describe(self) -> dict[str, Any]:
        revision = getattr(self.network.config, "_commit_hash", None)
        return {"name": f"hf:{self.name}", "revision": revision, "classes": self.ids.tolist()}


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _mapping(classes: Sequence[str | int | None], space: LabelSpace, where: str) -> Tensor:
    """Return the class id of each output channel, -1 for none.

    Raises:
        LabelError: a name or id that the label space does not have, or a scored class without a channel.
    """
    ids = []
    for entry in classes:
        if isinstance(entry, str) and entry not in space.names:
            raise LabelError(
                f"{where}: label space '{space.name}' has no class '{entry}'; write one of its names, or null"
            )
        if isinstance(entry, int) and not 0 <= entry < space.num_classes:
            raise LabelError(f"{where}: label space '{space.name}' has ids 0 to {space.num_classes - 1}, not {entry}")
        ids.append(space.names.index(entry) if isinstance(entry, str) else -1 if entry is None else entry)
    scored = ScoredClasses.of(space)
    covered = {int(scored.table[number]) for number in ids if number >= 0}
    lacking = [name for number, name in enumerate(scored.names) if number not in covered]
    if lacking:
        raise LabelError(
            f"{where} predicts {len(covered - {-1})} of the {len(scored.names)} classes that label space "
            f"'{space.name}' scores and lacks '{lacking[0]}'; give a segmenter made for that label space"
        )
    return torch.tensor(ids)


def load_segmenter(source: str | Path, expected: LabelSpace) -> Segmenter:
    """Load a segmenter.

    Args:
        source: a folder of `lab2pix segmenter train`; an exported program (`.pt2`, `.onnx`) with its JSON file; or
            `hf:NAME`, a semantic-segmentation model of the Hugging Face hub.
        expected: label space of the label maps.

    Raises:
        ConfigError: the segmenter does not exist, or a package for it is missing.
        LabelError: it has other classes.
        WeightsError: its files are damaged or missing.
    """
    text = str(source)
    if text.startswith("hf:"):
        return _HuggingFace(text.removeprefix("hf:"), expected)
    path = Path(source)
    if path.suffix in PROGRAM_SUFFIXES:
        return _Exported(path, expected)
    if not path.is_dir():
        raise ConfigError(
            f"there is no segmenter {path}; give a folder of `lab2pix segmenter train`, an exported program "
            f"({', '.join(PROGRAM_SUFFIXES)}), or hf:NAME"
        )
    segmenter = _Trained(path)
    if segmenter.space.names != expected.names:
        raise LabelError(
            f"{path} predicts {segmenter.space.num_classes} classes of label space '{segmenter.space.name}', but the "
            f"label maps have the {expected.num_classes} of '{expected.name}'; give a segmenter trained on those"
        )
    return segmenter

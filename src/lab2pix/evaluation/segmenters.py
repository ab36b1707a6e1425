"""Segmenters: trained by `lab2pix segmenter train`, exported, of torchvision, or from the Hugging Face hub."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from lab2pix.errors import ConfigError, LabelError, WeightsError, did_you_mean
from lab2pix.evaluation.batching import map_chunks
from lab2pix.evaluation.exported import PROGRAM_SUFFIXES, ExportedModel, ProgramSettings, Whole, read_settings
from lab2pix.evaluation.networks.backbone_head import BackboneHead
from lab2pix.evaluation.published import PUBLISHED, load_published
from lab2pix.evaluation.segmenter_base import Segmenter, map_classes
from lab2pix.labels.space import LabelSpace
from lab2pix.nn.backbones import IMAGENET_MEAN, IMAGENET_STD
from lab2pix.utils.extras import import_extra
from lab2pix.utils.pretrained import file_sha256
from lab2pix.utils.registry import model_folders, why_missing
from lab2pix.utils.tensors import load_tensors
from lab2pix.utils.text import reason_of

_LOG = logging.getLogger(__name__)

SEGMENTER_FORMAT = "lab2pix-segmenter/1"
SEGMENTER_FILE = "segmenter.json"
HEAD = "fpn-head"
"""Architecture of a head on a frozen backbone."""
WEIGHTS_FILE = "model.safetensors"


def normalize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize `[N, 3, H, W]` uint8 images and normalize them by ImageNet's mean and deviation."""
    image = images.float()
    if tuple(image.shape[-2:]) != size:
        image = F.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 255)
    mean, std = (torch.tensor(part, device=image.device).view(3, 1, 1) * 255 for part in (IMAGENET_MEAN, IMAGENET_STD))
    return (image - mean) / std


def build_network(architecture: str, encoder: str, classes: int, encoder_weights: str | None = None) -> nn.Module:
    """Return a network of segmentation-models-pytorch, or for architecture `HEAD` one on a frozen backbone.

    Raises:
        ConfigError: the package is missing, or the architecture or encoder is unknown.
        WeightsError: the pretrained weights cannot be downloaded.
    """
    if architecture == HEAD:
        if encoder_weights is not None:
            raise ConfigError(f"{HEAD} is trained on the ImageNet weights of its backbone; omit --encoder-weights")
        return BackboneHead(encoder, classes)
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
        self.ids = torch.arange(self.space.num_classes)
        self.sha256 = file_sha256(weights)
        self.network.eval().requires_grad_(False)

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.network(normalize(images.to(self.device), self.size)))

    def __call__(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        read = super().__call__
        return map_chunks(lambda part: read(part, size), self.size, self.device, images)

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

    def __init__(self, file: Path, space: LabelSpace | None) -> None:
        self.settings: _ExportedSettings = read_settings(file, _ExportedSettings)
        self.network = ExportedModel(file, self.settings)
        self.name = file.stem
        self.space, self.ids = _classes(self.settings.classes, space, str(file.with_suffix(".json")))

    def logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        if logits.ndim != 4 or logits.shape[1] != len(self.ids):
            raise LabelError(
                f"{self.network.file} returns {list(logits.shape)}, but {self.network.file.stem}.json names "
                f"{len(self.ids)} classes; list one entry per output channel, null for none"
            )
        return logits

    def describe(self) -> dict[str, Any]:
        how = self.settings.model_dump(mode="json", exclude={"batch", "classes"})
        return {"name": self.name, "weights_sha256": self.network.sha256, "input": how, "classes": self.ids.tolist()}


class _HuggingFace(Segmenter):
    """A semantic-segmentation model of the Hugging Face hub; its classes are matched by name."""

    def __init__(self, name: str, space: LabelSpace | None) -> None:
        transformers = import_extra("transformers", "huggingface", f"hf:{name}")
        try:
            self.processor = transformers.AutoImageProcessor.from_pretrained(name)
            self.network = transformers.AutoModelForSemanticSegmentation.from_pretrained(name).eval()
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"hf:{name} cannot be loaded ({reason_of(error)}); correct the name, or give a folder"
            ) from error
        labels = self.network.config.id2label
        self.name = name
        self.space, self.ids = _classes(_matched([labels[i] for i in range(len(labels))], space), space, f"hf:{name}")

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        inputs = self.processor(images=list(images.permute(0, 2, 3, 1).numpy()), return_tensors="pt").to(self.device)
        return cast(Tensor, self.network(**inputs).logits.float().cpu())

    def describe(self) -> dict[str, Any]:
        revision = getattr(self.network.config, "_commit_hash", None)
        return {"name": f"hf:{self.name}", "revision": revision, "classes": self.ids.tolist()}


class _TorchVision(Segmenter):
    """A pretrained semantic-segmentation model of torchvision; its classes are matched by name."""

    def __init__(self, name: str, space: LabelSpace | None) -> None:
        from torchvision.models import get_model, get_model_weights, list_models, segmentation

        known = list_models(segmentation)
        if name not in known:
            raise ConfigError(f"torchvision has no segmenter '{name}'{did_you_mean(name, known)}")
        weights = get_model_weights(name).DEFAULT
        try:
            self.network = get_model(name, weights=weights).eval().requires_grad_(False)
        except OSError as error:
            raise WeightsError(
                f"the weights of torchvision:{name} are not in the torch hub cache and could not be downloaded "
                f"({reason_of(error)}); bring {weights.url.rpartition('/')[2]} into the cache"
            ) from error
        self.name, self.revision, self.transform = name, str(weights), weights.transforms()
        names = weights.meta["categories"]
        self.space, self.ids = _classes(_matched(names, space), space, f"torchvision:{name}")

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.network(self.transform(images).to(self.device))["out"].cpu())

    def describe(self) -> dict[str, Any]:
        return {"name": f"torchvision:{self.name}", "revision": self.revision, "classes": self.ids.tolist()}


def _matched(names: Sequence[str], space: LabelSpace | None) -> Sequence[str | None]:
    """Return the class of a label space that each of a network's classes is, by name; its own names without a space."""
    if space is None:
        return names
    known = {_plain(item): item for item in space.names}
    return [known.get(_plain(name)) for name in names]


def _classes(classes: Sequence[str | int | None], space: LabelSpace | None, where: str) -> tuple[LabelSpace, Tensor]:
    """Return label space and class id of each output channel; without a space, each channel is a class of its own.

    Raises:
        LabelError: a class that the label space does not have, a scored one without a channel, or classes without
            names.
    """
    if space is not None:
        return space, map_classes(classes, space, where)
    if not all(isinstance(name, str) and not re.fullmatch(r"LABEL_\d+", name) for name in classes):
        raise LabelError(f"{where} gives its classes no names; give a segmenter that names them")
    names = [str(name) for name in classes]
    unique = [name if names.count(name) == 1 else f"{name} {place}" for place, name in enumerate(names)]
    space = LabelSpace.from_dict({"name": "segmenter", "classes": unique, "unknown_value": len(unique)}, where)
    return space, torch.arange(len(unique))


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def installed_segmenters() -> dict[str, Path]:
    """Return the folders of the segmenters that installed packages with models bring, by name of the model."""
    found = {name: folder / "segmenter" for name, folders in model_folders().items() for folder in folders}
    return {name: folder for name, folder in found.items() if (folder / SEGMENTER_FILE).is_file()}


def default_segmenter() -> str | None:
    """Return the name of the segmenter that labels photos where none is named, if it is installed."""
    return "landscapes" if "landscapes" in installed_segmenters() else None


def find_installed(space: LabelSpace) -> Path | None:
    """Return the folder of an installed segmenter with the classes of a label space; None: there is none."""
    for folder in installed_segmenters().values():
        try:
            classes = json.loads((folder / SEGMENTER_FILE).read_text(encoding="utf-8"))["label_space"]["classes"]
            if tuple(item["name"] for item in classes) == space.names:
                return folder
        except (OSError, ValueError, KeyError, TypeError):
            continue  # `load_segmenter` says what is wrong with it
    return None


def load_segmenter(source: str | Path, expected: LabelSpace | None) -> Segmenter:
    """Load a segmenter.

    Args:
        source: a folder of `lab2pix segmenter train`; the name of an installed one; an exported program (`.pt2`,
            `.onnx`) with its JSON file; `hf:NAME`, a semantic-segmentation model of the Hugging Face hub or a folder of
            one;
            `torchvision:NAME`; or `NAME:WEIGHTS`, a network of `PUBLISHED` with its authors' weights.
        expected: label space of the label maps; None: the network's own classes.

    Raises:
        ConfigError: the segmenter does not exist, or a package for it is missing.
        LabelError: it has other classes.
        WeightsError: its files are damaged or missing.
    """
    _LOG.info("loading segmenter %s", source)
    text = str(source)
    if text.startswith("hf:"):
        return _HuggingFace(text.removeprefix("hf:"), expected)
    if text.startswith("torchvision:"):
        return _TorchVision(text.removeprefix("torchvision:"), expected)
    name, colon, weights = text.partition(":")
    if colon and name in PUBLISHED:
        return load_published(name, Path(weights), expected)
    path = Path(source)
    if path.suffix in PROGRAM_SUFFIXES:
        return _Exported(path, expected)
    if not (path / SEGMENTER_FILE).is_file():
        path = installed_segmenters().get(text, path)
        if not path.is_dir() and (reason := why_missing("segmenter", text, SEGMENTER_FILE, model_folders())):
            raise ConfigError(reason)
    if not path.is_dir():
        raise ConfigError(
            f"there is no segmenter {path}; give a folder of `lab2pix segmenter train`, an exported program "
            f"({', '.join(PROGRAM_SUFFIXES)}), hf:NAME, torchvision:NAME, or WEIGHTS of {', '.join(PUBLISHED)} as "
            "NAME:WEIGHTS"
        )
    segmenter = _Trained(path)
    if expected is not None and segmenter.space.names != expected.names:
        raise LabelError(
            f"{path} predicts {segmenter.space.num_classes} classes of label space '{segmenter.space.name}', but the "
            f"label maps have the {expected.num_classes} of '{expected.name}'; give a segmenter trained on those"
        )
    return segmenter

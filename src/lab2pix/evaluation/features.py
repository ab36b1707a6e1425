"""Feature networks of the distances: Inception-V3, EfficientNet-Lite, DINOv2, a segmenter, or an exported network."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lab2pix.config.schema import FEATURE_NAMES, FEATURE_PREFIXES
from lab2pix.data.transforms import uint8_to_float
from lab2pix.errors import ConfigError, WeightsError, did_you_mean
from lab2pix.evaluation.batching import map_chunks
from lab2pix.evaluation.exported import PROGRAM_SUFFIXES, ExportedModel, ProgramSettings, read_settings
from lab2pix.evaluation.segmenters import load_segmenter, normalize
from lab2pix.methods.features import load_backbone
from lab2pix.utils.extras import import_extra
from lab2pix.utils.files import expand_user
from lab2pix.utils.pretrained import WeightsFile, file_sha256, read_weights
from lab2pix.utils.text import reason_of

INCEPTION = WeightsFile(
    "Inception-V3 (as FID uses it)",
    "weights-inception-2015-12-05-6726825d.pth",
    "6726825d",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    setting="--inception-weights",
)
"""The converted TensorFlow weights with which torch-fidelity computes FID."""


class FeatureNetwork(ABC):
    """Computes one feature vector per image.

    Attributes:
        name: part of the names of its scores: letters, digits and underscores.
        dimension: length of a feature vector.
        network: the network.
        device: its device.
    """

    name: str
    dimension: int
    network: Any
    device = torch.device("cpu")

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Return features `[N, dimension]` float32, on the CPU, of `[N, 3, H, W]` uint8."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return everything that must be equal for two distances to be comparable."""

    def to(self, device: torch.device) -> None:
        """Move to a device."""
        self.network.to(device)
        self.device = device


class _Inception(FeatureNetwork):
    """The last pooling layer of torch-fidelity's Inception-V3, which resizes as TensorFlow 1."""

    name = "inception"
    dimension = 2048

    def __init__(self, weights: Path | None) -> None:
        fidelity = import_extra(
            "torch_fidelity.feature_extractor_inceptionv3", "inception", "feature network 'inception'"
        )
        file = INCEPTION.find(weights)
        try:
            read_weights(file)  # tensors only: torch-fidelity itself would unpickle anything
            network: nn.Module = fidelity.FeatureExtractorInceptionV3("inception", ["2048"], str(file))
        except Exception as error:  # unpickling raises any error on damaged files
            raise WeightsError(
                f"{file} is not a file of Inception-V3's weights; replace it by {INCEPTION.file}"
            ) from error
        self.network, self.sha256 = network, file_sha256(file)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        return map_chunks(self._extract, (299, 299), self.device, images)

    def _extract(self, images: Tensor) -> Tensor:
        found: Tensor = self.network(images.to(self.device))[0]
        return found.float().cpu()

    def describe(self) -> dict[str, Any]:
        return {"weights_sha256": self.sha256, "input": "299x299, bilinear as in TensorFlow 1", "dimension": 2048}


class _EfficientNet(FeatureNetwork):
    """The mean over all pixels of EfficientNet-Lite's last stage, at the images' own size."""

    dimension = 320

    def __init__(self, name: str) -> None:
        self.name = feature_name(name)
        self.network = load_backbone(name)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        return map_chunks(self._extract, (images.shape[-2], images.shape[-1]), self.device, images)

    def _extract(self, images: Tensor) -> Tensor:
        image = self.network.normalize(uint8_to_float(images.to(self.device)))
        found: Tensor = self.network(image, levels=3).discriminator[-1].mean((2, 3))
        return found.float().cpu()

    def describe(self) -> dict[str, Any]:
        return {"weights": self.name, "input": "the image size", "dimension": self.dimension}


class _DINOv2(FeatureNetwork):
    """The class token of DINOv2 (Oquab et al., 2024) at 224x224: ViT-L/14 from the hub, or the size of a file."""

    name = "dinov2"

    def __init__(self, file: Path | None) -> None:
        self.weights: str = DINOV2_NAME if file is None else file_sha256(_existing(file))
        try:
            self.network = _pretrained_dinov2() if file is None else _read_dinov2(file)
        except Exception as error:  # the hub and damaged files raise any error
            if file is not None:
                raise WeightsError(
                    f"{file} cannot be read as weights of DINOv2 without registers ({reason_of(error)}); give "
                    f"{DINOV2_FILE}"
                ) from error
            raise WeightsError(
                f"DINOv2 is not in the cache of the Hugging Face hub and could not be downloaded ({reason_of(error)}); "
                f"fetch {DINOV2_FILE}, and pass --features dinov2:FILE"
            ) from error
        self.network.eval().requires_grad_(False)
        self.dimension = int(self.network.num_features)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        return map_chunks(self._extract, _DINOV2_SIZE, self.device, images)

    def _extract(self, images: Tensor) -> Tensor:
        found: Tensor = self.network(normalize(images.to(self.device), _DINOV2_SIZE))
        return found.float().cpu()

    def describe(self) -> dict[str, Any]:
        return {"weights": self.weights, "input": "224x224, bicubic", "dimension": self.dimension}


DINOV2_NAME = "vit_large_patch14_dinov2.lvd142m"
"""timm's name of the network that published distances in DINOv2's features use (Stein et al., 2023)."""
DINOV2_FILE = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth"
_DINOV2_SIZE = (224, 224)


def _pretrained_dinov2() -> Any:
    from timm import create_model

    return create_model(DINOV2_NAME, pretrained=True, img_size=_DINOV2_SIZE[0], num_classes=0)


def _read_dinov2(file: Path) -> Any:
    """Return the vision transformer of a file of the authors or of timm; its size follows from the shapes."""
    from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

    state = read_weights(file)
    width, patch = state["patch_embed.proj.weight"].shape[0], state["patch_embed.proj.weight"].shape[-1]
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    network = VisionTransformer(
        img_size=_DINOV2_SIZE, patch_size=patch, embed_dim=width, depth=depth, num_heads=max(1, width // 64),
        init_values=1e-5, num_classes=0,
    )  # fmt: skip
    network.load_state_dict(checkpoint_filter_fn(state, network))
    return network


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise WeightsError(f"there is no file {file}; fetch {DINOV2_FILE}, and pass --features dinov2:FILE")
    return file


class _SegmenterFeatures(FeatureNetwork):
    """The last stage of a trained segmenter's encoder, averaged over all pixels."""

    name = "segmenter"

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ConfigError(f"there is no folder {folder}; pass that of `lab2pix segmenter train` to segmenter:")
        self.segmenter = load_segmenter(folder, None)
        self.network = self.segmenter.network
        self.size = tuple(self.segmenter.describe()["size"])
        self.dimension = int(self.network.encoder.out_channels[-1])

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        return map_chunks(self._extract, self.size, self.device, images)

    def _extract(self, images: Tensor) -> Tensor:
        found: Tensor = self.network.encoder(normalize(images.to(self.device), self.size))[-1].mean((2, 3))
        return found.float().cpu()

    def describe(self) -> dict[str, Any]:
        return {**self.segmenter.describe(), "dimension": self.dimension}


class _Exported(FeatureNetwork):
    """An exported program with output `[N, D]`, or `[N, D, h, w]`, which is averaged over pixels."""

    def __init__(self, file: Path) -> None:
        self.name = feature_name(str(file))
        self.settings: ProgramSettings = read_settings(file, ProgramSettings)
        self.network = ExportedModel(file, self.settings)
        self.dimension = self(torch.zeros(2, 3, *(self.settings.size or (64, 64)), dtype=torch.uint8)).shape[1]

    def __call__(self, images: Tensor) -> Tensor:
        found: Tensor = self.network(images)
        if found.ndim not in (2, 4):
            raise WeightsError(
                f"{self.network.file} returns {list(found.shape)}, but features are [N, D] or [N, D, h, w]; set "
                "'output' to the right one, or export it again"
            )
        return found.mean((2, 3)) if found.ndim == 4 else found

    def describe(self) -> dict[str, Any]:
        how = self.settings.model_dump(mode="json", exclude={"batch"})
        return {"weights_sha256": self.network.sha256, "input": how, "dimension": self.dimension}


def feature_name(spec: str) -> str:
    """Return the name of a feature network in scores; `spec` is that of `load_features`."""
    spec = spec.partition(":")[0] if spec.startswith(FEATURE_PREFIXES) else spec
    return re.sub(r"\W+", "_", Path(spec).stem if spec.endswith(PROGRAM_SUFFIXES) else spec).lower()


def distance_names(network: str) -> tuple[str, str]:
    """Return the names of the Fréchet and the kernel distance in the features of a network."""
    return ("fid", "kid") if network == "inception" else (f"frechet_{network}", f"kernel_{network}")


def load_features(spec: str, *, weights: str | Path | None = None) -> FeatureNetwork:
    """Return a feature network.

    Args:
        spec: one of `FEATURE_NAMES`; `dinov2:FILE` with weights of DINOv2; `segmenter:FOLDER`, the encoder of a
            segmenter of `lab2pix segmenter train`; or an exported program (`.pt2`, `.onnx`) with its JSON file.
        weights: Inception's weights; None: the torch hub cache, downloaded where missing.

    Raises:
        ConfigError: the network is unknown.
        WeightsError: its weights are missing or have another hash.
    """
    if spec == "inception":
        return _Inception(None if weights is None else expand_user(weights))
    kind, _, path = spec.partition(":")
    if kind == "dinov2":
        return _DINOv2(expand_user(path) if path else None)
    if kind == "segmenter" and path:
        return _SegmenterFeatures(expand_user(path))
    if spec in FEATURE_NAMES:
        return _EfficientNet(spec)
    if spec.endswith(PROGRAM_SUFFIXES):
        return _Exported(expand_user(spec))
    hint = did_you_mean(spec, FEATURE_NAMES)
    raise ConfigError(
        f"no feature network is called '{spec}'{hint}, or give segmenter:FOLDER or an exported program (.pt2, .onnx)"
    )

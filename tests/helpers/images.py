"""Images with known scores: label maps in class colors, and exported programs that decode them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lab2pix.labels.space import LabelSpace

SPACE = LabelSpace.load("scenes")
NAMES = ("a", "b", "deep/c", "d", "e")


@dataclass(frozen=True)
class Folders:
    """Folders of `NAMES`, in `.png`."""

    generated: Path
    real: Path
    labels: Path


def write(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def write_set(root: Path, names: tuple[str, ...] = NAMES, *, size: tuple[int, int] = (32, 48)) -> Folders:
    """Write label maps of blocks, photos in the classes' colours with noise, and pictures with a wrong block each."""
    folders = Folders(root / "generated", root / "real", root / "labels")
    for number, name in enumerate(names):
        random = np.random.default_rng([number, *size])
        blocks = random.integers(0, SPACE.num_classes - 2, (4, 4))
        ids = np.kron(blocks, np.ones((size[0] // 4, size[1] // 4), dtype=np.int64))
        wrong = ids.copy()
        wrong[: size[0] // 4, : size[1] // 4] = random.integers(0, SPACE.num_classes - 1)
        write(folders.labels / f"{name}.png", ids.astype(np.uint8))
        for folder, shown in ((folders.real, ids), (folders.generated, wrong)):
            painted = SPACE.to_colors(torch.from_numpy(shown)).permute(1, 2, 0).numpy().astype(int)
            noisy = painted + random.integers(-4, 5, painted.shape)
            write(folder / f"{name}.png", noisy.clip(0, 255).astype(np.uint8))
    return folders


class ColorReader(nn.Module):
    """Answers for each class how near a pixel is to its colour."""

    colors: Tensor

    def __init__(self) -> None:
        super().__init__()
        ids = torch.arange(SPACE.num_classes).view(1, -1)
        self.register_buffer("colors", SPACE.to_colors(ids)[:, 0].T.float() / 255)

    def forward(self, image: Tensor) -> Tensor:
        """Return `[N, K, H, W]` of `[N, 3, H, W]` in 0 to 1."""
        weights = 2 * self.colors[:, :, None, None]
        return nn.functional.conv2d(image, weights, -self.colors.square().sum(1))


def export(network: nn.Module, file: Path, settings: dict[str, object], size: tuple[int, int] = (32, 48)) -> Path:
    """Export a network that takes any number of pictures, as its suffix says, with its JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    batch = torch.export.Dim("batch", min=1, max=4096)
    example = torch.rand(2, 3, *size)
    shapes = {"image": {0: batch}}
    if file.suffix == ".onnx":
        torch.onnx.export(network.eval(), (example,), str(file), dynamo=True, dynamic_shapes=shapes, verbose=False)
    else:
        torch.export.save(torch.export.export(network.eval(), (example,), dynamic_shapes=shapes), file)
    file.with_suffix(".json").write_text(json.dumps(settings), encoding="utf-8")
    return file


class Means(nn.Module):
    """Features that are quick to compute: means of a grid of 2x3 squares, 18 numbers."""

    def forward(self, image: Tensor) -> Tensor:
        """Return `[N, 18]` of `[N, 3, H, W]`."""
        return nn.functional.adaptive_avg_pool2d(image, (2, 3)).flatten(1)

"""Vector files made for tests, changes to them, and the rows of a parity check that fail."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lab2pix.interop.vectors import Row


def lively(network: nn.Module) -> nn.Module:
    """Draw all parameters at random, biases and scales too, so that every path matters."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=(parameter[0].numel() or 1) ** -0.5 if parameter.ndim > 1 else 0.3)
    return network


def write_vectors(folder: Path, tensors: dict[str, Tensor], values: dict[str, Any], name: str = "made") -> Path:
    """Write a vector file, `NAME.safetensors` and `NAME.json`."""
    path = folder / f"{name}.safetensors"
    save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, path)
    path.with_suffix(".json").write_text(json.dumps(values))
    return path


def copied(source: Path, folder: Path) -> Path:
    """Copy a vector file into a folder."""
    for file in (source, source.with_suffix(".json")):
        shutil.copyfile(file, folder / file.name)
    return folder / source.name


def failures(rows: list[Row]) -> dict[str, str]:
    """Return why each row failed that did."""
    return {row.output: row.note or f"{row.max_abs:.1e}" for row in rows if not row.ok}


def edit(path: Path, tensors: dict[str, Tensor | None] | None = None, values: dict[str, Any] | None = None) -> None:
    """Change or (None) remove tensors and JSON values of a vector file."""
    held = load_file(path) | (tensors or {})
    save_file({key: value for key, value in held.items() if value is not None}, path)
    kept = json.loads(path.with_suffix(".json").read_text()) | (values or {})
    path.with_suffix(".json").write_text(json.dumps({key: value for key, value in kept.items() if value is not None}))


def nudged(path: Path, name: str, by: float) -> dict[str, Tensor | None]:
    """Return a tensor of a vector file, its first number changed, by name."""
    tensor = load_file(path)[name].clone()
    tensor.view(-1)[0] += by
    return {name: tensor}

"""Changes to vector files, and the rows of a parity check that fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from lab2pix.interop.vectors import Row


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

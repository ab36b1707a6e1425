"""What a benchmark's numbers were measured with, for the file that holds them."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import lab2pix

__all__ = ["processor", "surroundings", "write_json"]


def processor() -> str:
    """Return what the machine computes on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def surroundings() -> dict[str, Any]:
    """Return command, machine and versions."""
    return {
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{processor()}, {torch.get_num_threads()} threads",
        "versions": {"lab2pix": lab2pix.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def write_json(file: Path, record: Mapping[str, Any]) -> None:
    """Write what was found, in a folder that is made where it is missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

"""Lab2Pix: semantic image synthesis, from label maps and sketches to images.

Public names are imported lazily on first access, which keeps `import lab2pix` fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab2pix.evaluation.evaluator import evaluate_folders
    from lab2pix.evaluation.images import evaluate_images
    from lab2pix.evaluation.protocol import Protocol
    from lab2pix.inference import Synthesizer, generate_folder
    from lab2pix.inference.evaluate import evaluate_run
    from lab2pix.labels.space import LabelSpace
    from lab2pix.recipes import load_config
    from lab2pix.training.api import train

    __version__: str

__all__ = [
    "LabelSpace",
    "Protocol",
    "Synthesizer",
    "__version__",
    "evaluate_folders",
    "evaluate_images",
    "evaluate_run",
    "generate_folder",
    "load_config",
    "train",
]

_HOMES = {
    "LabelSpace": "lab2pix.labels.space",
    "Protocol": "lab2pix.evaluation.protocol",
    "Synthesizer": "lab2pix.inference",
    "evaluate_folders": "lab2pix.evaluation.evaluator",
    "evaluate_images": "lab2pix.evaluation.images",
    "evaluate_run": "lab2pix.inference.evaluate",
    "generate_folder": "lab2pix.inference",
    "load_config": "lab2pix.recipes",
    "train": "lab2pix.training.api",
}


def __getattr__(name: str) -> object:
    """Import a public name on first access."""
    if name == "__version__":
        return _version()
    if name not in _HOMES:
        raise AttributeError(f"module 'lab2pix' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("lab2pix")
    except PackageNotFoundError:  # a source tree that is not installed
        return "0.0.0"


def __dir__() -> list[str]:
    return sorted(__all__)

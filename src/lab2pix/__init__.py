"""Lab2Pix: label maps to photo-realistic pictures.

The few public names load what they need when first used, so that `import lab2pix` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab2pix.configuration import load_config
    from lab2pix.labels import LabelSpace
    from lab2pix.synthesis import Synthesizer
    from lab2pix.synthesis.judging import evaluate
    from lab2pix.training.loop import train

    __version__: str

__all__ = ["LabelSpace", "Synthesizer", "__version__", "evaluate", "load_config", "train"]

_HOMES = {
    "LabelSpace": "lab2pix.labels",
    "Synthesizer": "lab2pix.synthesis",
    "evaluate": "lab2pix.synthesis.judging",
    "load_config": "lab2pix.configuration",
    "train": "lab2pix.training.loop",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for."""
    if name == "__version__":
        return _version()
    if name not in _HOMES:
        raise AttributeError(f"module 'lab2pix' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("lab2pix")
    except PackageNotFoundError:  # a source tree on the path that was never installed
        return "0.0.0"


def __dir__() -> list[str]:
    return sorted(__all__)

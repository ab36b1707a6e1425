"""Pictures from label maps: load weights once, then draw from tensors, pictures, files or whole folders."""

from __future__ import annotations

from lab2pix.synthesis.converting import convert
from lab2pix.synthesis.folder import GenerateReport, generate_folder
from lab2pix.synthesis.optimizing import MODES, InferenceMode, Mode
from lab2pix.synthesis.synthesizer import LabelSource, Synthesizer
from lab2pix.synthesis.weights import ModelInfo

__all__ = [
    "MODES",
    "GenerateReport",
    "InferenceMode",
    "LabelSource",
    "Mode",
    "ModelInfo",
    "Synthesizer",
    "convert",
    "generate_folder",
]

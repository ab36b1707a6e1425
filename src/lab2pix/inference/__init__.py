"""Inference: generate images from label maps given as tensors, images, files or folders."""

from __future__ import annotations

from lab2pix.inference.convert import convert
from lab2pix.inference.folder import GenerateReport, generate_folder
from lab2pix.inference.modes import MODES, InferenceMode, Mode
from lab2pix.inference.synthesizer import LabelSource, Synthesizer
from lab2pix.inference.weights import ModelInfo

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

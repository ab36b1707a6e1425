"""Compilation of networks with torch.compile (`train.compile`)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec

import torch

from lab2pix.errors import ConfigError
from lab2pix.methods import Method
from lab2pix.nn.fast._torch import raise_recompile_limit

_PROGRAMS = 64
"""Recompile limit per module: each input size, mode and set of inputs with gradients needs a graph."""


def check_compiler(device: torch.device) -> None:
    """Raise ConfigError if torch.compile lacks a compiler for the device: C++ for CPUs, Triton for CUDA."""
    if device.type == "cpu":
        named = os.environ.get("CXX")
        if not any(shutil.which(name) for name in ([named] if named else ["g++", "clang++", "c++"])):
            raise ConfigError(
                f"train.compile is true, but there is no C++ compiler here ({named or 'g++ or clang++'}), which "
                "programs for CPUs are made with; install one, or set train.compile=false"
            )
    elif device.type == "cuda" and find_spec("triton") is None:
        raise ConfigError(
            "train.compile is true, but the package triton, which programs for GPUs are made with, is not installed; "
            "install it, or set train.compile=false"
        )


def compile_networks(method: Method) -> None:
    """Compile a method's `compile_targets` in place; names and state dicts do not change.

    Shapes are static and compilation happens at the first step, so every session uses the same graphs.
    """
    raise_recompile_limit(_PROGRAMS)  # beyond the limit, torch silently falls back to eager
    for module in method.compile_targets:
        module.compile(dynamic=False)


def eager_mode(compiled: bool) -> AbstractContextManager[object]:
    """Return a context in which compiled modules run eagerly, for sampling at any size and in any mode."""
    if not compiled:
        return nullcontext()
    stance: Callable[..., AbstractContextManager[object]] = torch.compiler.set_stance
    return stance("force_eager")

"""`train.compile`: steps through programs that torch's compiler makes of the networks."""

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

__all__ = ["check_compiler", "compile_networks", "eager_mode"]

_PROGRAMS = 64
"""How many programs one part may have: each size, mode, and choice of what gets gradients makes another."""


def check_compiler(device: torch.device) -> None:
    """Raise ConfigError where torch's compiler lacks what it needs to make programs for a device."""
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
    """Let a method's `compile_targets` run as compiled programs; their names and state stay as they are.

    Programs are made at the first step, one for each size, so that every session has the same ones.
    """
    raise_recompile_limit(_PROGRAMS)  # one more would silently not be compiled
    for module in method.compile_targets:
        module.compile(dynamic=False)


def eager_mode(compiled: bool) -> AbstractContextManager[object]:
    """Return a context in which compiled parts run as they were written; for drawings of any size and in any mode."""
    if not compiled:
        return nullcontext()
    stance: Callable[..., AbstractContextManager[object]] = torch.compiler.set_stance
    return stance("force_eager")

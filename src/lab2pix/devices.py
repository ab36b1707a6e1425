"""Which device to compute on."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from torch import distributed as dist

from lab2pix.errors import ConfigError, did_you_mean

__all__ = ["barrier", "choose_device"]


def choose_device(name: str | None = None) -> torch.device:
    """Return the device to compute on: what was asked for, else CUDA, else MPS, else the CPU.

    Where torchrun started several processes on a machine, each gets a GPU of its own (`LOCAL_RANK`).

    Args:
        name: `cpu`, `cuda`, `cuda:1`, `mps`, or None.

    Raises:
        ConfigError: no such device, or not on this machine.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name is None:
        name = next(kind for kind, there in available.items() if there)
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"there is no device '{name}'{did_you_mean(name, available)}") from error
    if not available.get(device.type, False):
        there = ", ".join(kind for kind, there in available.items() if there)
        raise ConfigError(f"device '{name}' is not available on this machine; available: {there}")
    if device.type != "cuda":
        return device
    index = int(os.environ.get("LOCAL_RANK", "0")) if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise ConfigError(
            f"GPU {index} is asked for, but this machine has {torch.cuda.device_count()}; start no more processes per "
            "machine than it has GPUs, or use --device cpu"
        )
    return torch.device("cuda", index)


def barrier() -> None:
    """Wait until all processes that torchrun started are here: it ends the rest once one has left with an error."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    dist.init_process_group("gloo", timeout=timedelta(days=7))  # their shares may differ by hours
    dist.barrier()
    dist.destroy_process_group()

"""Files to convert: networks as the authors' code saves them, and a label space of one's own."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor


def space_file(folder: Path, classes: int, *, unknown: bool = False) -> Path:
    """Write a label space of numbered classes."""
    names = ", ".join(f"thing{index}" for index in range(classes))
    file = folder / f"own{classes}{'u' * unknown}.yaml"
    file.write_text(f"classes: [{names}]\n" + "unknown_value: 255\n" * unknown)
    return file


def write_networks(folder: Path, held: dict[str, Tensor], networks: str = "G") -> Path:
    """Write networks of a recording, one file per prefix of its weights; return the generator's file."""
    for network in networks:
        state = {
            f"module.{name[2:]}": tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in held.items()
            if name.startswith(f"{network}.")
        }
        torch.save(state, folder / f"latest_net_{network}.pth")
    return folder / "latest_net_G.pth"

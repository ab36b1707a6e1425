"""How a batch of label maps becomes what the networks see."""

from __future__ import annotations

import torch
from torch import Tensor

from lab2pix.batch import Batch
from lab2pix.config import Config
from lab2pix.errors import DataError
from lab2pix.labels import LabelSpace

__all__ = ["condition_channels", "encode_condition"]


def condition_channels(config: Config, label_space: LabelSpace) -> int:
    """Return C: 1 for sketches; else one per class, one for unknown if the space has it, one for instance edges."""
    if config.generator.encoder == "sketch":
        return 1
    return label_space.num_channels + int(config.data.instance_edges)


def encode_condition(config: Config, label_space: LabelSpace, batch: Batch) -> Tensor:
    """Return the one-hot label maps with their instance edges, or sketches with paper +1 and line -1.

    Returns:
        `[N, C, H, W]` float32.

    Raises:
        DataError: the run wants instance edges and the batch has none.
    """
    if config.generator.encoder == "sketch":
        return 1 - 2 * batch.label.unsqueeze(1).float()
    one_hot = label_space.one_hot(batch.label)
    if not config.data.instance_edges:
        return one_hot
    if batch.edges is None:
        names = ", ".join(batch.names[:3]) or "the label maps"
        raise DataError(
            f"{names}: no instance map, but data.instance_edges is true; "
            "give instance maps, or train with data.instance_edges=false."
        )
    return torch.cat([one_hot, batch.edges], dim=1)

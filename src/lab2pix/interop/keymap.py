"""State dict key maps: rename rules between this package and other programs, and strict loading."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from lab2pix.errors import CheckpointError
from lab2pix.utils.text import first_few

Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
"""Regular expressions for our names and their replacements, applied in order."""

SPECTRAL_NORM: Rules = [
    (r"\.parametrizations\.weight\.original$", ".weight_orig"),
    (r"\.parametrizations\.weight\.0\._([uv])$", r".weight_\1"),
]
"""Rules from the spectral-norm parametrization to the old hook-based `spectral_norm`."""


def weight_names(network: nn.Module, rules: Rules) -> dict[str, str]:
    """Return the mapping from our name of every weight to the other program's."""
    names = {}
    for ours in network.state_dict():
        name = ours
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        names[ours] = name
    return names


def rename(network: nn.Module, rules: Rules) -> dict[str, Tensor]:
    """Return the state dict of a network under the other program's names."""
    names, state = weight_names(network, rules), network.state_dict()
    return {names[ours]: tensor.detach().clone() for ours, tensor in state.items()}


@torch.no_grad()
def load_renamed(network: nn.Module, rules: Rules, weights: Mapping[str, Tensor], what: str) -> None:
    """Load another program's state dict strictly.

    The rules lead from our names to the other program's; `what` names the weights in errors.

    Raises:
        CheckpointError: a weight is missing, unexpected or of another shape.
    """
    names, state = weight_names(network, rules), network.state_dict()
    missing = sorted(set(names.values()) - set(weights))
    unknown = sorted(set(weights) - set(names.values()))
    if missing or unknown:
        parts = [f"lacks {first_few(missing)}"] * bool(missing) + [f"has the unknown {first_few(unknown)}"] * bool(
            unknown
        )
        raise CheckpointError(
            f"the {what} {' and '.join(parts)}; check that its form and number of scales are as configured"
        )
    for ours, name in names.items():
        if state[ours].shape != weights[name].shape:
            raise CheckpointError(
                f"the {what}'s {name} is {list(weights[name].shape)}, but the configured network needs "
                f"{list(state[ours].shape)}; check its widths and number of classes"
            )
    network.load_state_dict({ours: weights[name].to(state[ours].dtype) for ours, name in names.items()})

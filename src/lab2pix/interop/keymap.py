"""Weights under other names: rules that turn our names into another program's, and strict loading by them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from lab2pix.errors import CheckpointError

__all__ = ["SPECTRAL_NORM", "Rules", "load_renamed", "rename"]

Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
"""Patterns in our names and what replaces them, applied one after the other."""

SPECTRAL_NORM: Rules = [
    (r"\.parametrizations\.weight\.original$", ".weight_orig"),
    (r"\.parametrizations\.weight\.0\._([uv])$", r".weight_\1"),
]
"""Old spectral norm keeps three tensors next to each other; the parametrization of today nests them."""


def _names(network: nn.Module, rules: Rules) -> dict[str, str]:
    """Return the other program's name of every weight, by ours."""
    names = {}
    for ours in network.state_dict():
        name = ours
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        names[ours] = name
    return names


def rename(network: nn.Module, rules: Rules) -> dict[str, Tensor]:
    """Return a network's weights under the other names."""
    names, state = _names(network, rules), network.state_dict()
    return {names[ours]: tensor.detach().clone() for ours, tensor in state.items()}


@torch.no_grad()
def load_renamed(network: nn.Module, rules: Rules, weights: Mapping[str, Tensor], what: str) -> None:
    """Fill a network with another program's weights, all of them and no others.

    Args:
        network: of the same architecture and widths.
        rules: turn our names into the other ones.
        weights: under the other names.
        what: how to call them in an error.

    Raises:
        CheckpointError: a weight is missing, unknown or of another shape.
    """
    names, state = _names(network, rules), network.state_dict()
    missing = sorted(set(names.values()) - set(weights))
    unknown = sorted(set(weights) - set(names.values()))
    if missing or unknown:
        parts = [f"lacks {_some(missing)}"] * bool(missing) + [f"has the unknown {_some(unknown)}"] * bool(unknown)
        raise CheckpointError(
            f"the {what} {' and '.join(parts)}; check that its form and number of scales are as configured"
        )
    for ours, name in names.items():
        if state[ours].shape != weights[name].shape:
            raise CheckpointError(
                f"the {what}'s {name} is {list(weights[name].shape)}, but the configured network wants "
                f"{list(state[ours].shape)}; check its widths and number of classes"
            )
    network.load_state_dict({ours: weights[name].to(state[ours].dtype) for ours, name in names.items()})


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

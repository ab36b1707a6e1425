"""The authors' released V2 networks: their names for our weights, and back.

The architecture is the same, so a released state dict is ours under other names. Nothing is guessed: a weight too many,
too few or of another shape is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lab2pix.errors import CheckpointError
from lab2pix.nn.discriminators import MultiScaleDiscriminator
from lab2pix.nn.generators import Lab2PixV2Generator

__all__ = [
    "discriminator_to_released",
    "generator_to_released",
    "load_released_discriminator",
    "load_released_generator",
    "v2_generator_settings",
]

Rules = list[tuple[str, str | Callable[[re.Match[str]], str]]]

# Old-style spectral norm keeps three tensors beside each other; the parametrisation of today nests them.
_SPECTRAL: Rules = [
    (r"\.parametrizations\.weight\.original$", ".weight_orig"),
    (r"\.parametrizations\.weight\.0\._([uv])$", r".weight_\1"),
]

_BLOCKS = ("head_0", "G_middle_0", "G_middle_1")


def _plus_one(template: str) -> Callable[[re.Match[str]], str]:
    """Return a replacement whose levels count from 1, as the released names do."""
    return lambda match: template.format(int(match[1]) + 1)


def _generator_rules(scales: int) -> Rules:
    def block(match: re.Match[str]) -> str:
        index = int(match[1])
        return f"{_BLOCKS[index]}." if index < len(_BLOCKS) else f"up_{index - len(_BLOCKS)}."

    return [
        *_SPECTRAL,
        (r"^blocks\.(\d+)\.", block),
        (r"\.(norm_[01s])\.shared\.", r".\1.mlp_shared.0."),
        (r"\.(norm_[01s])\.(gamma|beta)\.", r".\1.mlp_\2."),
        (r"\.(norm_[01s])\.norm\.", r".\1.param_free_norm."),
        (r"^to_image\.", "conv_img."),
        # A LeakyReLU stands between any two of its convolutions.
        (r"^global_encoder\.down\.(\d+)\.", lambda match: f"fpencoder.model_down.{2 * int(match[1])}."),
        # The released list begins with the largest scale.
        (r"^global_encoder\.scales\.(\d+)\.", lambda match: f"fpencoder.model_up.{scales - 1 - int(match[1])}.1."),
    ]


_DISCRIMINATOR_RULES: Rules = [
    *_SPECTRAL,
    (r"^networks\.(\d+)\.", r"discriminator_\1."),
    (r"\.trunk\.0\.0\.", ".common.0.0."),
    (r"\.trunk\.(\d+)\.0\.", r".common.\1.0.0."),
    (r"\.perceptual\.(\d+)\.0\.", _plus_one(".pre{}.0.0.")),
    (r"\.fusion\.(\d+)\.0\.", _plus_one(".gcb{}.0.0.")),
    (r"\.heads\.(\d+)\.0\.0\.", _plus_one(".conv{}_out.0.0.")),
    (r"\.heads\.(\d+)\.1\.", _plus_one(".conv{}_out.2.")),
    # Here too an activation stands between any two convolutions.
    (r"\.(conv[35]_branch)\.(\d+)\.0\.", lambda match: f".{match[1]}.{2 * int(match[2])}.0."),
    (r"\.stages\.(\d+)\.", _plus_one(".conv{}_line.0.")),
]


def _released_names(network: nn.Module, rules: Rules) -> dict[str, str]:
    """Return our name of every weight -> its released name."""
    names = {}
    for ours in network.state_dict():
        name = ours
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        names[ours] = name
    return names


def _rules(network: nn.Module) -> Rules:
    if isinstance(network, Lab2PixV2Generator):
        return _generator_rules(network.num_upsamples + 1)
    return _DISCRIMINATOR_RULES


def _to_released(network: nn.Module) -> dict[str, Tensor]:
    names, state = _released_names(network, _rules(network)), network.state_dict()
    return {names[ours]: tensor.detach().clone() for ours, tensor in state.items()}


def generator_to_released(generator: Lab2PixV2Generator) -> dict[str, Tensor]:
    """Return a generator's weights under the released names."""
    return _to_released(generator)


def discriminator_to_released(discriminator: MultiScaleDiscriminator) -> dict[str, Tensor]:
    """Return the weights of hierarchical discriminators under the released names, without any backbone's."""
    return _to_released(discriminator)


def _load(network: nn.Module, released: Mapping[str, Tensor], what: str) -> None:
    names, state = _released_names(network, _rules(network)), network.state_dict()
    missing = sorted(set(names.values()) - set(released))
    unknown = sorted(set(released) - set(names.values()))
    if missing or unknown:
        parts = [f"lacks {_some(missing)}"] * bool(missing) + [f"has the unknown {_some(unknown)}"] * bool(unknown)
        raise CheckpointError(
            f"the released {what} {' and '.join(parts)}; check that its form and number of scales are as configured"
        )
    for ours, name in names.items():
        if state[ours].shape != released[name].shape:
            raise CheckpointError(
                f"the released {what}'s {name} is {list(released[name].shape)}, but the configured network wants "
                f"{list(state[ours].shape)}; check its widths and number of classes"
            )
    network.load_state_dict({ours: released[name].to(state[ours].dtype) for ours, name in names.items()})


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@torch.no_grad()
def load_released_generator(generator: Lab2PixV2Generator, released: Mapping[str, Tensor]) -> None:
    """Fill a generator with released weights.

    Args:
        generator: of the same widths, doublings and start.
        released: state dict under the released names.

    Raises:
        CheckpointError: a weight is missing, unknown or of another shape.
    """
    _load(generator, released, "generator")


@torch.no_grad()
def load_released_discriminator(discriminator: MultiScaleDiscriminator, released: Mapping[str, Tensor]) -> None:
    """Fill hierarchical discriminators with released weights.

    Args:
        discriminator: as many, of the same widths.
        released: state dict under the released names (`discriminator_0.` sees the largest image); the frozen
            backbone's weights (`backboneNet.`), which every released discriminator carries along, are left out.

    Raises:
        CheckpointError: a weight is missing, unknown or of another shape.
    """
    own = {name: tensor for name, tensor in released.items() if ".backboneNet." not in name}
    _load(discriminator, own, "discriminator")


def v2_generator_settings(released: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the keyword arguments of the `Lab2PixV2Generator` that released weights belong to, but for its size.

    Args:
        released: state dict under the released names, of Lab2Pix-V2 or of SPADE.

    Returns:
        `doublings` is None where the weights do not tell 5 from 6; the global encoder's widths are 0 without one.

    Raises:
        KeyError: a weight that says so is missing.
    """
    first, shared = released["fc.weight"], released["head_0.norm_0.mlp_shared.0.weight"]
    scales = sum(name.startswith("fpencoder.model_up.") and name.endswith(".weight") for name in released)
    down = [released[f"fpencoder.model_down.{2 * step}.bias"].shape[0] for step in range(scales)]
    doublings = scales - 1 if scales else None
    return {
        "label_channels": shared.shape[1],
        "width": released["up_3.conv_0.bias"].shape[0],
        "doublings": 7 if "up_4.conv_0.bias" in released else doublings,
        "modulation": "dg-norm" if scales else "spade",
        "modulation_hidden": shared.shape[0],
        "global_width": down[0] if down else 0,
        "global_max_width": down[-1] if down else 0,
        "start": "noise" if first.ndim == 2 else "label",
        "noise_dim": first.shape[1] if first.ndim == 2 else 128,
        "spectral_norm": "head_0.conv_0.weight_orig" in released,
    }

"""Names and settings of generators of SPADE's kind in other programs: SPADE, CC-FPSE, TSIT and Lab2Pix-V2."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lab2pix.errors import CheckpointError, ConfigError
from lab2pix.interop.checkpoints import read_checkpoint
from lab2pix.interop.conversion import WIDE, ConversionOptions, LabelFit, check_num_upsamples
from lab2pix.interop.keymap import SPECTRAL_NORM, Rules

NUM_UPSAMPLES = {"normal": 5, "more": 6, "most": 7}
"""Number of upsamplings by the authors' option `num_upsampling_layers`."""
_BLOCKS = ("head_0", "G_middle_0", "G_middle_1")


def generator_rules(num_upsamples: int) -> Rules:
    """Return the rules from our names of a generator of SPADE or Lab2Pix-V2 to the authors'."""

    def block(match: re.Match[str]) -> str:
        index = int(match[1])
        return f"{_BLOCKS[index]}." if index < len(_BLOCKS) else f"up_{index - len(_BLOCKS)}."

    return [
        *SPECTRAL_NORM,
        (r"^blocks\.(\d+)\.", block),
        (r"\.(norm_[01s])\.shared\.", r".\1.mlp_shared.0."),
        (r"\.(norm_[01s])\.(gamma|beta)\.", r".\1.mlp_\2."),
        (r"\.(norm_[01s])\.norm\.", r".\1.param_free_norm."),
        (r"^to_image\.", "conv_img."),
        # The authors' indices also count the LeakyReLU between two convolutions.
        (r"^global_encoder\.down\.(\d+)\.", lambda match: f"fpencoder.model_down.{2 * int(match[1])}."),
        # The authors' list starts with the largest scale.
        (r"^global_encoder\.scales\.(\d+)\.", lambda match: f"fpencoder.model_up.{num_upsamples - int(match[1])}.1."),
    ]


IMAGE_ENCODER_RULES: Rules = [
    *SPECTRAL_NORM,
    (r"^(image_encoder\.)?layers\.(\d+)\.", lambda match: f"{match[1] or ''}layer{int(match[2]) + 1}."),
    (r"^(image_encoder\.)?mean\.", r"\1fc_mu."),
    (r"^(image_encoder\.)?log_variance\.", r"\1fc_var."),
]
"""Rules from our names of an image encoder, alone or in a generator, to the authors'."""


def patch_discriminator_rules(layers: int) -> Rules:
    """Return the rules from our names of SPADE's discriminators to the authors'.

    Args:
        layers: convolutions before the one that predicts.
    """
    return [
        *SPECTRAL_NORM,
        (r"^networks\.(\d+)\.layers\.0\.0\.", r"discriminator_\1.model0.0."),
        (r"^networks\.(\d+)\.layers\.(\d+)\.0\.", r"discriminator_\1.model\2.0.0."),
        (r"^networks\.(\d+)\.head\.", rf"discriminator_\1.model{layers}.0."),
    ]


def infer_generator_settings(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Infer the keyword arguments of `Lab2PixV2Generator`, except its size, from a state dict.

    Args:
        weights: state dict under the authors' names, of Lab2Pix-V2 or SPADE.

    Returns:
        Keyword arguments; `num_upsamples` is None if it can be 5 or 6, and the widths of the global encoder are 0 if
        there is none.

    Raises:
        KeyError: a weight is missing.
    """
    first, shared = weights["fc.weight"], weights["head_0.norm_0.mlp_shared.0.weight"]
    scales = sum(name.startswith("fpencoder.model_up.") and name.endswith(".weight") for name in weights)
    down = [weights[f"fpencoder.model_down.{2 * step}.bias"].shape[0] for step in range(scales)]
    num_upsamples = scales - 1 if scales else None
    return {
        "label_channels": shared.shape[1],
        "width": weights["up_3.conv_0.bias"].shape[0],
        "num_upsamples": 7 if "up_4.conv_0.bias" in weights else num_upsamples,
        "modulation": "dg-norm" if scales else "spade",
        "modulation_hidden": shared.shape[0],
        "global_width": down[0] if down else 0,
        "global_max_width": down[-1] if down else 0,
        "input": "noise" if first.ndim == 2 else "label",
        "noise_dim": first.shape[1] if first.ndim == 2 else 128,
        "spectral_norm": "head_0.conv_0.weight_orig" in weights,
    }


def choose_geometry(
    first: Tensor, width: int, known: int | None, fit: LabelFit, options: ConversionOptions
) -> tuple[int, tuple[int, int]]:
    """Return the number of upsamplings and the image size of a generator, the usual ones where weights leave them open.

    Args:
        first: weight of the first layer, `fc.weight`: linear if the generator starts from noise.
        width: channels at the full size.
        known: number of upsamplings if the weights determine it.
        fit: label space of the input.
        options: what was asked for.

    Raises:
        ConfigError: what was asked for contradicts the weights, or no usual size has a first scale of as many pixels.
    """
    wide = fit.space.name == WIDE
    usual = (6, 5) if wide else (5, 6)
    check_num_upsamples(options, set(usual) if known is None else {known})
    chosen = options.num_upsamples or known
    area = None if first.ndim == 4 else first.shape[0] // (16 * width)
    return _geometry([chosen] if chosen else usual, options.size, area, wide)


def _geometry(
    options: Sequence[int], size: tuple[int, int] | None, area: int | None, wide: bool
) -> tuple[int, tuple[int, int]]:
    """Return the first combination of `num_upsamples` and default size that matches the weights.

    Args:
        options: possible values of `num_upsamples`, the most likely first.
        size: requested height and width, or None.
        area: pixels of the start map; None if the generator starts from the label map.
        wide: whether images are usually twice as wide as high.
    """
    for num_upsamples in options:
        height = 512 if num_upsamples == 7 else 256
        sides = size or (height, 2 * height if wide else height)
        whole = all(side % 2**num_upsamples == 0 for side in sides)
        if whole and area in (None, (sides[0] >> num_upsamples) * (sides[1] >> num_upsamples)):
            return num_upsamples, sides
    if size is None:
        raise ConfigError(f"the noise becomes a map of {area} pixels, which no usual size has; set --size")
    strides = " or ".join(str(2**num_upsamples) for num_upsamples in options)
    noise = "" if area is None else f", and {area} such squares must fill the image"
    raise ConfigError(
        f"a size of {size[0]}x{size[1]} (height x width) does not fit this checkpoint: both sides must be multiples "
        f"of {strides}{noise}"
    )


def find_image_encoder(path: Path) -> dict[str, Tensor] | None:
    """Return the weights of the image encoder next to a generator: `latest_net_E.pth` for `latest_net_G.pth`.

    Returns:
        The state dict; None if there is no such file.

    Raises:
        CheckpointError: the file cannot be read, or holds another network.
    """
    file = path.with_name(path.name.replace("net_G", "net_E"))
    if file == path or not file.is_file():
        return None
    state = read_checkpoint(file)
    if not {"fc_mu.weight", "layer6.0.weight_orig"} <= state.keys():
        raise CheckpointError(f"{file} holds no image encoder of SPADE; give the one that was trained with {path.name}")
    return state


def with_image_encoder(generator: Mapping[str, Tensor], encoder: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Return the weights of a generator that contains its image encoder, under the authors' names within each."""
    return {**generator, **{f"image_encoder.{name}": weight for name, weight in (encoder or {}).items()}}

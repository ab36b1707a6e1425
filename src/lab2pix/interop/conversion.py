"""Checkpoint conversion: formats, options, results, and inference of the label space."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lab2pix.config.schema import DataConfig, RunConfig
from lab2pix.errors import CheckpointError, ConfigError
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.registry import label_space_names

WIDE = "cityscapes"
"""The built-in dataset whose images are twice as wide as high."""

UNKNOWN_FIRST = "ade20k"
"""The built-in dataset whose label files have 0 for unknown, and whose values SPADE's code takes for channels."""


@dataclass(frozen=True)
class ConversionOptions:
    """Settings that cannot be inferred from weights; None: the default of the label space.

    Attributes:
        label_space: built-in name or a YAML file; None: the only built-in one that fits.
        size: height and width of the images in pixels.
        num_upsamples: number of 2x upsamplings in the generator.
        instance_edges: whether the last input channel is the instance-boundary channel.
        reverse: whether to convert the generator from B to A, of a checkpoint with both directions.
    """

    label_space: str | None = None
    size: tuple[int, int] | None = None
    num_upsamples: int | None = None
    instance_edges: bool | None = None
    reverse: bool = False


@dataclass(frozen=True)
class Converted:
    """Converted generator with its configuration.

    Attributes:
        generator: generator with the converted weights, in eval mode.
        config: configuration that builds the same generator.
        label_space: label space of its input.
    """

    generator: nn.Module
    config: RunConfig
    label_space: LabelSpace

    def __str__(self) -> str:
        """Return a one-line summary."""
        data, edges = self.config.data, " with instance edges" if self.config.data.instance_edges else ""
        size = f"{data.size[0]}x{data.size[1]} (height x width)"
        parameters = sum(parameter.numel() for parameter in self.generator.parameters())
        return f"{self.config.name}: label space '{self.label_space.name}'{edges}, {size}, {parameters:,} weights"


@dataclass(frozen=True)
class CheckpointFormat:
    """Checkpoint format that a method converts.

    Attributes:
        matches: returns whether a state dict has this format.
        convert: converts path, state dict and options; raises `KeyError`, `IndexError`, `ValueError` or `RuntimeError`
            for damaged weights.
        both_directions: whether a checkpoint holds generators of two directions, A to B and B to A.
    """

    matches: Callable[[Mapping[str, Tensor]], bool]
    convert: Callable[[Path, dict[str, Tensor], ConversionOptions], Converted]
    both_directions: bool = False


def check_num_upsamples(options: ConversionOptions, possible: set[int]) -> None:
    if options.num_upsamples is not None and options.num_upsamples not in possible:
        raise ConfigError(
            f"--num-upsamples is {options.num_upsamples}, but this checkpoint's generator doubles its size "
            f"{' or '.join(map(str, sorted(possible)))} times; set that, or omit it"
        )


# --- label spaces -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelFit:
    """Match between the input channels of a checkpoint and a label space.

    Attributes:
        space: the label space.
        edges: whether the last channel is the instance-boundary channel.
        without_unknown: whether the space has unknown pixels but the checkpoint lacks a channel for them.
    """

    space: LabelSpace
    edges: bool
    without_unknown: bool

    def data(self, size: tuple[int, int], options: ConversionOptions) -> DataConfig:
        """Return the section `data` of a converted generator."""
        name = options.label_space or self.space.name
        return DataConfig(label_space=name, size=size, instance_edges=self.edges)

    def pad_unknown_channel(self, state: dict[str, Tensor], pattern: str) -> int:
        """Insert a channel of zero weights for unknown pixels if the checkpoint has none.

        Args:
            state: state dict; weights applied to the label map are replaced in place.
            pattern: regular expression for the names of these weights.

        Returns:
            Number of input channels, without the instance-boundary channel.
        """
        place = self.space.num_classes
        for name in [name for name in state if self.without_unknown and re.search(pattern, name)]:
            weight = state[name]
            if name.endswith("_u") or weight.ndim == 2:  # sized by the output or by the noise
                continue
            flat = weight.ndim == 1  # singular vector v, on the input side
            parts = weight.reshape(1, -1, 3, 3) if flat else weight
            zeros = torch.zeros_like(parts[:, :1])
            wider = torch.cat([parts[:, :place], zeros, parts[:, place:]], 1)
            state[name] = wider.flatten() if flat else wider
        return self.space.num_channels

    def move_unknown_last(self, state: dict[str, Tensor], pattern: str) -> None:
        """Move the channel of unknown pixels from the first to the last place, where SPADE's code put it first.

        That code sees the value v of ADE20K's label files in channel v, so channel 0 is unknown; here it is the last.

        Args:
            state: state dict; weights applied to the label map are replaced in place.
            pattern: regular expression for the names of these weights.
        """
        if self.space.name != UNKNOWN_FIRST or self.without_unknown:
            return
        channels = self.space.num_channels
        for name in [name for name in state if re.search(pattern, name) and not name.endswith("_u")]:
            weight = state[name]
            if weight.ndim == 2:  # sized by the noise
                continue
            parts = weight.reshape(1, -1, 3, 3) if weight.ndim == 1 else weight
            moved = torch.cat([parts[:, 1:channels], parts[:, :1], parts[:, channels:]], 1)
            state[name] = moved.reshape(weight.shape)


def _fits(space: LabelSpace, channels: int, edges: bool | None, *, edges_possible: bool) -> list[LabelFit]:
    """Return all matches of a label space with a number of channels, the most likely first."""
    has_unknown = space.unknown_value is not None
    found = []
    for with_edges in (False, True):
        classes = channels - with_edges
        if (with_edges and not edges_possible) or (edges is not None and edges != with_edges):
            continue
        if classes == space.num_classes:
            found.append(LabelFit(space, with_edges, has_unknown))
        elif has_unknown and classes == space.num_channels:
            found.append(LabelFit(space, with_edges, False))
    # The published Cityscapes networks have an instance-boundary channel and no channel for unknown.
    return found[::-1] if space.name == WIDE else found


_WITHOUT_NETWORKS = ("camvid", "landscapes", "scenes", "sketch")
"""Bundled label spaces for which no published network of label maps exists."""


def fit_label_space(path: Path, channels: int, options: ConversionOptions, *, edges_possible: bool) -> LabelFit:
    names = (
        [options.label_space]
        if options.label_space
        else [name for name in label_space_names() if name not in _WITHOUT_NETWORKS]
    )
    spaces = [LabelSpace.load(name) for name in names]
    ways = [_fits(space, channels, options.instance_edges, edges_possible=edges_possible) for space in spaces]
    found = [way[0] for way in ways if way]
    if len(found) == 1:
        return found[0]
    seen = f"{path} sees label maps of {channels} channels"
    if options.label_space is None:
        raise CheckpointError(f"{seen}, which {_several(found)}; say --label-space")
    space = spaces[0]
    kinds = f"{space.num_classes} classes" + (" and unknown" if space.unknown_value is not None else "")
    asked = options.instance_edges if edges_possible else False
    edges = "with or without" if asked is None else "with" if asked else "without"
    raise CheckpointError(
        f"{seen}, but label space '{space.name}' has {kinds} ({edges} a channel for instance edges); set the "
        "--label-space that it was trained with"
    )


def _several(found: list[LabelFit]) -> str:
    if not found:
        return "no shipped label space has"
    return f"are those of {' and '.join(fit.space.name for fit in found)} alike"

"""From the authors' checkpoints to generators with all that is needed to draw: settings, classes, size."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lab2pix.config.schema import RunConfig
from lab2pix.errors import CheckpointError, ConfigError
from lab2pix.interop.checkpoints import check_form, read_checkpoint
from lab2pix.interop.released_v1 import ReleasedV1Generator, load_released_v1, v1_generator_settings
from lab2pix.interop.released_v2 import load_released_generator, v2_generator_settings
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import build_generator, build_sampling, read_config
from lab2pix.utils.registry import label_space_names

__all__ = ["ConversionOptions", "Converted", "build_network", "convert_checkpoint"]

V1 = "lab2pix-v1-released"
_WIDE = "cityscapes"
"""The one shipped data set whose pictures are twice as wide as high."""


@dataclass(frozen=True)
class ConversionOptions:
    """What weights do not say; None: as is usual for the label space.

    Attributes:
        label_space: a shipped name or a YAML file; None: the one shipped space that fits.
        size: height and width of the pictures.
        doublings: how often the generator doubles its size.
        instance_edges: whether the last channel of the label map marks borders between instances.
    """

    label_space: str | None = None
    size: tuple[int, int] | None = None
    doublings: int | None = None
    instance_edges: bool | None = None


@dataclass(frozen=True)
class Converted:
    """A generator and what it needs beside its weights.

    Attributes:
        generator: with the weights.
        config: settings under which this package builds and feeds it.
        label_space: what its class ids mean.
        network: how to build it, where `config` alone does not say; see `build_network`.
    """

    generator: nn.Module
    config: RunConfig
    label_space: LabelSpace
    network: dict[str, Any] | None = None

    def __str__(self) -> str:
        """Return a line that says what was understood."""
        data, sampling = self.config.data, build_sampling(self.config, self.label_space)
        parts = [
            f"label space '{self.label_space.name}'" + (" with instance edges" if data.instance_edges else ""),
            f"{data.size[0]}x{data.size[1]} (height x width), multiples of {sampling.size_multiple}",
            "starts from noise" if sampling.noise_channels else "starts from the label map",
        ]
        return f"{self.config.name}: " + ", ".join(parts)


def build_network(network: Mapping[str, Any]) -> nn.Module:
    """Return the network that `Converted.network` describes, with random weights.

    Raises:
        CheckpointError: it describes none that this version knows.
    """
    settings = dict(network)
    kind = settings.pop("kind", None)
    if kind != V1:
        raise CheckpointError(f"no network of kind {kind!r} is known here; use the version of lab2pix that wrote it")
    try:
        return ReleasedV1Generator(**{**settings, "start_size": tuple(settings["start_size"])})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the settings of the network of kind '{V1}' are garbled ({error})") from error


def convert_checkpoint(path: Path, form: str, wishes: ConversionOptions | None = None) -> Converted:
    """Turn an authors' checkpoint of a generator into one that this package draws with.

    Args:
        path: `.pth` or `.safetensors`.
        form: one of `checkpoints.FORMS`.
        wishes: what the weights do not say.

    Raises:
        CheckpointError: the file cannot be read, is not of that form, or its classes are not the label space's.
        ConfigError: a size or number of doublings that the weights cannot have.
        LabelError: there is no such label space.
    """
    convert: Callable[[Path, dict[str, Tensor], ConversionOptions], Converted] = _from_v1 if form == V1 else _from_v2
    try:
        state = read_checkpoint(path)
        check_form(path, state, form)
        return convert(path, state, wishes or ConversionOptions())
    except KeyError as error:
        raise CheckpointError(f"{path} lacks the weight {error}; take a whole checkpoint") from error
    except (IndexError, ZeroDivisionError, ValueError, RuntimeError) as error:  # whatever odd shapes lead to
        raise CheckpointError(
            f"{path} holds weights of shapes that no generator of form '{form}' has; check that it is whole"
        ) from error


# --- Lab2Pix-V1 ---------------------------------------------------------------------------------------------------


def _from_v1(path: Path, state: dict[str, Tensor], wishes: ConversionOptions) -> Converted:
    settings = v1_generator_settings(state)
    sketch = settings["task"] == "sketch"
    if sketch:
        space, doublings = _sketch_space(path, settings["classes"], wishes), 5
    else:
        fit = _fitting(path, settings["classes"], wishes, edges_possible=False)
        space, doublings = fit.space, 7
        settings["classes"] = fit.pad_unknown_channel(state, r"\.(common_conv|seg_process)\.0\.weight$")
    _check_doublings(wishes, {doublings})
    area = state["noise_process.weight"].shape[0] // (16 * settings["width"])
    if area == 0:
        raise ValueError("noise becomes a map of no pixels")
    if sketch:  # the map that nobody looks at may have any shape of its size
        settings["start_size"], size = (1, area), wishes.size or (256, 256)
    else:
        settings["start_size"] = _start_size(wishes.size, 2**doublings, area)
        size = (settings["start_size"][0] * 2**doublings, settings["start_size"][1] * 2**doublings)
    generator = ReleasedV1Generator(**settings)
    generator.check_size(*size)
    load_released_v1(generator, state, f"{path}")
    config = {
        "name": V1,
        "method": "lab2pix-v1",
        "data": {"label_space": space.name, "size": size},
        "generator": {
            "width": settings["width"],
            "num_upsamples": doublings,
            "encoder": settings["task"],
            "progressive": True,
            "coattention": True,
            "modulation": "spade",
            "modulation_hidden": settings["hidden"],
            "input": "label" if sketch else "noise",
            "noise_dim": settings["noise_dim"],
            "spectral_norm": False,
        },
    }
    return Converted(generator.eval(), read_config(config), space, {"kind": V1, **settings})


def _sketch_space(path: Path, channels: int, wishes: ConversionOptions) -> LabelSpace:
    space = LabelSpace.load(wishes.label_space or "sketch")
    if channels != 1 or space.name != "sketch":
        raise CheckpointError(
            f"{path} draws from sketches of {channels} channel(s), which label space '{space.name}' of "
            f"{space.num_classes} classes is not for; leave --label-space out or say sketch"
        )
    return space


def _start_size(size: tuple[int, int] | None, stride: int, area: int) -> tuple[int, int]:
    """Return height and width of the map that noise becomes: as asked for, else twice as wide as high, else square."""
    shapes = [(side, area // side) for side in range(1, area + 1) if area % side == 0]
    if size is not None:
        shapes = [shape for shape in shapes if (shape[0] * stride, shape[1] * stride) == size]
    else:
        shapes = [shape for ratio in (2, 1) for shape in shapes if shape[1] == ratio * shape[0]]
    if shapes:
        return shapes[0]
    sizes = ", ".join(f"{side * stride}x{area // side * stride}" for side in range(1, area + 1) if area % side == 0)
    wrong = "the size of its pictures is not known" if size is None else f"a size of {size[0]}x{size[1]} does not fit"
    raise ConfigError(f"{wrong} (height x width): this checkpoint can have {sizes}; choose one with --size")


# --- Lab2Pix-V2 and SPADE -----------------------------------------------------------------------------------------


def _from_v2(path: Path, state: dict[str, Tensor], wishes: ConversionOptions) -> Converted:
    settings = v2_generator_settings(state)
    settings["input"] = settings.pop("start")
    fit = _fitting(path, settings.pop("label_channels"), wishes, edges_possible=True)
    fit.pad_unknown_channel(state, r"^fc\.weight$|\.mlp_shared\.0\.weight$|^fpencoder\.model_down\.0\.weight")
    known = settings.pop("doublings")
    noise_rows = state["fc.weight"].shape[0] if settings["input"] == "noise" else None
    area = None if noise_rows is None else noise_rows // (16 * settings["width"])
    wide = fit.space.name == _WIDE
    usual = (6, 5) if wide else (5, 6)
    _check_doublings(wishes, set(usual) if known is None else {known})
    options = [wishes.doublings or known] if wishes.doublings or known else usual
    doublings, size = _geometry(options, wishes.size, area, wide)
    spectral = settings.pop("spectral_norm")
    encoder = {"width": settings.pop("global_width"), "max_width": settings.pop("global_max_width")}
    config = read_config(
        {
            "method": "lab2pix-v2",
            "name": "spade" if settings["modulation"] == "spade" else "lab2pix-v2-released",
            "data": {"label_space": fit.space.name, "size": size, "instance_edges": fit.edges},
            "generator": {
                **settings,
                "num_upsamples": doublings,
                "spectral_norm": spectral,
                **({"global_encoder": encoder} if encoder["width"] else {}),
            },
        }
    )
    generator = build_generator(config, fit.space)
    load_released_generator(generator, state)  # type: ignore[arg-type]
    return Converted(generator.eval(), config, fit.space)


def _check_doublings(wishes: ConversionOptions, possible: set[int]) -> None:
    if wishes.doublings is not None and wishes.doublings not in possible:
        raise ConfigError(
            f"--doublings is {wishes.doublings}, but this checkpoint's generator doubles its size "
            f"{' or '.join(map(str, sorted(possible)))} times; say that, or leave it out"
        )


def _geometry(
    options: Iterable[int], size: tuple[int, int] | None, area: int | None, wide: bool
) -> tuple[int, tuple[int, int]]:
    """Return doublings and size that agree with the weights: the first of the usual ones.

    Args:
        options: doublings that are possible, the likely one first.
        size: height and width asked for.
        area: pixels of the map that noise becomes; None where the start is the label map.
        wide: whether pictures are usually twice as wide as high.
    """
    options = list(options)
    for doublings in options:
        height = 512 if doublings == 7 else 256
        sides = size or (height, 2 * height if wide else height)
        whole = all(side % 2**doublings == 0 for side in sides)
        if whole and area in (None, (sides[0] >> doublings) * (sides[1] >> doublings)):
            return doublings, sides
    if size is None:
        raise ConfigError(f"the noise becomes a map of {area} pixels, which no usual size has; say --size")
    strides = " or ".join(str(2**doublings) for doublings in options)
    noise = "" if area is None else f", and {area} such squares must fill the picture"
    raise ConfigError(
        f"a size of {size[0]}x{size[1]} (height x width) does not fit this checkpoint: both sides must be multiples "
        f"of {strides}{noise}"
    )


# --- label spaces -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Fit:
    """How the channels of a checkpoint's label map are a label space's.

    Attributes:
        space: the label space.
        edges: whether the last channel marks borders between instances.
        without_unknown: whether the space has unknown pixels and the checkpoint no channel for them.
    """

    space: LabelSpace
    edges: bool
    without_unknown: bool

    def pad_unknown_channel(self, state: dict[str, Tensor], pattern: str) -> int:
        """Give unknown pixels a channel of zero weights where they have none: nothing is said about them.

        Args:
            state: weights; those that look at the label map are replaced.
            pattern: what their names match.

        Returns:
            The number of channels for classes.
        """
        place = self.space.num_classes
        for name in [name for name in state if self.without_unknown and re.search(pattern, name)]:
            weight = state[name]
            if name.endswith("_u") or weight.ndim == 2:  # of the result's width, or of the noise's
                continue
            flat = weight.ndim == 1  # the singular vector on the input's side
            parts = weight.reshape(1, -1, 3, 3) if flat else weight
            zeros = torch.zeros_like(parts[:, :1])
            wider = torch.cat([parts[:, :place], zeros, parts[:, place:]], 1)
            state[name] = wider.flatten() if flat else wider
        return self.space.num_channels


def _fits(space: LabelSpace, channels: int, edges: bool | None, *, edges_possible: bool) -> list[_Fit]:
    """Return the ways in which a space can have so many channels, the usual one first."""
    has_unknown = space.unknown_value is not None
    found = []
    for with_edges in (False, True):
        classes = channels - with_edges
        if (with_edges and not edges_possible) or (edges is not None and edges != with_edges):
            continue
        if classes == space.num_classes:
            found.append(_Fit(space, with_edges, has_unknown))
        elif has_unknown and classes == space.num_channels:
            found.append(_Fit(space, with_edges, False))
    # The published Cityscapes networks see borders between instances and know no unknown pixels.
    return found[::-1] if space.name == _WIDE else found


def _fitting(path: Path, channels: int, wishes: ConversionOptions, *, edges_possible: bool) -> _Fit:
    names = [wishes.label_space] if wishes.label_space else [name for name in label_space_names() if name != "sketch"]
    spaces = [LabelSpace.load(name) for name in names]
    ways = [_fits(space, channels, wishes.instance_edges, edges_possible=edges_possible) for space in spaces]
    found = [way[0] for way in ways if way]
    if len(found) == 1:
        return found[0]
    seen = f"{path} sees label maps of {channels} channels"
    if wishes.label_space is None:
        raise CheckpointError(f"{seen}, which {_several(found)}; say --label-space")
    space = spaces[0]
    kinds = f"{space.num_classes} classes" + (" and unknown" if space.unknown_value is not None else "")
    asked = wishes.instance_edges if edges_possible else False
    edges = "with or without" if asked is None else "with" if asked else "without"
    raise CheckpointError(
        f"{seen}, but label space '{space.name}' has {kinds} ({edges} a channel for instance edges); say the "
        "--label-space that it was trained with"
    )


def _several(found: list[_Fit]) -> str:
    if not found:
        return "no shipped label space has"
    return f"are those of {' and '.join(fit.space.name for fit in found)} alike"

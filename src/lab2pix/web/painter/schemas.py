"""Pydantic models of the painter's parameters and responses."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lab2pix.labels.space import LabelSpace
from lab2pix.web.painter.images import MAX_BYTES, MAX_PIXELS, InputFormat, OutputFormat

MAX_SAMPLES = 16
"""Images per request."""
MAX_SCALE = 2
"""Largest image, in sizes of the model; memory grows with its square."""
MAX_SEED = 2**53 - 1
"""Largest integer that JavaScript represents exactly."""

MAX_REGIONS = 64
"""Regions of an image with seeds of their own; each seed takes the time of an image."""

_REGION = "(0|[1-9][0-9]{0,4}),(0|[1-9][0-9]{0,4}),(0|[1-9][0-9]{0,14})"
_INTEGER = re.compile(r"0|[1-9][0-9]{0,15}")
_DECIMAL = re.compile(r"[0-9]{1,20}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?")


def _check_integer(value: object) -> object:
    if isinstance(value, str) and not _INTEGER.fullmatch(value):
        raise ValueError("it must be a non-negative integer such as 7")
    return value


def _check_decimal(value: object) -> object:
    if isinstance(value, str) and not _DECIMAL.fullmatch(value):
        raise ValueError("it must be a number such as 0.5")
    return value


Seed = Annotated[int, Field(ge=0, le=MAX_SEED), BeforeValidator(_check_integer)]


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# --- parameters -----------------------------------------------------------------------------------------------------

_INPUT_FORMAT = "file: ids as in label files, a palette, or colors; ids: gray values that are canonical ids."


class NoQuery(_Schema):
    """No parameters."""


class OutputQuery(_Schema):
    """Encoding of a returned label map."""

    output_format: OutputFormat = Field(
        "palette", description="palette: as in label files, in the class colors; ids: gray values that are the ids."
    )


class LabelsQuery(OutputQuery):
    """Encodings of the uploaded and the returned label map."""

    input_format: InputFormat = Field("file", description=_INPUT_FORMAT)


class RandomQuery(OutputQuery):
    """Selection of a random scene."""

    seed: Seed = Field(0, description="Selects the scene; equal seeds give equal scenes.")


class SynthesizeQuery(_Schema):
    """Selection of the images to generate."""

    seed: Seed = Field(0, description="Seed of the noise.")
    samples: Annotated[int, Field(ge=1, le=MAX_SAMPLES), BeforeValidator(_check_integer)] = Field(
        1, description="Number of images, with this seed and the following ones; several are returned as a ZIP."
    )
    seed_b: Seed | None = Field(None, description="Second seed to interpolate to; requires mix.")
    mix: Annotated[float, Field(ge=0, le=1), BeforeValidator(_check_decimal)] | None = Field(
        None, description="Interpolation weight: 0 is seed, 1 is seed_b."
    )
    scale: Annotated[int, Field(ge=1, le=MAX_SCALE), BeforeValidator(_check_integer)] = Field(
        1, description="Size of the image in sizes of the model; the label map is upsampled by nearest neighbor."
    )
    input_format: InputFormat = Field("file", description=_INPUT_FORMAT)
    style: str | None = Field(
        None, pattern=r"^[0-9a-f]{16}$", description="Token of a style image, as /api/styles returns it."
    )
    regions: str | None = Field(
        None,
        pattern=f"^{_REGION}(;{_REGION}){{0,{MAX_REGIONS - 1}}}$",
        description="Seeds of regions, as X,Y,SEED;X,Y,SEED: a region is the connected area of one class around column "
        "X and row Y, in pixels of the model's size.",
    )
    channel: str | None = Field(
        None,
        pattern=r"^[0-9a-z]{8,32}$",
        description="Name chosen by the client; a queued request is dropped when a newer one of the channel arrives.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.seed_b is None) != (self.mix is None):
            raise ValueError("'seed_b' and 'mix' must be given together")
        if self.mix is not None and self.samples > 1:
            raise ValueError("'mix' gives one image; remove 'samples'")
        return self

    @property
    def region_seeds(self) -> list[tuple[int, int, int]]:
        """Column, row and seed of each region."""
        parts = [part.split(",") for part in self.regions.split(";")] if self.regions else []
        return [(int(column), int(row), int(seed)) for column, row, seed in parts]


def quote(text: str) -> str:
    """Quote text of a request for an error message: shortened, and without control characters."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[:40])
    return f"'{shown}{'...' * (len(text) > 40)}'"


# --- responses ------------------------------------------------------------------------------------------------------


class LabelClassInfo(_Schema):
    """A class: its canonical id, name, name for people, color (8-bit RGB), and whether it is foreground."""

    id: int
    name: str
    title: str
    color: tuple[int, int, int]
    foreground: bool


def describe_classes(space: LabelSpace) -> list[LabelClassInfo]:
    """Describe the classes of a label space, with unknown at the end if there is one."""
    names = [*space.names, "unknown"][: space.num_channels]
    titles = [*(item.title or item.name for item in space.classes), "unknown"]
    foreground = space.foreground(torch.arange(space.num_channels)).tolist()
    return [
        LabelClassInfo(
            id=index, name=name, title=titles[index], color=tuple(space.palette[index].tolist()), foreground=marked
        )
        for index, (name, marked) in enumerate(zip(names, foreground, strict=True))
    ]


class Limits(_Schema):
    """Limits of a request body, and the number of images per request."""

    bytes: int = MAX_BYTES
    pixels: int = MAX_PIXELS
    samples: int = MAX_SAMPLES


class QueueInfo(_Schema):
    """Number of queued requests, and how many the queue holds."""

    waiting: int
    capacity: int


class ModelDescription(_Schema):
    """The model that is served."""

    name: str
    step: int
    following: bool = Field(description="Whether each new checkpoint of its run replaces it.")
    label_space: str
    size: tuple[int, int] = Field(description="Height and width of the images.")
    classes: list[LabelClassInfo] = Field(description="All classes; unknown comes last if there is one.")
    unknown: int | None = Field(description="Id of pixels without a class; null if every pixel has one.")
    sketch: bool = Field(description="Whether it generates from line drawings: id 0 is paper, 1 is line.")
    noise: bool = Field(description="Whether the image depends on the seed.")
    style: Literal["none", "optional", "required"] = Field(description="Whether it takes a style image.")
    photo: bool = Field(description="Whether /api/labels turns photos into label maps.")
    random: bool = Field(description="Whether random scenes have its classes.")
    mode: str = Field(description="Inference mode: plain, fast, or fast-bf16.")
    limits: Limits
    queue: QueueInfo


class PairInfo(_Schema):
    """A pair whose label map can be corrected."""

    name: str
    token: str
    corrected: bool


class LabelSetDescription(_Schema):
    """The dataset whose label maps are corrected; for the page it is a model without images."""

    name: str
    label_space: str
    classes: list[LabelClassInfo]
    unknown: int | None
    sketch: bool
    noise: Literal[False] = False
    style: Literal["none"] = "none"
    limits: Limits = Limits()
    pairs: list[PairInfo]


class ExampleInfo(_Schema):
    """An example label map."""

    name: str
    token: str


class ErrorAnswer(_Schema):
    """What went wrong, in one sentence."""

    error: str

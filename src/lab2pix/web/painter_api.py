"""What the painter's addresses take and give, as models."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lab2pix.web.painter_pictures import MAX_BYTES, MAX_PIXELS, Given, Shown

__all__ = [
    "MAX_SAMPLES",
    "Busy",
    "ErrorAnswer",
    "ExampleInfo",
    "LabelClassInfo",
    "LabelsQuery",
    "Limits",
    "ModelAnswer",
    "NoQuery",
    "RandomQuery",
    "ShownQuery",
    "SynthesizeQuery",
    "quote",
]

MAX_SAMPLES = 16
"""Pictures of one request."""
MAX_SEED = 2**53 - 1
"""The largest whole number that JavaScript counts to."""

_WHOLE = re.compile(r"0|[1-9][0-9]{0,15}")
_FRACTION = re.compile(r"[0-9]{1,20}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?")


def _whole(value: object) -> object:
    if isinstance(value, str) and not _WHOLE.fullmatch(value):
        raise ValueError("it is no whole number from 0 on, such as 7")
    return value


def _fraction(value: object) -> object:
    if isinstance(value, str) and not _FRACTION.fullmatch(value):
        raise ValueError("it is no number such as 0.5")
    return value


Seed = Annotated[int, Field(ge=0, le=MAX_SEED), BeforeValidator(_whole)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# --- what comes in --------------------------------------------------------------------------------------------------


class NoQuery(_Part):
    """No parameters."""


class ShownQuery(_Part):
    """How a label map goes out."""

    form: Shown = Field(
        "palette",
        description="palette: as label files are, in the classes' colours; ids: gray values that are the ids.",
    )


class LabelsQuery(ShownQuery):
    """How a layout comes in and goes out."""

    given: Given = Field(
        "file",
        description="file: ids as label files spell them, a palette or colours; ids: gray values that are the ids.",
    )


class RandomQuery(ShownQuery):
    """Which scene is drawn."""

    seed: Seed = Field(0, description="Which scene; the same one each time.")


class SynthesizeQuery(_Part):
    """Which pictures are drawn, and how the label map is meant."""

    seed: Seed = Field(0, description="Decides the noise.")
    samples: Annotated[int, Field(ge=1, le=MAX_SAMPLES), BeforeValidator(_whole)] = Field(
        1, description="How many pictures, of this seed and the next ones; several are a ZIP."
    )
    seed_b: Seed | None = Field(None, description="Where the way from seed to another style ends; with mix.")
    mix: Annotated[float, Field(ge=0, le=1), BeforeValidator(_fraction)] | None = Field(
        None, description="How far along that way: 0 is seed, 1 is seed_b."
    )
    form: Given = Field(
        "file",
        description="file: ids as label files spell them, a palette or colours; ids: gray values that are the ids.",
    )
    request: str | None = Field(
        None,
        pattern=r"^[0-9a-z]{8,32}$",
        description="Whose request it is: one that still waits is dropped when a newer one of the same comes.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.seed_b is None) != (self.mix is None):
            raise ValueError("'seed_b' and 'mix' belong together; give both or neither")
        if self.mix is not None and self.samples > 1:
            raise ValueError("'mix' asks for one picture; leave out 'samples'")
        return self


def quote(text: str) -> str:
    """Quote what was sent, so that it fits a sentence."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[:40])
    return f"'{shown}{'...' * (len(text) > 40)}'"


# --- what goes out --------------------------------------------------------------------------------------------------


class LabelClassInfo(_Part):
    """A class: its id, its name, its colour (8-bit RGB), and whether it is foreground."""

    id: int
    name: str
    color: tuple[int, int, int]
    foreground: bool


class Limits(_Part):
    """What a body may have, and how many pictures one request may ask for."""

    bytes: int = MAX_BYTES
    pixels: int = MAX_PIXELS
    samples: int = MAX_SAMPLES


class Busy(_Part):
    """Requests that wait, and how many may."""

    waiting: int
    capacity: int


class ModelAnswer(_Part):
    """The model that draws."""

    name: str
    step: int
    label_space: str
    size: tuple[int, int] = Field(description="Height and width of the pictures.")
    classes: list[LabelClassInfo] = Field(description="All classes; unknown is the last one where there is one.")
    unknown: int | None = Field(description="Id of pixels without class; null: every pixel has one.")
    sketch: bool = Field(description="Whether it draws from line drawings: id 0 is paper, 1 is line.")
    noise: bool = Field(description="Whether another seed gives another picture.")
    drawing: str = Field(description="How it draws: plain, or with a fused generator, fast or fast-bf16.")
    limits: Limits
    busy: Busy


class ExampleInfo(_Part):
    """A layout to begin with."""

    name: str
    token: str


class ErrorAnswer(_Part):
    """What went wrong, in one sentence."""

    error: str

"""What the painter's addresses take and give, as models that check requests and as a description (OpenAPI 3.1)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.json_schema import models_json_schema

import lab2pix
from lab2pix.errors import did_you_mean
from lab2pix.web.guard import RefusedError
from lab2pix.web.painter_pictures import MAX_BYTES, MAX_PIXELS, Given, Shown

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = [
    "MAX_SAMPLES",
    "Busy",
    "ExampleInfo",
    "LabelClassInfo",
    "LabelsQuery",
    "Limits",
    "ModelAnswer",
    "NoQuery",
    "RandomQuery",
    "ShownQuery",
    "SynthesizeQuery",
    "describe",
    "read_query",
]

MAX_SAMPLES = 16
"""Pictures of one request."""
MAX_SEED = 2**53 - 1
"""The largest whole number that JavaScript counts to."""

_WHOLE = re.compile(r"0|[1-9][0-9]{0,15}")
_FRACTION = re.compile(r"[0-9]{1,20}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?")


def _whole(value: object) -> object:
    if isinstance(value, str) and not _WHOLE.fullmatch(value):
        raise ValueError("it is no whole number such as 7")
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


Query = TypeVar("Query", bound=_Part)


def read_query(request: Request, form: type[Query]) -> Query:
    """Return a request's parameters, checked.

    Raises:
        RefusedError: 400, one is unknown, given twice, or not as it must be.
    """
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in form.model_fields:
            hint = did_you_mean(name[:40], form.model_fields) if form.model_fields else "; this address takes none"
            raise RefusedError(400, f"There is no parameter {_short(name)}{hint}")
        if name in given:
            raise RefusedError(400, f"The parameter '{name}' is given twice; give it once")
        given[name] = value
    try:
        return form.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        reason = str(first["msg"]).removeprefix("Value error, ")
        if not first["loc"]:
            raise RefusedError(400, f"The parameters do not go together: {reason}") from error
        name = str(first["loc"][0])
        raise RefusedError(400, f"The parameter '{name}' cannot be {_short(given[name])}: {reason}") from error


def _short(text: str) -> str:
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
    drawing: str = Field(description="How it draws: plain, or through a prepared generator, fast or fast-bf16.")
    limits: Limits
    busy: Busy


class ExampleInfo(_Part):
    """A layout to begin with."""

    name: str
    token: str


class ErrorAnswer(_Part):
    """What went wrong, in one sentence."""

    error: str


# --- the description ------------------------------------------------------------------------------------------------

_BINARY = {"type": "string", "format": "binary"}
_STATUS = {
    400: "A parameter or the label map is wrong.",
    403: "A page of another site asked.",
    404: "There is no such thing.",
    408: "The body did not arrive in time.",
    409: "A newer request took its place.",
    413: "The body has too many bytes or pixels.",
    415: "The body is of another kind.",
    422: "The picture is cut short or damaged.",
    429: "The queue is full; `Retry-After` says in how many seconds to try again.",
    503: "The painter is shutting down.",
}
_TAKES = (400, 403, 408, 413, 415, 422, 429, 503)


def describe() -> dict[str, Any]:
    """Return the description of all addresses, as OpenAPI 3.1 has it."""
    answers = (ModelAnswer, ExampleInfo, ErrorAnswer)
    _, schemas = models_json_schema([(answer, "serialization") for answer in answers], ref_template=_ref("{model}"))
    png, token = {"image/png": {"schema": _BINARY}}, {"type": "string", "pattern": "^[0-9a-f]{16}$"}
    examples = {"type": "array", "items": {"$ref": _ref("ExampleInfo")}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "lab2pix painter", "version": lab2pix.__version__, "description": _ABOUT},
        "paths": {
            "/api/model": {
                "get": _operation("The model that draws, its classes, and what it takes", NoQuery, "model")
                | _gives({"application/json": {"schema": {"$ref": _ref("ModelAnswer")}}}, 400)
            },
            "/api/synthesize": {
                "post": _operation("Draw pictures of a label map", SynthesizeQuery, "synthesize")
                | _takes("The label map.", "image/png")
                | _gives({**png, "application/zip": {"schema": _BINARY}}, *sorted((*_TAKES, 409)), headers=_HEADERS)
            },
            "/api/labels": {
                "post": _operation("Turn a label map in any form, or a photo, into a layout", LabelsQuery, "labels")
                | _takes("A label map; for a model of sketches also a photo.", "image/png", "image/jpeg")
                | _gives(png, *_TAKES)
            },
            "/api/random": {
                "post": _operation("Draw a scene's label map", RandomQuery, "random")
                | _gives(png, 400, 403, 404, 429, 503)
            },
            "/api/examples": {
                "get": _operation("Layouts to begin with", NoQuery, "examples")
                | _gives({"application/json": {"schema": examples}}, 400, 503)
            },
            "/api/examples/{token}.png": {
                "get": _operation("One of these layouts", ShownQuery, "example", token=token)
                | _gives(png, 400, 404, 503)
            },
        },
        "components": {"schemas": schemas["$defs"]},
    }


_ABOUT = "Pictures from label maps. The body of a request is the picture itself; errors are JSON with one sentence."
_HEADERS = {
    "X-Lab2pix-Seed": {"schema": {"type": "integer"}, "description": "Seed of the first picture."},
    "X-Lab2pix-Milliseconds": {"schema": {"type": "integer"}, "description": "How long reading and drawing took."},
}


def _ref(name: str) -> str:
    return f"#/components/schemas/{name}"


def _operation(summary: str, query: type[_Part], name: str, **path: dict[str, Any]) -> dict[str, Any]:
    """Return what an address does and which parameters it takes."""
    parameters = [{"name": key, "in": "path", "required": True, "schema": schema} for key, schema in path.items()]
    for key, field in query.model_json_schema().get("properties", {}).items():
        about = field.pop("description")
        # One that may be left out is not null when it is given.
        schema = next(part for part in field.get("anyOf", [field]) if part != {"type": "null"})
        schema.pop("title", None)
        parameters.append({"name": key, "in": "query", "required": False, "description": about, "schema": schema})
    return {"summary": summary, "operationId": name, "parameters": parameters}


def _takes(about: str, *kinds: str) -> dict[str, Any]:
    return {
        "requestBody": {
            "required": True,
            "description": f"{about} At most {MAX_BYTES} bytes and {MAX_PIXELS} pixels.",
            "content": {kind: {"schema": _BINARY} for kind in kinds},
        }
    }


def _gives(content: dict[str, Any], *errors: int, headers: dict[str, Any] | None = None) -> dict[str, Any]:
    good: dict[str, Any] = {"description": "As asked for.", "content": content}
    if headers is not None:
        good["headers"] = headers
    bad = {"application/json": {"schema": {"$ref": _ref("ErrorAnswer")}}}
    return {
        "responses": {
            "200": good,
            **{str(status): {"description": _STATUS[status], "content": bad} for status in errors},
        }
    }

"""The painter's addresses: what each takes and gives, as FastAPI checks, serves and describes it.

FastAPI knows nothing of bodies that are pictures and calls errors what they are not here: so bodies are read by
`guard.read_body`, parameters that are wrong are told in one sentence with status 400, and `describe` mends what FastAPI
would say of them.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse, Response

import lab2pix
from lab2pix.errors import did_you_mean
from lab2pix.web import painter_api as api
from lab2pix.web.guard import RefusedError
from lab2pix.web.painter_desk import Painter
from lab2pix.web.painter_docs import docs_page
from lab2pix.web.painter_kinds import KINDS
from lab2pix.web.painter_pictures import MAX_BYTES, MAX_PIXELS

__all__ = ["describe", "explain_parameters", "router"]

_READ = ["GET", "HEAD"]
_UPLOAD = (400, 403, 408, 413, 415, 422, 429, 503)
_GOOD = "As asked for."
_ABOUT = "Pictures from label maps. The body of a request is the picture itself; errors are JSON with one sentence."
_HEADERS = {
    "X-Lab2pix-Seed": {"schema": {"type": "integer"}, "description": "Seed of the first picture."},
    "X-Lab2pix-Milliseconds": {"schema": {"type": "integer"}, "description": "How long reading and drawing took."},
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}
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


def _gives(*errors: int, kinds: tuple[str, ...] = (), headers: dict[str, Any] | None = None) -> dict[int | str, Any]:
    """Return what an address answers: pictures of some kinds, if it is pictures, and errors."""
    good: dict[str, Any] = {"content": dict.fromkeys(kinds, _BINARY)} if kinds else {}
    if headers is not None:
        good["headers"] = headers
    return {200: good, **{status: {"description": _STATUS[status], "content": _ERROR} for status in errors}}


def _takes(about: str) -> dict[str, Any]:
    """Return what a body must be."""
    about = f"{about} At most {MAX_BYTES} bytes and {MAX_PIXELS} pixels."
    return {"requestBody": {"required": True, "description": about, "content": dict.fromkeys(KINDS, _BINARY)}}


async def _refuse_doubles(request: Request) -> None:
    """Refuse parameters that are given twice, of which FastAPI would take the last."""
    names = [name for name, _ in request.query_params.multi_items()]
    if doubles := [name for name in names if names.count(name) > 1]:
        raise RefusedError(400, f"The parameter {api.quote(doubles[0])} is given twice; give it once")


async def _painter(request: Request) -> Painter:
    painter: Painter = request.app.state.painter
    return painter


_Desk = Annotated[Painter, Depends(_painter)]
router = APIRouter(dependencies=[Depends(_refuse_doubles)], default_response_class=Response)


@router.api_route(
    "/api/model",
    methods=_READ,
    operation_id="model",
    summary="The model that draws, its classes, and what it takes",
    response_class=JSONResponse,
    response_description=_GOOD,
    responses=_gives(400),
)
async def _model(painter: _Desk, query: Annotated[api.NoQuery, Query()]) -> api.ModelAnswer:
    return painter.model()


@router.post(
    "/api/synthesize",
    operation_id="synthesize",
    summary="Draw pictures of a label map",
    response_description=_GOOD,
    responses=_gives(*sorted((*_UPLOAD, 409)), kinds=("image/png", "application/zip"), headers=_HEADERS),
    openapi_extra=_takes("The label map."),
)
async def _synthesize(request: Request, painter: _Desk, query: Annotated[api.SynthesizeQuery, Query()]) -> Response:
    return await painter.synthesize(request, query)


@router.post(
    "/api/labels",
    operation_id="labels",
    summary="Turn a label map in any form, or a photo, into a layout",
    response_description=_GOOD,
    responses=_gives(*_UPLOAD, kinds=("image/png",)),
    openapi_extra=_takes("A label map; for a model of sketches also a photo."),
)
async def _labels(request: Request, painter: _Desk, query: Annotated[api.LabelsQuery, Query()]) -> Response:
    return await painter.labels(request, query)


@router.post(
    "/api/random",
    operation_id="random",
    summary="Draw a scene's label map",
    response_description=_GOOD,
    responses=_gives(400, 403, 404, 429, 503, kinds=("image/png",)),
)
async def _random(request: Request, painter: _Desk, query: Annotated[api.RandomQuery, Query()]) -> Response:
    return await painter.random(request, query)


@router.api_route(
    "/api/examples",
    methods=_READ,
    operation_id="examples",
    summary="Layouts to begin with",
    response_class=JSONResponse,
    response_description=_GOOD,
    responses=_gives(400, 503),
)
async def _examples(painter: _Desk, query: Annotated[api.NoQuery, Query()]) -> list[api.ExampleInfo]:
    return await painter.examples()


@router.api_route(
    "/api/examples/{token}.png",
    methods=_READ,
    operation_id="example",
    summary="One of these layouts",
    response_description=_GOOD,
    responses=_gives(400, 404, 503, kinds=("image/png",)),
)
async def _example(
    painter: _Desk,
    token: Annotated[str, PathParameter(json_schema_extra={"pattern": "^[0-9a-f]{16}$"})],
    query: Annotated[api.ShownQuery, Query()],
) -> Response:
    return await painter.example(token, query)


@router.api_route("/api/docs", methods=_READ, include_in_schema=False)
async def _docs(request: Request) -> HTMLResponse:
    return HTMLResponse(docs_page(describe(), f"{request.url.scheme}://{request.url.netloc}"))


@cache
def describe() -> dict[str, Any]:
    """Return the description of all addresses, as OpenAPI 3.1 has it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that HEAD and GET are called the same
        described = get_openapi(
            title="lab2pix painter", version=lab2pix.__version__, description=_ABOUT, routes=router.routes
        )
    for methods in described["paths"].values():
        methods.pop("head", None)  # it goes without saying
        for operation in methods.values():
            told = operation["responses"].get("422", {}).get("content", {})
            if told != _ERROR and told:
                del operation["responses"]["422"]  # FastAPI's own answer to wrong parameters; here it is 400
            operation["parameters"] = [_plain(parameter) for parameter in operation.get("parameters", [])]
    schemas = described["components"]["schemas"]
    schemas = {name: schema for name, schema in schemas.items() if "ValidationError" not in name}
    described["components"]["schemas"] = {**schemas, "ErrorAnswer": api.ErrorAnswer.model_json_schema()}
    return described


def _plain(parameter: dict[str, Any]) -> dict[str, Any]:
    """Return a parameter's description without what says nothing; one that may be left out is not null when given."""
    schema = parameter["schema"]
    schema = next(part for part in schema.get("anyOf", [schema]) if part != {"type": "null"})
    kept = {key: value for key, value in schema.items() if key not in ("title", "description")}
    return {**parameter, "schema": kept}


def explain_parameters(request: Request, error: RequestValidationError) -> RefusedError:
    """Return what is said of the first parameter that is wrong."""
    first = error.errors()[0]
    reason = str(first["msg"]).removeprefix("Value error, ")
    if len(first["loc"]) < 2:
        return RefusedError(400, f"The parameters do not go together: {reason}")
    name = str(first["loc"][1])
    if first["type"] == "extra_forbidden":
        operation = describe()["paths"][request.scope["route"].path]
        own = [item["name"] for item in next(iter(operation.values()))["parameters"] if item["in"] == "query"]
        hint = did_you_mean(name[:40], own) if own else "; this address takes none"
        return RefusedError(400, f"There is no parameter {api.quote(name)}{hint}")
    return RefusedError(400, f"The parameter '{name}' cannot be {api.quote(str(first['input']))}: {reason}")

"""The painter's API: FastAPI routes, and their OpenAPI description.

FastAPI has no notion of bodies that are images, and answers wrong parameters with 422.
Bodies are therefore read by `security.read_body`, wrong parameters are answered with 400 and one sentence, and
`openapi_schema` corrects the generated description.
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
from lab2pix.web.painter import schemas
from lab2pix.web.painter.docs import docs_page
from lab2pix.web.painter.formats import FORMATS
from lab2pix.web.painter.images import MAX_BYTES, MAX_PIXELS
from lab2pix.web.painter.service import PainterService
from lab2pix.web.responses import HTTPError

_READ = ["GET", "HEAD"]
_UPLOAD = (400, 403, 408, 413, 415, 422, 429, 503)
_OK = "The requested data."
_ABOUT = "Images from label maps. The request body is the image file; errors are JSON with one sentence."
_HEADERS = {
    "X-Lab2pix-Seed": {"schema": {"type": "integer"}, "description": "Seed of the first image."},
    "X-Lab2pix-Milliseconds": {"schema": {"type": "integer"}, "description": "Time for decoding and generating."},
}
_STYLE_HEADERS = {
    "X-Lab2pix-Style": {
        "schema": {"type": "string"},
        "description": "Token of the image for `style` of /api/synthesize.",
    }
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}
_STATUS = {
    400: "A parameter or the label map is invalid.",
    403: "A page of another site sent the request.",
    404: "It does not exist.",
    408: "The body did not arrive in time.",
    409: "A newer request replaced this one.",
    413: "The body has too many bytes or pixels.",
    415: "The body has another format.",
    422: "The image is truncated or damaged.",
    429: "The queue is full; `Retry-After` is the number of seconds to wait.",
    503: "The server is shutting down.",
}


def _responses(
    *errors: int, media_types: tuple[str, ...] = (), headers: dict[str, Any] | None = None
) -> dict[int | str, Any]:
    """Describe a route's responses: binary data of the media types, if any, and errors."""
    success: dict[str, Any] = {"content": dict.fromkeys(media_types, _BINARY)} if media_types else {}
    if headers is not None:
        success["headers"] = headers
    return {200: success, **{status: {"description": _STATUS[status], "content": _ERROR} for status in errors}}


def _request_body(about: str) -> dict[str, Any]:
    about = f"{about} At most {MAX_BYTES} bytes and {MAX_PIXELS} pixels."
    return {"requestBody": {"required": True, "description": about, "content": dict.fromkeys(FORMATS, _BINARY)}}


async def _refuse_duplicates(request: Request) -> None:
    """Refuse repeated parameters, of which FastAPI would silently take the last."""
    names = [name for name, _ in request.query_params.multi_items()]
    if duplicates := [name for name in names if names.count(name) > 1]:
        raise HTTPError(400, f"The parameter {schemas.quote(duplicates[0])} is given twice; give it once")


async def _service(request: Request) -> PainterService:
    service: PainterService = request.app.state.service
    return service


_Service = Annotated[PainterService, Depends(_service)]
router = APIRouter(dependencies=[Depends(_refuse_duplicates)], default_response_class=Response)


@router.api_route(
    "/api/model",
    methods=_READ,
    operation_id="model",
    summary="Describe the model, its classes and its limits",
    response_class=JSONResponse,
    response_description=_OK,
    responses=_responses(400),
)
async def _model(service: _Service, query: Annotated[schemas.NoQuery, Query()]) -> schemas.ModelDescription:
    return service.model()


@router.post(
    "/api/synthesize",
    operation_id="synthesize",
    summary="Generate images of a label map",
    response_description=_OK,
    responses=_responses(*sorted((*_UPLOAD, 404, 409)), media_types=("image/png", "application/zip"), headers=_HEADERS),
    openapi_extra=_request_body("The label map."),
)
async def _synthesize(
    request: Request, service: _Service, query: Annotated[schemas.SynthesizeQuery, Query()]
) -> Response:
    return await service.synthesize(request, query)


@router.post(
    "/api/labels",
    operation_id="labels",
    summary="Convert a label map, or a photo if the model takes photos, to a label map of the model's size",
    response_description=_OK,
    responses=_responses(*_UPLOAD, media_types=("image/png",)),
    openapi_extra=_request_body("A label map; if the model takes photos also a photo."),
)
async def _labels(request: Request, service: _Service, query: Annotated[schemas.LabelsQuery, Query()]) -> Response:
    return await service.labels(request, query)


@router.post(
    "/api/styles",
    operation_id="styles",
    summary="Keep a style image for /api/synthesize, and return it at the model's size",
    response_description=_OK,
    responses=_responses(*_UPLOAD, media_types=("image/png",), headers=_STYLE_HEADERS),
    openapi_extra=_request_body("The style image, for a model that takes one."),
)
async def _styles(request: Request, service: _Service, query: Annotated[schemas.NoQuery, Query()]) -> Response:
    return await service.style(request)


@router.post(
    "/api/random",
    operation_id="random",
    summary="Generate the label map of a random scene",
    response_description=_OK,
    responses=_responses(400, 403, 404, 429, 503, media_types=("image/png",)),
)
async def _random(request: Request, service: _Service, query: Annotated[schemas.RandomQuery, Query()]) -> Response:
    return await service.random(request, query)


@router.api_route(
    "/api/examples",
    methods=_READ,
    operation_id="examples",
    summary="List example label maps",
    response_class=JSONResponse,
    response_description=_OK,
    responses=_responses(400, 503),
)
async def _examples(service: _Service, query: Annotated[schemas.NoQuery, Query()]) -> list[schemas.ExampleInfo]:
    return await service.examples()


@router.api_route(
    "/api/examples/{token}.png",
    methods=_READ,
    operation_id="example",
    summary="Return an example label map",
    response_description=_OK,
    responses=_responses(400, 404, 503, media_types=("image/png",)),
)
async def _example(
    service: _Service,
    token: Annotated[str, PathParameter(json_schema_extra={"pattern": "^[0-9a-f]{16}$"})],
    query: Annotated[schemas.OutputQuery, Query()],
) -> Response:
    return await service.example(token, query)


@router.api_route("/api/docs", methods=_READ, include_in_schema=False)
async def _docs(request: Request) -> HTMLResponse:
    return HTMLResponse(docs_page(openapi_schema(), f"{request.url.scheme}://{request.url.netloc}"))


@cache
def openapi_schema() -> dict[str, Any]:
    """Return the OpenAPI 3.1 description of the API."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # GET and HEAD share an operation id
        schema = get_openapi(
            title="lab2pix painter", version=lab2pix.__version__, description=_ABOUT, routes=router.routes
        )
    for methods in schema["paths"].values():
        methods.pop("head", None)
        for operation in methods.values():
            content = operation["responses"].get("422", {}).get("content", {})
            if content and content != _ERROR:
                del operation["responses"]["422"]  # FastAPI's response to wrong parameters, which is 400 here
            operation["parameters"] = [_simplify(parameter) for parameter in operation.get("parameters", [])]
    parts = schema["components"]["schemas"]
    parts = {name: part for name, part in parts.items() if "ValidationError" not in name}
    schema["components"]["schemas"] = {**parts, "ErrorAnswer": schemas.ErrorAnswer.model_json_schema()}
    return schema


def _simplify(parameter: dict[str, Any]) -> dict[str, Any]:
    """Remove titles from a parameter's schema, and `null`, which an optional parameter cannot be when it is given."""
    schema = parameter["schema"]
    schema = next(part for part in schema.get("anyOf", [schema]) if part != {"type": "null"})
    kept = {key: value for key, value in schema.items() if key not in ("title", "description")}
    return {**parameter, "schema": kept}


def parameter_error(request: Request, error: RequestValidationError) -> HTTPError:
    """Return the error for the first invalid parameter."""
    first = error.errors()[0]
    reason = str(first["msg"]).removeprefix("Value error, ")
    if len(first["loc"]) < 2:
        return HTTPError(400, f"The parameters are inconsistent: {reason}")
    name = str(first["loc"][1])
    if first["type"] == "extra_forbidden":
        operation = openapi_schema()["paths"][request.scope["route"].path]
        own = [item["name"] for item in next(iter(operation.values()))["parameters"] if item["in"] == "query"]
        hint = did_you_mean(name[:40], own) if own else "; this address takes none"
        return HTTPError(400, f"There is no parameter {schemas.quote(name)}{hint}")
    return HTTPError(400, f"The parameter '{name}' cannot be {schemas.quote(str(first['input']))}: {reason}")

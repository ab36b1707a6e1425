"""The study's web application and its server (Section 5.5, Table 6).

It serves static files, images by their tokens, and an API that takes a participant's name or a ranking as JSON.
No file path is ever derived from a request.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lab2pix.errors import Lab2PixError, OutputError
from lab2pix.web import serving
from lab2pix.web.responses import HTTPError, error_response, exception_response, static_routes
from lab2pix.web.security import HostChecker, guarded_app, read_body
from lab2pix.web.study.samples import MAX_METHODS, Study, Task, participant_name
from lab2pix.web.study.store import MAX_SECONDS, AnswerStore

MAX_BODY = 8192
"""Bytes of a request body; a ranking takes some hundreds."""


class _ParticipantRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    participant: str


class _RankingRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    participant: str
    id: Annotated[str, Field(pattern=r"^[0-9A-Za-z-]{8,64}$")]
    sample: str
    ranking: Annotated[list[str], Field(min_length=2, max_length=MAX_METHODS)]
    seconds: Annotated[float, Field(ge=0, le=MAX_SECONDS)]


Body = TypeVar("Body", bound=BaseModel)


def serve_study(
    folder: Path | str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    allow_hosts: Sequence[str] = (),
    open_browser: bool = True,
    echo: Callable[[str], None] = print,
) -> None:
    """Serve a study until Ctrl-C or SIGTERM.

    The arguments are those of `lab2pix.web.painter.app.serve_painter`.

    Raises:
        DataError: there is no study, an image is missing, or existing answers do not fit it.
        OutputError: the address is not available, or the study is already being served.
    """
    folder = Path(folder)
    study = Study.load(folder)
    with AnswerStore(folder, study) as store, serving.listen(host, port) as listening:
        app = create_app(folder, study, store, HostChecker(host, allow_hosts))
        url = serving.server_url(host, listening.getsockname()[1])
        if store.answers.damaged:
            numbers = ", ".join(str(number) for number in store.answers.damaged)
            echo(f"{store.path}, line {numbers}: truncated by a crash; the participant will be asked again")
        echo(f"The study is at {url}; stop with Ctrl-C, answers are stored in {store.path}")
        if open_browser:
            serving.open_browser_soon(url)
        serving.run(app, listening)
        echo(f"Stopped; {store.path} contains {len(store.answers.latest)} answers")


def create_app(folder: Path, study: Study, store: AnswerStore, hosts: HostChecker) -> Starlette:
    """Return the study's web application.

    Raises:
        DataError: an image is missing.
    """

    def respond(error: Exception) -> Response:
        if isinstance(error, OutputError):
            message = "The answer could not be written to the disk; tell the organizer of the study, then try again"
            return error_response(507, message)
        return error_response(400, str(error)) if isinstance(error, Lab2PixError) else exception_response(error)

    service = _StudyService(folder, study, store)
    routes = [
        *static_routes("lab2pix.web.study"),
        Route("/images/{token}.png", service.image, methods=["GET"]),
        Route("/api/participant", service.participant, methods=["POST"]),
        Route("/api/answers", service.answer, methods=["POST"]),
    ]
    return guarded_app(routes, hosts, respond)


class _StudyService:
    """Handles the study's requests."""

    def __init__(self, folder: Path, study: Study, store: AnswerStore) -> None:
        self.study, self.store = study, store
        self.files = study.require_images(folder)
        self.samples = {sample.label: sample for sample in study.pool}  # the page identifies a sample by this token

    def image(self, request: Request) -> Response:
        """Return an image, without its modification time, which would reveal the method."""
        try:
            content = self.files[request.path_params["token"]].read_bytes()
        except (KeyError, OSError) as error:
            raise HTTPError(404, "There is no such image") from error
        return Response(content, media_type="image/png", headers={"cache-control": "private, max-age=86400"})

    async def participant(self, request: Request) -> Response:
        """Return the samples of a participant with the existing rankings."""
        name = participant_name((await _parse_body(request, _ParticipantRequest)).participant)
        done = await run_in_threadpool(self.store.done, name)
        samples = [
            _public_sample(task, done[task.sample.name].ranking if task.sample.name in done else None)
            for task in self.study.tasks(name)
        ]
        classes = [entry.model_dump() for entry in self.study.classes]
        return JSONResponse({"participant": name, "samples": samples, "classes": classes})

    async def answer(self, request: Request) -> Response:
        """Store a ranking."""
        body = await _parse_body(request, _RankingRequest)
        name = participant_name(body.participant)
        sample = self.samples.get(body.sample)
        if sample is None or sample.name not in [task.sample.name for task in self.study.tasks(name)]:
            raise HTTPError(400, "There is no such sample for this participant; reload the page")
        methods = {token: method for method, token in sample.images.items()}
        if sorted(body.ranking) != sorted(methods):
            raise HTTPError(400, "A ranking must contain every image of its sample once; reload the page")
        ranking = [methods[token] for token in body.ranking]
        outcome = await run_in_threadpool(self.store.append, body.id, name, sample.name, ranking, body.seconds)
        return JSONResponse({"outcome": outcome})


async def _parse_body(request: Request, schema: type[Body]) -> Body:
    """Parse a JSON body; other sites cannot send `application/json` without a preflight."""
    body, _ = await read_body(request, ("application/json",), MAX_BODY)
    try:
        return schema.model_validate(json.loads(body.decode("utf-8")))
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"] if str(part).isidentifier())
        where = f" in {field}" * (field in schema.model_fields)
        raise HTTPError(422, f"The body has an unexpected structure{where}") from error
    except (ValueError, RecursionError) as error:
        raise HTTPError(400, "The body is not valid JSON") from error


def _public_sample(task: Task, ranking: list[str] | None) -> dict[str, Any]:
    """Return what the page may know of a sample: tokens, but no names of files or methods."""
    sample = task.sample
    return {
        "sample": sample.label,
        "truth": sample.truth,
        "size": sample.size,
        "classes": sample.classes,
        "images": [sample.images[method] for method in task.methods],
        "ranking": None if ranking is None else [sample.images[method] for method in ranking],
    }

"""Serves a user study: a page on which people rank the pictures of several methods (5.5, Table 6).

What can be asked for: the page's own files, pictures by their tokens, and two addresses that take JSON, a participant's
name or a ranking. No path of a file is ever made of what a request says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lab2pix.errors import ConfigError, Lab2PixError, OutputError
from lab2pix.web.guard import (
    Gate,
    RefusedError,
    address_of,
    error_answer,
    host_checker,
    listen,
    open_soon,
    page_file,
    read_body,
    refusal,
)
from lab2pix.web.study_samples import MAX_METHODS, Study, Task, participant_name
from lab2pix.web.study_store import MAX_SECONDS, AnswerBook

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["create_app", "serve_study"]

MAX_BODY = 8192
"""Bytes of a request's body: a ranking takes some hundreds."""

_SCRIPTS = ("study.js", "study_drag.js", "study_ranks.js", "study_server.js", "study_view.js")
_PAGE_FILES = {
    "/": ("study.html", "text/html"),
    "/study.css": ("study.css", "text/css"),
    **{f"/{name}": (name, "text/javascript") for name in _SCRIPTS},
}
"""What the page consists of, by address."""


class _Who(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    participant: str


class _Ranking(BaseModel):
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
    say: Callable[[str], None] = print,
) -> None:
    """Serve a study until Ctrl-C or SIGTERM.

    Args:
        folder: the study.
        host: address to listen on; 0.0.0.0 lets other machines in.
        port: to listen on; 0 takes a free one.
        allow_hosts: further names under which browsers reach the page, such as a proxy's.
        open_browser: show the page in this machine's browser.
        say: told where the page is.

    Raises:
        ConfigError: the extra `web` is not installed.
        DataError: there is no study, or a picture is missing, or answers do not fit it.
        OutputError: the address cannot be listened on, or the study is served already.
    """
    try:
        import uvicorn  # noqa: F401 (to see whether it is there)
    except ImportError as error:
        raise ConfigError("serving a study needs the extra 'web': pip install 'lab2pix[web]'") from error
    from lab2pix.web import serving

    folder = Path(folder)
    study = Study.load(folder)
    with AnswerBook(folder, study) as book, listen(host, port) as listening:
        app = create_app(folder, study, book, host_checker(host, allow_hosts))
        port = listening.getsockname()[1]
        address = address_of(host, port)
        if book.answers.damaged:
            numbers = ", ".join(str(number) for number in book.answers.damaged)
            say(f"{book.path}, line {numbers}: cut short, as by a crash; the answer is asked for again")
        say(f"The study is at {address}; stop with Ctrl-C, answers are kept in {book.path}")
        if open_browser:
            open_soon(address)
        serving.run(app, listening)
        say(f"Stopped; {len(book.answers.latest)} answers are in {book.path}")


def create_app(folder: Path, study: Study, book: AnswerBook, is_known_host: Callable[[str], bool]) -> Starlette:
    """Return the web application of a study.

    Args:
        folder: the study's folder.
        study: the study.
        book: where answers go.
        is_known_host: says of a Host header whether requests under it are served.

    Raises:
        DataError: a picture is missing.
    """
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.routing import Route

    async def refuse(_: Request, error: Exception) -> Response:
        return _explain(error)

    desk = _Desk(folder, study, book)
    return Starlette(
        routes=[
            *(Route(path, desk.page, methods=["GET"]) for path in _PAGE_FILES),
            Route("/pictures/{token}.png", desk.picture, methods=["GET"]),
            Route("/api/participant", desk.begin, methods=["POST"]),
            Route("/api/answers", desk.answer, methods=["POST"]),
        ],
        exception_handlers=dict.fromkeys((RefusedError, Lab2PixError, HTTPException), refuse),
        middleware=[Middleware(Gate, is_known_host=is_known_host)],
    )


class _Desk:
    """Answers each kind of request.

    Args:
        folder: the study's folder.
        study: the study.
        book: where answers go.
    """

    def __init__(self, folder: Path, study: Study, book: AnswerBook) -> None:
        self.study, self.book = study, book
        self.files = study.require_pictures(folder)
        self.pages = {path: (page_file(name), kind) for path, (name, kind) in _PAGE_FILES.items()}
        self.samples = {sample.label: sample for sample in study.pool}  # outside, the label map's token is the name

    async def page(self, request: Request) -> Response:
        """Give a file that the page consists of."""
        from starlette.responses import Response

        content, kind = self.pages[request.url.path]
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

    def picture(self, request: Request) -> Response:
        """Give a picture; no times of files are told: they were written method by method."""
        from starlette.responses import Response

        try:
            content = self.files[request.path_params["token"]].read_bytes()
        except (KeyError, OSError) as error:
            raise RefusedError(404, "There is no such picture") from error
        return Response(content, media_type="image/png", headers={"cache-control": "private, max-age=86400"})

    async def begin(self, request: Request) -> Response:
        """Tell a participant which samples to rank, and what is ranked already."""
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import JSONResponse

        name = participant_name((await _read(request, _Who)).participant)
        done = await run_in_threadpool(self.book.done, name)
        shown = [
            _shown(task, done[task.sample.name].ranking if task.sample.name in done else None)
            for task in self.study.tasks(name)
        ]
        classes = [entry.model_dump() for entry in self.study.classes]
        return JSONResponse({"participant": name, "samples": shown, "classes": classes})

    async def answer(self, request: Request) -> Response:
        """Keep a ranking."""
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import JSONResponse

        body = await _read(request, _Ranking)
        name = participant_name(body.participant)
        sample = self.samples.get(body.sample)
        if sample is None or sample.name not in [task.sample.name for task in self.study.tasks(name)]:
            raise RefusedError(400, "There is no such sample for this participant; load the page again")
        methods = {token: method for method, token in sample.pictures.items()}
        if sorted(body.ranking) != sorted(methods):
            raise RefusedError(400, "A ranking needs every picture of its sample once; load the page again")
        ranking = [methods[token] for token in body.ranking]
        outcome = await run_in_threadpool(self.book.append, body.id, name, sample.name, ranking, body.seconds)
        return JSONResponse({"outcome": outcome})


async def _read(request: Request, form: type[Body]) -> Body:
    """Return a request's JSON body, of the wanted form.

    Only `application/json` is taken: a page of another site cannot send that here unasked.
    """
    body, _ = await read_body(request, ("application/json",), MAX_BODY)
    try:
        return form.model_validate(json.loads(body.decode("utf-8")))
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"] if str(part).isidentifier())
        raise RefusedError(
            422, f"The body is not of the form expected{f', in {where}' * (where in form.model_fields)}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, "The body is no JSON") from error


def _explain(error: Exception) -> Response:
    """Return the answer to a request that went wrong."""
    if isinstance(error, OutputError):
        return error_answer(
            507, "The answer could not be written to the disk; tell whoever runs the study, then try again"
        )
    return error_answer(400, str(error)) if isinstance(error, Lab2PixError) else refusal(error)


def _shown(task: Task, ranking: list[str] | None) -> dict[str, Any]:
    """Return what the page may know of a sample: tokens, and no name of a file or method."""
    sample = task.sample
    return {
        "sample": sample.label,
        "truth": sample.truth,
        "size": sample.size,
        "classes": sample.classes,
        "pictures": [sample.pictures[method] for method in task.methods],
        "ranking": None if ranking is None else [sample.pictures[method] for method in ranking],
    }

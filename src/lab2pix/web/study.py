"""Serves a user study: a page on which people rank the pictures of several methods (5.5, Table 6).

What can be asked for: the page's own files, pictures by their tokens, and two addresses that take JSON, a participant's
name or a ranking. No path of a file is ever made of what a request says.
"""

from __future__ import annotations

import json
import socket
import threading
import webbrowser
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from importlib import resources
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lab2pix.errors import ConfigError, Lab2PixError, OutputError
from lab2pix.web.study_samples import MAX_METHODS, Study, Task, participant_name
from lab2pix.web.study_store import MAX_SECONDS, AnswerBook

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["create_app", "host_checker", "serve_study"]

MAX_BODY = 8192
"""Bytes of a request's body: a ranking takes some hundreds."""

_SCRIPTS = ("study.js", "study_drag.js", "study_ranks.js", "study_server.js", "study_view.js")
_PAGE_FILES = {
    "/": ("study.html", "text/html"),
    "/study.css": ("study.css", "text/css"),
    **{f"/{name}": (name, "text/javascript") for name in _SCRIPTS},
}
"""What the page consists of, by address."""

_HEADERS = {
    "content-security-policy": "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_LOCAL = ("localhost", "127.0.0.1", "::1")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class _RefusedError(Exception):
    """A request that cannot be served: a status from 400 to 499, and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


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
    """Serve a study until Ctrl-C.

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
        import uvicorn
    except ImportError as error:
        raise ConfigError("serving a study needs the extra 'web': pip install 'lab2pix[web]'") from error
    folder = Path(folder)
    study = Study.load(folder)
    with AnswerBook(folder, study) as book, _listen(host, port) as listening:
        app = create_app(folder, study, book, host_checker(host, allow_hosts))
        port = listening.getsockname()[1]
        address = _address(host, port)
        if book.answers.damaged:
            numbers = ", ".join(str(number) for number in book.answers.damaged)
            say(f"{book.path}, line {numbers}: cut short, as by a crash; the answer is asked for again")
        say(f"The study is at {address}; stop with Ctrl-C, answers are kept in {book.path}")
        if open_browser:
            timer = threading.Timer(1.0, webbrowser.open, [address])
            timer.daemon = True
            timer.start()
        config = uvicorn.Config(app, log_level="warning", server_header=False, timeout_graceful_shutdown=2)
        try:
            uvicorn.Server(config).run(sockets=[listening])
        except KeyboardInterrupt:
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
        return _error(*_explain(error))

    desk = _Desk(folder, study, book)
    return Starlette(
        routes=[
            *(Route(path, desk.page, methods=["GET"]) for path in _PAGE_FILES),
            Route("/pictures/{token}.png", desk.picture, methods=["GET"]),
            Route("/api/participant", desk.begin, methods=["POST"]),
            Route("/api/answers", desk.answer, methods=["POST"]),
        ],
        exception_handlers=dict.fromkeys((_RefusedError, Lab2PixError, HTTPException), refuse),
        middleware=[Middleware(_Gate, is_known_host=is_known_host)],
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
        self.pages = {path: (_page_file(name), kind) for path, (name, kind) in _PAGE_FILES.items()}
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
            raise _RefusedError(404, "There is no such picture") from error
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
            raise _RefusedError(400, "There is no such sample for this participant; load the page again")
        methods = {token: method for method, token in sample.pictures.items()}
        if sorted(body.ranking) != sorted(methods):
            raise _RefusedError(400, "A ranking needs every picture of its sample once; load the page again")
        ranking = [methods[token] for token in body.ranking]
        outcome = await run_in_threadpool(self.book.append, body.id, name, sample.name, ranking, body.seconds)
        return JSONResponse({"outcome": outcome})


def host_checker(host: str, allow_hosts: Sequence[str] = ()) -> Callable[[str], bool]:
    """Return what says of a Host header whether it names this server.

    A page of another site that has its name point here is refused by that. Listening on all addresses, any address
    in numbers is this server's: only names can be made to point elsewhere.

    Args:
        host: address that is listened on.
        allow_hosts: further names.
    """
    names = {name.lower() for name in (*_LOCAL, host, *allow_hosts)}
    everywhere = host in ("0.0.0.0", "::", "")
    if everywhere:
        own = socket.gethostname().lower()
        names |= {own, own.partition(".")[0], f"{own.partition('.')[0]}.local"}

    def is_known(header: str) -> bool:
        name = header.lower()
        if name.startswith("["):
            name, _, rest = name[1:].partition("]")
        else:
            name, colon, rest = name.partition(":")
            rest = colon + rest
        if rest and not (rest[0] == ":" and rest[1:].isascii() and rest[1:].isdigit()):
            return False
        return name in names or (everywhere and _is_address(name))

    return is_known


class _Gate:
    """What each request passes first and each answer last: Host header, size of the body, headers of the answer.

    Args:
        app: what comes after.
        is_known_host: says of a Host header whether requests under it are served.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], is_known_host: Callable[[str], bool]):
        self.app = app
        self.is_known_host = is_known_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                own = {name.lower() for name, _ in message["headers"]}
                extra = {"cache-control": "no-store", **_HEADERS}
                pairs = [(name.encode(), value.encode()) for name, value in extra.items()]
                message["headers"] = [*message["headers"], *(pair for pair in pairs if pair[0] not in own)]
            await send(message)

        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or not self.is_known_host(hosts[0]):
            sentence = "This server is not known under that name; use the address that it printed, or --allow-host"
            await _error(400, sentence)(scope, receive, send_guarded)
            return
        await self.app(scope, receive, send_guarded)


async def _read(request: Request, form: type[Body]) -> Body:
    """Return a request's JSON body, of the wanted form.

    Only `application/json` is taken: a page of another site cannot send that here unasked.
    """
    from starlette.requests import ClientDisconnect

    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise _RefusedError(415, "The body must be application/json")
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                raise _RefusedError(413, f"The body is larger than {MAX_BODY} bytes")
    except ClientDisconnect as error:
        raise _RefusedError(400, "The body ended too early") from error
    try:
        return form.model_validate(json.loads(bytes(body).decode("utf-8")))
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"] if str(part).isidentifier())
        raise _RefusedError(
            422, f"The body is not of the form expected{f', in {where}' * (where in form.model_fields)}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise _RefusedError(400, "The body is no JSON") from error


def _explain(error: Exception) -> tuple[int, str]:
    """Return status and sentence of what went wrong."""
    if isinstance(error, OutputError):
        return 507, "The answer could not be written to the disk; tell whoever runs the study, then try again"
    if isinstance(error, Lab2PixError):
        return 400, str(error)
    if isinstance(error, _RefusedError):
        return error.status, str(error)
    status = int(getattr(error, "status_code", 400))
    return status, {404: "There is nothing at this address", 405: "This address takes no such request"}.get(
        status, "The request cannot be served"
    )


def _error(status: int, sentence: str) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse({"error": sentence}, status_code=status)


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


def _page_file(name: str) -> bytes:
    return resources.files("lab2pix.web").joinpath("pages", name).read_bytes()


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address."""
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=128
        )
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(
            f"cannot listen on {host}, port {port} ({reason}); choose another --host or --port"
        ) from error


def _is_address(name: str) -> bool:
    """Say whether a host is named by an address in numbers."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _address(host: str, port: int) -> str:
    """Return the page's address for a browser; listening everywhere, the one that other machines of the net reach."""
    if host in ("0.0.0.0", "::", ""):
        host = _own_address()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def _own_address() -> str:
    """Return this machine's address in its net, as far as it can be told; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])

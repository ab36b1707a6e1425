"""Serves the painter: a page on which people draw layouts and see pictures of them, and the same as an API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lab2pix.errors import ConfigError, Lab2PixError
from lab2pix.inference import Synthesizer, weights
from lab2pix.web.guard import HEADERS, Gate, RefusedError, address_of, host_checker, listen, open_soon
from lab2pix.web.painter_desk import Painter, explain

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["create_app", "find_model", "serve_painter"]

_SHIPPED = "scenes"
"""Name of the model that comes with the package and is taken where none is named."""


def find_model(model: str | None) -> str | Path:
    """Return the model to paint with: the one named, else the one that comes with the package.

    Raises:
        ConfigError: none is named, and none came along.
    """
    if model is not None:
        return model
    shipped = weights.shipped_models().get(_SHIPPED)
    if shipped is None:
        raise ConfigError(
            "this package came without a model to paint with; name a run, a checkpoint folder or a hub name, such as "
            "`lab2pix paint runs/mine`"
        )
    return shipped.parent


def serve_painter(
    model: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    allow_hosts: Sequence[str] = (),
    open_browser: bool = True,
    device: str | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Serve the painter until Ctrl-C or SIGTERM.

    Requests that wait then are refused; the one that is drawn is answered if that takes less than `serving.GRACE`.

    How pictures are drawn is chosen by measurement before the first one, and kept, so that a picture stays the same.

    Args:
        model: whatever `Synthesizer.load` takes.
        host: address to listen on; 0.0.0.0 lets other machines in.
        port: to listen on; 0 takes a free one.
        allow_hosts: further names under which browsers reach the page, such as a proxy's.
        open_browser: show the page in this machine's browser.
        device: where to compute; None: the best there is.
        say: told where the page is, and how pictures are drawn.

    Raises:
        CheckpointError: there is no such model.
        ConfigError: the extra `web` is not installed, no such device, or a model of more classes than a page can show.
        OutputError: the address cannot be listened on.
    """
    try:
        import uvicorn  # noqa: F401 (to see whether it is there)
    except ImportError as error:
        raise ConfigError("the painter needs the extra 'web': pip install 'lab2pix[web]'") from error
    from lab2pix.web import serving

    with listen(host, port) as listening:
        synthesizer = Synthesizer.load(model, device=device)
        chosen = synthesizer.optimize("auto")
        painter = Painter(synthesizer)
        app = create_app(painter, host_checker(host, allow_hosts))

        address = address_of(host, listening.getsockname()[1])
        say(f"The painter is at {address}; stop with Ctrl-C")
        say(f"drawing: {chosen}")
        if open_browser:
            open_soon(address)
        serving.run(app, listening, painter.worker.close)
        say("Stopped")


def create_app(painter: Painter, is_known_host: Callable[[str], bool]) -> FastAPI:
    """Return the web application of the painter.

    Args:
        painter: answers the requests; its thread runs as long as the application does.
        is_known_host: says of a Host header whether requests under it are served.
    """
    from fastapi import FastAPI
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware

    from lab2pix.web.painter_routes import describe, explain_parameters, router

    async def refuse(request: Request, error: Exception) -> Response:
        return explain(explain_parameters(request, error) if isinstance(error, RequestValidationError) else error)

    async def fail(_: Request, error: Exception) -> Response:
        answer = explain(error)
        answer.headers.update({"cache-control": "no-store", **HEADERS})  # it goes past the gate, which else adds them
        return answer

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        painter.worker.start()
        yield
        painter.worker.close()
        await asyncio.to_thread(painter.worker.join, 0.3)  # nobody waits for what it still draws

    refused = (RefusedError, Lab2PixError, HTTPException, RequestValidationError)
    app = FastAPI(
        docs_url=None,  # FastAPI's own pages of the API load their scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={**dict.fromkeys(refused, refuse), Exception: fail},
        middleware=[Middleware(Gate, is_known_host=is_known_host)],
        lifespan=lifespan,
    )
    app.state.painter = painter
    app.openapi = describe  # type: ignore[method-assign]
    app.include_router(router)
    for path in painter.pages:
        app.add_route(path, painter.page, methods=["GET"])
    return app

"""The painter's web application and its server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from lab2pix.errors import ConfigError, Lab2PixError
from lab2pix.inference import Synthesizer, weights
from lab2pix.web import serving
from lab2pix.web.painter.follow import followed
from lab2pix.web.painter.routes import openapi_schema, parameter_error, router
from lab2pix.web.painter.service import PainterService, painter_error_response
from lab2pix.web.responses import HTTPError, static_routes
from lab2pix.web.security import HEADERS, HostChecker, HostGuardMiddleware

_DEFAULTS = ("landscapes", "scenes")
"""Installed models that the painter opens with: the first one found."""


def find_model(model: str | None) -> str | Path:
    """Return the given model, by default the installed `landscapes`, or `scenes`, which comes with the package.

    Raises:
        ConfigError: no model is given, and none is installed.
    """
    if model is not None:
        return model
    shipped = weights.shipped_models()
    default = next((shipped[name] for name in _DEFAULTS if name in shipped), None)
    if default is None:
        raise ConfigError(
            "this package contains no model; give a run, a checkpoint folder or a hub name, such as "
            "`lab2pix paint runs/mine`"
        )
    return default.parent


def serve_painter(
    model: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    allow_hosts: Sequence[str] = (),
    open_browser: bool = True,
    device: str | None = None,
    follow: bool = False,
    echo: Callable[[str], None] = print,
) -> None:
    """Serve the painter until Ctrl-C or SIGTERM.

    The inference mode is chosen by measurement at start and then kept, so that an image stays the same.
    At shutdown, requests that wait are refused; the running one is answered if it takes less than `serving.GRACE`.

    Args:
        model: whatever `Synthesizer.load` takes.
        host: address to listen on; 0.0.0.0 admits other machines.
        port: port to listen on; 0 takes a free one.
        allow_hosts: additional host names of the server, such as a proxy's.
        open_browser: open the page in the browser.
        device: device of the model; None takes the best available.
        follow: take each new checkpoint of the run `model`.
        echo: called with each line of output.

    Raises:
        CheckpointError: there is no such model.
        ConfigError: there is no such device, `follow` without a run, or the model has too many classes.
        OutputError: the address is not available.
    """
    if follow and not (Path(model) / "config.yaml").is_file():
        raise ConfigError(f"{model} is not a run, so there are no new checkpoints to follow; leave out --follow")
    with serving.listen(host, port) as listening:
        synthesizer = Synthesizer.load(model, device=device)
        if synthesizer.sampling.condition.source == "images":
            raise ConfigError(f"{model} generates from images, not from label maps; use `lab2pix generate` instead")
        mode = synthesizer.optimize("auto")
        service = PainterService(synthesizer, following=follow)
        app = create_app(service, HostChecker(host, allow_hosts))

        url = serving.server_url(host, listening.getsockname()[1])
        echo(f"The painter is at {url}; stop with Ctrl-C")
        echo(f"mode: {mode}")
        if open_browser:
            serving.open_browser_soon(url)
        with followed(service, Path(model), device) if follow else nullcontext():
            serving.run(app, listening, service.queue.close)
        echo("Stopped")


def create_app(service: PainterService, hosts: HostChecker) -> FastAPI:
    """Return the painter's web application.

    Args:
        service: handles the requests; its queue runs as long as the application.
        hosts: tells which hosts and origins are this server's.
    """

    async def refuse(request: Request, error: Exception) -> Response:
        if isinstance(error, RequestValidationError):
            error = parameter_error(request, error)
        return painter_error_response(error)

    async def fail(_: Request, error: Exception) -> Response:
        response = painter_error_response(error)
        response.headers.update({"cache-control": "no-store", **HEADERS})  # it bypasses the middleware
        return response

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.queue.start()
        yield
        service.queue.close()
        await asyncio.to_thread(service.queue.join, 0.3)

    refused = (HTTPError, Lab2PixError, HTTPException, RequestValidationError)
    app = FastAPI(
        docs_url=None,  # FastAPI's own pages load scripts from other sites
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={**dict.fromkeys(refused, refuse), Exception: fail},
        middleware=[Middleware(HostGuardMiddleware, hosts=hosts)],
        lifespan=lifespan,
    )
    app.state.service = service
    app.openapi = openapi_schema  # type: ignore[method-assign]
    app.include_router(router)
    app.router.routes.extend(static_routes("lab2pix.web.painter"))
    return app

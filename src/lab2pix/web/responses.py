"""HTTP responses of both applications: static files, and errors as JSON with one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

_MEDIA_TYPES = {"css": "text/css", "html": "text/html", "js": "text/javascript"}
_MESSAGES = {404: "There is nothing at this address", 405: "This address does not accept this method"}


class HTTPError(Exception):
    """A request that cannot be served.

    The status is 4xx for a fault of the request, and 503 while the server shuts down.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})


def shutdown_error() -> HTTPError:
    """Return the error for requests that wait while the server shuts down."""
    return HTTPError(503, "The server is shutting down; try again when it runs again", {"retry-after": "5"})


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error as JSON: `{"error": message}`."""
    return JSONResponse({"error": message}, status_code=status, headers=headers)


def exception_response(error: Exception) -> Response:
    """Return the response for an `HTTPError`, or for an exception of Starlette."""
    if isinstance(error, HTTPError):
        return error_response(error.status, str(error), error.headers)
    status = int(getattr(error, "status_code", 400))
    return error_response(
        status, _MESSAGES.get(status, "The request cannot be served"), getattr(error, "headers", None)
    )


def static_routes(package: str) -> list[Route]:
    """Return routes for static files: `/` for `index.html`, else `/static/NAME`.

    These are the files in the folder `static` of the package, those that all pages share, and the reports' stylesheet.
    """
    folders = [resources.files(name) / "static" for name in ("lab2pix.web", package)]
    report_css = resources.files("lab2pix.reporting") / "templates" / "report.css"
    return [
        Route(
            "/" if file.name == "index.html" else f"/static/{file.name}",
            Response(
                file.read_bytes(),
                media_type=_MEDIA_TYPES[file.name.rpartition(".")[2]],
                headers={"cache-control": "no-cache"},
            ),
            methods=["GET"],
        )
        for file in (*(file for folder in folders for file in folder.iterdir()), report_css)
    ]

"""Web application of `lab2pix paint --edit`: the painter's page over the label maps of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lab2pix.data.line_drawings import SKETCH
from lab2pix.web import serving
from lab2pix.web.painter import schemas
from lab2pix.web.painter.formats import FORMATS
from lab2pix.web.painter.images import MAX_BYTES, decode_image, encode_label_map, read_ids, require_8_bits
from lab2pix.web.painter.label_set import FIRST_FOLDER, LabelSet
from lab2pix.web.painter.service import painter_error_response
from lab2pix.web.responses import HTTPError, static_routes
from lab2pix.web.security import HostChecker, guarded_app, read_body


def serve_editor(
    root: Path,
    label_space: str | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    allow_hosts: Sequence[str] = (),
    open_browser: bool = True,
    echo: Callable[[str], None] = print,
) -> None:
    """Serve the page that corrects the label maps of a dataset, until Ctrl-C or SIGTERM.

    Args:
        root: dataset in format `folder`.
        label_space: its classes; None: its `classes.yaml`.
        host: address to listen on; 0.0.0.0 admits other machines.
        port: port to listen on; 0 takes a free one.
        allow_hosts: additional host names of the server, such as a proxy's.
        open_browser: open the page in the browser.
        echo: called with each line of output.

    Raises:
        ConfigError, DataError, LabelError: see `LabelSet`.
        OutputError: the address is not available.
    """
    labels = LabelSet(root, label_space)
    require_8_bits(labels.label_space)
    with serving.listen(host, port) as listening:
        url = serving.server_url(host, listening.getsockname()[1])
        echo(f"{len(labels.pairs)} label maps of {root} are at {url}; stop with Ctrl-C")
        echo(f"the first label maps are kept in {root / FIRST_FOLDER}")
        if open_browser:
            serving.open_browser_soon(url)
        serving.run(create_editor_app(labels, HostChecker(host, allow_hosts)), listening)
        echo("Stopped")


def create_editor_app(labels: LabelSet, hosts: HostChecker) -> Starlette:
    """Return the web application of an editor."""
    service = _EditorService(labels)
    routes = [
        *static_routes("lab2pix.web.painter"),
        Route("/api/model", service.describe, methods=["GET"]),
        Route("/api/pairs/{token}.png", service.label, methods=["GET"]),
        Route("/api/pairs/{token}.jpg", service.photo, methods=["GET"]),
        Route("/api/pairs/{token}", service.save, methods=["POST"]),
    ]
    return guarded_app(routes, hosts, painter_error_response)


class _EditorService:
    """Handles the editor's requests."""

    def __init__(self, labels: LabelSet) -> None:
        self.labels = labels

    def describe(self, request: Request) -> Response:
        """Describe the dataset: its classes and pairs."""
        space, labels = self.labels.label_space, self.labels
        description = schemas.LabelSetDescription(
            name=labels.root.resolve().name,
            label_space=space.name,
            classes=schemas.describe_classes(space),
            unknown=None if space.unknown_value is None else space.num_classes,
            sketch=space.name == SKETCH,
            pairs=[
                schemas.PairInfo(name=pair.name, token=token, corrected=labels.is_corrected(token))
                for token, pair in labels.pairs.items()
            ],
        )
        return JSONResponse(description.model_dump())

    def label(self, request: Request) -> Response:
        """Return a label map, whose gray values are the ids."""
        ids = self.labels.label(self._token(request))
        return Response(encode_label_map(ids, self.labels.label_space, "ids"), media_type="image/png")

    def photo(self, request: Request) -> Response:
        """Return a photo."""
        return Response(self.labels.photo(self._token(request)), media_type="image/jpeg")

    async def save(self, request: Request) -> Response:
        """Write the corrected label map in the body, a PNG whose gray values are the ids."""
        token = self._token(request)
        body, media_type = await read_body(request, FORMATS, MAX_BYTES)

        def write() -> bool:
            return self.labels.save(token, read_ids(decode_image(body, media_type), self.labels.label_space).long())

        return JSONResponse({"changed": await run_in_threadpool(write)})

    def _token(self, request: Request) -> str:
        token: str = request.path_params["token"]
        if token not in self.labels.pairs:
            raise HTTPError(404, "There is no such pair any more; reload the page")
        return token

"""Answers the painter's requests.

What can be asked for: the page's own files, layouts by their tokens, and a few addresses that take a picture. No path
of a file is ever made of what a request says. All heavy work, decoding included, is done by one thread with one model.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from lab2pix.data.line_drawings import SKETCH
from lab2pix.data.transforms import float_to_uint8
from lab2pix.errors import ConfigError, DataError, Lab2PixError, LabelError
from lab2pix.inference import Synthesizer
from lab2pix.web import painter_api as api
from lab2pix.web.guard import Budget, RefusedError, error_answer, page_file, read_body, refusal
from lab2pix.web.painter_examples import Example, find_examples, random_layout
from lab2pix.web.painter_kinds import KINDS
from lab2pix.web.painter_pictures import (
    MAX_BYTES,
    label_png,
    open_picture,
    picture_png,
    pictures_zip,
    read_layout,
    to_layout,
)
from lab2pix.web.painter_queue import CAPACITY, Worker

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["Painter", "explain"]

MAX_HELD = 64 * 2**20
"""Bytes of all bodies together that are in memory at a time."""

_KINDS = {".css": "text/css", ".js": "text/javascript"}

Result = TypeVar("Result")


@dataclass(frozen=True)
class _Drawn:
    """Pictures that were drawn, as a PNG or a ZIP of them, and how long that took."""

    content: bytes
    kind: str
    milliseconds: int


class Painter:
    """Answers each kind of request.

    Args:
        synthesizer: draws.
        capacity: requests that may wait.

    Attributes:
        worker: does the heavy work; the application starts and ends it.
        pages: what the page consists of: content and kind by address.

    Raises:
        ConfigError: the model has more classes than 8 bits hold.
    """

    def __init__(self, synthesizer: Synthesizer, *, capacity: int = CAPACITY) -> None:
        if synthesizer.label_space.num_channels > 256:
            raise ConfigError(
                f"label space '{synthesizer.label_space.name}' has {synthesizer.label_space.num_channels} classes, but "
                "the painter's label maps hold 256; draw with `lab2pix generate` instead"
            )
        self.synthesizer = synthesizer
        self.worker = Worker(capacity)
        self.pages = _read_pages()
        self._budget = Budget(MAX_HELD)
        self._examples: Future[dict[str, Example]] = self.worker.submit(self._find_examples)

    # --- what is ready --------------------------------------------------------------------------------------------

    async def page(self, request: Request) -> Response:
        """Give a file that the page consists of."""
        from starlette.responses import Response

        content, kind = self.pages[request.url.path]
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

    def model(self) -> api.ModelAnswer:
        """Tell what the model is."""
        drawer = self.synthesizer
        space = drawer.label_space
        unknown = None if space.unknown_value is None else space.num_classes
        names = [*space.names, *(["unknown"] if unknown is not None else [])]
        foreground = space.foreground(torch.arange(space.num_channels)).tolist()
        classes = [
            api.LabelClassInfo(id=index, name=name, color=tuple(space.palette[index].tolist()), foreground=marked)
            for index, (name, marked) in enumerate(zip(names, foreground, strict=True))
        ]
        return api.ModelAnswer(
            name=drawer.config.name,
            step=drawer.step,
            label_space=space.name,
            size=drawer.size,
            classes=classes,
            unknown=unknown,
            sketch=space.name == SKETCH,
            noise=drawer.sampling.noise_channels > 0,
            drawing=drawer.mode,
            limits=api.Limits(),
            busy=api.Busy(waiting=self.worker.waiting, capacity=self.worker.capacity),
        )

    async def examples(self) -> list[api.ExampleInfo]:
        """List layouts to begin with."""
        found = await asyncio.shield(asyncio.wrap_future(self._examples))
        return [api.ExampleInfo(name=example.name, token=token) for token, example in found.items()]

    async def example(self, token: str, query: api.ShownQuery) -> Response:
        """Give one of them."""
        found = await asyncio.shield(asyncio.wrap_future(self._examples))
        if token not in found:
            raise RefusedError(404, "There is no such example")
        return _png(label_png(found[token].ids, self.synthesizer, query.form))

    def _find_examples(self) -> dict[str, Example]:
        return {example.token: example for example in find_examples(self.synthesizer)}

    # --- what is made ---------------------------------------------------------------------------------------------

    async def synthesize(self, request: Request, query: api.SynthesizeQuery) -> Response:
        """Draw pictures of a label map."""
        from starlette.responses import Response

        noise = self._noise(query)
        with self._budget.share() as take:
            body, kind = await read_body(request, KINDS, MAX_BYTES, take)
            drawn = await self._do(request, lambda: self._draw(body, kind, query, noise), query.request)
        headers = {"x-lab2pix-seed": str(query.seed), "x-lab2pix-milliseconds": str(drawn.milliseconds)}
        return Response(drawn.content, media_type=drawn.kind, headers=headers)

    async def labels(self, request: Request, query: api.LabelsQuery) -> Response:
        """Turn what a person gave to begin with into a label map."""
        with self._budget.share() as take:
            body, kind = await read_body(request, KINDS, MAX_BYTES, take)

            def work() -> bytes:
                picture, lossy = open_picture(body, kind)
                ids = to_layout(picture, self.synthesizer, query.given, lossy=lossy)
                return label_png(ids, self.synthesizer, query.form)

            return _png(await self._do(request, work))

    async def random(self, request: Request, query: api.RandomQuery) -> Response:
        """Draw a scene's label map."""

        def work() -> bytes:
            return label_png(random_layout(self.synthesizer, query.seed), self.synthesizer, query.form)

        return _png(await self._do(request, work))

    def _noise(self, query: api.SynthesizeQuery) -> Tensor:
        """Return the noise of each picture asked for, `[samples, noise_dim]`.

        Raises:
            ConfigError: several pictures, or a way between two, of a model that draws one per label map.
        """
        drawer = self.synthesizer
        if query.mix is not None and query.seed_b is not None:
            return drawer.slerp(query.seed, query.seed_b, torch.tensor([query.mix], dtype=torch.float64))
        if query.samples > 1:
            drawer.noise_samples(query.seed, query.samples)  # refuses a model that has no noise
        return torch.stack([drawer.noise(query.seed + number) for number in range(query.samples)])

    def _draw(self, body: bytes, kind: str, query: api.SynthesizeQuery, noise: Tensor) -> _Drawn:
        begun = time.perf_counter()
        picture, lossy = open_picture(body, kind)
        batch = self.synthesizer.read(read_layout(picture, self.synthesizer, query.form, lossy=lossy))
        pictures = [picture_png(float_to_uint8(self.synthesizer.generate(batch, row[None]))[0]) for row in noise]
        milliseconds = round(1000 * (time.perf_counter() - begun))
        if query.samples == 1:
            return _Drawn(pictures[0], "image/png", milliseconds)
        files = {f"seed-{query.seed + number}.png": picture for number, picture in enumerate(pictures)}
        return _Drawn(pictures_zip(files), "application/zip", milliseconds)

    async def _do(self, request: Request, work: Callable[[], Result], token: str | None = None) -> Result:
        """Let the worker do something; who leaves meanwhile gives the place in the queue up.

        Raises:
            RefusedError: the queue is full or closed, a newer request took the place, or whoever asked is gone.
        """
        future = self.worker.submit(work, token)
        result = asyncio.wrap_future(future)
        gone = asyncio.ensure_future(_departure(request))
        try:
            await asyncio.wait((result, gone), return_when=asyncio.FIRST_COMPLETED)
            if not result.done():
                raise RefusedError(400, "The request was given up")
            return result.result()
        finally:
            gone.cancel()
            result.cancel()  # or an error that nobody fetched would be complained about
            self.worker.drop(future)


async def _departure(request: Request) -> None:
    """Return when whoever asked has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def explain(error: Exception) -> Response:
    """Return the answer to a request that went wrong."""
    if isinstance(error, LabelError | DataError | ConfigError):
        return error_answer(400, str(error))
    if isinstance(error, Lab2PixError):  # the model's fault
        return error_answer(500, str(error))
    if isinstance(error, RefusedError) or hasattr(error, "status_code"):
        return refusal(error)
    return error_answer(500, "Something went wrong here; what, says the painter's own output")


def _png(content: bytes) -> Response:
    from starlette.responses import Response

    return Response(content, media_type="image/png")


def _read_pages() -> dict[str, tuple[bytes, str]]:
    """Return the files that the page and the API's description consist of, by address."""
    pages = {
        "/": (page_file("painter.html"), "text/html"),
        "/api/docs.css": (page_file("api.css"), "text/css"),
    }
    for file in resources.files("lab2pix.web").joinpath("pages").iterdir():
        ending = file.name[file.name.rfind(".") :]
        if file.name.startswith("painter") and ending in _KINDS:
            pages[f"/{file.name}"] = (file.read_bytes(), _KINDS[ending])
    return pages

"""Request handlers of the painter. All heavy work, decoding included, runs in one thread with one model."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import cached_property
from typing import TypeVar

import torch
from starlette.requests import Request
from starlette.responses import Response
from torch import Tensor

from lab2pix.batch import Batch
from lab2pix.data.line_drawings import SKETCH
from lab2pix.data.transforms import float_to_uint8, resize_nearest
from lab2pix.errors import ConfigError, DataError, Lab2PixError, LabelError
from lab2pix.evaluation.segmenter_base import Segmenter
from lab2pix.evaluation.segmenters import find_installed, load_segmenter
from lab2pix.inference import Synthesizer
from lab2pix.inference.label_classes import ClassMapping
from lab2pix.inference.label_photos import LabelSettings, predict
from lab2pix.inference.regions import connected_area, paste
from lab2pix.web.painter import schemas
from lab2pix.web.painter.examples import Example, find_examples, has_scenes, random_scene
from lab2pix.web.painter.formats import FORMATS
from lab2pix.web.painter.images import (
    MAX_BYTES,
    decode_image,
    encode_label_map,
    encode_png,
    encode_zip,
    read_label_map,
    read_photo,
    require_8_bits,
    to_label_map,
)
from lab2pix.web.painter.queue import CAPACITY, JobQueue
from lab2pix.web.responses import HTTPError, error_response, exception_response
from lab2pix.web.security import MemoryBudget, read_body

MAX_BODY_BYTES = 64 * 2**20
"""Bytes of all request bodies in memory."""
MAX_STYLES = 32
"""Style images that the server keeps."""

Result = TypeVar("Result")


class PainterService:
    """Handles the painter's requests.

    Args:
        synthesizer: the model.
        capacity: requests that can wait.
        following: whether the model is replaced by each new checkpoint of its run.

    Attributes:
        queue: runs the heavy work; the application starts and closes it.

    Raises:
        ConfigError: the model has more classes than 8 bits can encode.
    """

    def __init__(self, synthesizer: Synthesizer, *, capacity: int = CAPACITY, following: bool = False) -> None:
        require_8_bits(synthesizer.label_space)
        self.synthesizer = synthesizer
        self.following = following
        self.queue = JobQueue(capacity)
        self._budget = MemoryBudget(MAX_BODY_BYTES)
        self._styles: OrderedDict[str, Tensor] = OrderedDict()  # by token, latest use last; used in the queue's thread
        self._segmenter_folder = (
            None if synthesizer.label_space.name == SKETCH else find_installed(synthesizer.label_space)
        )
        self._examples: Future[dict[str, Example]] = self.queue.submit(
            lambda: {example.token: example for example in find_examples(synthesizer)}
        )

    def model(self) -> schemas.ModelDescription:
        """Describe the model."""
        synthesizer, space = self.synthesizer, self.synthesizer.label_space
        return schemas.ModelDescription(
            name=synthesizer.config.name,
            step=synthesizer.step,
            following=self.following,
            label_space=space.name,
            size=synthesizer.size,
            classes=schemas.describe_classes(space),
            unknown=None if space.unknown_value is None else space.num_classes,
            sketch=space.name == SKETCH,
            noise=synthesizer.sampling.noise_channels > 0,
            style=synthesizer.sampling.style,
            photo=space.name == SKETCH or self._segmenter_folder is not None,
            random=has_scenes(space),
            mode=synthesizer.mode,
            limits=schemas.Limits(),
            queue=schemas.QueueInfo(waiting=self.queue.waiting, capacity=self.queue.capacity),
        )

    async def examples(self) -> list[schemas.ExampleInfo]:
        """List the example label maps."""
        found = await asyncio.shield(asyncio.wrap_future(self._examples))
        return [schemas.ExampleInfo(name=example.name, token=token) for token, example in found.items()]

    async def example(self, token: str, query: schemas.OutputQuery) -> Response:
        """Return an example label map."""
        found = await asyncio.shield(asyncio.wrap_future(self._examples))
        if token not in found:
            raise HTTPError(404, "There is no such example")
        return self._label_response(found[token].ids, query)

    async def synthesize(self, request: Request, query: schemas.SynthesizeQuery) -> Response:
        """Generate images of a label map."""
        height, width = self.synthesizer.size
        size = (query.scale * height, query.scale * width)
        noise = self._noise(query, size)
        if query.style is None and self.synthesizer.sampling.style == "required":
            raise HTTPError(400, "This model needs a style image; choose one")

        def generate() -> tuple[list[bytes], int]:
            begun = time.perf_counter()
            ids = read_label_map(decode_image(body, media_type), self.synthesizer, query.input_format)
            style = None if query.style is None else self._style(query.style)
            batch = self.synthesizer.read(resize_nearest(ids, size), style=style, keep_size=True)
            pixels = [self._generate(batch, row) for row in noise]
            for mask, seed in self._masks(ids, query):
                part = self._generate(batch, self.synthesizer.noise(seed, size=size))
                pixels = paste(pixels, [part] * len(pixels), resize_nearest(mask, size))
            images = [encode_png(image) for image in pixels]
            return images, round(1000 * (time.perf_counter() - begun))

        with self._budget.share() as reserve:
            body, media_type = await read_body(request, FORMATS, MAX_BYTES, reserve)
            images, milliseconds = await self._run(request, generate, query.channel)
        headers = {"x-lab2pix-seed": str(query.seed), "x-lab2pix-milliseconds": str(milliseconds)}
        if query.samples == 1:
            return Response(images[0], media_type="image/png", headers=headers)
        files = {f"seed-{query.seed + index}.png": image for index, image in enumerate(images)}
        return Response(encode_zip(files), media_type="application/zip", headers=headers)

    def _generate(self, batch: Batch, noise: Tensor) -> Tensor:
        """Return an image, `[3, H, W]` uint8."""
        return float_to_uint8(self.synthesizer.generate(batch, noise[None]))[0]

    def _masks(self, ids: Tensor, query: schemas.SynthesizeQuery) -> Iterator[tuple[Tensor, int]]:
        """Yield mask and seed of the requested regions, joined by seed.

        Raises:
            HTTPError: 400, a region is outside the label map, or the model has no noise.
        """
        masks: dict[int, Tensor] = {}
        height, width = ids.shape
        for column, row, seed in query.region_seeds:
            if not self.synthesizer.sampling.noise_channels:
                raise HTTPError(400, "This model takes no noise, so regions have no seeds; remove 'regions'")
            if column >= width or row >= height:
                raise HTTPError(400, f"There is no column {column}, row {row} in {height}x{width} (height x width)")
            area = connected_area(ids, row, column)
            for other, mask in masks.items():
                masks[other] = mask & ~area
            masks[seed] = masks.get(seed, torch.zeros_like(area)) | area
        yield from ((mask, seed) for seed, mask in masks.items())

    async def labels(self, request: Request, query: schemas.LabelsQuery) -> Response:
        """Convert a label map, or a photo if the model takes photos, to a label map of the model's size."""
        segment = None if self._segmenter_folder is None else self._segment

        def convert() -> Tensor:
            return to_label_map(decode_image(body, media_type), self.synthesizer, query.input_format, segment)

        with self._budget.share() as reserve:
            body, media_type = await read_body(request, FORMATS, MAX_BYTES, reserve)
            return self._label_response(await self._run(request, convert), query)

    @cached_property
    def _segmenter(self) -> Segmenter:
        """The installed segmenter of the model's classes, loaded for the first photo; used in the queue's thread."""
        assert self._segmenter_folder is not None
        return load_segmenter(self._segmenter_folder, self.synthesizer.label_space)

    def _segment(self, photo: Tensor) -> Tensor:
        """Return the layout `[H, W]` int64 of a photo `[3, H, W]` uint8."""
        mapping = ClassMapping.keep(self._segmenter.space, "photo")
        return predict(photo, self._segmenter, mapping, LabelSettings(threshold=0))[0]

    async def style(self, request: Request) -> Response:
        """Keep a style image, and return it at the model's size with its token."""
        if self.synthesizer.sampling.style == "none":
            raise HTTPError(400, "This model has no image encoder, so it takes no style image")

        def convert() -> tuple[str, bytes]:
            image = decode_image(body, media_type)
            pixels = read_photo(image, self.synthesizer.size)
            token = hashlib.sha256(pixels.numpy().tobytes()).hexdigest()[:16]
            self._styles[token] = pixels
            self._styles.move_to_end(token)
            if len(self._styles) > MAX_STYLES:
                self._styles.popitem(last=False)
            return token, encode_png(pixels)

        with self._budget.share() as reserve:
            body, media_type = await read_body(request, FORMATS, MAX_BYTES, reserve)
            token, content = await self._run(request, convert)
        return Response(content, media_type="image/png", headers={"x-lab2pix-style": token})

    async def random(self, request: Request, query: schemas.RandomQuery) -> Response:
        """Return the label map of a random scene."""
        ids = await self._run(request, lambda: random_scene(self.synthesizer, query.seed))
        return self._label_response(ids, query)

    def _label_response(self, ids: Tensor, query: schemas.OutputQuery) -> Response:
        content = encode_label_map(ids, self.synthesizer.label_space, query.output_format)
        return Response(content, media_type="image/png")

    def _style(self, token: str) -> Tensor:
        """Return a style image, `[3, H, W]` uint8.

        Raises:
            HTTPError: 404, the server does not have it.
        """
        if token not in self._styles:
            raise HTTPError(404, "There is no such style image any more; send it again")
        self._styles.move_to_end(token)
        return self._styles[token]

    def _noise(self, query: schemas.SynthesizeQuery, size: tuple[int, int]) -> Tensor:
        """Return the noise of the requested images, of height and width `size`, `[samples, ...]`.

        Raises:
            ConfigError: several images or an interpolation are requested of a model without noise.
        """
        synthesizer = self.synthesizer
        if query.mix is not None and query.seed_b is not None:
            part = torch.tensor([query.mix], dtype=torch.float64)
            return synthesizer.slerp(query.seed, query.seed_b, part, size)
        if query.samples > 1:
            synthesizer.noise_samples(query.seed, query.samples)  # raises for a model without noise
        return torch.stack([synthesizer.noise(query.seed + index, size=size) for index in range(query.samples)])

    async def _run(self, request: Request, work: Callable[[], Result], channel: str | None = None) -> Result:
        """Run a job in the queue, and drop it if the client disconnects.

        Raises:
            HTTPError: the queue is full or closed, a newer request replaced this one, or the client disconnected.
        """
        future = self.queue.submit(work, channel)
        result = asyncio.wrap_future(future)
        disconnected = asyncio.ensure_future(_wait_for_disconnect(request))
        try:
            await asyncio.wait((result, disconnected), return_when=asyncio.FIRST_COMPLETED)
            if not result.done():
                raise HTTPError(400, "The client disconnected")
            return result.result()
        finally:
            disconnected.cancel()
            result.cancel()  # else asyncio logs an exception that was never retrieved
            self.queue.drop(future)


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def painter_error_response(error: Exception) -> Response:
    """Return the response for an exception: 400 for errors of the request, 500 for those of the model or server."""
    if isinstance(error, Lab2PixError):
        is_client_error = isinstance(error, LabelError | DataError | ConfigError)
        return error_response(400 if is_client_error else 500, str(error))
    if isinstance(error, HTTPError) or hasattr(error, "status_code"):
        return exception_response(error)
    return error_response(500, "Internal error; see the server log for details")

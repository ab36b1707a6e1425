"""Tiny painter model, label maps, and requests to the painter server."""

from __future__ import annotations

import time
from collections.abc import Callable
from http.client import HTTPConnection
from io import BytesIO

import numpy as np
import torch
from PIL import Image

from lab2pix.batch import Batch
from lab2pix.inference import ModelInfo, Synthesizer
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import build_generator, build_sampling, generate, read_config

PNG = {"content-type": "image/png"}
JPEG = {"content-type": "image/jpeg"}


_OWN = {"lab2pix-v2": {"global_encoder": {"width": 4, "max_width": 16}}, "spade": {"input": "style"}}
"""Settings of a method's generator."""


def tiny_synthesizer(
    space: str = "scenes",
    *,
    method: str = "lab2pix-v2",
    data: dict[str, object] | None = None,
    **generator: object,
) -> Synthesizer:
    """Return an untrained 64x64 model whose images clearly depend on label map and noise."""
    torch.manual_seed(0)
    config = read_config(
        {
            "method": method,
            "name": "tiny",
            "data": {"format": "folder", "label_space": space, "size": (64, 64), **(data or {})},
            "generator": {
                "width": 4,
                "modulation_hidden": 8,
                "noise_dim": 16,
                "spectral_norm": False,
                **_OWN[method],
                **generator,
            },
        }
    )
    label_space = LabelSpace.load(space)
    network = build_generator(config, label_space)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                torch.nn.init.kaiming_normal_(parameter, nonlinearity="linear")
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # cumulative statistics, as after training
        coarse = torch.randint(0, label_space.num_classes, (8, 8, 8))
        label = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)
        generate(network.train(), build_sampling(config, label_space), Batch(label), torch.randn(8, 16))
    return Synthesizer(network, ModelInfo(config, label_space, 7), device="cpu")


def encode(image: np.ndarray | Image.Image, form: str = "PNG", **settings: object) -> bytes:
    out = BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, format=form, **settings)
    return out.getvalue()


def label_png(ids: int = 3, side: int = 64) -> bytes:
    return encode(np.full((side, side), ids, np.uint8))


def post(port: int, path: str, body: bytes, timeout: float = 30) -> tuple[int, bytes, dict[str, str]]:
    """Send an image to a local server; return status, body and headers of the response."""
    connection = HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("POST", path, body, PNG)
        response = connection.getresponse()
        return response.status, response.read(), {name.lower(): value for name, value in response.getheaders()}
    finally:
        connection.close()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "the condition never became true"
        time.sleep(0.005)

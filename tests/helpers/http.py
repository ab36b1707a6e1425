"""What tests send to the painter's server, and how they wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from http.client import HTTPConnection
from io import BytesIO

import numpy as np
from PIL import Image

PNG = {"content-type": "image/png"}


def label(ids: int = 3, side: int = 64) -> bytes:
    out = BytesIO()
    Image.fromarray(np.full((side, side), ids, np.uint8)).save(out, format="PNG")
    return out.getvalue()


def post(port: int, path: str, body: bytes, timeout: float = 30) -> tuple[int, bytes, dict[str, str]]:
    """Send a picture to a server on this machine; return status, body and headers of the answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("POST", path, body, PNG)
        answer = connection.getresponse()
        return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
    finally:
        connection.close()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.005)

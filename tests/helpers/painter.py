"""Label maps, and requests to the servers of the painter and of a study."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from http.client import HTTPConnection
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

PNG = {"content-type": "image/png"}
JPEG = {"content-type": "image/jpeg"}


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


def static_files(client: Any) -> set[str]:
    """Load a page and all stylesheets and scripts that it names, and return their names."""
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    names, loaded = set(re.findall(r'(?:src|href)="static/([\w.]+)"', page.text)), set()
    while names:
        name = names.pop()
        response = client.get(f"/static/{name}")
        assert response.status_code == 200, name
        kind = "text/css" if name.endswith(".css") else "text/javascript"
        assert response.headers["content-type"].startswith(kind), name
        loaded.add(name)
        names |= set(re.findall(r'from "\./([\w.]+)"', response.text)) - loaded
    return loaded


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "the condition never became true"
        time.sleep(0.005)

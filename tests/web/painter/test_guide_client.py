"""The Python client in the painter's guide, and the guide's tables."""

from __future__ import annotations

import ast
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab2pix.inference import Synthesizer
from lab2pix.web.painter.images import encode_png
from lab2pix.web.painter.routes import openapi_schema
from tests.helpers.painter import encode

GUIDE = (Path(__file__).parents[3] / "docs" / "guide" / "paint.md").read_text(encoding="utf-8")
CLIENT = next(block for block in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL) if "class PainterClient" in block)


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    found: dict[str, Any] = {"__name__": "client"}
    exec(compile(CLIENT, "paint.md", "exec", dont_inherit=True), found)
    return found


@pytest.fixture
def client(names: dict[str, Any], server: Any) -> Any:
    return names["PainterClient"](f"http://127.0.0.1:{server.port}")


@pytest.fixture
def ids() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 14, (4, 4), dtype=np.uint8).repeat(16, 0).repeat(16, 1)


@pytest.fixture
def label(ids: np.ndarray) -> bytes:
    return encode(ids)


@pytest.mark.slow
def test_guide_client_generates_images(client: Any, synthesizer: Synthesizer, ids: np.ndarray, label: bytes) -> None:
    assert client.model()["size"] == [64, 64]
    assert client.generate(label, seed=3) == encode_png(synthesizer(ids, seed=3).tensor[0])
    assert client.blend(label, 1, 2, 1.0) == encode_png(synthesizer(ids, seed=2).tensor[0])
    assert client.blend(label, 1, 2, 0.5) == encode_png(synthesizer.interpolate(ids, 1, 2, 3).tensor[1])


@pytest.mark.slow
def test_guide_client_raises_the_servers_message(names: dict[str, Any], client: Any, label: bytes) -> None:
    with pytest.raises(names["PainterError"], match="not a PNG image") as error:
        client.generate(b"text")
    assert error.value.status == 415
    with pytest.raises(names["PainterError"], match="'seed' cannot be '-1'"):
        client.generate(label, seed=-1)


@pytest.fixture
def full(server: Any) -> Iterator[Callable[[], None]]:
    """Fills the queue until the yielded function is called."""
    event = threading.Event()
    queue = server.service.queue
    running = threading.Event()
    queue.submit(lambda: running.set() or event.wait(20))
    assert running.wait(20)
    waiting = [queue.submit(lambda: None) for _ in range(queue.capacity)]
    yield event.set
    event.set()
    for future in waiting:
        future.result(20)


@pytest.mark.slow
def test_guide_client_waits_as_told(
    names: dict[str, Any], client: Any, label: bytes, full: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        full()

    monkeypatch.setattr("time.sleep", sleep)
    impatient = names["PainterClient"](client.address, patience=0.0)
    with pytest.raises(names["PainterError"], match="8 requests are waiting already"):
        impatient.generate(label)
    assert waits == []
    assert client.generate(label).startswith(b"\x89PNG")
    assert waits and all(wait >= 1 for wait in waits)


def test_guide_client_is_typed() -> None:
    functions = [node for node in ast.walk(ast.parse(CLIENT)) if isinstance(node, ast.FunctionDef)]
    assert {function.name for function in functions} == {"__init__", "model", "generate", "blend", "_request"}
    for function in functions:
        assert function.returns is not None, function.name
        own = [part for part in (*function.args.args, *function.args.kwonlyargs) if part.arg != "self"]
        assert all(part.annotation is not None for part in own), function.name


def test_guide_lists_every_address_parameter_and_status() -> None:
    for path, methods in openapi_schema()["paths"].items():
        assert path.replace("{token}", "TOKEN") in GUIDE
        for operation in methods.values():
            for parameter in operation["parameters"]:
                name = parameter["name"].replace("token", "TOKEN")
                assert re.search(rf"`[^`]*\b{name}\b[^`]*`", GUIDE), name
            for status in operation["responses"]:
                assert status == "200" or re.search(rf"^\| .*\b{status}\b.* \|", GUIDE, re.MULTILINE), status

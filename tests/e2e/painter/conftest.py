"""Fixtures: a served tiny model, and browser sessions of its page."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lab2pix.inference import Synthesizer
from lab2pix.labels.space import LabelSpace
from tests.helpers.generators import tiny_synthesizer

SIZE = 64
SKY = 0
SPACE = LabelSpace.load("scenes")
COLORS = {entry.color: index for index, entry in enumerate(SPACE.classes)}
DESKTOP = {"viewport": {"width": 1440, "height": 900}}
READ = """(id) => {
  const canvas = document.getElementById(id);
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return [canvas.height, canvas.width, btoa(data.reduce((text, byte) => text + String.fromCharCode(byte), ""))];
}"""

Ids = NDArray[np.int64]


@pytest.fixture(scope="module")
def model() -> Synthesizer:
    """The tiny model of scenes."""
    return tiny_synthesizer()


@pytest.fixture(scope="module")
def model_folder(model: Synthesizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model.save(tmp_path_factory.mktemp("served") / "small")


@pytest.fixture(scope="module")
def server(serve_for_all: Callable[..., Any], model_folder: Path) -> Any:
    return serve_for_all("paint", model_folder, "--port", 0)


@dataclass
class Visitor:
    """A visitor of the page.

    Attributes:
        page: the browser's page.
        model: the served model.
        browser_errors: errors that the browser reports, including violations of the security policy.
    """

    page: Any
    model: Synthesizer
    browser_errors: list[str] = field(default_factory=list)

    def open(self, address: str) -> None:
        self.page.goto(address)
        self.page.locator("body[data-ready]").wait_for()

    def read(self, name: str) -> NDArray[np.uint8]:
        height, width, data = self.page.evaluate(READ, name)
        return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)[..., :3]

    def ids(self) -> Ids:
        """Return the class ids of the drawing by their colors."""
        self.page.evaluate("new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))")
        colors = self.read("canvas").astype(int)
        return np.array([[COLORS[tuple(color)] for color in row] for row in colors.tolist()])

    def expect_ids(self, expected: Ids) -> None:
        """Wait until the drawing has these ids; the browser delivers touches with a delay."""
        end = time.monotonic() + 5
        while not np.array_equal(self.ids(), expected) and time.monotonic() < end:
            self.page.wait_for_timeout(30)
        np.testing.assert_array_equal(self.ids(), expected)

    def expect_image(self, ids: Ids, seed: int = 1) -> None:
        """Wait until the image is the model's image of these ids, up to rounding."""
        wanted = self.model(ids, seed=seed).tensor[0].permute(1, 2, 0).numpy()
        self.expect_pixels(wanted)

    def expect_pixels(self, wanted: NDArray[np.uint8], name: str = "image") -> None:
        end = time.monotonic() + 15
        while (off := self.off(name, wanted)) > 2:
            assert time.monotonic() < end, f"the image is not the one expected: {off} off"
            self.page.wait_for_timeout(30)

    def off(self, name: str, wanted: NDArray[np.uint8]) -> int:
        shown = self.read(name).astype(int)
        return int(np.abs(shown - wanted).max()) if shown.shape == wanted.shape else 255

    def choose(self, tool: str | None = None, *, label: int | None = None, size: int | None = None) -> None:
        if tool is not None:
            self.page.locator(f"#tools label:has([value={tool}])").click()
        if label is not None:
            self.page.locator(f"#class-list label[data-id='{label}']").click()
        if size is not None:
            self.page.locator("#size").fill(str(size))

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the screen position of a pixel's center."""
        frame = self.page.locator("#canvas").bounding_box()
        return frame["x"] + (x + 0.5) / SIZE * frame["width"], frame["y"] + (y + 0.5) / SIZE * frame["height"]

    def click(self, x: float, y: float) -> None:
        self.page.mouse.click(*self.at(x, y))

    def drag(self, *points: tuple[float, float]) -> None:
        self.page.mouse.move(*self.at(*points[0]))
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*self.at(*point), steps=6)
        self.page.mouse.up()

    def blank(self, label: int = SKY) -> Ids:
        """Fill the drawing with one class."""
        self.page.keyboard.press("Shift+Delete")
        if label != SKY:
            self.choose("fill", label=label)
            self.click(5, 5)
        ids = np.full((SIZE, SIZE), label)
        self.expect_ids(ids)
        return ids

    def upload(self, name: str, content: bytes, kind: str) -> None:
        self.page.locator("#file").set_input_files({"name": name, "mimeType": kind, "buffer": content})

    def download(self, button: str) -> Path:
        self.page.locator("#save-menu summary").click()
        with self.page.expect_download() as waiting:
            self.page.locator(button).click()
        return Path(waiting.value.path())


@pytest.fixture
def visit(browser: Any, model: Synthesizer) -> Iterator[Callable[..., Visitor]]:
    """Opens a browser context, or another tab of a visitor; no visit may cause browser errors."""
    visitors: list[Visitor] = []

    def call(same_browser: Visitor | None = None, **settings: Any) -> Visitor:
        context = same_browser.page.context if same_browser else browser.new_context(**(settings or DESKTOP))
        return join(context.new_page())

    def join(page: Any) -> Visitor:
        page.set_default_timeout(15_000)
        visitor = Visitor(page, model)
        page.on("console", lambda said: said.type == "error" and visitor.browser_errors.append(said.text))
        page.on("pageerror", lambda error: visitor.browser_errors.append(str(error)))
        visitors.append(visitor)
        return visitor

    call.join = join  # type: ignore[attr-defined]
    yield call
    for visitor in visitors:
        assert visitor.browser_errors == []
    for context in {id(visitor.page.context): visitor.page.context for visitor in visitors}.values():
        context.close()

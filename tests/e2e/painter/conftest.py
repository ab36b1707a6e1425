"""A small model that is served, and people who come to the page with a browser."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lab2pix.batch import Batch
from lab2pix.inference import ModelInfo, Synthesizer
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import build_generator, build_sampling, generate, read_config

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
    """A small generator with weights so large that label map and noise show in its pictures."""
    torch.manual_seed(0)
    small = {"width": 4, "modulation_hidden": 8, "noise_dim": 16, "spectral_norm": False}
    data = {"layout": "folder", "label_space": "scenes", "size": (SIZE, SIZE)}
    encoder = {"global_encoder": {"width": 4, "max_width": 16}}
    config = read_config({"method": "lab2pix-v2", "data": data, "generator": {**small, **encoder}})
    network = build_generator(config, SPACE)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                torch.nn.init.kaiming_normal_(parameter, nonlinearity="linear")
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # statistics as after a training, or values would explode
        label = torch.randint(0, SPACE.num_classes, (8, 8, 8)).repeat_interleave(8, 1).repeat_interleave(8, 2)
        generate(network.train(), build_sampling(config, SPACE), Batch(label), torch.randn(8, 16))
    return Synthesizer(network, ModelInfo(config, SPACE, 7), device="cpu")


@pytest.fixture(scope="module")
def model_folder(model: Synthesizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model.save(tmp_path_factory.mktemp("served") / "small")


@pytest.fixture(scope="module")
def server(serve_for_all: Callable[..., Any], model_folder: Path) -> Any:
    return serve_for_all("paint", model_folder, "--port", 0)


@dataclass
class Artist:
    """Somebody at the page.

    Attributes:
        page: the browser's.
        model: draws what the server must have drawn.
        trouble: errors that the browser reports, those of the page's security policy among them.
    """

    page: Any
    model: Synthesizer
    trouble: list[str] = field(default_factory=list)

    def open(self, address: str) -> None:
        self.page.goto(address)
        self.page.locator("body[data-ready]").wait_for()

    def read(self, name: str) -> NDArray[np.uint8]:
        height, width, data = self.page.evaluate(READ, name)
        return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)[..., :3]

    def ids(self) -> Ids:
        """Return the class ids of the sheet, each of which has its colour; a blended one has none."""
        self.page.evaluate("new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))")
        colors = self.read("canvas").astype(int)
        return np.array([[COLORS[tuple(color)] for color in row] for row in colors.tolist()])

    def expect_ids(self, expected: Ids) -> None:
        """Wait until the sheet holds these ids; a browser delivers touches when it comes to them."""
        end = time.monotonic() + 5
        while not np.array_equal(self.ids(), expected) and time.monotonic() < end:
            self.page.wait_for_timeout(30)
        np.testing.assert_array_equal(self.ids(), expected)

    def expect_picture(self, ids: Ids, seed: int = 1) -> None:
        """Wait until the picture is the model's of these ids; the network's sums may be rounded in another order."""
        wanted = self.model(ids, seed=seed)[0].permute(1, 2, 0).numpy()
        self.expect_pixels(wanted)

    def expect_pixels(self, wanted: NDArray[np.uint8], name: str = "picture") -> None:
        end = time.monotonic() + 15
        while (off := self.off(name, wanted)) > 2:
            assert time.monotonic() < end, f"the picture is not the one expected: {off} off"
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
        """Return where the middle of a pixel of the sheet is on the screen."""
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
        """Make the whole sheet one class."""
        self.page.keyboard.press("Shift+Delete")
        if label != SKY:
            self.choose("fill", label=label)
            self.click(5, 5)
        ids = np.full((SIZE, SIZE), label)
        self.expect_ids(ids)
        return ids

    def give(self, name: str, content: bytes, kind: str) -> None:
        self.page.locator("#file").set_input_files({"name": name, "mimeType": kind, "buffer": content})

    def download(self, button: str) -> Path:
        self.page.locator("#save-menu summary").click()
        with self.page.expect_download() as waiting:
            self.page.locator(button).click()
        return Path(waiting.value.path())


@pytest.fixture
def visit(browser: Any, model: Synthesizer) -> Iterator[Callable[..., Artist]]:
    """Comes with a browser that knows nothing of earlier visits, or with another tab of one; none may cause trouble."""
    artists: list[Artist] = []

    def call(beside: Artist | None = None, **settings: Any) -> Artist:
        context = beside.page.context if beside else browser.new_context(**(settings or DESKTOP))
        return join(context.new_page())

    def join(page: Any) -> Artist:
        page.set_default_timeout(15_000)
        artist = Artist(page, model)
        page.on("console", lambda said: said.type == "error" and artist.trouble.append(said.text))
        page.on("pageerror", lambda error: artist.trouble.append(str(error)))
        artists.append(artist)
        return artist

    call.join = join  # type: ignore[attr-defined]
    yield call
    for artist in artists:
        assert artist.trouble == []
    for context in {id(artist.page.context): artist.page.context for artist in artists}.values():
        context.close()

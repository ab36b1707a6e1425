"""Where a drawing can start from, and how it lies over its picture."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import torch
from PIL import Image

from lab2pix.data.files import write_label_png
from lab2pix.data.scenes import draw_scene
from lab2pix.labels import LabelSpace

api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")

SIZE = 64
SUN, WATER, GRASS = 2, 5, 7
SPACE = LabelSpace.load("scenes")
DROP = """([name, content]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name, { type: "image/png" }));
  const send = (kind) =>
    document.body.dispatchEvent(new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true }));
  send("dragenter");
  const asked = !document.getElementById("drop").hidden;
  send("drop");
  return asked && document.getElementById("drop").hidden;
}"""

Visit = Callable[..., Any]


def test_a_random_scene(visit: Visit, server: Any) -> None:
    dee = visit()
    dee.open(server.address)
    for _ in range(2):  # another one each time
        dee.page.keyboard.press("o")
        with dee.page.expect_response(lambda response: "/api/random" in response.url) as waiting:
            dee.page.get_by_role("button", name="Random scene").click()
        seed = int(parse_qs(urlsplit(waiting.value.url).query)["seed"][0])
        expected = draw_scene(seed, 0, (SIZE, SIZE))[1].numpy()
        dee.expect_ids(expected)
        dee.expect_picture(expected)


def test_a_file_that_is_dropped(visit: Visit, server: Any, tmp_path: Path) -> None:
    eli = visit()
    eli.open(server.address)
    before = eli.ids()
    expected = np.full((SIZE, SIZE), WATER)
    expected[10:30, 20:50] = SUN
    file = tmp_path / "mine.png"
    write_label_png(file, torch.from_numpy(expected), SPACE)
    assert eli.page.evaluate(DROP, [file.name, base64.b64encode(file.read_bytes()).decode()])
    eli.expect_ids(expected)
    eli.expect_picture(expected)
    eli.page.keyboard.press("Control+z")
    eli.expect_ids(before)


def test_drawing_and_picture_lie_beside_each_other(visit: Visit, server: Any) -> None:
    fay = visit()
    fay.open(server.address)
    ids = fay.blank(GRASS)
    fay.expect_picture(ids)
    drawing = np.array(SPACE.classes[GRASS].color)

    def share() -> float:
        """Return how much of a line across the picture shows the drawing."""
        shown = Image.open(io.BytesIO(fay.page.locator("#picture").screenshot())).convert("RGB")
        line = np.asarray(shown).astype(int)[shown.height // 3]
        return float((np.abs(line - drawing).max(-1) <= 2).mean())

    assert share() < 0.05
    fay.page.keyboard.press("m")
    assert 0.4 < share() < 0.6
    divider = fay.page.locator("#compare-at")
    box = divider.bounding_box()
    fay.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    fay.page.mouse.down()
    fay.page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + box["height"] / 2, steps=4)
    fay.page.mouse.up()
    assert 0.7 < share() < 0.95
    fay.page.keyboard.press("Home")
    assert share() < 0.05
    fay.page.keyboard.press("End")
    assert share() > 0.95
    fay.page.keyboard.press("m")
    assert share() < 0.05

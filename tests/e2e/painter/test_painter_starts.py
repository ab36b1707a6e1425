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


def test_an_open_drawing_is_not_deleted_from_another_tab(visit: Visit, server: Any) -> None:
    gus = visit()
    gus.open(server.address)
    water = gus.blank(WATER)
    hal = visit(beside=gus)
    hal.open(server.address)
    hal.blank(GRASS)
    hal.page.keyboard.press("o")
    kept = hal.page.locator("#mine .kept")
    api.expect(kept).to_have_count(1)
    api.expect(kept.locator(".forget")).to_have_count(0)
    gus.page.close()
    hal.page.wait_for_function("navigator.locks.query().then(({ held }) => held.length === 1)")  # its own
    hal.page.keyboard.press("Escape")
    api.expect(hal.page.locator("#start")).to_be_hidden()
    hal.page.keyboard.press("o")
    api.expect(kept.locator(".forget")).to_have_count(1)  # nobody has it open any more
    kept.locator(".tile").click()
    hal.expect_ids(water)


def test_a_style_is_kept_at_once_and_is_what_the_field_says(visit: Visit, server: Any) -> None:
    ivy = visit()
    ivy.open(server.address)
    ids = ivy.blank(GRASS)
    ivy.expect_picture(ids)
    number = ivy.page.locator("#seed-number")
    number.fill("77")
    ivy.page.reload()
    ivy.page.locator("body[data-ready]").wait_for()
    ivy.expect_picture(ids, seed=77)
    number.press("End")
    number.press_sequentially("12")  # 7712 is none, so it stays 771
    number.press("Tab")
    api.expect(number).to_have_value("771")
    ivy.expect_picture(ids, seed=771)


def test_an_answer_that_is_no_picture(visit: Visit, server: Any) -> None:
    joe = visit()
    joe.open(server.address)
    joe.expect_picture(joe.blank(GRASS))
    joe.page.route("**/api/synthesize*", lambda route: route.fulfill(body=b"junk", content_type="image/png"), times=1)
    joe.blank(WATER)
    api.expect(joe.page.locator("#picture-stage")).to_have_attribute("aria-busy", "false")
    api.expect(joe.page.locator("#trouble-text")).not_to_be_empty()
    assert len(joe.trouble) == 1
    joe.trouble.clear()
    joe.expect_picture(joe.blank(GRASS))


def test_a_polygon_is_closed_by_keys_after_another_class_was_chosen(visit: Visit, server: Any) -> None:
    kim = visit()
    kim.open(server.address)
    grass = kim.blank(GRASS)
    for key in ("Escape", "Enter"):
        kim.choose("polygon", label=SUN)
        for corner in ((10, 10), (40, 10), (40, 40)):
            kim.click(*corner)
        kim.choose(label=WATER)
        kim.page.keyboard.press(key)
        api.expect(kim.page.locator("#close-polygon")).to_be_hidden()
        if key == "Escape":
            kim.expect_ids(grass)
    drawn = kim.ids()
    assert drawn[12, 35] == WATER and drawn[38, 12] == GRASS


def test_a_browser_that_keeps_nothing_says_so_on_a_phone(visit: Visit, server: Any) -> None:
    lou = visit(viewport={"width": 390, "height": 844})
    lou.page.add_init_script("indexedDB.open = () => { throw new Error('switched off'); }")
    lou.open(server.address)
    api.expect(lou.page.locator("#trouble-text")).to_contain_text("Not kept")
    lou.expect_picture(lou.blank(GRASS))

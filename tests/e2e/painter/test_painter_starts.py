"""Starting points of a drawing, stored drawings, and the comparison with the image."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import torch
from PIL import Image

from lab2pix.data.scenes.dataset import draw_scene
from lab2pix.labels.space import LabelSpace
from tests.helpers.painter import encode

api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")

SIZE = 64
SUN, WATER, GRASS = 2, 5, 7
SPACE = LabelSpace.load("scenes")
DROP = """([name, content, type]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name, { type }));
  const send = (kind) =>
    document.body.dispatchEvent(new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true }));
  send("dragenter");
  const asked = !document.getElementById("drop").hidden;
  send("drop");
  return asked && document.getElementById("drop").hidden;
}"""

Visit = Callable[..., Any]


def test_random_scene(visit: Visit, server: Any) -> None:
    dee = visit()
    dee.open(server.address)
    for _ in range(2):  # a different one each time
        dee.page.keyboard.press("o")
        with dee.page.expect_response(lambda response: "/api/random" in response.url) as waiting:
            dee.page.get_by_role("button", name="Random scene").click()
        seed = int(parse_qs(urlsplit(waiting.value.url).query)["seed"][0])
        expected = draw_scene(seed, 0, (SIZE, SIZE))[1].numpy()
        dee.expect_ids(expected)
        dee.expect_image(expected)


def drop(visitor: Any, name: str, content: bytes, kind: str = "") -> None:
    """Drop a file on the page, often without a type, as browsers do."""
    assert visitor.page.evaluate(DROP, [name, base64.b64encode(content).decode(), kind])


def test_image_files_of_many_formats_are_opened(visit: Visit, server: Any) -> None:
    eli = visit()
    eli.open(server.address)
    before = eli.ids()
    files = [("PNG", True, {}), ("WEBP", True, {"lossless": True}), ("WEBP", False, {"lossless": True})]
    files += [("BMP", True, {}), ("BMP", False, {}), ("GIF", True, {})]
    for number, (form, in_colors, settings) in enumerate(files):
        expected = np.full((SIZE, SIZE), WATER)
        expected[10 + number : 30, 20:50] = SUN
        colors = SPACE.to_colors(torch.from_numpy(expected)).permute(1, 2, 0).numpy()
        drop(eli, f"mine.{form.lower()}", encode(colors if in_colors else expected.astype(np.uint8), form, **settings))
        eli.expect_ids(expected)
        eli.expect_image(expected)
        eli.page.keyboard.press("Control+z")
        eli.expect_ids(before)


def test_unreadable_files_are_refused(visit: Visit, server: Any) -> None:
    mia = visit()
    mia.open(server.address)
    grass = mia.blank(GRASS)
    gray = np.full((SIZE, SIZE), WATER, np.uint8)
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
    for name, content, kind, words in (
        ("ids.jpg", encode(gray, "JPEG"), "image/jpeg", "compressed with loss"),
        ("ids.webp", encode(gray, "WEBP"), "image/webp", "may be compressed with loss"),
        ("ids.tif", encode(gray, "TIFF"), "image/tiff", "not an image that this browser can read; save it as PNG"),
        ("drawing.svg", svg, "image/svg+xml", "drawing.svg is not a project, and not an image"),
        ("drawing.png", svg, "image/png", "drawing.png is not a project, and not an image"),
    ):
        drop(mia, name, content, kind)
        api.expect(mia.page.locator("#error-text")).to_contain_text(words)
        mia.page.locator("#error-close").click()
        mia.expect_ids(grass)
    mia.browser_errors.clear()  # the browser logs the status


def test_seeds_beyond_the_slider(visit: Visit, server: Any) -> None:
    ned = visit()
    ned.open(server.address)
    ids = ned.blank(GRASS)
    largest = 2**53 - 1
    number = ned.page.locator("#seed-number")
    for seed in (1000, 123456789012, largest):
        number.fill(str(seed))
        ned.expect_image(ids, seed=seed)
        api.expect(ned.page.locator("#seed")).to_have_value("999")
    project = ned.download("#save-project").read_bytes()
    number.fill(str(largest + 1))
    number.press("Tab")
    api.expect(number).to_have_value(str(largest))
    ned.page.locator("#vary").click()
    labels = [f"Style {seed}" for seed in range(8)]  # after the largest seed comes 0
    for label in labels:
        ned.page.get_by_role("button", name=label, exact=True).wait_for()
    ned.page.locator("#seed").fill("7")
    water = ned.blank(WATER)
    ned.expect_image(water, seed=7)
    ned.upload("mine.json", project, "application/json")
    ned.expect_image(ids, seed=largest)
    ned.page.keyboard.press("Control+z")  # the previous drawing with its style
    ned.expect_image(water, seed=7)
    ned.upload("mine.json", project.replace(str(largest).encode(), b"9007199254740992"), "application/json")
    api.expect(ned.page.locator("#error-text")).to_contain_text("integers from 0 to 9007199254740991")


def test_new_drawing_is_undone_and_redone(visit: Visit, server: Any) -> None:
    ora = visit()
    ora.open(server.address)
    press = ora.page.keyboard.press
    mine = ora.blank(WATER)
    ora.page.locator("#seed-number").fill("5")
    ora.choose("box", label=SUN)
    ora.drag((10, 10), (20, 20))
    before = mine.copy()
    mine[10:21, 10:21] = SUN
    ora.expect_image(mine, seed=5)
    press("o")
    ora.page.get_by_role("button", name="New drawing").click()
    blank = np.zeros_like(mine)
    ora.expect_ids(blank)
    ora.page.locator("#seed").fill("6")
    ora.choose("box", label=GRASS)
    ora.drag((30, 30), (50, 50))
    other = blank.copy()
    other[30:51, 30:51] = GRASS
    ora.expect_image(other, seed=6)
    for ids, seed in ((blank, 6), (mine, 5), (before, 5)):  # back, with its style
        press("Control+z")
        ora.expect_ids(ids)
        ora.expect_image(ids, seed=seed)
    for ids, seed in ((mine, 5), (blank, 6), (other, 6)):
        press("Control+y")
        ora.expect_ids(ids)
        ora.expect_image(ids, seed=seed)
    press("o")
    kept = ora.page.locator("#drawings .stored .tile")
    api.expect(kept).to_have_count(1)
    kept.click()  # opening a stored drawing is undone in the same way
    ora.expect_image(mine, seed=5)
    press("Control+z")
    ora.expect_image(other, seed=6)
    api.expect(ora.page.locator("#save-status")).to_have_text("Saved in this browser")
    ora.page.reload()  # each is stored under its own id
    ora.page.locator("body[data-ready]").wait_for()
    ora.expect_ids(other)
    ora.page.keyboard.press("o")
    api.expect(kept).to_have_count(1)
    kept.click()
    ora.expect_image(mine, seed=5)


def test_quick_undo_saves_each_drawing_under_its_id(visit: Visit, server: Any) -> None:
    """The second of three undo steps is not yet saved when the third leads to another drawing."""
    pam = visit()
    pam.open(server.address)
    water = pam.blank(WATER)
    pam.page.keyboard.press("o")
    pam.page.get_by_role("button", name="New drawing").click()
    blank = np.zeros_like(water)
    pam.expect_ids(blank)
    pam.choose("box", label=GRASS)
    for place in (5, 35):
        pam.drag((place, place), (place + 20, place + 20))
    pam.page.evaluate("[1, 2, 3].forEach(() => document.getElementById('undo').click())")
    pam.expect_ids(water)
    pam.page.keyboard.press("o")
    pam.page.locator("#drawings .stored .tile").click()
    pam.expect_ids(blank)
    pam.expect_image(blank)


def test_compare_divides_drawing_and_image(visit: Visit, server: Any) -> None:
    fay = visit()
    fay.open(server.address)
    ids = fay.blank(GRASS)
    fay.expect_image(ids)
    drawing = np.array(SPACE.classes[GRASS].color)

    def share() -> float:
        """Return how much of a line across the image shows the drawing."""
        shown = Image.open(io.BytesIO(fay.page.locator("#image").screenshot())).convert("RGB")
        line = np.asarray(shown).astype(int)[shown.height // 3]
        return float((np.abs(line - drawing).max(-1) <= 2).mean())

    assert share() < 0.05
    fay.page.keyboard.press("m")
    assert 0.4 < share() < 0.6
    divider = fay.page.locator("#compare-position")
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


def test_open_drawing_cannot_be_deleted_in_another_tab(visit: Visit, server: Any) -> None:
    gus = visit()
    gus.open(server.address)
    water = gus.blank(WATER)
    hal = visit(same_browser=gus)
    hal.open(server.address)
    hal.blank(GRASS)
    hal.page.keyboard.press("o")
    kept = hal.page.locator("#drawings .stored")
    api.expect(kept).to_have_count(1)
    api.expect(kept.locator(".delete")).to_have_count(0)
    gus.page.close()
    while hal.page.evaluate("navigator.locks.query().then(({ held }) => held.length)") > 1:  # in addition to its own
        hal.page.wait_for_timeout(30)
    hal.page.keyboard.press("Escape")
    api.expect(hal.page.locator("#start")).to_be_hidden()
    hal.page.keyboard.press("o")
    api.expect(kept.locator(".delete")).to_have_count(1)  # it is no longer open elsewhere
    kept.locator(".tile").click()
    hal.expect_ids(water)


def test_style_is_saved_at_once(visit: Visit, server: Any) -> None:
    ivy = visit()
    ivy.open(server.address)
    ids = ivy.blank(GRASS)
    ivy.expect_image(ids)
    number = ivy.page.locator("#seed-number")
    number.fill("77")
    ivy.page.reload()
    ivy.page.locator("body[data-ready]").wait_for()
    ivy.expect_image(ids, seed=77)
    number.press("End")
    number.press_sequentially(".5")  # 77.5 is not a seed
    number.press("Tab")
    api.expect(number).to_have_value("77")
    ivy.expect_image(ids, seed=77)


def test_invalid_image_response_is_shown_as_error(visit: Visit, server: Any) -> None:
    joe = visit()
    joe.open(server.address)
    joe.expect_image(joe.blank(GRASS))
    joe.page.route("**/api/synthesize*", lambda route: route.fulfill(body=b"junk", content_type="image/png"), times=1)
    joe.blank(WATER)
    api.expect(joe.page.locator("#image-stage")).to_have_attribute("aria-busy", "false")
    api.expect(joe.page.locator("#error-text")).not_to_be_empty()
    assert len(joe.browser_errors) == 1
    joe.browser_errors.clear()
    joe.expect_image(joe.blank(GRASS))


def test_polygon_keys_work_after_choosing_a_class(visit: Visit, server: Any) -> None:
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


def test_missing_storage_is_shown_on_a_phone(visit: Visit, server: Any) -> None:
    lou = visit(viewport={"width": 390, "height": 844})
    lou.page.add_init_script("indexedDB.open = () => { throw new Error('switched off'); }")
    lou.open(server.address)
    api.expect(lou.page.locator("#error-text")).to_contain_text("Not saved")
    lou.expect_image(lou.blank(GRASS))

"""Moving, tracing, copying, enlarging and the appearance of the painter's page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lab2pix.data.scenes.dataset import draw_scene
from tests.helpers.painter import encode

api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")

SIZE = 64
SKY, SUN, WATER, GRASS, HOUSE = 0, 2, 5, 7, 11
PAPER = "getComputedStyle(document.body).backgroundColor"
COPIED = """navigator.clipboard.read()
  .then(([item]) => item.getType("image/png"))
  .then((blob) => blob.arrayBuffer())
  .then((buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer))))"""
WINDOWS = {"phone": (390, 844), "portrait": (768, 1024), "landscape": (1024, 768), "desktop": (1440, 900)}

Visit = Callable[..., Any]


def photo() -> bytes:
    """Return a photo as a file: a rendered scene with noise, as a camera's."""
    pixels = draw_scene(1, 1, (96, 96))[0].permute(1, 2, 0).numpy().astype(int)
    noisy = pixels + np.random.default_rng(0).integers(-12, 13, pixels.shape)
    return encode(noisy.clip(0, 255).astype(np.uint8), "JPEG", quality=95)


# --- the move tool ----------------------------------------------------------------------------------------------------


def test_areas_and_rectangles_are_moved(visit: Visit, server: Any) -> None:
    ada = visit()
    ada.open(server.address)
    grass = ada.blank(GRASS)
    ada.choose("box", label=WATER)
    ada.drag((0, 40), (63, 63))
    ada.choose("box", label=HOUSE)
    ada.drag((10, 36), (17, 43))  # half on grass, half on water
    before = ada.ids()
    ada.choose("move")
    ada.click(12, 42)
    ada.drag((12, 42), (32, 22))
    expected = grass.copy()
    expected[40:] = WATER  # what the house hid is grass and water again
    expected[16:24, 30:38] = HOUSE
    moved = expected.copy()
    ada.expect_ids(expected)
    ada.drag((32, 22), (46, 52))  # it is still selected, and leaves no hole where it was
    expected = grass.copy()
    expected[40:] = WATER
    expected[46:54, 44:52] = HOUSE
    ada.expect_ids(expected)
    ada.expect_image(expected)
    for ids in (moved, before):
        ada.page.keyboard.press("Control+z")
        ada.expect_ids(ids)
    ada.page.keyboard.press("Control+y")
    ada.expect_ids(moved)
    ada.drag((28, 14), (40, 26))  # a rectangle around the house
    ada.drag((30, 16), (10, 6))
    part = moved[14:27, 28:41].copy()
    expected = grass.copy()
    expected[40:] = WATER
    expected[4:17, 8:21] = part
    ada.expect_ids(expected)
    ada.page.keyboard.press("Delete")
    expected[4:17, 8:21] = GRASS
    ada.expect_ids(expected)
    ada.expect_image(expected)


def test_a_drag_of_the_selection_is_canceled(visit: Visit, server: Any) -> None:
    ben = visit()
    ben.open(server.address)
    ben.blank(GRASS)
    ben.choose("box", label=SUN)
    ben.drag((10, 10), (20, 20))
    before = ben.ids()
    ben.choose("move")
    ben.click(15, 15)
    api.expect(ben.page.locator("#remove-selection")).to_be_visible()
    ben.page.mouse.move(*ben.at(15, 15))
    ben.page.mouse.down()
    ben.page.mouse.move(*ben.at(40, 40), steps=4)
    assert ben.ids()[36, 36] == SUN
    ben.page.keyboard.press("Escape")
    ben.page.mouse.up()
    ben.expect_ids(before)
    api.expect(ben.page.locator("#remove-selection")).to_be_hidden()
    ben.page.keyboard.press("d")  # by keyboard: the cursor starts in the center, on grass
    ben.page.keyboard.press("Space")
    ben.page.keyboard.press("Space")
    ben.page.locator("#remove-selection").click()
    ben.expect_ids(np.full((SIZE, SIZE), SUN))  # grass takes the class around it
    ben.page.keyboard.press("Control+z")
    ben.expect_ids(before)


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_photo_is_traced_instead_of_opened(visit: Visit, server: Any) -> None:
    cleo = visit()
    cleo.open(server.address)
    before = cleo.ids()
    cleo.upload("holiday.jpg", photo(), "image/jpeg")
    api.expect(cleo.page.locator("#error-text")).to_contain_text("This looks like a photo, not a label map: trace it")
    picture = cleo.page.locator("#trace")
    api.expect(picture).to_be_hidden()
    cleo.page.get_by_role("button", name="Trace this picture").click()
    api.expect(picture).to_be_visible()
    cleo.expect_ids(before)
    opacity = "getComputedStyle(document.getElementById('canvas')).opacity"
    assert cleo.page.evaluate(opacity) == "0.5"
    cleo.page.keyboard.press("t")
    cleo.page.locator("#trace-opacity").fill("20")
    assert cleo.page.evaluate(opacity) == "0.8"
    api.expect(cleo.page.locator("#save-status")).to_have_text("Saved in this browser")
    cleo.page.wait_for_timeout(300)
    cleo.page.reload()
    cleo.page.locator("body[data-ready]").wait_for()
    api.expect(picture).to_be_visible()
    assert picture.evaluate("(one) => one.decode().then(() => one.naturalWidth / one.naturalHeight)") == 1
    assert cleo.page.evaluate(opacity) == "0.8"
    cleo.page.keyboard.press("o")  # each drawing has a tracing picture of its own
    cleo.page.get_by_role("button", name="New drawing").click()
    api.expect(picture).to_be_hidden()
    cleo.page.keyboard.press("Control+z")
    api.expect(picture).to_be_visible()
    cleo.page.locator("#trace-menu summary").click()
    cleo.page.locator("#trace-remove").click()
    api.expect(picture).to_be_hidden()
    assert cleo.page.evaluate(opacity) == "1"
    cleo.browser_errors.clear()  # the browser logs the status


def test_image_is_copied(visit: Visit, server: Any) -> None:
    dora = visit(permissions=["clipboard-read", "clipboard-write"], viewport={"width": 1024, "height": 768})
    dora.open(server.address)
    dora.expect_image(dora.blank(WATER))
    dora.page.locator("#copy-image").click()
    api.expect(dora.page.locator("#toast")).to_have_text("Copied the image")
    copied = np.asarray(Image.open(io.BytesIO(base64.b64decode(dora.page.evaluate(COPIED)))).convert("RGB"))
    assert np.array_equal(copied, dora.read("image"))
    dora.expect_image(dora.blank(HOUSE))
    dora.page.keyboard.press("Control+c")
    dora.page.wait_for_timeout(300)
    copied = np.asarray(Image.open(io.BytesIO(base64.b64decode(dora.page.evaluate(COPIED)))).convert("RGB"))
    assert np.array_equal(copied, dora.read("image"))


def test_image_of_twice_the_size(visit: Visit, server: Any) -> None:
    ed = visit()
    ed.open(server.address)
    ids = ed.ids()
    ed.expect_image(ids)
    asked: list[str] = []

    def refuse_once(route: Any) -> None:
        asked.append(route.request.url)
        if len(asked) == 1:
            route.fulfill(status=429, headers={"retry-after": "1"}, json={"error": "The server is busy"})
        else:
            route.continue_()

    ed.page.route("**/api/synthesize*scale=2*", refuse_once)
    large = np.asarray(Image.open(ed.download("#save-large"))).astype(int)
    expected = ed.model(ids.repeat(2, 0).repeat(2, 1), seed=1, keep_size=True).tensor[0].permute(1, 2, 0).numpy()
    assert large.shape == (2 * SIZE, 2 * SIZE, 3) and np.abs(large - expected).max() <= 2
    assert len(asked) == 2
    api.expect(ed.page.locator("#toast")).to_contain_text("Downloaded the image at 128 × 128")
    ed.browser_errors.clear()  # the browser logs the status


# --- appearance -------------------------------------------------------------------------------------------------------


def test_colors_follow_the_system_until_switched(visit: Visit, server: Any) -> None:
    flo = visit(color_scheme="light")
    flo.open(server.address)
    light = flo.page.evaluate(PAPER)
    flo.page.emulate_media(color_scheme="dark")
    dark = flo.page.evaluate(PAPER)
    assert dark != light
    switch = flo.page.get_by_role("switch", name="Dark colors")
    api.expect(switch).to_be_checked()
    flo.page.emulate_media(color_scheme="light")
    api.expect(switch).not_to_be_checked()
    switch.click()
    assert flo.page.evaluate(PAPER) == dark
    flo.page.reload()
    flo.page.locator("body[data-ready]").wait_for()
    assert flo.page.evaluate(PAPER) == dark
    switch.click()
    flo.page.emulate_media(color_scheme="dark")  # the choice of the system's colors is no choice of its own
    assert flo.page.evaluate(PAPER) == dark


def test_hint_is_shown_once(visit: Visit, server: Any) -> None:
    gus = visit()
    gus.open(server.address)
    hint = gus.page.locator("#welcome")
    api.expect(hint).to_be_visible()
    before = gus.ids()
    gus.page.get_by_role("button", name="Got it").click()
    api.expect(hint).to_be_hidden()
    gus.expect_ids(before)  # the click did not paint
    gus.page.reload()
    gus.page.locator("body[data-ready]").wait_for()
    api.expect(hint).to_be_hidden()
    hal = visit()
    hal.open(server.address)
    hal.choose("brush", label=WATER)
    hal.drag((5, 60), (50, 60))  # under the hint
    api.expect(hal.page.locator("#welcome")).to_be_hidden()
    assert (hal.ids()[60, 5:50] == WATER).all()


@pytest.mark.parametrize("window", WINDOWS)
def test_drawing_and_image_are_large_and_apart(visit: Visit, server: Any, window: str) -> None:
    width, height = WINDOWS[window]
    touch = window != "desktop"
    ivy = visit(viewport={"width": width, "height": height}, has_touch=touch, is_mobile=touch)
    ivy.open(server.address)
    drawing, image = (ivy.page.locator(name).bounding_box() for name in ("#stage", "#image-stage"))
    assert drawing["width"] == image["width"] >= {390: 280, 768: 400, 1024: 400, 1440: 600}[width]
    assert image["y"] + image["height"] <= height  # both are seen without scrolling
    across, down = (image[axis] - drawing[axis] - drawing[side] for axis, side in (("x", "width"), ("y", "height")))
    assert max(across, down) >= 20
    assert ivy.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    clipped = ivy.page.evaluate(
        "[...document.querySelectorAll('#class-list span, #tools span, .caption p, .caption h2, button')]"
        ".filter((one) => one.scrollWidth > one.clientWidth + 1 || one.scrollHeight > one.clientHeight + 2)"
        ".map((one) => one.textContent)"
    )
    assert clipped == []


# --- rough edges ------------------------------------------------------------------------------------------------------


def test_rough_edges_move_the_border_alone(visit: Visit, server: Any) -> None:
    ada = visit()
    ada.open(server.address)
    sky = ada.blank()
    ada.page.keyboard.press("n")
    assert ada.page.locator("#rough").is_checked()
    ada.choose("box", label=GRASS)
    ada.drag((0, 32), (63, 63))
    smooth = sky.copy()
    smooth[32:] = GRASS
    rough = ada.ids()
    off = rough != smooth
    assert off.any()
    assert not off[:28].any() and not off[37:].any()  # a thirtieth of 64 pixels, in rows and columns
    assert set(np.unique(rough)) == {SKY, GRASS}
    ada.choose("box", label=GRASS)
    ada.drag((0, 40), (63, 63))  # over its own class: no hole at its border
    ada.expect_ids(rough)
    ada.page.keyboard.press("Control+z")
    ada.expect_ids(sky)

"""Drawing, files and styles of the painter in a browser."""

from __future__ import annotations

import base64
import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from lab2pix.data.label_maps import read_label, write_label_png
from lab2pix.labels.space import LabelSpace

api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")

SIZE = 64
SUN, MOUNTAIN, WATER, GRASS, HOUSE = 2, 3, 5, 7, 11
SPACE = LabelSpace.load("scenes")

Ids = NDArray[np.int64]
Visit = Callable[..., Any]


# --- drawing ----------------------------------------------------------------------------------------------------------


def test_image_follows_the_brush(visit: Visit, server: Any) -> None:
    ada = visit()
    ada.open(server.address)
    first = ada.ids()
    assert len(np.unique(first)) > 3  # an example
    ada.expect_image(first)
    expected = ada.blank(GRASS)
    ada.choose("brush", label=WATER, size=5)
    ada.drag((10, 20), (50, 20))
    expected[18:23, 10:51] = WATER
    for column, half in ((8, 1), (9, 2), (51, 2), (52, 1)):  # the round ends
        expected[20 - half : 21 + half, column] = WATER
    ada.expect_ids(expected)
    ada.expect_image(expected)
    assert ada.off("image", ada.model(first, seed=1).tensor[0].permute(1, 2, 0).numpy()) > 30


def test_every_tool_draws(visit: Visit, server: Any) -> None:
    ben = visit()
    ben.open(server.address)
    expected = ben.blank(GRASS)
    ben.choose("box", label=WATER)
    ben.drag((20, 30), (4, 10))
    expected[10:31, 4:21] = WATER
    ben.expect_ids(expected)
    ben.choose("line", label=MOUNTAIN, size=1)
    ben.drag((0, 40), (30, 10), (63, 40))
    expected[40, :] = MOUNTAIN  # intermediate positions of the line leave no trace
    ben.expect_ids(expected)
    ben.choose("fill", label=SUN)
    ben.click(50, 60)
    expected[41:] = SUN
    ben.expect_ids(expected)
    ben.choose("polygon", label=HOUSE)
    for corner in ((40, 5), (60, 5), (60, 25), (40, 25)):
        ben.click(*corner)
    ben.expect_ids(expected)
    ben.page.keyboard.press("Backspace")  # removes the last corner
    ben.click(40, 25)
    ben.click(40, 5)
    expected[5:26, 40:61] = HOUSE
    ben.expect_ids(expected)
    ben.choose("pick")
    ben.click(10, 20)
    assert ben.page.locator("#class-list :checked").get_attribute("value") == str(WATER)
    ben.choose("replace")
    ben.click(50, 15)
    expected[expected == HOUSE] = WATER
    ben.expect_ids(expected)
    ben.expect_image(expected)


def test_over_a_hundred_steps_are_undone_and_redone(visit: Visit, server: Any) -> None:
    cleo = visit()
    cleo.open(server.address)
    ids = [cleo.blank(GRASS)]
    cleo.choose("box", label=SUN)
    for step in range(110):
        ids.append(ids[-1].copy())
        ids[-1][5 * (step // 11), 5 * (step % 11)] = SUN
        cleo.click(5 * (step % 11), 5 * (step // 11))
    cleo.expect_ids(ids[110])
    for step in reversed(range(110)):
        cleo.page.keyboard.press("Control+z")
        if step in (109, 57, 0):
            cleo.expect_ids(ids[step])
    cleo.expect_image(ids[0])
    for _ in range(109):
        cleo.page.keyboard.press("Control+y")
    cleo.expect_ids(ids[109])
    cleo.page.locator("#redo").click()
    cleo.expect_ids(ids[110])
    assert cleo.page.locator("#redo").is_disabled()
    cleo.expect_image(ids[110])


def test_late_image_does_not_replace_a_newer_one(visit: Visit, server: Any) -> None:
    dora = visit()
    dora.open(server.address)
    dora.blank()
    held: list[Any] = []
    dora.page.route("**/api/synthesize*", lambda route: route.continue_() if held else held.append(route))
    dora.choose("fill", label=WATER)
    dora.click(9, 9)
    dora.page.wait_for_timeout(300)
    assert held  # the image of water is delayed
    dora.page.wait_for_timeout(1500)
    dora.choose("fill", label=GRASS)
    dora.click(9, 9)
    grass = np.full((SIZE, SIZE), GRASS)
    dora.expect_image(grass)
    with dora.page.expect_response("**/api/synthesize*"):
        held[0].continue_()
    dora.page.wait_for_timeout(200)
    dora.expect_image(grass)


def test_every_stroke_gets_an_image(visit: Visit, server: Any) -> None:
    """Latencies are printed, not tested."""
    ed = visit()
    ed.open(server.address)
    ed.expect_image(ed.blank(GRASS))
    number, took = "Number(document.getElementById('image').dataset.number)", []
    for step in range(20):
        ed.choose("brush", label=(WATER, HOUSE)[step % 2], size=4)
        before = ed.page.evaluate(number)
        ed.page.mouse.move(*ed.at(3 * step, 10))
        ed.page.mouse.down()
        start = time.monotonic()
        ed.page.mouse.up()
        while ed.page.evaluate(number) <= before:
            ed.page.wait_for_timeout(5)
        took.append(1000 * (time.monotonic() - start))
    ed.expect_image(ed.ids())
    print(f"brush release to image: median {statistics.median(took):.0f} ms, worst {max(took):.0f} ms of {len(took)}")


# --- files ------------------------------------------------------------------------------------------------------------


def stripes(height: int, width: int) -> Ids:
    return np.repeat(np.arange(8) % 7, height // 8)[:, None].repeat(width, 1)


def test_label_files_are_opened(visit: Visit, server: Any, tmp_path: Path) -> None:
    flo = visit()
    flo.open(server.address)
    large, expected = stripes(128, 192), stripes(SIZE, SIZE)
    write_label_png(tmp_path / "palette.png", torch.from_numpy(large), SPACE)
    palette = np.array([entry.color for entry in SPACE.classes], np.uint8)
    Image.fromarray(palette[large]).save(tmp_path / "colors.png")
    Image.fromarray(large.astype(np.uint8)).save(tmp_path / "ids.png")
    for name in ("palette", "colors", "ids"):
        flo.blank(HOUSE)
        flo.page.keyboard.press("o")
        flo.upload(f"{name}.png", (tmp_path / f"{name}.png").read_bytes(), "image/png")
        flo.page.locator("#start").wait_for(state="hidden")
        flo.expect_image(expected)
        flo.expect_ids(expected)
    flo.upload("photo.gif", b"GIF89a", "image/gif")
    api.expect(flo.page.locator("#error-text")).to_contain_text("photo.gif is not a project, and not an image")
    Image.fromarray(large.astype(np.uint8) + 90).save(tmp_path / "wrong.png")
    flo.upload("wrong.png", (tmp_path / "wrong.png").read_bytes(), "image/png")
    api.expect(flo.page.locator("#error-text")).to_contain_text("90")
    flo.browser_errors.clear()  # the browser logs the status
    flo.expect_ids(expected)
    flo.page.keyboard.press("Control+z")
    flo.expect_ids(np.full((SIZE, SIZE), HOUSE))


def test_downloads_can_be_opened(visit: Visit, server: Any, tmp_path: Path) -> None:
    gus = visit()
    gus.open(server.address)
    gus.page.locator("#seed-number").fill("42")
    ids = gus.ids()
    gus.expect_image(ids, seed=42)
    image = np.asarray(Image.open(gus.download("#save-image"))).astype(int)
    assert np.abs(image - gus.read("image")).max() == 0
    labels = tmp_path / "labels.png"
    labels.write_bytes(gus.download("#save-labels").read_bytes())
    assert Image.open(labels).mode == "P"
    np.testing.assert_array_equal(read_label(labels, SPACE), ids)
    project = gus.download("#save-project").read_bytes()
    content = json.loads(project)
    assert content["style"] == {"seed": 42, "blend": None, "image": None, "regions": []}
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(content["ids"])))), ids)

    other = visit()
    other.open(server.address)
    other.blank(WATER)
    other.upload("scene.json", project, "application/json")
    other.expect_image(ids, seed=42)
    other.expect_ids(ids)
    del content["classes"][int(ids[0, 0])]
    other.upload("unknown.json", json.dumps(content | {"classes": ["moon"]}).encode(), "application/json")
    api.expect(other.page.locator("#error-text")).to_contain_text("this model does not have")
    other.expect_ids(ids)


# --- style ------------------------------------------------------------------------------------------------------------


def test_seed_and_blend_select_the_style(visit: Visit, server: Any) -> None:
    hal = visit()
    hal.open(server.address)
    ids = hal.ids()
    hal.page.locator("#seed").fill("7")
    hal.expect_image(ids, seed=7)
    assert hal.off("image", hal.model(ids, seed=1).tensor[0].permute(1, 2, 0).numpy()) > 5
    hal.page.locator("#blend-on").check()
    hal.page.locator("#blend-seed").fill("9")
    for percent, step in ((25, 1), (100, 4)):
        hal.page.locator("#mix").fill(str(percent))
        hal.expect_pixels(hal.model.interpolate(ids, 7, 9, 5).tensor[step].permute(1, 2, 0).numpy())
    hal.page.locator("#blend-on").uncheck()
    hal.expect_image(ids, seed=7)


def test_variations_show_the_next_seeds(visit: Visit, server: Any) -> None:
    ina = visit()
    ina.open(server.address)
    ids = ina.ids()
    ina.page.get_by_role("button", name="Eight variations").click()
    frames = ina.page.locator("#variations button")
    api.expect(frames).to_have_count(8)
    api.expect(ina.page.locator("#variations button:disabled")).to_have_count(0)
    for place in range(8):
        frames.nth(place).locator("canvas").evaluate("(canvas) => { canvas.id = 'frame'; }")
        ina.expect_pixels(ina.model(ids, seed=2 + place).tensor[0].permute(1, 2, 0).numpy(), "frame")
        frames.nth(place).locator("canvas").evaluate("(canvas) => { canvas.id = ''; }")
    frames.nth(2).click()  # shows it large
    large = ina.page.locator("#gallery-image")
    assert large.bounding_box()["width"] > 4 * frames.nth(2).bounding_box()["width"]
    ina.expect_pixels(ina.model(ids, seed=4).tensor[0].permute(1, 2, 0).numpy(), "gallery-image")
    ina.expect_image(ids, seed=1)
    ina.page.keyboard.press("ArrowRight")
    ina.expect_pixels(ina.model(ids, seed=5).tensor[0].permute(1, 2, 0).numpy(), "gallery-image")
    ina.page.get_by_role("button", name="Use this style").click()
    api.expect(ina.page.locator("#gallery")).to_be_hidden()
    ina.expect_image(ids, seed=5)
    assert ina.page.locator("#seed-number").input_value() == "5"
    ina.choose("box")
    api.expect(ina.page.locator("#variations")).not_to_have_class("old")
    ina.blank()  # outdates the variations
    api.expect(ina.page.locator("#variations")).to_have_class("old")

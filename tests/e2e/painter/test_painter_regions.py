"""Areas with a style of their own in the painter's page."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.e2e.painter.conftest import Visitor

api = pytest.importorskip("playwright.sync_api", reason="the extra 'dev' is not installed")

SIZE = 64
GRASS, HOUSE, SUN = 7, 11, 2

Visit = Callable[..., Any]


def houses(visitor: Visitor) -> np.ndarray:
    """Draw two houses on grass."""
    ids = visitor.blank(GRASS)
    visitor.choose("box", label=HOUSE)
    for left in (6, 40):
        visitor.drag((left, 30), (left + 15, 50))
        ids[30:51, left : left + 16] = HOUSE
    visitor.expect_ids(ids)
    return ids


def seeds_of(visitor: Visitor) -> list[int]:
    """Return the seeds that the page shows for its areas."""
    return [int(text.split()[-1]) for text in visitor.page.locator("#region-list span").all_inner_texts()]


def expect_regions(visitor: Visitor, ids: np.ndarray, regions: dict[int, int], base: int = 1) -> None:
    """Wait for the image of a base seed, with other seeds for houses by their left edge."""
    seeds = np.full(ids.shape, base)
    for left, seed in regions.items():
        seeds[30:51, left : left + 16] = seed
    visitor.expect_pixels(visitor.model(ids, seed=seeds).tensor[0].permute(1, 2, 0).numpy())


def test_an_area_gets_another_style_and_the_rest_stays(visit: Visit, server: Any) -> None:
    ada = visit()
    ada.open(server.address)
    ids = houses(ada)
    ada.expect_image(ids)
    before = ada.read("image").copy()
    ada.page.keyboard.press("e")
    ada.click(45, 40)
    [seed] = seeds_of(ada)
    expect_regions(ada, ids, {40: seed})
    changed = (ada.read("image") != before).any(-1)
    assert changed[30:51, 40:56].any()
    changed[30:51, 40:56] = False
    assert not changed.any()
    # Another click rolls again; the image can be clicked, too.
    frame = ada.page.locator("#image").bounding_box()
    ada.page.mouse.click(frame["x"] + 12.5 / SIZE * frame["width"], frame["y"] + 40.5 / SIZE * frame["height"])
    ada.click(50, 35)
    other, again = seeds_of(ada)
    expect_regions(ada, ids, {40: again, 6: other})
    # The seed of the image changes the rest alone.
    ada.page.locator("#seed").fill("7")
    expect_regions(ada, ids, {40: again, 6: other}, base=7)
    # Painting over the clicked pixel ends the region until it is undone.
    ada.choose("fill", label=SUN)
    ada.click(50, 35)
    assert seeds_of(ada) == [other]
    ada.page.keyboard.press("Control+z")
    expect_regions(ada, ids, {40: again, 6: other}, base=7)
    ada.page.reload()
    ada.page.locator("body[data-ready]").wait_for()
    expect_regions(ada, ids, {40: again, 6: other}, base=7)
    ada.page.get_by_role("button", name=f"Remove style {other} of this area: house").click()
    assert seeds_of(ada) == [again]
    expect_regions(ada, ids, {40: again}, base=7)


def test_regions_go_into_projects_and_not_into_other_drawings(visit: Visit, server: Any) -> None:
    ben = visit()
    ben.open(server.address)
    ids = houses(ben)
    ben.choose("restyle")
    ben.click(10, 40)
    [seed] = seeds_of(ben)
    project = ben.download("#save-project")
    assert json.loads(project.read_text())["style"]["regions"] == [{"x": 10, "y": 40, "id": HOUSE, "seed": seed}]
    ben.page.keyboard.press("Shift+Delete")
    ben.expect_ids(np.zeros_like(ids))
    assert seeds_of(ben) == []
    ben.page.keyboard.press("Control+z")
    expect_regions(ben, ids, {6: seed})
    assert seeds_of(ben) == [seed]
    ben.page.keyboard.press("Shift+Delete")
    ben.page.locator("#open-start").click()
    ben.upload("mine.json", project.read_bytes(), "application/json")
    expect_regions(ben, ids, {6: seed})


def test_keyboard_restyles_the_area_at_the_cursor(visit: Visit, server: Any) -> None:
    cam = visit()
    cam.open(server.address)
    ids = cam.blank(GRASS)
    cam.page.keyboard.press("e")
    cam.page.keyboard.press("d")
    cam.page.keyboard.press(" ")
    [seed] = seeds_of(cam)
    cam.expect_image(ids, seed)

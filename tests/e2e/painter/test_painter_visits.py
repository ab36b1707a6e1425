"""Repeated visits to the painter, keyboard, touch, and a server that stops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")

SIZE = 64
SKY, SUN, WATER, GRASS, HOUSE = 0, 2, 5, 7, 11
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}

Visit = Callable[..., Any]


# --- stored drawings --------------------------------------------------------------------------------------------------


def test_reload_keeps_the_drawing(visit: Visit, server: Any) -> None:
    ada = visit()
    ada.open(server.address)
    expected = ada.blank(WATER)
    ada.page.locator("#seed-number").fill("12")
    ada.choose("box", label=HOUSE)
    ada.drag((3, 4), (30, 20))
    expected[4:21, 3:31] = HOUSE
    ada.expect_image(expected, seed=12)
    ada.page.reload()
    ada.page.locator("body[data-ready]").wait_for()
    ada.expect_image(expected, seed=12)
    ada.expect_ids(expected)
    assert ada.page.locator("#tools :checked").get_attribute("value") == "box"
    ada.drag((40, 40), (50, 50))  # with the selected class
    expected[40:51, 40:51] = HOUSE
    ada.expect_image(expected, seed=12)
    ada.page.close()
    again = visit(ada)  # a new tab after the first was closed
    again.open(server.address)
    again.expect_image(expected, seed=12)


def test_tabs_keep_separate_drawings(visit: Visit, server: Any) -> None:
    first = visit()
    first.open(server.address)
    water = first.blank(WATER)
    second = visit(first)
    second.open(server.address)
    assert (second.ids() != WATER).any()  # its own drawing
    grass = second.blank(GRASS)
    with first.page.expect_popup() as waiting:  # a tab with a copy of the first one's session
        first.page.evaluate("window.open(location.href)")
    third = visit.join(waiting.value)  # type: ignore[attr-defined]
    third.page.locator("body[data-ready]").wait_for()
    third.expect_ids(water)
    house = third.blank(HOUSE)
    for visitor, ids in ((first, water), (second, grass), (third, house)):
        visitor.page.reload()
        visitor.page.locator("body[data-ready]").wait_for()
        visitor.expect_ids(ids)
        visitor.expect_image(ids)
    second.page.close()
    first.page.keyboard.press("o")
    tiles = first.page.locator("#drawings .stored .tile")
    api.expect(tiles).to_have_count(2)
    tiles.nth(1).click()  # the newest is the third tab's, this the second's
    first.expect_image(grass)
    first.expect_ids(grass)
    first.page.keyboard.press("o")
    first.page.get_by_role("button", name="New drawing").click()
    first.expect_ids(np.full((SIZE, SIZE), SKY))
    third.page.reload()
    third.page.locator("body[data-ready]").wait_for()
    third.expect_ids(house)


# --- input devices ----------------------------------------------------------------------------------------------------


def test_drawing_with_the_keyboard(visit: Visit, server: Any) -> None:
    bo = visit()
    bo.open(server.address)
    bo.page.locator("#compare:enabled").wait_for(state="attached")  # after the first image
    press = bo.page.keyboard.press

    def go_to(attribute: str, value: str) -> None:
        for _ in range(60):
            if bo.page.evaluate("(name) => document.activeElement[name]", attribute) == value:
                return
            press("Tab")
        raise AssertionError(f"Tab never comes to {value}")

    reached = set()
    for _ in range(40):
        press("Tab")
        reached.add(bo.page.evaluate("document.activeElement.id || document.activeElement.name"))
    wanted = {"clear", "open-start", "open-help", "tool", "size", "class", "canvas", "compare", "seed", "dice", "vary"}
    assert wanted <= reached, wanted - reached
    press("Shift+Delete")
    expected = np.full((SIZE, SIZE), SKY)
    go_to("name", "class")
    for _ in range(WATER):
        press("ArrowDown")
    press("r")
    press("d")  # focus the drawing; the cursor is in the center
    api.expect(bo.page.locator("#cross")).not_to_have_attribute("hidden", "")
    press("Space")
    for _ in range(10):
        press("ArrowRight")
    for _ in range(6):
        press("ArrowDown")
    press("Space")
    expected[32:39, 32:43] = WATER
    bo.expect_ids(expected)
    press("p")
    press(".")
    press(".")  # two classes further: grass
    for key, count in (("ArrowUp", 30), ("ArrowLeft", 20), ("ArrowDown", 12)):
        press("Space")
        for _ in range(count):
            press(key)
    press("Space")
    press("Enter")
    drawn = bo.ids()
    assert set(np.unique(drawn)) == {SKY, WATER, GRASS}
    assert (drawn[8, 22:43] == GRASS).all()
    assert (drawn[8:21, 22] == GRASS).all()
    assert drawn[20, 40] == GRASS  # inside; the first corner is where the box ended
    assert drawn[35, 25] == SKY  # outside the closing side
    bo.expect_image(drawn)
    press("Control+z")
    bo.expect_image(expected)
    press("?")
    api.expect(bo.page.locator("#help")).to_be_visible()
    go_to("id", "letter-shortcuts")
    press("Space")
    press("Escape")
    api.expect(bo.page.locator("#help")).to_be_hidden()
    press("b")  # no effect
    assert bo.page.locator("#tools :checked").get_attribute("value") == "polygon"
    press("Control+z")
    bo.expect_image(np.full((SIZE, SIZE), SKY))


def test_drawing_by_touch(visit: Visit, server: Any) -> None:
    cy = visit(**PHONE)
    cy.open(server.address)
    touch = cy.page.context.new_cdp_session(cy.page)

    def send(kind: str, *points: tuple[float, float]) -> None:
        places = [dict(zip("xy", cy.at(*point), strict=True)) | {"id": i} for i, point in enumerate(points)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    def tap(selector: str) -> None:
        """Tap until the choice is made; while the page scrolls, a touch does not count as a tap."""
        choice = cy.page.locator(selector).locator("input")
        for _ in range(10):
            cy.page.locator(selector).tap()
            cy.page.wait_for_timeout(200)
            if choice.is_checked():
                return

    cy.page.locator("#clear").tap()
    tap("#tools label:has([value=box])")
    tap(f"#class-list label[data-id='{HOUSE}']")
    assert cy.page.evaluate("scrollY") == 0  # choosing does not scroll the page
    for point in ((5, 5), (12, 20), (20, 33)):
        send("touchStart" if point == (5, 5) else "touchMove", point)
    send("touchEnd")
    expected = np.full((SIZE, SIZE), SKY)
    expected[5:34, 5:21] = HOUSE
    cy.expect_ids(expected)
    cy.expect_image(expected)
    tap("#tools label:has([value=fill])")
    tap(f"#class-list label[data-id='{SUN}']")
    expected[expected == SKY] = SUN
    for _ in range(10):
        cy.page.wait_for_timeout(200)
        send("touchStart", (50, 50))
        send("touchEnd")
        if np.array_equal(cy.ids(), expected):
            break
    cy.expect_ids(expected)
    send("touchStart", (30, 30))  # two fingers zoom without painting
    send("touchStart", (30, 30), (34, 34))
    send("touchMove", (20, 20), (50, 50))
    send("touchEnd")
    assert cy.page.evaluate("getComputedStyle(document.body).getPropertyValue('--zoom-scale')") > "1.5"
    cy.expect_ids(expected)
    cy.expect_image(expected)
    assert cy.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    small = cy.page.evaluate(
        "[...document.querySelectorAll('button, summary, label:has(input)')]"
        ".map((one) => [one.id || one.textContent, one.getBoundingClientRect()])"
        ".filter(([, box]) => box.width > 0 && (box.width < 40 || box.height < 40)).map(([name]) => name)"
    )
    assert small == []  # every control is large enough for touch


def test_page_recovers_when_the_server_returns(visit: Visit, serve: Callable[..., Any], model_folder: Any) -> None:
    server = serve("paint", model_folder, "--port", 0)
    dan = visit()
    dan.open(server.address)
    dan.expect_image(dan.blank(GRASS))
    assert server.stop() == 0
    dan.choose("fill", label=WATER)
    dan.click(5, 5)
    api.expect(dan.page.locator("#error-text")).to_contain_text("cannot be reached")
    dan.choose("fill", label=HOUSE)
    dan.click(5, 5)
    serve("paint", model_folder, "--port", urlsplit(server.address).port)
    dan.expect_image(np.full((SIZE, SIZE), HOUSE))
    api.expect(dan.page.locator("#error")).to_be_hidden()
    dan.browser_errors.clear()  # the browser logs failed connections

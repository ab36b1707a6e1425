"""A user study in a browser with mouse, keyboard and touch, and its report."""

from __future__ import annotations

import json
import random
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
from PIL import Image, ImageFilter
from torchvision.transforms.functional import to_pil_image

from lab2pix.data.label_maps import write_label_png
from lab2pix.data.scenes.dataset import draw_scene
from lab2pix.labels.space import LabelSpace
from tests.helpers.commands import Run

api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")

METHODS = ("method-sharp", "method-soft", "method-noisy")
SAMPLES = 5
DESKTOP = {"viewport": {"width": 1440, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}

Serve = Callable[..., Any]


def alter(image: Image.Image, method: str) -> Image.Image:
    """Return an image as a method might generate it."""
    if method == "method-soft":
        return image.filter(ImageFilter.GaussianBlur(2.5))
    if method == "method-noisy":
        return Image.blend(image, Image.effect_noise(image.size, 90).convert("RGB"), 0.35)
    return image.filter(ImageFilter.SHARPEN)


@pytest.fixture
def study(run: Run, tmp_path: Path) -> Path:
    """A study of three methods and five scenes."""
    space = LabelSpace.load("scenes")
    for kind in ("labels", "truth", *METHODS):
        (tmp_path / kind).mkdir()
    for index in range(SAMPLES):
        pixels, ids = draw_scene(3, index, (96, 128))
        image = to_pil_image(pixels)
        image.save(tmp_path / "truth" / f"scene-{index}.png")
        write_label_png(tmp_path / "labels" / f"scene-{index}.png", ids, space)
        for method in METHODS:
            alter(image, method).save(tmp_path / method / f"scene-{index}.png")
    assert torch.unique(ids).numel() > 2
    words = [f"{method}={tmp_path / method}" for method in METHODS]
    folders = ("--labels", tmp_path / "labels", "--truth", tmp_path / "truth", "--label-space", "scenes")
    code, _, errors = run("study", "make", *words, *folders, "--count", SAMPLES, "--out", tmp_path / "study")
    assert code == 0, errors
    return tmp_path / "study"


@dataclass
class Visitor:
    """A visitor of the page.

    Attributes:
        page: the browser's page.
        methods: the method of each image's token, from `study.json`.
        received: URLs, headers and JSON of the responses.
        browser_errors: errors that the browser reports, including violations of the security policy.
    """

    page: Any
    methods: dict[str, str]
    received: list[str] = field(default_factory=list)
    browser_errors: list[str] = field(default_factory=list)

    def open(self, address: str, name: str) -> None:
        self.page.goto(address)
        self.page.get_by_label("Your name").fill(name)
        self.page.keyboard.press("Enter")

    def expect_sample(self, number: int) -> None:
        api.expect(self.page.locator("#count")).to_have_text(f"Sample {number} of {SAMPLES}")
        api.expect(self.page.locator("#cards .image")).to_have_count(len(METHODS))

    def cards(self) -> dict[str, Any]:
        """Return the images to rank, by method."""
        found = {}
        for card in self.page.locator("#cards .image").all():
            found[self.method_of(card)] = card
        assert sorted(found) == sorted(METHODS)
        return found

    def method_of(self, element: Any) -> str:
        token = re.search(r"images/(\w+)\.png", element.locator("img").get_attribute("src"))
        assert token is not None
        return self.methods[token.group(1)]

    def slot(self, place: int) -> Any:
        return self.page.locator(f"#places [data-place='{place}']")

    def placed(self) -> list[str | None]:
        """Return the method at each place."""
        slots = [self.slot(place) for place in range(len(METHODS))]
        return [self.method_of(slot) if slot.locator("img").count() else None for slot in slots]

    def drag(self, element: Any, place: int) -> None:
        """Drag with the mouse."""
        element.scroll_into_view_if_needed()
        start, end = element.bounding_box(), self.slot(place).bounding_box()
        self.page.mouse.move(start["x"] + start["width"] / 2, start["y"] + start["height"] / 2)
        self.page.mouse.down()
        self.page.mouse.move(end["x"] + end["width"] / 2, end["y"] + end["height"] / 2, steps=4)
        self.page.mouse.up()

    def touch_drag(self, element: Any, place: int) -> None:
        """Drag by touch; an image outside the bar is picked up by a long press."""
        start, end = element.bounding_box(), self.slot(place).bounding_box()
        points = [(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) for box in (start, end)]
        touch = self.page.context.new_cdp_session(self.page)

        def send(kind: str, *point: float) -> None:
            at = [{"x": point[0], "y": point[1]}] if point else []
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

        send("touchStart", *points[0])
        if element.get_attribute("data-drag") == "long-press":
            api.expect(self.page.locator(".ghost")).to_have_count(1)
        send("touchMove", points[0][0], points[0][1] + 20)
        api.expect(self.page.locator(".ghost")).to_have_count(1)
        send("touchMove", *points[1])
        send("touchEnd")
        api.expect(self.page.locator(".ghost")).to_have_count(0)

    def press_ranks(self, ranking: list[str]) -> None:
        """Rank by keys, starting at the focused first image."""
        for number, method in enumerate(self.cards()):
            if number:
                self.page.keyboard.press("ArrowRight")
            self.page.keyboard.press(str(ranking.index(method) + 1))


@pytest.fixture
def visit(browser: Any, study: Path) -> Iterator[Callable[..., Visitor]]:
    """Opens a browser context; no visit may cause browser errors."""
    plan = json.loads((study / "study.json").read_text())
    methods = {token: method for sample in plan["pool"] for method, token in sample["images"].items()}
    visitors: list[Visitor] = []

    def call(**settings: Any) -> Visitor:
        page = browser.new_context(**(settings or DESKTOP)).new_page()
        page.set_default_timeout(10_000)
        visitor = Visitor(page, methods)
        page.on("console", lambda said: said.type == "error" and visitor.browser_errors.append(said.text))
        page.on("pageerror", lambda error: visitor.browser_errors.append(str(error)))
        page.on("response", lambda answer: keep(visitor, answer))
        visitors.append(visitor)
        return visitor

    def keep(visitor: Visitor, answer: Any) -> None:
        visitor.received.append(f"{answer.url} {answer.headers}")
        if "json" in answer.headers.get("content-type", ""):
            visitor.received.append(answer.text())

    yield call
    for visitor in visitors:
        assert visitor.browser_errors == []
        visitor.page.context.close()


def lines(study: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (study / "answers.jsonl").read_text().splitlines()]


def random_rankings(seed: int) -> list[list[str]]:
    rng = random.Random(seed)
    return [rng.sample(METHODS, len(METHODS)) for _ in range(SAMPLES)]


def test_two_participants_and_their_report(
    visit: Callable[..., Visitor], serve: Serve, run: Run, study: Path, tmp_path: Path
) -> None:
    server = serve("study", "serve", study, "--port", 0)
    wanted = {"Ada": random_rankings(1), "Bo": random_rankings(2)}
    rank_by_mouse(visit, server.address, study, wanted["Ada"])
    rank_by_keys(visit, serve, server, study, wanted["Bo"])

    kept = lines(study)
    assert len(kept) == 2 * SAMPLES
    for name, wished in wanted.items():
        assert [line["ranking"] for line in kept if line["participant"].title() == name] == wished

    code, output, errors = run("study", "report", study, "--out", tmp_path / "report")
    assert code == 0, errors
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    everything = wanted["Ada"] + wanted["Bo"]
    assert [row["name"] for row in report["methods"]] == list(METHODS)
    for row in report["methods"]:
        places = [ranking.index(row["name"]) for ranking in everything]  # 0 is the best
        mean = sum(3 - place for place in places) / 10
        top1, top2 = places.count(0) / 10, (places.count(0) + places.count(1)) / 10
        assert (row["mean"], row["top1"], row["top2"]) == pytest.approx((mean, top1, top2))
        assert row["interval"][0] <= mean <= row["interval"][1]
        shown = rf"^{row['name']} +{mean:.2f} ± .* +{100 * top1:.1f} +{100 * top2:.1f}$"
        assert re.search(shown, output, re.MULTILINE), output
    assert "10 rankings by 2 participants" in output
    assert "Friedman test over 10 rankings" in output


def rank_by_mouse(visit: Callable[..., Visitor], address: str, study: Path, wished: list[list[str]]) -> None:
    """Rank as Ada: a reload during the second sample, double clicks, and the last two later in a narrow window."""
    ada = visit()
    ada.open(address, "Ada")
    for number, ranking in enumerate(wished[:3], start=1):
        ada.expect_sample(number)
        api.expect(ada.page.locator("#next")).to_have_attribute("aria-disabled", "true")
        if number == 2:
            ada.drag(ada.cards()[ranking[1]], 1)
            ada.page.reload()
            ada.expect_sample(2)
            assert ada.placed() == [None, ranking[1], None]
        for place, method in enumerate(ranking):
            ada.drag(ada.cards()[method], place)
        assert ada.placed() == ranking
        if number == 3:  # drag within the bar: the last to the front and back
            ada.drag(ada.slot(2), 0)
            assert ada.placed() == [ranking[2], ranking[0], ranking[1]]
            ada.drag(ada.slot(0), 2)
            assert ada.placed() == ranking
        ada.page.locator("#next").dblclick()
        ada.expect_sample(number + 1)
        api.expect(ada.page.locator("#message")).to_have_text("")
        assert len(lines(study)) == number
    for number in (3, 2):
        ada.page.locator("#previous").click()
        ada.expect_sample(number)
        assert ada.placed() == wished[number - 1]
    ada.page.locator("#next").dblclick()  # nothing is sent, so the second click reaches the next sample
    ada.expect_sample(3)
    assert len(lines(study)) == 3
    again = visit(viewport=PHONE["viewport"])
    again.open(address, "  ada ")
    api.expect(again.page.locator("#known")).to_have_text("ada has already ranked 3 of 5 samples. Is that you?")
    again.page.get_by_role("button", name="Continue").click()
    for number, ranking in enumerate(wished[3:], start=4):
        again.expect_sample(number)
        for place, method in enumerate(ranking):
            again.drag(again.cards()[method], place)
        again.page.locator("#next").click()
    api.expect(again.page.get_by_role("heading", name="Thank you")).to_be_visible()
    for received in ada.received + again.received:
        assert not re.search(r"sharp|soft|noisy|scene-", received), received


def rank_by_keys(
    visit: Callable[..., Visitor], serve: Serve, server: Any, study: Path, wished: list[list[str]]
) -> None:
    """Rank as Bo, by keys alone; the server is killed before the third answer and started again."""
    bo = visit()
    bo.open(server.address, "Bo")
    for number, ranking in enumerate(wished, start=1):
        bo.expect_sample(number)
        api.expect(bo.page.locator("#cards .image").first).to_be_focused()
        bo.page.keyboard.press("n")
        api.expect(bo.page.locator("#message")).to_have_text("Give every image a place first.")
        bo.press_ranks(ranking)
        assert bo.placed() == ranking
        if number == 2:  # move and undo, remove and undo
            before = bo.placed()
            bo.page.keyboard.press("ArrowUp" if before.index(list(bo.cards())[2]) else "ArrowDown")
            assert bo.placed() != before
            bo.page.keyboard.press("Control+z")
            assert bo.placed() == before
            bo.page.keyboard.press("Delete")
            assert None in bo.placed()
            bo.page.keyboard.press("Control+z")
            assert bo.placed() == before
        if number == 3:
            server.stop(signal.SIGKILL)
            bo.page.keyboard.press("n")
            api.expect(bo.page.locator("#message")).to_contain_text("The study cannot be reached")
            serve("study", "serve", study, "--port", urlsplit(server.address).port)
            bo.browser_errors.clear()  # the browser logs failed connections
        bo.page.keyboard.press("n")
    api.expect(bo.page.get_by_role("heading", name="Thank you, Bo")).to_be_visible()


def test_study_by_touch(visit: Callable[..., Visitor], serve: Serve, study: Path) -> None:
    server = serve("study", "serve", study, "--port", 0)
    eve = visit(**PHONE)
    eve.open(server.address, "Eve")
    eve.expect_sample(1)
    first, second = random_rankings(3)[:2]
    for method in first:
        eve.cards()[method].tap()
    assert eve.placed() == first
    eve.slot(1).tap()  # removes it
    assert eve.placed() == [first[0], None, first[2]]
    eve.touch_drag(eve.slot(2), 1)
    assert eve.placed() == [first[0], first[2], None]
    eve.touch_drag(eve.cards()[first[1]], 1)
    assert eve.placed() == first
    assert no_wider_than_the_screen(eve.page)
    eve.page.locator("#next").tap()
    eve.expect_sample(2)
    for method in second:
        eve.cards()[method].tap()
    eve.page.locator("#next").tap()
    eve.expect_sample(3)
    assert [line["ranking"] for line in lines(study)] == [first, second]
    eve.page.get_by_role("button", name="Back").tap()
    eve.expect_sample(2)
    assert eve.placed() == second
    eve.touch_drag(eve.slot(2), 0)
    eve.page.locator("#next").tap()
    eve.expect_sample(3)
    assert lines(study)[2]["ranking"] == [second[2], second[0], second[1]]


def no_wider_than_the_screen(page: Any) -> bool:
    """Tell whether the page fits the screen's width, and every button is large enough for touch."""
    small = page.evaluate(
        "[...document.querySelectorAll('button')].map((one) => one.getBoundingClientRect())"
        ".filter((box) => box.width > 0 && (box.width < 24 || box.height < 24)).length"
    )
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth")) and small == 0


def test_images_are_ranked_while_enlarged(visit: Callable[..., Visitor], serve: Serve, study: Path) -> None:
    server = serve("study", "serve", study, "--port", 0)
    cy = visit()
    cy.open(server.address, "Cy")
    cy.expect_sample(1)
    methods = list(cy.cards())
    dialog = cy.page.locator("#large")
    cy.page.keyboard.press("z")
    for number, method in enumerate(methods):
        api.expect(dialog.locator("#large-name")).to_have_text(f"Image {'ABC'[number]}")
        assert cy.method_of(dialog) == method
        cy.page.keyboard.press("321"[number])
        cy.page.keyboard.press("ArrowRight")
    api.expect(dialog.locator("#large-name")).to_have_text("Label map")
    cy.page.keyboard.press("ArrowRight")
    api.expect(dialog.locator("#large-name")).to_have_text("Real image")
    cy.page.keyboard.press("Escape")
    api.expect(dialog).to_be_hidden()
    assert cy.placed() == methods[::-1]
    cy.page.get_by_role("button", name="Label map, press to enlarge").click()
    api.expect(dialog.locator("#large-name")).to_have_text("Label map")


def test_legend_lists_classes_if_there_are_any(visit: Callable[..., Visitor], serve: Serve, study: Path) -> None:
    server = serve("study", "serve", study, "--port", 0)
    gil = visit()
    gil.open(server.address, "Gil")
    gil.expect_sample(1)
    legend = gil.page.locator("#legend")
    api.expect(legend).to_be_visible()
    assert "sky" in legend.locator("li").all_inner_texts()
    gil.page.wait_for_load_state("networkidle")  # the next sample's images are preloaded
    server.stop()
    plan = json.loads((study / "study.json").read_text())
    plan |= {"label_space": None, "classes": [], "pool": [{**sample, "classes": []} for sample in plan["pool"]]}
    (study / "study.json").write_text(json.dumps(plan))
    serve("study", "serve", study, "--port", urlsplit(server.address).port)
    gil.browser_errors.clear()  # requests that failed when the server stopped
    gil.page.reload()
    gil.expect_sample(1)
    api.expect(legend).to_be_hidden()
    api.expect(legend.locator("li")).to_have_count(0)


def test_page_asks_again_for_answers_the_server_lost(visit: Callable[..., Visitor], serve: Serve, study: Path) -> None:
    server = serve("study", "serve", study, "--port", 0)
    fay = visit()
    fay.open(server.address, "Fay")
    for number, ranking in enumerate(random_rankings(4), start=1):
        fay.expect_sample(number)
        fay.press_ranks(ranking)
        fay.page.keyboard.press("n")
    api.expect(fay.page.get_by_role("heading", name="Thank you, Fay")).to_be_visible()
    fay.page.reload()
    api.expect(fay.page.locator("#ended")).to_contain_text("All 5 samples are ranked")
    server.stop()
    kept = (study / "answers.jsonl").read_bytes().splitlines(keepends=True)
    (study / "answers.jsonl").write_bytes(b"".join(kept[:3]))
    serve("study", "serve", study, "--port", urlsplit(server.address).port)
    fay.page.reload()
    fay.expect_sample(4)


def test_invalid_name_is_refused_and_markup_is_escaped(
    visit: Callable[..., Visitor], serve: Serve, study: Path
) -> None:
    server = serve("study", "serve", study, "--port", 0)
    dan = visit()
    dan.open(server.address, " ")
    api.expect(dan.page.locator("#refused")).to_have_text("The name needs a letter or a digit.")
    dan.browser_errors.clear()  # the browser logs the status
    dan.page.get_by_label("Your name").fill("<b>Dan</b>")
    dan.page.get_by_role("button", name="Start").click()
    dan.expect_sample(1)
    api.expect(dan.page.locator("#who")).to_have_text("<b>Dan</b>")
    dan.page.get_by_role("button", name="Not you?").click()
    dan.page.reload()
    api.expect(dan.page.get_by_label("Your name")).to_be_visible()
    assert lines(study) == []

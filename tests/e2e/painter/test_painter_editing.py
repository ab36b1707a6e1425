"""Correction of a dataset's label maps in the painter's page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab2pix.data.label_maps import read_label
from tests.helpers.label_sets import SPACE, write_label_set

api = pytest.importorskip("playwright.sync_api", reason="the extra 'dev' is not installed")

WATER = 5

Visit = Callable[..., Any]


def test_pairs_are_corrected_one_after_the_other(visit: Visit, serve: Callable[..., Any], tmp_path: Path) -> None:
    root = write_label_set(tmp_path / "set", (64, 64))
    server = serve("paint", "--edit", root, "--port", 0)
    ada = visit()
    ada.open(server.address)
    page = ada.page
    api.expect(page.locator("#pair-name")).to_have_text("1 of 3: train/sub/b")
    assert "3 label maps" in server.output()
    first = read_label(root / "labels/train/sub/b.png", SPACE).numpy()
    ada.expect_ids(first)
    ada.expect_pixels(np.where(first[..., None] == 0, 200, 100).repeat(3, -1).astype(np.uint8))  # the photo
    assert page.locator("#stage").evaluate("(stage) => stage.style.getPropertyValue('--traced')") == "0.5"
    for hidden in ("#style", "#open-start", "#save-menu", "#tools label:has([value=restyle])"):
        api.expect(page.locator(hidden)).to_be_hidden()
    ada.choose("box", label=WATER)
    ada.drag((10, 40), (29, 49))
    expected = first.copy()
    expected[40:50, 10:30] = WATER
    ada.expect_ids(expected)
    api.expect(page.locator("#save-status")).to_have_text("Changes are not saved")
    page.keyboard.press("Control+s")
    api.expect(page.locator("#save-status")).to_have_text("Corrected")
    assert np.array_equal(read_label(root / "labels/train/sub/b.png", SPACE).numpy(), expected)
    assert np.array_equal(read_label(root / "first_labels/train/sub/b.png", SPACE).numpy(), first)
    # The next pair opens with the same tool, and leaving it saves it.
    page.keyboard.press("PageDown")
    api.expect(page.locator("#pair-name")).to_have_text("2 of 3: val/c")
    page.locator("body[data-ready]").wait_for()
    ada.expect_ids(first)
    ada.drag((0, 0), (63, 5))
    page.locator("#pair-back").click()
    api.expect(page.locator("#pair-name")).to_have_text("1 of 3: train/sub/b")
    page.locator("body[data-ready]").wait_for()
    ada.expect_ids(expected)
    assert (read_label(root / "labels/val/c.png", SPACE)[:6] == WATER).all()

"""Style pictures in the painter's page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lab2pix.inference import Synthesizer
from tests.helpers.generators import tiny_synthesizer
from tests.helpers.painter import encode

api = pytest.importorskip("playwright.sync_api", reason="the extra 'dev' is not installed")

Visit = Callable[..., Any]


@pytest.fixture(scope="module")
def model() -> Synthesizer:
    """A tiny model with an image encoder."""
    return tiny_synthesizer(method="spade")


def picture() -> np.ndarray:
    """Return a picture of the model's size, which is not resized."""
    return np.random.default_rng(0).integers(0, 100, (64, 64, 3)).astype(np.uint8)


def drawn(model: Synthesizer, ids: np.ndarray, seed: int = 1, **style: Any) -> np.ndarray:
    return model(ids, seed=seed, **style).tensor[0].permute(1, 2, 0).numpy()


def test_picture_gives_the_style_until_it_is_removed(visit: Visit, server: Any) -> None:
    eve = visit()
    eve.open(server.address)
    ids = eve.ids()
    eve.expect_pixels(drawn(eve.model, ids))
    eve.page.locator("#style-file").set_input_files(
        {"name": "sunset.png", "mimeType": "image/png", "buffer": encode(picture())}
    )
    api.expect(eve.page.locator("#style-shown")).to_be_visible()
    eve.expect_pixels(drawn(eve.model, ids, style=picture()))
    assert eve.off("image", drawn(eve.model, ids)) > 5
    eve.page.locator("#seed").fill("7")
    eve.expect_pixels(drawn(eve.model, ids, 7, style=picture()))
    # A reload keeps the picture, and so does a server that no longer has it.
    eve.page.reload()
    eve.page.locator("body[data-ready]").wait_for()
    eve.expect_pixels(drawn(eve.model, ids, 7, style=picture()))
    for number in range(1, 34):
        other = encode(np.full((8, 8, 3), number, np.uint8))
        eve.page.request.post(f"{server.address}api/styles", data=other, headers={"content-type": "image/png"})
    eve.page.locator("#seed").fill("8")
    eve.expect_pixels(drawn(eve.model, ids, 8, style=picture()))
    eve.page.locator("#style-remove").click()
    eve.expect_pixels(drawn(eve.model, ids, 8))
    api.expect(eve.page.locator("#style-shown")).to_be_hidden()
    eve.browser_errors[:] = [text for text in eve.browser_errors if "404" not in text]  # the picture was sent again


def test_models_without_an_encoder_show_no_slot(visit: Visit, serve: Callable[..., Any], tmp_path: Any) -> None:
    plain = serve("paint", tiny_synthesizer().save(tmp_path / "plain"), "--port", 0)
    fay = visit()
    fay.open(plain.address)
    api.expect(fay.page.locator("#style-image")).to_be_hidden()
    api.expect(fay.page.locator("#seed")).to_be_visible()

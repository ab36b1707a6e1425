"""Style images in the painter's API."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from lab2pix.data.transforms import resize_image
from lab2pix.inference import Synthesizer
from lab2pix.web.painter.service import MAX_STYLES
from tests.helpers.painter import PNG, encode, label_png
from tests.helpers.style import SIZE, plain_synthesizer, style_synthesizer

OpenClient = Callable[..., TestClient]


@pytest.fixture(scope="module")
def styled() -> Synthesizer:
    return style_synthesizer()


@pytest.fixture(scope="module")
def client(open_client: OpenClient, styled: Synthesizer) -> TestClient:
    return open_client(styled)


def photo(seed: int = 0, size: tuple[int, int] = (48, 40)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 128, (*size, 3)).astype(np.uint8)


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(content)))


def test_image_takes_the_style_of_an_image_sent_before(client: TestClient, styled: Synthesizer) -> None:
    assert client.get("/api/model").json()["style"] == "optional"
    sent = client.post("/api/styles", content=encode(photo()), headers=PNG)
    token = sent.headers["x-lab2pix-style"]
    resized = resize_image(torch.from_numpy(photo()).movedim(-1, 0), SIZE)
    assert np.array_equal(pixels(sent.content), resized.movedim(0, -1).numpy())
    drawn = client.post(f"/api/synthesize?seed=2&style={token}", content=label_png(), headers=PNG)
    ids = torch.full(SIZE, 3)
    assert np.array_equal(pixels(drawn.content), styled(ids, seed=2, style=photo()).tensor[0].movedim(0, -1).numpy())
    free = client.post("/api/synthesize?seed=2", content=label_png(), headers=PNG)
    assert free.content != drawn.content
    # The image at the model's size has the same token, so that it can be sent again.
    again = client.post("/api/styles", content=sent.content, headers=PNG)
    assert again.headers["x-lab2pix-style"] == token


def test_only_the_latest_style_images_are_kept(client: TestClient) -> None:
    tokens = [
        client.post("/api/styles", content=encode(photo(seed, SIZE)), headers=PNG).headers["x-lab2pix-style"]
        for seed in range(1, MAX_STYLES + 2)
    ]
    gone, kept = (
        client.post(f"/api/synthesize?style={token}", content=label_png(), headers=PNG) for token in tokens[:2]
    )
    assert (gone.status_code, kept.status_code) == (404, 200)
    assert "send it again" in gone.json()["error"]


def test_style_image_is_refused_or_asked_for_by_the_model(open_client: OpenClient) -> None:
    plain = open_client(plain_synthesizer())
    assert plain.get("/api/model").json()["style"] == "none"
    refused = plain.post("/api/styles", content=encode(photo()), headers=PNG)
    assert (refused.status_code, "takes no style image" in refused.json()["error"]) == (400, True)
    needy = open_client(style_synthesizer(needed=True))
    missing = needy.post("/api/synthesize", content=label_png(), headers=PNG)
    assert (missing.status_code, "needs a style image" in missing.json()["error"]) == (400, True)


def test_damaged_style_image_is_refused(client: TestClient) -> None:
    assert client.post("/api/styles", content=encode(photo())[:80], headers=PNG).status_code == 422
    assert client.post("/api/synthesize?style=XYZ", content=label_png(), headers=PNG).status_code == 400

"""Regions with seeds of their own in the painter's API."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from lab2pix.inference import Synthesizer
from tests.helpers.generators import tiny_synthesizer
from tests.helpers.painter import PNG, encode

SIDE = 64
SKY, TREE = 0, 8


@pytest.fixture(scope="module")
def model() -> Synthesizer:
    return tiny_synthesizer()


@pytest.fixture(scope="module")
def client(open_client: Callable[..., TestClient], model: Synthesizer) -> TestClient:
    return open_client(model)


def trees() -> np.ndarray:
    """Return a label map of two trees in the sky."""
    ids = np.full((SIDE, SIDE), SKY, np.uint8)
    ids[40:60, 4:20] = ids[30:50, 40:60] = TREE
    return ids


def draw(client: TestClient, query: str) -> np.ndarray:
    answer = client.post(f"/api/synthesize?input_format=ids&{query}", content=encode(trees()), headers=PNG)
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(BytesIO(answer.content)))


def test_one_tree_takes_another_seed(client: TestClient, model: Synthesizer) -> None:
    base, mixed = draw(client, "seed=1"), draw(client, "seed=1&regions=41,31,3")
    seeds = np.ones((SIDE, SIDE), np.int64)
    seeds[30:50, 40:60] = 3
    expected = model(trees().astype(np.int64), seed=seeds).tensor[0].movedim(0, -1).numpy()
    assert np.array_equal(mixed, expected)
    assert np.array_equal(mixed[seeds == 1], base[seeds == 1])
    assert not np.array_equal(mixed, base)
    # The last seed of an area counts; areas may share a seed.
    assert np.array_equal(draw(client, "seed=1&regions=50,40,9;41,31,3"), mixed)
    both = draw(client, "seed=1&regions=41,31,3;5,41,3")
    assert np.array_equal(both[trees() == TREE], draw(client, "seed=3")[trees() == TREE])


def test_regions_hold_at_twice_the_size(client: TestClient) -> None:
    base, other = (draw(client, f"scale=2&seed={seed}") for seed in (1, 3))
    mixed = draw(client, "scale=2&seed=1&regions=41,31,3")
    inside = np.zeros((2 * SIDE, 2 * SIDE), bool)
    inside[60:100, 80:120] = True
    assert np.array_equal(mixed, np.where(inside[..., None], other, base))


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ("64,0,3", "no column 64, row 0 in 64x64"),
        ("1,2", "cannot be '1,2'"),
        (";".join(["1,2,3"] * 65), "cannot be"),
    ],
)
def test_wrong_regions_are_refused(client: TestClient, regions: str, message: str) -> None:
    answer = client.post(f"/api/synthesize?regions={regions}", content=encode(trees()), headers=PNG)
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_models_without_noise_have_no_regions(open_client: Callable[..., TestClient]) -> None:
    answer = open_client(tiny_synthesizer(method="spade", input="label")).post(
        "/api/synthesize?regions=1,2,3", content=encode(trees()), headers=PNG
    )
    assert answer.status_code == 400
    assert "takes no noise" in answer.json()["error"]

"""Correction of a dataset's label maps: files, and the page's API."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from lab2pix.data.check import check_dataset
from lab2pix.data.label_maps import read_label
from lab2pix.errors import ConfigError, DataError
from lab2pix.web.painter.editing import create_editor_app
from lab2pix.web.painter.label_set import LabelSet
from lab2pix.web.security import HostChecker
from tests.helpers.label_sets import GRASS, SKY, SPACE, write_label_set
from tests.helpers.painter import PNG, encode

WATER = 5


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_label_set(tmp_path / "set")


@pytest.fixture
def client(root: Path) -> Iterator[TestClient]:
    app = create_editor_app(LabelSet(root), HostChecker("127.0.0.1"))
    with TestClient(app, base_url="http://127.0.0.1:8000") as opened:
        yield opened


def test_a_correction_is_saved_and_the_first_label_map_kept(client: TestClient, root: Path) -> None:
    first = {file: file.read_bytes() for file in (root / "labels").rglob("*.png")}
    model = client.get("/api/model").json()
    assert [pair["name"] for pair in model["pairs"]] == ["train/sub/b", "val/c", "train/a"]  # the least sure first
    assert [one["name"] for one in model["classes"]] == list(SPACE.names)
    token = model["pairs"][0]["token"]
    assert client.get(f"/api/pairs/{token}.jpg").headers["content-type"] == "image/jpeg"
    ids = np.array(Image.open(BytesIO(client.get(f"/api/pairs/{token}.png").content)))
    assert (ids[0, 0], ids[-1, 0], ids.shape) == (SKY, GRASS, (48, 64))
    assert client.post(f"/api/pairs/{token}", content=encode(ids), headers=PNG).json() == {"changed": False}
    assert not (root / "first_labels").exists()
    file = root / "labels/train/sub/b.png"
    original = first.pop(file)
    for fill in (WATER, SKY):
        ids[40:, :10] = fill
        assert client.post(f"/api/pairs/{token}", content=encode(ids), headers=PNG).json() == {"changed": True}
        assert read_label(file, SPACE).tolist() == ids.tolist()
        assert (root / "first_labels/train/sub/b.png").read_bytes() == original
    assert {file: file.read_bytes() for file in first} == first
    corrected = {pair["name"]: pair["corrected"] for pair in client.get("/api/model").json()["pairs"]}
    assert corrected == {"train/sub/b": True, "val/c": False, "train/a": False}
    assert check_dataset(root, "folder", SPACE).ok


def test_large_label_maps_change_where_they_were_painted_alone(tmp_path: Path) -> None:
    labels = LabelSet(write_label_set(tmp_path, (1500, 2048)))
    token, pair = next(iter(labels.pairs.items()))
    before = read_label(pair.label, SPACE)
    before[::2, ::2] = WATER  # finer than the page shows
    Image.fromarray(before.to(torch.uint8).numpy()).save(pair.label)
    painted = labels.label(token)
    assert painted.shape == (750, 1024)
    painted[100:200, 300:400] = GRASS
    labels.save(token, painted)
    after = read_label(pair.label, SPACE)
    assert (after[200:400, 600:800] == GRASS).all()
    after[200:400, 600:800] = before[200:400, 600:800]
    assert torch.equal(after, before)


def test_label_maps_of_other_types_become_png(root: Path) -> None:
    file = root / "labels/val/c.png"
    Image.fromarray(read_label(file, SPACE).to(torch.uint8).numpy()).save(file.with_suffix(".bmp"))
    file.unlink()
    first = file.with_suffix(".bmp").read_bytes()
    for _ in range(2):  # and are found again by another start
        labels = LabelSet(root)
        token = next(token for token, pair in labels.pairs.items() if pair.name == "val/c")
        painted = labels.label(token)
        painted[0, 0] = WATER if painted[0, 0] == SKY else SKY
        assert labels.save(token, painted)
        assert labels.is_corrected(token)
        assert read_label(file, SPACE)[0, 0] == painted[0, 0]
        assert [one.name for one in (root / "first_labels/val").iterdir()] == ["c.bmp"]
        assert (root / "first_labels/val/c.bmp").read_bytes() == first
        assert not file.with_suffix(".bmp").exists()


def test_wrong_requests_are_refused(client: TestClient, root: Path) -> None:
    token = client.get("/api/model").json()["pairs"][0]["token"]
    for path, body, status, message in (
        (token, encode(np.zeros((4, 4), np.uint8)), 400, "is (48, 64) pixels"),
        (token, encode(np.full((48, 64), 14, np.uint8)), 400, "holds id 14"),
        (token, b"no image", 415, "is not a PNG image"),
        ("0" * 16, encode(np.zeros((48, 64), np.uint8)), 404, "no such pair"),
    ):
        answer = client.post(f"/api/pairs/{path}", content=body, headers=PNG)
        assert (answer.status_code, message in answer.json()["error"]) == (status, True)
    assert not (root / "first_labels").exists()
    cross = client.post(f"/api/pairs/{token}", content=b"", headers={**PNG, "sec-fetch-site": "cross-site"})
    assert cross.status_code == 403


def test_folders_that_cannot_be_edited_are_refused(root: Path, tmp_path: Path) -> None:
    (root / "classes.yaml").unlink()
    with pytest.raises(DataError, match="no folder"):
        LabelSet(tmp_path / "none")
    with pytest.raises(ConfigError, match="--label-space"):
        LabelSet(root)
    assert LabelSet(root, "scenes").label_space.names == SPACE.names
    (tmp_path / "other" / "sources").mkdir(parents=True)
    with pytest.raises(DataError, match="generate from"):
        LabelSet(tmp_path / "other", "scenes")

"""The painter's API: ids that reach the model, and images and label maps that are returned."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient
from torch import Tensor

from lab2pix.batch import Batch
from lab2pix.data.label_maps import write_label_png
from lab2pix.data.scenes.dataset import draw_scene
from lab2pix.data.sketches import find_edges
from lab2pix.data.transforms import resize_image, resize_nearest
from lab2pix.inference import Synthesizer, generate_folder
from lab2pix.labels.space import LabelSpace
from tests.helpers.generators import tiny_synthesizer
from tests.helpers.painter import JPEG, PNG, encode, static_files


@pytest.fixture
def received(synthesizer: Synthesizer, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """Label maps and noise that the model received."""
    found: list[tuple[Tensor, Tensor]] = []
    draw = Synthesizer.generate

    def spy(self: Synthesizer, batch: Batch, noise: Tensor) -> Tensor:
        found.append((batch.label[0], noise[0]))
        return draw(self, batch, noise)

    monkeypatch.setattr(Synthesizer, "generate", spy)
    return found


OpenClient = Callable[..., TestClient]


def squares(seed: int = 0, size: tuple[int, int] = (64, 64), count: int = 14) -> np.ndarray:
    """Return a label map of sixteen squares."""
    coarse = np.random.default_rng(seed).integers(0, count, (4, 4), dtype=np.uint8)
    return coarse.repeat(size[0] // 4, 0).repeat(size[1] // 4, 1)


def palette_png(ids: np.ndarray, space: LabelSpace) -> bytes:
    out = BytesIO()
    write_label_png(out, torch.from_numpy(ids).long(), space)
    return out.getvalue()


def colored(ids: np.ndarray, space: LabelSpace) -> np.ndarray:
    return space.to_colors(torch.from_numpy(ids).long()).permute(1, 2, 0).numpy()


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(content)))


# --- page and model -------------------------------------------------------------------------------------------------


def test_page_includes_all_static_files(client: TestClient) -> None:
    packages = ("lab2pix.web", "lab2pix.web.painter")
    packaged = {file.name for name in packages for file in (resources.files(name) / "static").iterdir()}
    assert packaged == static_files(client) | {"index.html"}


def test_model_description(client: TestClient) -> None:
    model = client.get("/api/model").json()
    classes = model.pop("classes")
    assert model == {
        "name": "tiny",
        "step": 7,
        "following": False,
        "label_space": "scenes",
        "size": [64, 64],
        "unknown": None,
        "sketch": False,
        "noise": True,
        "style": "none",
        "photo": False,
        "random": True,
        "mode": "plain",
        "limits": {"bytes": 8388608, "pixels": 16000000, "samples": 16},
        "queue": {"waiting": 0, "capacity": 8},
    }
    assert [item["id"] for item in classes] == list(range(14))
    assert classes[11] == {"id": 11, "name": "house", "title": "house", "color": [195, 65, 45], "foreground": True}


@pytest.mark.slow
def test_unknown_is_the_last_class(open_client: OpenClient) -> None:
    model = open_client(tiny_synthesizer("ade20k")).get("/api/model").json()
    assert model["unknown"] == 150
    unknown = {"id": 150, "name": "unknown", "title": "unknown", "color": [0, 0, 0], "foreground": True}
    assert model["classes"][-1] == unknown


def test_description_of_a_sketch_model_without_noise(open_client: OpenClient) -> None:
    model = open_client(tiny_synthesizer("sketch", input="label")).get("/api/model").json()
    assert (model["sketch"], model["noise"], len(model["classes"])) == (True, False, 2)


# --- images -------------------------------------------------------------------------------------------------------


def encodings(ids: np.ndarray, space: LabelSpace) -> dict[str, tuple[str, bytes]]:
    """Return a label map in every accepted encoding, with the query for it."""
    rgb = colored(ids, space)
    alpha = np.full((*ids.shape, 1), 255, np.uint8)
    resorted = Image.fromarray(rgb).convert("P", palette=Image.Palette.ADAPTIVE, colors=14)
    gray = np.repeat(ids[..., None], 3, 2)
    return {
        "gray": ("", encode(ids)),
        "palette": ("", palette_png(ids, space)),
        "palette in another order": ("", encode(resorted)),
        "colors": ("", encode(rgb)),
        "colors with alpha": ("", encode(np.concatenate([rgb, alpha], 2))),
        "16 bits": ("", encode(ids.astype(np.uint16))),
        "ids": ("&input_format=ids", encode(ids)),
        "ids from a browser canvas": ("&input_format=ids", encode(np.concatenate([gray, alpha], 2))),
    }


def test_model_gets_same_ids_from_every_encoding(
    client: TestClient, synthesizer: Synthesizer, received: list[tuple[Tensor, Tensor]]
) -> None:
    ids = squares(3)
    images = set()
    for name, (query, body) in encodings(ids, synthesizer.label_space).items():
        response = client.post(f"/api/synthesize?seed=5{query}", content=body, headers=PNG)
        assert response.status_code == 200, (name, response.text)
        assert response.headers["content-type"] == "image/png"
        assert received[-1][0].tolist() == ids.tolist(), name
        images.add(response.content)
    assert len(images) == 1
    other = client.post("/api/synthesize?seed=5", content=encode(squares(4)), headers=PNG)
    assert other.content not in images


@pytest.mark.slow
def test_file_ids_with_an_offset(
    open_client: OpenClient,
    received: list[tuple[Tensor, Tensor]],
) -> None:
    client = open_client(tiny_synthesizer("ade20k"))
    ids = squares(1, count=151)
    ids[0, 0] = 150
    values = np.where(ids == 150, 0, ids + 1).astype(np.uint8)
    for query, body in (("", encode(values)), ("&input_format=ids", encode(ids))):
        assert client.post(f"/api/synthesize?seed=1{query}", content=body, headers=PNG).status_code == 200
        assert received[-1][0].tolist() == ids.tolist()
    sent = client.post("/api/labels?input_format=ids", content=encode(ids), headers=PNG).content
    assert pixels(sent).tolist() == values.tolist()
    assert client.post("/api/synthesize", content=sent, headers=PNG).status_code == 200
    assert received[-1][0].tolist() == ids.tolist()


@pytest.mark.parametrize("size", [(16, 16), (32, 96), (128, 64), (192, 256), (1, 1)])
def test_label_map_is_resized_by_nearest_neighbor(
    client: TestClient, received: list[tuple[Tensor, Tensor]], size: tuple[int, int]
) -> None:
    ids = np.random.default_rng(1).integers(0, 14, size, dtype=np.uint8)
    response = client.post("/api/synthesize?seed=1", content=encode(ids), headers=PNG)
    assert pixels(response.content).shape == (64, 64, 3)
    assert received[-1][0].tolist() == resize_nearest(torch.from_numpy(ids).long(), (64, 64)).tolist()


def test_image_has_the_bytes_of_lab2pix_generate(client: TestClient, synthesizer: Synthesizer, tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    body = palette_png(squares(2), synthesizer.label_space)
    (tmp_path / "labels" / "a.png").write_bytes(body)
    generate_folder(synthesizer, tmp_path / "labels", tmp_path / "out", seed=41)
    response = client.post("/api/synthesize?seed=41", content=body, headers=PNG)
    assert response.content == (tmp_path / "out" / "a.png").read_bytes()
    assert response.headers["x-lab2pix-seed"] == "41"
    assert 0 <= int(response.headers["x-lab2pix-milliseconds"]) < 60000
    assert client.post("/api/synthesize?seed=41", content=body, headers=PNG).content == response.content
    assert client.post("/api/synthesize?seed=42", content=body, headers=PNG).content != response.content


def test_samples_have_consecutive_seeds(client: TestClient) -> None:
    body = encode(squares())
    response = client.post("/api/synthesize?seed=7&samples=3", content=body, headers=PNG)
    assert response.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(BytesIO(response.content)) as archive:
        assert archive.namelist() == ["seed-7.png", "seed-8.png", "seed-9.png"]
        for seed in (7, 8, 9):
            alone = client.post(f"/api/synthesize?seed={seed}", content=body, headers=PNG)
            assert archive.read(f"seed-{seed}.png") == alone.content


def test_mix_interpolates_noise_on_the_sphere(
    client: TestClient, synthesizer: Synthesizer, received: list[tuple[Tensor, Tensor]]
) -> None:
    path = synthesizer.interpolate_noise(3, 8, 5)
    for place, mix in enumerate(("0", "0.25", "5e-1", "0.75", "1.0")):
        response = client.post(f"/api/synthesize?seed=3&seed_b=8&mix={mix}", content=encode(squares()), headers=PNG)
        assert response.status_code == 200
        assert torch.allclose(received[-1][1], path[place], atol=1e-6)
    assert torch.equal(received[-1][1], synthesizer.noise(8))


def test_gray_of_four_bits_holds_ids(client: TestClient, received: list[tuple[Tensor, Tensor]]) -> None:
    ids = squares(3)
    image = Image.fromarray(ids, "P")
    image.putpalette(range(48))
    out = BytesIO()
    image.save(out, "PNG", bits=4)
    body = out.getvalue()
    start, end = body.index(b"PLTE") - 4, body.index(b"IDAT") - 4
    head = body[12:25] + b"\0" + body[26:29]  # the same indices, as gray without a palette
    body = body[:12] + head + zlib.crc32(head).to_bytes(4, "big") + body[33:start] + body[end:]
    for encoding in ("file", "ids"):
        assert client.post(f"/api/synthesize?input_format={encoding}", content=body, headers=PNG).status_code == 200
        assert np.array_equal(received[-1][0].numpy(), ids)


@pytest.mark.parametrize("noise_shape", ["vector", "map"])
def test_scale_enlarges_the_label_map_before_generating(
    client: TestClient,
    synthesizer: Synthesizer,
    received: list[tuple[Tensor, Tensor]],
    monkeypatch: pytest.MonkeyPatch,
    noise_shape: str,
) -> None:
    if noise_shape == "map":
        monkeypatch.setattr(Synthesizer, "noise", lambda _, seed, sample=0, size=(64, 64): torch.full((1, *size), seed))
        monkeypatch.setattr(Synthesizer, "generate", lambda _, batch, noise: noise.expand(1, 3, -1, -1).clamp(-1, 1))
    ids = squares(3)
    response = client.post("/api/synthesize?seed=5&scale=2", content=encode(ids), headers=PNG)
    assert response.status_code == 200
    assert pixels(response.content).shape == (128, 128, 3)
    if noise_shape == "vector":
        large = ids.repeat(2, 0).repeat(2, 1)
        assert np.array_equal(received[-1][0].numpy(), large)
        expected = synthesizer(torch.from_numpy(large).long(), seed=5, keep_size=True).tensor[0]
        assert np.array_equal(pixels(response.content), expected.movedim(0, -1).numpy())


@pytest.mark.slow
def test_model_without_noise_gives_one_image(open_client: OpenClient) -> None:
    client = open_client(tiny_synthesizer(input="label"))
    body = encode(squares())
    first, second = (client.post(f"/api/synthesize?seed={seed}", content=body, headers=PNG) for seed in (1, 2))
    assert first.status_code == 200 and first.content == second.content
    for query in ("samples=2", "seed_b=2&mix=0.5"):
        response = client.post(f"/api/synthesize?{query}", content=body, headers=PNG)
        assert response.status_code == 400
        assert "per label map" in response.json()["error"]


@pytest.mark.slow
@pytest.mark.parametrize(("ink", "paper"), [(0, 255), (255, 0)])
def test_line_drawings_of_both_polarities(
    open_client: OpenClient,
    received: list[tuple[Tensor, Tensor]],
    ink: int,
    paper: int,
) -> None:
    client = open_client(tiny_synthesizer("sketch"))
    lines = np.zeros((64, 64), np.uint8)
    lines[10, 5:50] = lines[10:40, 20] = 1
    drawing = np.where(lines == 1, ink, paper).astype(np.uint8)
    assert client.post("/api/synthesize", content=encode(drawing), headers=PNG).status_code == 200
    assert received[-1][0].tolist() == lines.tolist()
    full = 1 - lines  # more lines than paper: ids are not guessed
    assert client.post("/api/synthesize?input_format=ids", content=encode(full), headers=PNG).status_code == 200
    assert received[-1][0].tolist() == full.tolist()


# --- label maps -----------------------------------------------------------------------------------------------------


def test_labels_returns_ids_and_palette(client: TestClient, synthesizer: Synthesizer) -> None:
    ids = squares(6)
    for name, (query, body) in encodings(ids, synthesizer.label_space).items():
        given = "&input_format=ids" if query else ""
        answer = client.post(f"/api/labels?output_format=ids{given}", content=body, headers=PNG)
        assert answer.status_code == 200, name
        image = Image.open(BytesIO(answer.content))
        assert (image.mode, np.asarray(image).tolist()) == ("L", ids.tolist()), name
    answer = client.post("/api/labels", content=body, headers=PNG)
    image = Image.open(BytesIO(answer.content))
    assert (image.mode, np.asarray(image).tolist()) == ("P", ids.tolist())
    assert np.asarray(image.convert("RGB")).tolist() == colored(ids, synthesizer.label_space).tolist()


def test_label_map_as_jpeg_of_another_size(client: TestClient, synthesizer: Synthesizer) -> None:
    ids = squares(6, (128, 128))
    body = encode(colored(ids, synthesizer.label_space), "JPEG", quality=90)
    response = client.post("/api/labels?output_format=ids", content=body, headers=JPEG)
    assert response.status_code == 200
    assert (pixels(response.content) != ids[::2, ::2]).mean() < 0.02


def test_sketch_model_converts_photo_to_edges(open_client: OpenClient) -> None:
    client = open_client(tiny_synthesizer("sketch", data={"sketch": {"from": "photo", "sigma": 1.5}}))
    photo, _ = draw_scene(1, 1, (128, 128))
    body = encode(photo.permute(1, 2, 0).numpy())
    answer = client.post("/api/labels?output_format=ids", content=body, headers=PNG)
    expected = find_edges(resize_image(photo, (64, 64)), 1.5)
    assert pixels(answer.content).tolist() == expected.tolist()
    assert 0 < expected.float().mean() < 0.5
    drawing = np.full((64, 64), 255, np.uint8)
    drawing[30] = 0
    answer = client.post("/api/labels?output_format=ids", content=encode(drawing), headers=PNG)
    assert pixels(answer.content).tolist() == (drawing == 0).astype(int).tolist()


def test_examples_are_scenes(client: TestClient, synthesizer: Synthesizer) -> None:
    examples = client.get("/api/examples").json()
    assert len({example["name"] for example in examples}) == len({example["token"] for example in examples}) == 6
    maps = set()
    for index, example in enumerate(examples):
        assert set(example) == {"name", "token"}
        palette = client.get(f"/api/examples/{example['token']}.png")
        ids = pixels(client.get(f"/api/examples/{example['token']}.png?output_format=ids").content)
        assert palette.headers["content-type"] == "image/png"
        assert pixels(palette.content).tolist() == ids.tolist() == draw_scene(7, index, (64, 64))[1].tolist()
        present = [synthesizer.label_space.names[index] for index in np.unique(ids)]
        assert all(name in present for name in example["name"].lower().split(", "))
        maps.add(ids.tobytes())
    assert len(maps) == 6


def test_examples_of_held_out_data(open_client: OpenClient, tmp_path: Path) -> None:
    for index in range(8):
        for kind, image in (("labels", squares(index, count=8)), ("images", np.zeros((64, 64, 3), np.uint8))):
            (tmp_path / kind / "val").mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(tmp_path / kind / "val" / f"shot-{index}.png")
    client = open_client(tiny_synthesizer("cityscapes", data={"root": str(tmp_path)}))
    examples = client.get("/api/examples").json()
    assert [example["name"] for example in examples] == [f"shot-{index}" for index in range(6)]
    sent = client.get(f"/api/examples/{examples[2]['token']}.png?output_format=ids")
    assert pixels(sent.content).tolist() == squares(2, count=8).tolist()


def test_no_examples_without_data(open_client: OpenClient, tmp_path: Path) -> None:
    client = open_client(tiny_synthesizer("cityscapes", data={"root": str(tmp_path / "gone")}))
    assert client.get("/api/examples").json() == []
    response = client.post("/api/random?seed=1")
    assert response.status_code == 404
    assert "label space 'cityscapes'" in response.json()["error"]


def test_random_scene(client: TestClient) -> None:
    for seed in (0, 12):
        answer = client.post(f"/api/random?seed={seed}&output_format=ids")
        assert pixels(answer.content).tolist() == draw_scene(seed, 0, (64, 64))[1].tolist()
    assert Image.open(BytesIO(client.post("/api/random?seed=3").content)).mode == "P"


# --- description ----------------------------------------------------------------------------------------------------


def test_openapi_description_and_its_page(client: TestClient) -> None:
    description = client.get("/openapi.json").json()
    page = client.get("/api/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert set(re.findall(r'(?:src|href)="([^"]+)"', page.text)) == {
        "data:,",
        "../static/report.css",
        "../openapi.json",
        "../",
    }
    assert "http://127.0.0.1:8000/api/synthesize?seed=1" in page.text
    assert client.get("/static/report.css").headers["content-type"].startswith("text/css")
    operations: dict[tuple[str, str], dict[str, Any]] = {
        (path, method): operation
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    }
    assert len(operations) == 7
    for (path, method), operation in operations.items():
        assert f"<b>{method.upper()}</b> {path}" in page.text
        for parameter in operation["parameters"]:
            assert f"<code>{parameter['name']}</code>" in page.text
        url = path.replace("{token}", client.get("/api/examples").json()[0]["token"])
        headers, body = (PNG, encode(squares())) if "requestBody" in operation else ({}, None)
        response = client.request(method, url, content=body, headers=headers)
        if path == "/api/styles":
            assert response.status_code == 400  # this model takes no style image
            continue
        assert response.status_code == 200, path
        assert response.headers["content-type"] in operation["responses"]["200"]["content"]
    samples = next(item for item in operations["/api/synthesize", "post"]["parameters"] if item["name"] == "samples")
    assert samples["schema"] == {"type": "integer", "minimum": 1, "maximum": 16, "default": 1}
    assert "integer 1 to 16, default 1" in page.text

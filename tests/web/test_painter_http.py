"""What the painter's server gives and takes: the ids that reach the model, and the pictures that come back."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

pytest.importorskip("starlette", reason="the extra 'web' is not installed")
from starlette.testclient import TestClient

from lab2pix.batch import Batch
from lab2pix.data.files import write_label_png
from lab2pix.data.scenes.dataset import draw_scene
from lab2pix.data.sketches import find_edges
from lab2pix.data.transforms import resize_image, resize_nearest
from lab2pix.inference import Synthesizer, generate_folder
from lab2pix.labels.space import LabelSpace
from lab2pix.web.guard import host_checker
from lab2pix.web.painter import create_app
from lab2pix.web.painter_desk import Painter

PNG = {"content-type": "image/png"}


@pytest.fixture
def open_client() -> Iterator[Callable[[Synthesizer], TestClient]]:
    """Serves a model; gives a client."""
    opened: list[TestClient] = []

    def call(drawer: Synthesizer) -> TestClient:
        client = TestClient(create_app(Painter(drawer), host_checker("127.0.0.1")), base_url="http://127.0.0.1:8000")
        opened.append(client.__enter__())
        return client

    yield call
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def client(open_client: Callable[[Synthesizer], TestClient], drawer: Synthesizer) -> TestClient:
    return open_client(drawer)


@pytest.fixture
def seen(drawer: Synthesizer, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """Label maps and noise that the model was given."""
    given: list[tuple[Tensor, Tensor]] = []
    draw = Synthesizer.generate

    def spy(self: Synthesizer, batch: Batch, noise: Tensor) -> Tensor:
        given.append((batch.label[0], noise[0]))
        return draw(self, batch, noise)

    monkeypatch.setattr(Synthesizer, "generate", spy)
    return given


def squares(seed: int = 0, size: tuple[int, int] = (64, 64), count: int = 14) -> np.ndarray:
    """Return a label map of sixteen squares."""
    coarse = np.random.default_rng(seed).integers(0, count, (4, 4), dtype=np.uint8)
    return coarse.repeat(size[0] // 4, 0).repeat(size[1] // 4, 1)


def png(image: Image.Image | np.ndarray) -> bytes:
    out = BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, format="PNG")
    return out.getvalue()


def jpeg(image: Image.Image | np.ndarray) -> bytes:
    out = BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, format="JPEG", quality=90)
    return out.getvalue()


def palette_png(ids: np.ndarray, space: LabelSpace) -> bytes:
    out = BytesIO()
    write_label_png(out, torch.from_numpy(ids).long(), space)
    return out.getvalue()


def colored(ids: np.ndarray, space: LabelSpace) -> np.ndarray:
    return space.to_colors(torch.from_numpy(ids).long()).permute(1, 2, 0).numpy()


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(content)))


# --- the page and what the model is ---------------------------------------------------------------------------------


def test_the_page_and_all_it_names(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    names = {
        name.removeprefix("./").removeprefix("/") for name in re.findall(r'(?:src|href)="([\w./]+\.\w+)"', page.text)
    }
    assert {name for name in names if name.startswith("painter")}, "the page has neither style nor script"
    seen: set[str] = set()
    while names:
        name = names.pop()
        response = client.get(f"/{name}")
        assert response.status_code == 200, name
        seen.add(name)
        names |= set(re.findall(r'from "\./([\w.]+)"', response.text)) - seen
    packed = {file.name for file in resources.files("lab2pix.web").joinpath("pages").iterdir()}
    assert {name for name in packed if re.fullmatch(r"painter\w*\.(js|css)", name)} <= seen


def test_what_the_model_is(client: TestClient) -> None:
    model = client.get("/api/model").json()
    classes = model.pop("classes")
    assert model == {
        "name": "tiny",
        "step": 7,
        "label_space": "scenes",
        "size": [64, 64],
        "unknown": None,
        "sketch": False,
        "noise": True,
        "drawing": "plain",
        "limits": {"bytes": 8388608, "pixels": 16000000, "samples": 16},
        "busy": {"waiting": 0, "capacity": 8},
    }
    assert [item["id"] for item in classes] == list(range(14))
    assert classes[11] == {"id": 11, "name": "house", "color": [195, 65, 45], "foreground": True}


def test_unknown_is_the_last_class(
    open_client: Callable[[Synthesizer], TestClient], make_painter_model: Callable[..., Synthesizer]
) -> None:
    model = open_client(make_painter_model("ade20k")).get("/api/model").json()
    assert model["unknown"] == 150
    assert model["classes"][-1] == {"id": 150, "name": "unknown", "color": [0, 0, 0], "foreground": True}


def test_a_model_of_sketches_without_noise(
    open_client: Callable[[Synthesizer], TestClient], make_painter_model: Callable[..., Synthesizer]
) -> None:
    model = open_client(make_painter_model("sketch", start="label")).get("/api/model").json()
    assert (model["sketch"], model["noise"], len(model["classes"])) == (True, False, 2)


# --- pictures -------------------------------------------------------------------------------------------------------


def forms(ids: np.ndarray, space: LabelSpace) -> dict[str, tuple[str, bytes]]:
    """Return a label map in every form that is taken, with the query that says so."""
    rgb = colored(ids, space)
    alpha = np.full((*ids.shape, 1), 255, np.uint8)
    resorted = Image.fromarray(rgb).convert("P", palette=Image.Palette.ADAPTIVE, colors=14)
    gray = np.repeat(ids[..., None], 3, 2)
    return {
        "gray": ("", png(ids)),
        "palette": ("", palette_png(ids, space)),
        "palette in another order": ("", png(resorted)),
        "colours": ("", png(rgb)),
        "colours with alpha": ("", png(np.concatenate([rgb, alpha], 2))),
        "16 bits": ("", png(ids.astype(np.uint16))),
        "ids": ("&form=ids", png(ids)),
        "ids as a canvas writes them": ("&form=ids", png(np.concatenate([gray, alpha], 2))),
    }


def test_each_form_of_a_label_map_reaches_the_model(
    client: TestClient, drawer: Synthesizer, seen: list[tuple[Tensor, Tensor]]
) -> None:
    ids = squares(3)
    pictures = set()
    for name, (query, body) in forms(ids, drawer.label_space).items():
        response = client.post(f"/api/synthesize?seed=5{query}", content=body, headers=PNG)
        assert response.status_code == 200, (name, response.text)
        assert response.headers["content-type"] == "image/png"
        assert seen[-1][0].tolist() == ids.tolist(), name
        pictures.add(response.content)
    assert len(pictures) == 1
    other = client.post("/api/synthesize?seed=5", content=png(squares(4)), headers=PNG)
    assert other.content not in pictures


def test_ids_with_an_offset(
    open_client: Callable[[Synthesizer], TestClient],
    make_painter_model: Callable[..., Synthesizer],
    seen: list[tuple[Tensor, Tensor]],
) -> None:
    client = open_client(make_painter_model("ade20k"))
    ids = squares(1, count=151)
    ids[0, 0] = 150
    values = np.where(ids == 150, 0, ids + 1).astype(np.uint8)
    for query, body in (("", png(values)), ("&form=ids", png(ids))):
        assert client.post(f"/api/synthesize?seed=1{query}", content=body, headers=PNG).status_code == 200
        assert seen[-1][0].tolist() == ids.tolist()
    sent = client.post("/api/labels?given=ids", content=png(ids), headers=PNG).content
    assert pixels(sent).tolist() == values.tolist()
    assert client.post("/api/synthesize", content=sent, headers=PNG).status_code == 200
    assert seen[-1][0].tolist() == ids.tolist()


@pytest.mark.parametrize("size", [(16, 16), (32, 96), (128, 64), (192, 256), (1, 1)])
def test_other_sizes_are_resized_by_nearest_neighbour(
    client: TestClient, seen: list[tuple[Tensor, Tensor]], size: tuple[int, int]
) -> None:
    ids = np.random.default_rng(1).integers(0, 14, size, dtype=np.uint8)
    response = client.post("/api/synthesize?seed=1", content=png(ids), headers=PNG)
    assert pixels(response.content).shape == (64, 64, 3)
    assert seen[-1][0].tolist() == resize_nearest(torch.from_numpy(ids).long(), (64, 64)).tolist()


def test_the_same_seed_gives_the_bytes_of_the_command_line(
    client: TestClient, drawer: Synthesizer, tmp_path: Path
) -> None:
    (tmp_path / "labels").mkdir()
    body = palette_png(squares(2), drawer.label_space)
    (tmp_path / "labels" / "a.png").write_bytes(body)
    generate_folder(drawer, tmp_path / "labels", tmp_path / "out", seed=41)
    response = client.post("/api/synthesize?seed=41", content=body, headers=PNG)
    assert response.content == (tmp_path / "out" / "a.png").read_bytes()
    assert response.headers["x-lab2pix-seed"] == "41"
    assert 0 <= int(response.headers["x-lab2pix-milliseconds"]) < 60000
    assert client.post("/api/synthesize?seed=41", content=body, headers=PNG).content == response.content
    assert client.post("/api/synthesize?seed=42", content=body, headers=PNG).content != response.content


def test_several_pictures_are_those_of_the_next_seeds(client: TestClient) -> None:
    body = png(squares())
    response = client.post("/api/synthesize?seed=7&samples=3", content=body, headers=PNG)
    assert response.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(BytesIO(response.content)) as archive:
        assert archive.namelist() == ["seed-7.png", "seed-8.png", "seed-9.png"]
        for seed in (7, 8, 9):
            alone = client.post(f"/api/synthesize?seed={seed}", content=body, headers=PNG)
            assert archive.read(f"seed-{seed}.png") == alone.content


def test_a_mixed_style_lies_on_the_sphere_between_two(
    client: TestClient, drawer: Synthesizer, seen: list[tuple[Tensor, Tensor]]
) -> None:
    path = drawer.interpolate_noise(3, 8, 5)
    for place, mix in enumerate(("0", "0.25", "5e-1", "0.75", "1.0")):
        response = client.post(f"/api/synthesize?seed=3&seed_b=8&mix={mix}", content=png(squares()), headers=PNG)
        assert response.status_code == 200
        assert torch.allclose(seen[-1][1], path[place], atol=1e-6)
    assert torch.equal(seen[-1][1], drawer.noise(8))


def test_a_model_without_noise_draws_one_picture(
    open_client: Callable[[Synthesizer], TestClient], make_painter_model: Callable[..., Synthesizer]
) -> None:
    client = open_client(make_painter_model(start="label"))
    body = png(squares())
    first, second = (client.post(f"/api/synthesize?seed={seed}", content=body, headers=PNG) for seed in (1, 2))
    assert first.status_code == 200 and first.content == second.content
    for query in ("samples=2", "seed_b=2&mix=0.5"):
        response = client.post(f"/api/synthesize?{query}", content=body, headers=PNG)
        assert response.status_code == 400
        assert "draws one picture per label map" in response.json()["error"]


@pytest.mark.parametrize(("ink", "paper"), [(0, 255), (255, 0)])
def test_drawings_of_any_polarity(
    open_client: Callable[[Synthesizer], TestClient],
    make_painter_model: Callable[..., Synthesizer],
    seen: list[tuple[Tensor, Tensor]],
    ink: int,
    paper: int,
) -> None:
    client = open_client(make_painter_model("sketch"))
    lines = np.zeros((64, 64), np.uint8)
    lines[10, 5:50] = lines[10:40, 20] = 1
    drawing = np.where(lines == 1, ink, paper).astype(np.uint8)
    assert client.post("/api/synthesize", content=png(drawing), headers=PNG).status_code == 200
    assert seen[-1][0].tolist() == lines.tolist()
    full = 1 - lines  # more lines than paper: told as ids, nothing is guessed
    assert client.post("/api/synthesize?form=ids", content=png(full), headers=PNG).status_code == 200
    assert seen[-1][0].tolist() == full.tolist()


# --- layouts to begin with ------------------------------------------------------------------------------------------


def test_a_layout_in_any_form_comes_back_as_ids_and_as_palette(client: TestClient, drawer: Synthesizer) -> None:
    ids = squares(6)
    for name, (query, body) in forms(ids, drawer.label_space).items():
        given = "&given=ids" if query else ""
        answer = client.post(f"/api/labels?form=ids{given}", content=body, headers=PNG)
        assert answer.status_code == 200, name
        image = Image.open(BytesIO(answer.content))
        assert (image.mode, np.asarray(image).tolist()) == ("L", ids.tolist()), name
    answer = client.post("/api/labels", content=body, headers=PNG)
    image = Image.open(BytesIO(answer.content))
    assert (image.mode, np.asarray(image).tolist()) == ("P", ids.tolist())
    assert np.asarray(image.convert("RGB")).tolist() == colored(ids, drawer.label_space).tolist()


def test_a_layout_as_jpeg_and_at_another_size(client: TestClient, drawer: Synthesizer) -> None:
    ids = squares(6, (128, 128))
    body = jpeg(colored(ids, drawer.label_space))
    answer = client.post("/api/labels?form=ids", content=body, headers={"content-type": "image/jpeg"})
    wrong = (pixels(answer.content) != ids[::2, ::2]).mean()
    assert answer.status_code == 200 and wrong < 0.02
    gray = client.post("/api/labels", content=jpeg(ids), headers={"content-type": "image/jpeg"})
    assert gray.status_code == 400 and "compressed with loss" in gray.json()["error"]


def test_a_layout_is_turned_as_its_camera_says(client: TestClient, drawer: Synthesizer) -> None:
    ids = squares(6)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    out = BytesIO()
    Image.fromarray(ids).save(out, format="PNG", exif=exif)
    answer = client.post("/api/labels?form=ids", content=out.getvalue(), headers=PNG)
    assert pixels(answer.content).tolist() == ids[::-1, ::-1].tolist()


def test_a_photo_becomes_a_sketch_for_a_model_of_sketches(
    open_client: Callable[[Synthesizer], TestClient], make_painter_model: Callable[..., Synthesizer]
) -> None:
    client = open_client(make_painter_model("sketch", data={"sketch": {"from": "photo", "sigma": 1.5}}))
    photo, _ = draw_scene(1, 1, (128, 128))
    body = png(photo.permute(1, 2, 0).numpy())
    answer = client.post("/api/labels?form=ids", content=body, headers=PNG)
    expected = find_edges(resize_image(photo, (64, 64)), 1.5)
    assert pixels(answer.content).tolist() == expected.tolist()
    assert 0 < expected.float().mean() < 0.5
    drawing = np.full((64, 64), 255, np.uint8)
    drawing[30] = 0
    answer = client.post("/api/labels?form=ids", content=png(drawing), headers=PNG)
    assert pixels(answer.content).tolist() == (drawing == 0).astype(int).tolist()


def test_examples_are_drawn_scenes(client: TestClient, drawer: Synthesizer) -> None:
    examples = client.get("/api/examples").json()
    assert len({example["name"] for example in examples}) == len({example["token"] for example in examples}) == 6
    maps = set()
    for index, example in enumerate(examples):
        assert set(example) == {"name", "token"}
        palette = client.get(f"/api/examples/{example['token']}.png")
        ids = pixels(client.get(f"/api/examples/{example['token']}.png?form=ids").content)
        assert palette.headers["content-type"] == "image/png"
        assert pixels(palette.content).tolist() == ids.tolist() == draw_scene(7, index, (64, 64))[1].tolist()
        present = [drawer.label_space.names[index] for index in np.unique(ids)]
        assert all(name in present for name in example["name"].lower().split(", "))
        maps.add(ids.tobytes())
    assert len(maps) == 6


def test_examples_of_a_models_own_data(
    open_client: Callable[[Synthesizer], TestClient], make_painter_model: Callable[..., Synthesizer], tmp_path: Path
) -> None:
    for index in range(8):
        for kind, picture in (("labels", squares(index, count=8)), ("images", np.zeros((64, 64, 3), np.uint8))):
            (tmp_path / kind / "val").mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(tmp_path / kind / "val" / f"shot-{index}.png")
    client = open_client(make_painter_model("cityscapes", data={"root": str(tmp_path)}))
    examples = client.get("/api/examples").json()
    assert [example["name"] for example in examples] == [f"shot-{index}" for index in range(6)]
    sent = client.get(f"/api/examples/{examples[2]['token']}.png?form=ids")
    assert pixels(sent.content).tolist() == squares(2, count=8).tolist()


def test_no_examples_where_the_data_are_gone(
    open_client: Callable[[Synthesizer], TestClient], make_painter_model: Callable[..., Synthesizer], tmp_path: Path
) -> None:
    client = open_client(make_painter_model("cityscapes", data={"root": str(tmp_path / "gone")}))
    assert client.get("/api/examples").json() == []
    response = client.post("/api/random?seed=1")
    assert response.status_code == 404
    assert "label space 'cityscapes'" in response.json()["error"]


def test_a_random_scene(client: TestClient) -> None:
    for seed in (0, 12):
        answer = client.post(f"/api/random?seed={seed}&form=ids")
        assert pixels(answer.content).tolist() == draw_scene(seed, 0, (64, 64))[1].tolist()
    assert Image.open(BytesIO(client.post("/api/random?seed=3").content)).mode == "P"


# --- the API's description ------------------------------------------------------------------------------------------


def test_the_description_and_its_page(client: TestClient) -> None:
    description = client.get("/openapi.json").json()
    page = client.get("/api/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert set(re.findall(r'(?:src|href)="([^"]+)"', page.text)) == {"data:,", "/api/docs.css", "/openapi.json", "/"}
    assert "http://127.0.0.1:8000/api/synthesize?seed=1" in page.text
    assert client.get("/api/docs.css").headers["content-type"].startswith("text/css")
    operations: dict[tuple[str, str], dict[str, Any]] = {
        (path, method): operation
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    }
    assert len(operations) == 6
    for (path, method), operation in operations.items():
        assert f"<b>{method.upper()}</b> {path}" in page.text
        for parameter in operation["parameters"]:
            assert f"<code>{parameter['name']}</code>" in page.text
        url = path.replace("{token}", client.get("/api/examples").json()[0]["token"])
        headers, body = (PNG, png(squares())) if "requestBody" in operation else ({}, None)
        response = client.request(method, url, content=body, headers=headers)
        assert response.status_code == 200, path
        assert response.headers["content-type"] in operation["responses"]["200"]["content"]
    samples = next(item for item in operations["/api/synthesize", "post"]["parameters"] if item["name"] == "samples")
    assert samples["schema"] == {"type": "integer", "minimum": 1, "maximum": 16, "default": 1}
    assert "integer 1 to 16, else 1" in page.text

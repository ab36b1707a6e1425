"""The standalone page in a browser: served as static files under a sub-path, and without a connection."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lab2pix.data.label_maps import write_label_png
from lab2pix.inference import Synthesizer
from tests.e2e.painter.conftest import SIZE, SPACE, Visitor

pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


class Host(ThreadingHTTPServer):
    """A host of static files; the page is in a folder of it.

    Attributes:
        requests: paths of the requests.
    """

    def __init__(self, folder: Path) -> None:
        self.requests: list[str] = []
        host = self

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, form: str, *args: object) -> None:
                host.requests.append(self.path)

        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def page(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/sub/path/"

    def close(self) -> None:
        self.shutdown()
        self.server_close()


@pytest.fixture(scope="module")
def folder(model: Synthesizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny model's page in a sub-folder."""
    from lab2pix.web.standalone import export_page

    if not (runtime := os.environ.get("LAB2PIX_ORT_WEB")):
        pytest.skip("LAB2PIX_ORT_WEB does not name the unpacked npm package onnxruntime-web")
    root = tmp_path_factory.mktemp("host")
    (root / "sub").mkdir()
    export_page(model, root / "sub" / "path", runtime)
    return root


@pytest.fixture
def host(folder: Path) -> Iterator[Host]:
    started = Host(folder)
    yield started
    started.close()


def expect_painted(visitor: Visitor, label: int = 5) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Fill the drawing, and wait for the image that PyTorch generates."""
    ids = visitor.blank(label)
    visitor.expect_image(ids)
    return ids


def test_page_draws_pytorchs_images_at_both_sizes(host: Host, visit: Callable[..., Visitor]) -> None:
    for settings in ({}, PHONE):
        guest = visit(**settings)
        guest.open(host.page)
        assert guest.page.evaluate("crossOriginIsolated")  # so that there are threads
        expect_painted(guest)
        width = guest.page.evaluate("document.documentElement.scrollWidth")
        assert width <= guest.page.viewport_size["width"]
        drawing, image = (guest.page.locator(f"#{name}").bounding_box() for name in ("canvas", "image"))
        assert min(drawing["width"], image["width"]) >= 280
        guest.page.close()


def test_strokes_styles_blends_and_regions_follow(
    host: Host, visit: Callable[..., Visitor], model: Synthesizer
) -> None:
    guest = visit()
    guest.open(host.page)
    ids = expect_painted(guest)
    guest.choose("box", label=3)
    guest.drag((10, 10), (40, 30))
    ids[10:31, 10:41] = 3
    guest.expect_ids(ids)
    guest.expect_image(ids)
    guest.page.locator("#seed-number").fill("9")
    guest.expect_image(ids, seed=9)
    guest.page.evaluate("Math.random = () => 0.0425")  # the next random seed is 42
    guest.choose("restyle")
    guest.click(20, 20)
    whole, other = (model(ids, seed=seed).tensor[0] for seed in (9, 42))
    inside = torch.from_numpy(ids == 3)
    guest.expect_pixels(torch.where(inside, other, whole).permute(1, 2, 0).numpy())
    guest.page.locator("#region-list button").click()
    guest.page.locator("#blend-on").check(force=True)
    guest.page.locator("#blend-seed").fill("7")
    blended = model.generate(model.read(torch.from_numpy(ids)), model.interpolate_noise(9, 7, 3)[1:2])[0]
    guest.expect_pixels(((blended + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy())


def test_page_works_without_a_connection_after_the_first_visit(host: Host, visit: Callable[..., Visitor]) -> None:
    guest = visit()
    guest.open(host.page)
    ids = expect_painted(guest, 4)
    assert [path for path in host.requests if not path.startswith("/sub/path/")] == []
    assert sum("model.onnx" in path for path in host.requests) == 1
    host.close()
    guest.page.reload()
    guest.page.locator("body[data-ready]").wait_for()
    guest.expect_ids(ids)  # the drawing is stored
    guest.expect_image(ids)
    guest.page.locator("#open-start").click()
    guest.page.locator("#examples .tile").nth(1).click()
    guest.page.locator("#live", has_text="Loaded: ").wait_for(state="attached")
    assert not np.array_equal(guest.ids(), ids)


def test_label_maps_are_read_and_written_in_the_browser(
    host: Host, visit: Callable[..., Visitor], model: Synthesizer, tmp_path: Path
) -> None:
    guest = visit()
    guest.open(host.page)
    ids = np.tile(np.arange(SIZE) // 8, (SIZE, 1))
    for name, image in (
        ("gray.png", Image.fromarray(ids.astype(np.uint8))),
        ("colors.png", Image.fromarray(SPACE.palette.numpy()[ids])),
    ):
        guest.blank()
        image.save(tmp_path / name)
        guest.upload(name, (tmp_path / name).read_bytes(), "image/png")
        guest.expect_ids(ids)
    write_label_png(tmp_path / "palette.png", torch.from_numpy(ids), SPACE)
    saved = Image.open(guest.download("#save-labels"))
    assert saved.mode == "P" and saved.getpalette()[:42] == Image.open(tmp_path / "palette.png").getpalette()[:42]
    np.testing.assert_array_equal(np.asarray(saved), ids)
    large = np.asarray(Image.open(guest.download("#save-large"))).astype(int)
    twice = torch.from_numpy(ids.repeat(2, 0).repeat(2, 1))
    assert np.abs(large - model(twice, seed=1, keep_size=True).tensor[0].permute(1, 2, 0).numpy()).max() <= 2
    noisy = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    Image.fromarray(noisy).save(tmp_path / "photo.png")
    guest.upload("photo.png", (tmp_path / "photo.png").read_bytes(), "image/png")
    guest.page.locator("#error-action").wait_for()
    assert "open a label map" in guest.page.locator("#error-text").inner_text()

"""Image formats of the painter: only PNG and JPEG are decoded, and no small file becomes a large one."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from lab2pix.web.painter import images
from lab2pix.web.painter.formats import FORMATS
from lab2pix.web.responses import HTTPError
from tests.helpers.painter import PNG, encode

IDS = np.random.default_rng(0).integers(0, 14, (4, 4), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
RGB = np.full((32, 32, 3), 90, np.uint8)


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_with(*chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of ids with additional chunks after its header."""
    body = encode(IDS)
    return body[:33] + b"".join(png_chunk(*chunk) for chunk in chunks) + body[33:]


def png_of_size(width: int, height: int, *, color: int = 0) -> bytes:
    """Return a PNG with a size in its header and a few bytes of data."""
    header = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)
    data = png_chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return FORMATS["image/png"].signature + png_chunk(b"IHDR", header) + data + png_chunk(b"IEND", b"")


def jpeg_of_size(width: int, height: int) -> bytes:
    body = bytearray(encode(RGB, "JPEG"))
    start = body.index(b"\xff\xc0") + 5
    body[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(body)


def jpeg_with_scans(count: int) -> bytes:
    """Return a progressive JPEG whose last scan is repeated."""
    body = encode(np.full((64, 64, 3), (10, 200, 30), np.uint8), "JPEG", progressive=True)
    last = body[body.rindex(b"\xff\xda") : -2]
    return body[:-2] + last * count + body[-2:]


def exif(count: int) -> bytes:
    """Return EXIF data that rotate by 180 degrees, with many values of a tag that should have two."""
    tags = struct.pack("<HHLHH", 274, 3, 1, 3, 0) + struct.pack("<HHLL", 282, 5, count, 38)
    return b"II*\0" + struct.pack("<LH", 8, 2) + tags + struct.pack("<L", 0) + struct.pack("<LL", 1, 3) * count


def jpeg_with_exif() -> bytes:
    body = encode(RGB, "JPEG")
    body = body[:2] + body[20:]  # without JFIF density, which Pillow then looks for in the EXIF data on opening
    data = exif(800_000)
    pieces = [b"Exif\0\0" + data[start : start + 60_000] for start in range(0, len(data), 60_000)]
    return body[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", len(piece) + 2) + piece for piece in pieces) + body[2:]


TOO_LARGE: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "PNG pixels": ("png", lambda: png_of_size(4001, 4000), "16000000 pixels"),
    "PNG pixels, far too many": ("png", lambda: png_of_size(2**31 - 1, 2**31 - 1), "16000000 pixels"),
    "PNG RGB pixels": ("png", lambda: png_of_size(60_000, 60_000, color=2), "16000000 pixels"),
    "PNG side": ("png", lambda: encode(np.full((1, 16_385), 3, np.uint8)), "16384 pixels"),
    "PNG EXIF": ("png", lambda: png_with((b"eXIf", exif(800_000))), "EXIF"),
    "PNG chunks": ("png", lambda: png_with(*[(b"noTe", b"")] * 66_000), "65536 chunks"),
    "JPEG pixels": ("jpeg", lambda: jpeg_of_size(60_000, 60_000), "16000000 pixels"),
    "JPEG EXIF": ("jpeg", jpeg_with_exif, "EXIF"),
    "JPEG scans": ("jpeg", lambda: jpeg_with_scans(120), "100 scans"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TOO_LARGE)
def test_image_over_a_limit_is_refused(client: TestClient, name: str) -> None:
    form, make, part = TOO_LARGE[name]
    for path in ("/api/synthesize", "/api/synthesize?input_format=ids", "/api/labels"):
        response = client.post(path, content=make(), headers={"content-type": f"image/{form}"})
        assert (response.status_code, part in response.json()["error"]) == (413, True), response.text


@pytest.mark.parametrize("make", [jpeg_with_exif, lambda: jpeg_with_scans(120)])
def test_expensive_jpeg_is_refused_before_it_is_opened(
    make: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images.Image, "open", lambda *_, **__: pytest.fail("the file was opened"))
    with pytest.raises(HTTPError):
        images.decode_image(make(), "image/jpeg")


def test_jpeg_with_ordinary_number_of_scans_is_decoded() -> None:
    assert images.decode_image(jpeg_with_scans(20), "image/jpeg").image.size == (64, 64)


@pytest.mark.parametrize("shape", [(1, 16_384), (16_384, 1)])
def test_longest_allowed_side_is_decoded(client: TestClient, shape: tuple[int, int]) -> None:
    body = encode(np.full(shape, 3, np.uint8))
    for path in ("/api/synthesize", "/api/labels"):
        assert client.post(path, content=body, headers=PNG).status_code == 200


def test_png_profile_and_text_are_not_decompressed() -> None:
    profile = b"name\0\0" + zlib.compress(b"\0" * 1_000_000)
    body = png_with((b"eXIf", exif(1)), (b"zTXt", profile), *[(b"iCCP", profile)] * 50)
    image = images.decode_image(body, "image/png").image
    assert image.info.keys().isdisjoint({"icc_profile", "name"})
    assert np.array_equal(np.array(image), np.rot90(IDS, 2))  # the orientation is kept


def test_image_without_pixels_is_refused(client: TestClient) -> None:
    for size in ((0, 0), (0, 5), (5, 0)):
        assert client.post("/api/synthesize", content=png_of_size(*size), headers=PNG).status_code == 422


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_truncated_image_is_refused(client: TestClient, form: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    body = encode(noise, form)
    for length in (9, 20, 33, 40, len(body) // 2, len(body) - 40):
        response = client.post("/api/labels", content=body[:length], headers={"content-type": f"image/{form.lower()}"})
        assert (response.status_code, "truncated or damaged" in response.json()["error"]) == (422, True), length


@pytest.mark.parametrize("form", ["GIF", "ICO", "PPM", "AVIF", "JPEG2000", "BMP", "WEBP", "TIFF", "JPEG", "PNG"])
def test_other_format_is_refused_whatever_its_content_type(client: TestClient, form: str) -> None:
    body = encode(RGB, form)
    types = {*FORMATS, f"image/{form.lower()}"} - ({f"image/{form.lower()}"} & set(FORMATS))
    for media_type in types:
        for path in ("/api/synthesize", "/api/labels"):
            response = client.post(path, content=body, headers={"content-type": media_type})
            assert response.status_code == 415, media_type


@pytest.mark.parametrize("query", ["", "?input_format=ids"])
def test_lossy_ids_are_refused(client: TestClient, query: str) -> None:
    for path in ("/api/synthesize", "/api/labels"):
        response = client.post(path + query, content=encode(IDS, "JPEG"), headers={"content-type": "image/jpeg"})
        assert (response.status_code, "compressed with loss" in response.json()["error"]) == (400, True)


def animation(frames: int) -> bytes:
    """Return an animated PNG of different label maps."""
    images = [Image.fromarray((IDS + frame) % 14) for frame in range(frames)]
    buffer = BytesIO()
    images[0].save(buffer, "PNG", save_all=True, append_images=images[1:], duration=100)
    return buffer.getvalue()


@pytest.mark.parametrize("query", ["", "?input_format=ids"])
def test_animation_is_refused_as_in_files(client: TestClient, query: str) -> None:
    for path in ("/api/synthesize", "/api/labels"):
        response = client.post(path + query, content=animation(3), headers=PNG)
        assert (response.status_code, "holds 3 pages or frames" in response.json()["error"]) == (400, True)


def test_animation_of_one_frame_is_an_image() -> None:
    control = (b"acTL", struct.pack(">II", 1, 0)), (b"fcTL", struct.pack(">IIIIIHHBB", 0, 64, 64, 0, 0, 1, 10, 0, 0))
    assert np.array_equal(np.array(images.decode_image(png_with(*control), "image/png").image), IDS)


def test_exif_orientation_is_applied() -> None:
    orientation = Image.Exif()
    orientation[0x0112] = 3
    file = images.decode_image(encode(IDS, exif=orientation), "image/png")
    assert (np.array(file.image).tolist(), file.lossy) == (IDS[::-1, ::-1].tolist(), False)

"""The kinds of picture that the painter takes: each reaches the model as it is, and none makes much of few bytes."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin

pytest.importorskip("starlette", reason="the extra 'web' is not installed")
from starlette.testclient import TestClient

from lab2pix.data.files import IMAGE_SUFFIXES
from lab2pix.inference import Synthesizer
from lab2pix.labels.space import LabelSpace
from lab2pix.web import painter_pictures
from lab2pix.web.guard import RefusedError, host_checker
from lab2pix.web.painter import create_app
from lab2pix.web.painter_desk import Painter
from lab2pix.web.painter_kinds import KINDS

SPACE = LabelSpace.load("scenes")
COARSE = np.random.default_rng(5).integers(0, 14, (4, 4), dtype=np.uint8)
IDS = COARSE.repeat(16, 0).repeat(16, 1)
RGB = SPACE.to_colors(torch.from_numpy(IDS).long()).permute(1, 2, 0).numpy()
GRAY = np.repeat(IDS[..., None], 3, 2)


@pytest.fixture(scope="module")
def client(drawer: Synthesizer) -> Iterator[TestClient]:
    with TestClient(create_app(Painter(drawer), host_checker("127.0.0.1")), base_url="http://127.0.0.1:8000") as opened:
        yield opened


def save(picture: np.ndarray | Image.Image, form: str, **settings: object) -> bytes:
    out = BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(out, format=form, **settings)  # type: ignore[arg-type]
    return out.getvalue()


def palette() -> Image.Image:
    image = Image.fromarray(IDS).convert("P")
    image.putpalette(SPACE.palette.numpy().astype(np.uint8).tobytes())
    return image


def tiled(order: str, *, big: bool = False, ids: np.ndarray = IDS) -> bytes:
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
    out = BytesIO()
    tifffile.imwrite(out, ids, byteorder=order, bigtiff=big, tile=(32, 16), compression="zlib", description="x" * 99)
    return out.getvalue()


EXACT: dict[str, tuple[str, Callable[[], bytes]]] = {
    "WebP of colours": ("webp", lambda: save(RGB, "WEBP", lossless=True)),
    "WebP of gray ids": ("webp", lambda: save(GRAY, "WEBP", lossless=True)),
    "BMP of ids": ("bmp", lambda: save(IDS, "BMP")),
    "BMP of a palette": ("bmp", lambda: save(palette(), "BMP")),
    "BMP of colours": ("bmp", lambda: save(RGB, "BMP")),
    "TIFF of ids": ("tiff", lambda: save(IDS, "TIFF")),
    "TIFF of 16 bits": ("tiff", lambda: save(IDS.astype(np.uint16), "TIFF")),
    "TIFF of a palette": ("tiff", lambda: save(palette(), "TIFF")),
    "TIFF of colours": ("tiff", lambda: save(RGB, "TIFF", compression="tiff_lzw")),
    "TIFF by PackBits": ("tiff", lambda: save(IDS, "TIFF", compression="packbits")),
    "TIFF by Deflate, in strips": ("tiff", lambda: save(IDS, "TIFF", compression="tiff_adobe_deflate", strip_size=512)),
    "TIFF in tiles": ("tiff", lambda: tiled("<")),
    "TIFF in tiles, the other way round": ("tiff", lambda: tiled(">", ids=IDS.astype(np.uint16))),
    "BigTIFF": ("tiff", lambda: tiled("<", big=True)),
    "TIFF of two pages": (
        "tiff",
        lambda: save(IDS, "TIFF", save_all=True, append_images=[Image.fromarray(IDS[::-1].copy())]),
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_each_kind_reaches_the_model_as_it_is(client: TestClient, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    draw = Synthesizer.generate
    monkeypatch.setattr(
        Synthesizer, "generate", lambda self, batch, noise: seen.append(batch.label[0]) or draw(self, batch, noise)
    )
    kind, make = EXACT[name]
    headers = {"content-type": f"image/{kind}"}
    answer = client.post("/api/labels?form=ids", content=make(), headers=headers)
    assert answer.status_code == 200, answer.text
    assert np.asarray(Image.open(BytesIO(answer.content))).tolist() == IDS.tolist()
    assert client.post("/api/synthesize?seed=3", content=make(), headers=headers).status_code == 200
    assert seen[0].tolist() == IDS.tolist()


def test_the_kinds_are_those_of_label_files() -> None:
    short = {"jpg": "jpeg", "tif": "tiff"}
    assert {f"image/{short.get(name[1:], name[1:])}" for name in IMAGE_SUFFIXES} == set(KINDS)


@pytest.mark.parametrize("kind", ["webp", "bmp", "tiff"])
def test_ids_in_each_kind(client: TestClient, kind: str) -> None:
    body = save(GRAY, kind.upper(), **({"lossless": True} if kind == "webp" else {}))
    headers = {"content-type": f"image/{kind}"}
    answer = client.post("/api/labels?given=ids&form=ids", content=body, headers=headers)
    assert np.asarray(Image.open(BytesIO(answer.content))).tolist() == IDS.tolist()


def test_a_turned_tiff(client: TestClient) -> None:
    body = save(IDS, "TIFF", tiffinfo={274: 6}, compression="tiff_lzw")
    answer = client.post("/api/labels?form=ids", content=body, headers={"content-type": "image/tiff"})
    assert np.asarray(Image.open(BytesIO(answer.content))).tolist() == np.rot90(IDS, -1).tolist()


LOSSY: dict[str, tuple[str, Callable[[np.ndarray], bytes]]] = {
    "JPEG": ("jpeg", lambda picture: save(picture, "JPEG", quality=95)),
    "lossy WebP": ("webp", lambda picture: save(picture, "WEBP", quality=95)),
    "TIFF with JPEG in it": ("tiff", lambda picture: save(picture, "TIFF", compression="jpeg", quality=95)),
    "moving WebP": (
        "webp",
        lambda picture: save(picture, "WEBP", save_all=True, append_images=[Image.fromarray(picture[::-1].copy())]),
    ),
}


@pytest.mark.parametrize("name", LOSSY)
def test_ids_that_were_compressed_with_loss_are_refused(client: TestClient, name: str) -> None:
    kind, make = LOSSY[name]
    headers = {"content-type": f"image/{kind}"}
    ids = GRAY if kind == "webp" else IDS
    paths = ("/api/synthesize", "/api/labels", "/api/synthesize?form=ids", "/api/labels?given=ids")
    for path in paths:
        answer = client.post(path, content=make(ids), headers=headers)
        assert answer.status_code == 400, (path, answer.content[:200])
        assert "compressed with loss" in answer.json()["error"]
    answer = client.post("/api/labels?form=ids", content=make(RGB), headers=headers)  # colours survive it
    assert (np.asarray(Image.open(BytesIO(answer.content))) != IDS).mean() < 0.05


# --- few bytes that would become many -------------------------------------------------------------------------------


def tiff(tags: list[tuple[int, int, int, int]], rest: bytes = b"", *, order: str = "<") -> bytes:
    """Return a TIFF of tags (number, type, count, value or place), after which other bytes follow."""
    entries = b"".join(
        struct.pack(order + "HHL", tag, kind, count)
        + (struct.pack(order + "HH", value, 0) if kind == 3 and count == 1 else struct.pack(order + "L", value))
        for tag, kind, count, value in tags
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "LH", 8, len(tags))
    return head + entries + struct.pack(order + "L", 0) + rest


def plain(width: int, height: int, *more: tuple[int, int, int, int]) -> dict[int, tuple[int, int, int, int]]:
    """Return the tags of a gray picture in one strip."""
    own = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    own += [(277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 64)]
    return {tag[0]: tag for tag in (*own, *more)}


def png_with(*parts: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of ids with further parts behind its header."""
    body = save(IDS, "PNG")
    chunks = [
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    ]
    return body[:33] + b"".join(chunks) + body[33:]


def exif_png(exif: bytes) -> bytes:
    return png_with((b"eXIf", exif))


def scans_jpeg(count: int) -> bytes:
    """Return a JPEG whose last scan, which refines the pixels, comes again and again."""
    out = BytesIO()
    Image.new("RGB", (64, 64), (10, 200, 30)).save(out, "JPEG", progressive=True)
    body = out.getvalue()
    last = body[body.rindex(b"\xff\xda") : -2]
    return body[:-2] + last * count + body[-2:]


def numbers(count: int, tag: int = 282) -> bytes:
    """Return camera data with a turned picture and many fractions, where two are expected."""
    return tiff([(274, 3, 1, 3), (tag, 5, count, 38)], struct.pack("<LL", 1, 3) * count)


def exif_jpeg() -> bytes:
    body, exif = save(RGB, "JPEG"), b"Exif\0\0"
    body = body[:2] + body[20:]  # without a density of its own: it is looked for in camera data as soon as it is opened
    data = numbers(800_000)
    pieces = [data[start : start + 60_000] for start in range(0, len(data), 60_000)]
    parts = [b"\xff\xe1" + struct.pack(">H", len(piece) + 8) + exif + piece for piece in pieces]
    return body[:2] + b"".join(parts) + body[2:]


def webp_canvas(side: int) -> bytes:
    body = bytearray(save(RGB, "WEBP", lossless=True, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"))
    assert body[12:16] == b"VP8X"
    body[24:30] = (side - 1).to_bytes(3, "little") * 2
    return bytes(body)


def webp_simple(side: int) -> bytes:
    body = bytearray(save(RGB, "WEBP", lossless=True))
    assert body[12:16] == b"VP8L"
    bits = int.from_bytes(body[21:25], "little") & 0xF0000000 | (side - 1) | (side - 1) << 14
    body[21:25] = bits.to_bytes(4, "little")
    return bytes(body)


def webp_lossy(side: int) -> bytes:
    body = bytearray(save(RGB, "WEBP"))
    assert body[12:16] == b"VP8 "
    body[26:30] = struct.pack("<HH", side, side)
    return bytes(body)


def bmp(width: int, height: int) -> bytes:
    body = bytearray(save(IDS, "BMP"))
    body[18:26] = struct.pack("<ii", width, height)
    return bytes(body)


TILE = [(322, 4, 1, 30_000), (323, 4, 1, 30_000), (324, 4, 1, 8), (325, 4, 1, 64)]
TOO_MUCH: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a WebP's canvas": ("webp", lambda: webp_canvas(16_383)),
    "a WebP": ("webp", lambda: webp_simple(16_000)),
    "a lossy WebP": ("webp", lambda: webp_lossy(16_383)),
    "a BMP": ("bmp", lambda: bmp(50_000, 50_000)),
    "a BMP from above": ("bmp", lambda: bmp(5_000, -5_000)),
    "a long BMP": ("bmp", lambda: bmp(16_385, 1)),
    "a TIFF": ("tiff", lambda: tiff([*plain(60_000, 60_000).values()])),
    "a long TIFF": ("tiff", lambda: tiff([*plain(1, 16_385).values()])),
    "a TIFF's tiles": (
        "tiff",
        lambda: tiff([tag for key, tag in plain(8, 8, *TILE).items() if key not in (273, 278, 279)]),
    ),
    "a TIFF's tables": ("tiff", lambda: tiff([*plain(8, 8, (273, 4, 300_000, 150)).values()], b"\0" * 1_200_000)),
    "a PNG's camera data": ("png", lambda: exif_png(numbers(800_000))),
    "a PNG's parts": ("png", lambda: png_with(*[(b"noTe", b"")] * 66_000)),
    "a JPEG's camera data": ("jpeg", exif_jpeg),
    "a JPEG's scans": ("jpeg", lambda: scans_jpeg(120)),
    "a WebP's camera data": ("webp", lambda: save(RGB, "WEBP", lossless=True, exif=b"Exif\0\0" + numbers(100_000))),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_what_would_become_much_is_not_decoded(client: TestClient, name: str) -> None:
    kind, make = TOO_MUCH[name]
    for path in ("/api/synthesize", "/api/labels"):
        answer = client.post(path, content=make(), headers={"content-type": f"image/{kind}"})
        assert answer.status_code == 413, (answer.status_code, answer.content[:200])
        assert answer.json()["error"]


def test_what_decoders_do_as_they_open_a_file_is_prevented(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    monkeypatch.setattr(painter_pictures.Image, "open", lambda *given, **named: opened.append(given))
    for make in (webp_canvas, webp_simple, webp_lossy):
        with pytest.raises(RefusedError, match="more than 16000000 pixels"):
            painter_pictures.open_picture(make(12_000), "image/webp")
    with pytest.raises(RefusedError, match="camera data"):
        painter_pictures.open_picture(exif_jpeg(), "image/jpeg")
    with pytest.raises(RefusedError, match="more than 100 scans"):
        painter_pictures.open_picture(scans_jpeg(120), "image/jpeg")
    assert not opened


def test_a_jpeg_of_a_few_scans_is_decoded() -> None:
    assert painter_pictures.open_picture(scans_jpeg(20), "image/jpeg")[0].size == (64, 64)


def test_colour_profiles_and_notes_of_a_png_are_not_unfolded() -> None:
    profile = b"name\0\0" + zlib.compress(b"\0" * 1_000_000)
    body = png_with((b"eXIf", numbers(1)), *[(b"iCCP", profile), (b"zTXt", profile)] * 50)
    image, _ = painter_pictures.open_picture(body, "image/png")
    assert image.info.keys().isdisjoint({"icc_profile", "name"})
    assert np.array_equal(np.array(image), np.rot90(IDS, 2))  # what says which way is up is kept


def test_a_tiff_of_a_compression_that_takes_what_it_likes(client: TestClient) -> None:
    for number in (6, 34925, 50000, 50001, 9999):
        body = tiff([*plain(8, 8, (259, 3, 1, number)).values()], b"\0" * 200)
        answer = client.post("/api/labels", content=body, headers={"content-type": "image/tiff"})
        assert (answer.status_code, f"compression {number}" in answer.json()["error"]) == (415, True)


def test_camera_data_and_further_pages_of_a_tiff_are_not_looked_at(client: TestClient) -> None:
    exif = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in ((270, "x" * 1000), (305, "somebody's"), (700, b"<x/>" * 99)):
        exif[tag] = value
    body = bytearray(save(IDS, "TIFF", tiffinfo=exif, compression="tiff_lzw"))
    (start,) = struct.unpack_from("<L", body, 4)
    (count,) = struct.unpack_from("<H", body, start)
    for place in range(start + 2, start + 2 + 12 * count, 12):
        tag = struct.unpack_from("<H", body, place)[0]
        if tag == 270:
            struct.pack_into("<HHLL", body, place, 34665, 4, 1, 2**32 - 1)  # camera data beyond the file's end
        elif tag == 305:
            struct.pack_into("<HHLL", body, place, 37724, 7, 2**21, len(body))  # layers of a drawing program
    struct.pack_into("<L", body, start + 2 + 12 * count, start)  # the next page is this one
    body += bytes(2**21)
    answer = client.post("/api/labels?form=ids", content=bytes(body), headers={"content-type": "image/tiff"})
    assert answer.status_code == 200, answer.text
    assert np.asarray(Image.open(BytesIO(answer.content))).tolist() == IDS.tolist()


@pytest.mark.parametrize("name", EXACT)
def test_each_kind_cut_short(client: TestClient, name: str) -> None:
    kind, make = EXACT[name]
    body = make()
    for length in (8, 12, 16, 29, 40, len(body) // 2, len(body) - 20):
        answer = client.post("/api/labels", content=body[:length], headers={"content-type": f"image/{kind}"})
        whole = length > 40 and name == "TIFF of two pages"  # of which the first is looked at
        assert answer.status_code in ((200, 422) if whole else (415, 422)), (length, answer.text)


@pytest.mark.parametrize("tile", [None, 8])
def test_a_tiff_of_parts_over_parts(client: TestClient, tile: int | None) -> None:
    """Each would be decoded: of a large picture in a second strip of one row, thousands of times as many pixels."""
    tags = plain(64, 64, (278, 4, 1, 63), (273, 4, 3, 150), (279, 4, 3, 150))
    if tile is not None:
        tags = plain(64, 64, (322, 4, 1, tile), (323, 4, 1, tile), (324, 4, 64, 150), (325, 4, 64, 150))
        tags = {key: tag for key, tag in tags.items() if key not in (273, 278, 279)}
    body = tiff([*tags.values()], b"\0" * 5000)
    answer = client.post("/api/labels", content=body, headers={"content-type": "image/tiff"})
    assert answer.status_code == 422, answer.text


def test_pictures_of_no_pixels(client: TestClient) -> None:
    for kind, body in (("bmp", bmp(0, 5)), ("bmp", bmp(5, 0)), ("tiff", tiff([*plain(0, 8).values()], b"\0" * 99))):
        answer = client.post("/api/synthesize", content=body, headers={"content-type": f"image/{kind}"})
        assert answer.status_code == 422, answer.text


_MEASURE = """
import resource, sys
from pathlib import Path
from lab2pix.web.painter_pictures import open_picture
from lab2pix.web.guard import RefusedError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for file in sorted(Path(sys.argv[1]).iterdir()):
    try:
        open_picture(file.read_bytes(), "image/" + file.suffix[1:])
        print("taken", file.name)
    except RefusedError as error:
        pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted in another way")
def test_refusing_takes_no_memory(tmp_path: Path) -> None:
    for number, (kind, make) in enumerate(TOO_MUCH.values()):
        (tmp_path / f"{number:02}.{kind}").write_bytes(make())
    run = subprocess.run([sys.executable, "-c", _MEASURE, tmp_path], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 64, run.stdout

"""What the painter's server refuses, always with a sentence and never with a status of its own fault."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("starlette", reason="the extra 'web' is not installed")
from starlette.testclient import TestClient

from lab2pix.errors import CheckpointError
from lab2pix.inference import Synthesizer
from lab2pix.web.guard import HEADERS, Budget, RefusedError, host_checker
from lab2pix.web.painter import create_app
from lab2pix.web.painter_desk import Painter
from lab2pix.web.painter_kinds import KINDS
from lab2pix.web.painter_pictures import MAX_BYTES

PNG = {"content-type": "image/png"}
JPEG = {"content-type": "image/jpeg"}
ANYTHING = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.fixture(scope="module")
def client(drawer: Synthesizer) -> Iterator[TestClient]:
    app = create_app(Painter(drawer), host_checker("127.0.0.1"))
    with TestClient(app, base_url="http://127.0.0.1:8000") as opened:
        yield opened


def save(picture: np.ndarray, form: str = "PNG") -> bytes:
    out = BytesIO()
    Image.fromarray(picture).save(out, format=form)
    return out.getvalue()


LABEL = save(np.full((64, 64), 3, np.uint8))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(width: int, height: int, *, color: int = 0) -> bytes:
    """Return a PNG that claims a size and holds a few bytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def refused(client: TestClient, path: str, **request: object) -> tuple[int, str]:
    """Return status and sentence of a POST that must be refused."""
    response = client.post(path, **request)  # type: ignore[arg-type]
    assert 400 <= response.status_code < 500, (response.status_code, path)
    assert set(response.json()) == {"error"}
    sentence = response.json()["error"]
    assert sentence.strip() and "\n" not in sentence and "Traceback" not in sentence
    return response.status_code, sentence


# --- parameters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "part"),
    [
        ("seed=-1", "'seed' cannot be '-1'"),
        ("seed=1.0", "no whole number"),
        ("seed=", "no whole number"),
        ("seed=%F0%9F%8E%A8", "no whole number"),
        ("seed=1_000", "no whole number"),
        ("seed=+1", "no whole number"),
        ("seed=9007199254740992", "less than or equal to 9007199254740991"),
        ("seed=" + "9" * 5000, "no whole number"),
        ("samples=0", "greater than or equal to 1"),
        ("samples=17", "less than or equal to 16"),
        ("seed_b=2&mix=1.5", "less than or equal to 1"),
        ("seed_b=2&mix=nan", "no number"),
        ("seed_b=2&mix=-0.1", "no number"),
        ("seed_b=2", "belong together"),
        ("mix=0.5", "belong together"),
        ("seed_b=2&mix=0.5&samples=2", "one picture"),
        ("form=colours", "'form' cannot be 'colours'"),
        ("request=short", "'request' cannot be 'short'"),
        ("request=UPPERCASE", "'request' cannot be"),
        ("request=abcdefgh%0A", "'request' cannot be"),
        ("request=" + "a" * 33, "'request' cannot be"),
        ("seeds=1", "no parameter 'seeds'; did you mean 'seed'?"),
        ("seed=1&seed=2", "given twice"),
    ],
)
def test_wrong_parameters_are_named(client: TestClient, query: str, part: str) -> None:
    status, sentence = refused(client, f"/api/synthesize?{query}", content=LABEL, headers=PNG)
    assert status == 400
    assert part in sentence
    assert len(sentence) < 300


@pytest.mark.parametrize("path", ["/api/labels?seed=1", "/api/random?form=x", "/api/random?seed=-1"])
def test_wrong_parameters_elsewhere(client: TestClient, path: str) -> None:
    assert refused(client, path, content=LABEL, headers=PNG)[0] == 400


def test_what_is_read_takes_no_parameters_but_its_own(client: TestClient) -> None:
    for path in ("/api/model?x=1", "/api/examples?form=ids", "/api/examples/0123456789abcdef.png?form=x"):
        response = client.get(path)
        assert response.status_code == 400, path
        assert response.json()["error"]


# --- bodies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("picture", "part"),
    [
        (np.full((8, 8), 14, np.uint8), "holds id 14"),
        (np.full((8, 8), 255, np.uint8), "holds id 255"),
        (np.full((8, 8), 999, np.uint16), "holds id 999"),
        (np.full((8, 8, 3), (1, 200, 3), np.uint8), "(1, 200, 3)"),
    ],
)
def test_wrong_ids_and_colours_are_named(client: TestClient, picture: np.ndarray, part: str) -> None:
    for path in ("/api/synthesize", "/api/labels"):
        status, sentence = refused(client, path, content=save(picture), headers=PNG)
        assert (status, part in sentence) == (400, True), sentence


def test_ids_that_are_none(client: TestClient) -> None:
    for picture, part in (
        (np.full((8, 8), 14, np.uint8), "id 14"),
        (np.full((8, 8), 3, np.uint16), "8 bits"),
        (np.full((8, 8, 3), (1, 2, 3), np.uint8), "not gray"),
        (np.full((8, 8, 4), (1, 1, 1, 9), np.uint8), "not gray"),
    ):
        for path in ("/api/synthesize?form=ids", "/api/labels?given=ids"):
            status, sentence = refused(client, path, content=save(picture), headers=PNG)
            assert (status, part in sentence) == (400, True), sentence


@pytest.mark.parametrize("form", ["GIF", "ICO", "PPM", "AVIF", "JPEG2000", "BMP", "WEBP", "TIFF", "JPEG"])
def test_only_the_kinds_that_are_said(client: TestClient, form: str) -> None:
    body = save(np.full((32, 32, 3), 90, np.uint8), form)
    for path in ("/api/synthesize", "/api/labels"):
        assert refused(client, path, content=body, headers=PNG)[0] == 415
        for kind in KINDS:
            if kind != f"image/{form.lower()}":
                assert refused(client, path, content=body, headers={"content-type": kind})[0] == 415
        if f"image/{form.lower()}" not in KINDS:
            assert refused(client, path, content=body, headers={"content-type": f"image/{form.lower()}"})[0] == 415


@pytest.mark.parametrize("kind", [None, "", "text/plain", "image/svg+xml", "application/json", "multipart/form-data"])
def test_only_pictures_are_taken(client: TestClient, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    status, sentence = refused(client, "/api/synthesize", content=LABEL, headers=headers)
    assert status == 415
    assert sentence == "The body must be image/png, image/jpeg, image/webp, image/bmp or image/tiff"


@pytest.mark.parametrize(
    "body",
    [
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg>&a;</svg>',
        b"%!PS-Adobe-3.0 EPSF-3.0",
        b"",
        b"\x89PNG",
    ],
)
def test_what_is_no_picture(client: TestClient, body: bytes) -> None:
    for path, headers in (("/api/synthesize", PNG), ("/api/labels", PNG), ("/api/labels", JPEG)):
        assert refused(client, path, content=body, headers=headers)[0] == 415


@pytest.mark.parametrize(
    "body",
    [
        png_of(60000, 60000),
        png_of(60000, 60000, color=2),
        png_of(4001, 4000),
        png_of(2**31 - 1, 2**31 - 1),
        png_of(16_000_001, 1),
    ],
)
def test_a_picture_that_claims_to_be_huge_is_not_decoded(client: TestClient, body: bytes) -> None:
    for path in ("/api/synthesize", "/api/synthesize?form=ids", "/api/labels"):
        status, sentence = refused(client, path, content=body, headers=PNG)
        assert (status, "more than 16000000 pixels" in sentence) == (413, True), sentence


def test_long_strips(client: TestClient) -> None:
    """Few bytes, few pixels, but resized carelessly they would be gigabytes."""
    for side in (16_384, 16_385):
        for shape in ((1, side), (side, 1)):
            body = save(np.full(shape, 3, np.uint8), "PNG")
            if side > 16_384:
                status, sentence = refused(client, "/api/synthesize", content=body, headers=PNG)
                assert (status, "more than 16384 pixels" in sentence) == (413, True)
            else:
                assert client.post("/api/synthesize", content=body, headers=PNG).status_code == 200
                assert client.post("/api/labels", content=body, headers=PNG).status_code == 200


def test_a_jpeg_that_claims_to_be_huge(client: TestClient) -> None:
    body = bytearray(save(np.full((32, 32, 3), 90, np.uint8), "JPEG"))
    place = body.index(b"\xff\xc0") + 5
    body[place : place + 4] = struct.pack(">HH", 60000, 60000)
    assert refused(client, "/api/labels", content=bytes(body), headers=JPEG)[0] == 413


def test_a_picture_of_no_pixels(client: TestClient) -> None:
    for width, height in ((0, 0), (0, 5), (5, 0)):
        assert refused(client, "/api/synthesize", content=png_of(width, height), headers=PNG)[0] == 422


def test_a_text_that_would_unpack_to_much_is_passed_over(client: TestClient) -> None:
    text = chunk(b"zTXt", b"comment\0\0" + zlib.compress(b"\0" * 100_000_000))
    body = LABEL[:33] + text + LABEL[33:]
    assert client.post("/api/synthesize", content=body, headers=PNG).status_code == 200


def test_a_picture_cut_short(client: TestClient, drawer: Synthesizer) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for body, headers in ((save(noise), PNG), (save(noise, "JPEG"), JPEG)):
        for length in (9, 20, 33, 40, len(body) // 2, len(body) - 40):
            status, sentence = refused(client, "/api/labels", content=body[:length], headers=headers)
            assert (status, "cut short or damaged" in sentence) == (422, True), (length, sentence)


def test_a_body_that_is_too_large(client: TestClient) -> None:
    def send(size: int, *, told: bool) -> int:
        body = LABEL.ljust(size, b"\0")  # what follows the last chunk of a PNG is not looked at
        content = body if told else (body[start : start + 2**16] for start in range(0, size, 2**16))
        return client.post("/api/synthesize", content=content, headers=PNG).status_code

    for told in (True, False):
        assert (send(MAX_BYTES, told=told), send(MAX_BYTES + 1, told=told)) == (200, 413), told
    assert refused(client, "/api/labels", content=LABEL, headers={**PNG, "content-length": "9" * 4000})[0] == 413


def test_bodies_together_are_limited() -> None:
    budget = Budget(100)
    with budget.share() as first:
        first(60)
        with budget.share() as second, pytest.raises(RefusedError, match="at once") as error:
            second(30)
            second(11)
        assert (error.value.status, error.value.headers) == (429, {"retry-after": "1"})
        with budget.share() as third:  # what the second had is free again
            third(40)
    with budget.share() as fourth:
        fourth(100)


# --- every answer -------------------------------------------------------------------------------------------------


def test_headers_of_every_answer(client: TestClient) -> None:
    answers = [client.get(path) for path in ("/", "/api/model", "/api/docs", "/openapi.json", "/nothing")]
    answers += [client.post("/api/synthesize", content=LABEL, headers=PNG), client.post("/api/synthesize")]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["referrer-policy"] == "no-referrer"
    assert client.get("/api/model").headers["cache-control"] == "no-store"


def test_other_verbs_name_the_right_ones(client: TestClient) -> None:
    for method, path, right in (
        ("GET", "/api/synthesize", {"POST"}),
        ("DELETE", "/api/labels", {"POST"}),
        ("POST", "/api/model", {"GET", "HEAD"}),
        ("PUT", "/", {"GET", "HEAD"}),
    ):
        response = client.request(method, path)
        assert response.status_code == 405
        assert set(response.headers["allow"].split(", ")) == right


@pytest.mark.parametrize(
    "path",
    [
        "/api/examples/../model.png",
        "/api/examples/..%2f..%2fpages%2fpainter.html.png",
        "/api/examples/%2fetc%2fpasswd.png",
        "/api/examples/0000000000000000.png",
        "/api/examples/",
        "/api/model/",
        "/pages/painter.html",
        "/painter.html",
        "/study.js",
        "/api.css",
        "/docs",
        "/model.safetensors",
    ],
)
def test_nothing_else_is_served(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404, path
    assert response.json()["error"]


def test_a_damaged_model_is_not_the_requests_fault(
    drawer: Synthesizer, monkeypatch: pytest.MonkeyPatch, client: TestClient
) -> None:
    def draw(*_: object) -> torch.Tensor:
        raise CheckpointError("the weights of step 7 draw pixels that are not finite; take an earlier checkpoint")

    monkeypatch.setattr(Synthesizer, "generate", draw)
    response = client.post("/api/synthesize", content=LABEL, headers=PNG)
    assert (response.status_code, "not finite" in response.json()["error"]) == (500, True)


def test_a_fault_of_the_server_tells_nothing_of_it(drawer: Synthesizer, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(*_: object) -> torch.Tensor:
        raise RuntimeError("/secret/place")

    monkeypatch.setattr(Synthesizer, "generate", draw)
    app = create_app(Painter(drawer), host_checker("127.0.0.1"))
    with TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False) as opened:
        response = opened.post("/api/synthesize", content=LABEL, headers=PNG)
        assert (response.status_code, "secret" in response.text) == (500, False)
        assert "Something went wrong" in response.json()["error"]
        assert HEADERS.items() <= dict(response.headers).items()
        assert response.headers["cache-control"] == "no-store"
        monkeypatch.undo()
        assert opened.post("/api/synthesize", content=LABEL, headers=PNG).status_code == 200  # the thread lives on


# --- anything at all ------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["seed", "seed_b", "mix", "samples", "form", "given", "request"]) | st.text(max_size=8)
VALUES = st.integers().map(str) | st.floats().map(str) | st.sampled_from(["ids", "file", "palette"]) | st.text()
QUERIES = st.dictionaries(NAMES, VALUES, max_size=4)


@st.composite
def damaged(draw: st.DrawFn) -> tuple[bytes, str]:
    """Return a label map with some bytes changed, left out or repeated, and the kind that it is said to be."""
    form = draw(st.sampled_from(["PNG", "JPEG", "WEBP", "BMP", "TIFF"]))
    picture = draw(st.sampled_from([np.full((16, 16), 3, np.uint8), np.full((9, 7, 3), (135, 190, 235), np.uint8)]))
    body = bytearray(save(picture, form))
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, len(body) - 1))
        body[place : place + draw(st.integers(0, 5))] = draw(st.binary(max_size=5))
    return bytes(body), draw(st.sampled_from([f"image/{form.lower()}"] * 9 + list(KINDS)))


JUNK = st.tuples(st.binary(max_size=200), st.sampled_from(list(KINDS)))


@settings(max_examples=150, deadline=None, suppress_health_check=ANYTHING)
@given(query=QUERIES, sent=damaged() | JUNK)
def test_no_request_breaks_the_server(client: TestClient, query: dict[str, str], sent: tuple[bytes, str]) -> None:
    body, kind = sent
    for path in ("/api/synthesize", "/api/labels"):
        response = client.post(path, params=query, content=body, headers={"content-type": kind})
        assert response.status_code == 200 or set(response.json()) == {"error"}
        assert response.status_code in (200, 400, 413, 415, 422)


@settings(max_examples=60, deadline=None, suppress_health_check=ANYTHING)
@given(token=st.binary(max_size=30), query=st.binary(max_size=30))
def test_no_path_or_query_breaks_the_server(client: TestClient, token: bytes, query: bytes) -> None:
    token = token.replace(b"\n", b"n")  # httpx takes a line's end off an address
    quoted, asked = ("".join(f"%{byte:02x}" for byte in part) for part in (token, query))
    assert client.get(f"/api/examples/{quoted}.png").status_code == 404
    assert client.post(f"/api/random?{asked}").status_code == (200 if not query else 400)
    assert client.get(f"/{quoted}").status_code == (200 if not token else 404)

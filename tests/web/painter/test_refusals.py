"""Requests that the painter refuses: always with one sentence, never with status 500."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from lab2pix.errors import CheckpointError
from lab2pix.inference import Synthesizer
from lab2pix.web.painter.app import create_app
from lab2pix.web.painter.formats import FORMATS
from lab2pix.web.painter.images import MAX_BYTES
from lab2pix.web.painter.service import PainterService
from lab2pix.web.responses import HTTPError
from lab2pix.web.security import HEADERS, HostChecker, MemoryBudget
from tests.helpers.painter import JPEG, PNG, encode, label_png

ANYTHING = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
LABEL = label_png()


def refused(client: TestClient, path: str, **request: object) -> tuple[int, str]:
    """Return status and message of a POST that must be refused."""
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
        ("seed=1.0", "non-negative integer"),
        ("seed=", "non-negative integer"),
        ("seed=%F0%9F%8E%A8", "non-negative integer"),
        ("seed=1_000", "non-negative integer"),
        ("seed=+1", "non-negative integer"),
        ("seed=9007199254740992", "less than or equal to 9007199254740991"),
        ("seed=" + "9" * 5000, "non-negative integer"),
        ("samples=0", "greater than or equal to 1"),
        ("scale=0", "greater than or equal to 1"),
        ("scale=3", "less than or equal to 2"),
        ("scale=1.5", "non-negative integer"),
        ("samples=17", "less than or equal to 16"),
        ("seed_b=2&mix=1.5", "less than or equal to 1"),
        ("seed_b=2&mix=nan", "must be a number"),
        ("seed_b=2&mix=-0.1", "must be a number"),
        ("seed_b=2", "given together"),
        ("mix=0.5", "given together"),
        ("seed_b=2&mix=0.5&samples=2", "one image"),
        ("input_format=colors", "'input_format' cannot be 'colors'"),
        ("channel=short", "'channel' cannot be 'short'"),
        ("channel=UPPERCASE", "'channel' cannot be"),
        ("channel=abcdefgh%0A", "'channel' cannot be"),
        ("channel=" + "a" * 33, "'channel' cannot be"),
        ("seeds=1", "no parameter 'seeds'; did you mean 'seed'?"),
        ("seed=1&seed=2", "given twice"),
    ],
)
def test_invalid_parameter_is_named(client: TestClient, query: str, part: str) -> None:
    status, sentence = refused(client, f"/api/synthesize?{query}", content=LABEL, headers=PNG)
    assert status == 400
    assert part in sentence
    assert len(sentence) < 300


@pytest.mark.parametrize("path", ["/api/labels?seed=1", "/api/random?output_format=x", "/api/random?seed=-1"])
def test_invalid_parameter_of_other_addresses_is_refused(client: TestClient, path: str) -> None:
    assert refused(client, path, content=LABEL, headers=PNG)[0] == 400


def test_unknown_parameter_of_get_is_refused(client: TestClient) -> None:
    for path in (
        "/api/model?x=1",
        "/api/examples?output_format=ids",
        "/api/examples/0123456789abcdef.png?output_format=x",
    ):
        response = client.get(path)
        assert response.status_code == 400, path
        assert response.json()["error"]


# --- bodies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "part"),
    [
        (np.full((8, 8), 14, np.uint8), "holds id 14"),
        (np.full((8, 8), 255, np.uint8), "holds id 255"),
        (np.full((8, 8), 999, np.uint16), "holds id 999"),
        (np.full((8, 8, 3), (1, 200, 3), np.uint8), "(1, 200, 3)"),
    ],
)
def test_unknown_id_or_color_is_named(client: TestClient, image: np.ndarray, part: str) -> None:
    for path in ("/api/synthesize", "/api/labels"):
        status, sentence = refused(client, path, content=encode(image), headers=PNG)
        assert (status, part in sentence) == (400, True), sentence


def photo() -> np.ndarray:
    """Return an image with smooth colors and some texture."""
    rows, columns = np.mgrid[:96, :96] / 96
    colors = np.stack([rows, columns, 1 - rows * columns], -1) * 200
    return (colors + np.random.default_rng(0).integers(0, 20, (96, 96, 1))).astype(np.uint8)


def test_photo_is_named(client: TestClient) -> None:
    gray = photo()[..., 0]
    for path in ("/api/labels", "/api/synthesize"):
        for image in (photo(), gray):
            for form, headers in (("PNG", PNG), ("JPEG", JPEG)):
                response = client.post(path, content=encode(image, form), headers=headers)
                assert (response.status_code, response.headers["x-lab2pix-content"]) == (400, "photo")
                assert response.json()["error"].startswith("This looks like a photo, not a label map; trace it")


def test_label_map_of_another_space_is_no_photo(client: TestClient) -> None:
    random = np.random.default_rng(0)
    colors = random.integers(0, 256, (12, 3), np.uint8)
    squares = colors[random.integers(0, 12, (8, 8))].repeat(16, 0).repeat(16, 1)
    for form, headers in (("PNG", PNG), ("JPEG", JPEG)):
        response = client.post("/api/labels", content=encode(squares, form), headers=headers)
        assert response.status_code == 400 and "photo" not in response.json()["error"]
        assert "x-lab2pix-content" not in response.headers


def test_invalid_canonical_ids_are_refused(client: TestClient) -> None:
    for image, part in (
        (np.full((8, 8), 14, np.uint8), "id 14"),
        (np.full((8, 8), 3, np.uint16), "8 bits"),
        (np.full((8, 8, 3), (1, 2, 3), np.uint8), "not gray"),
        (np.full((8, 8, 4), (1, 1, 1, 9), np.uint8), "not gray"),
    ):
        for path in ("/api/synthesize?input_format=ids", "/api/labels?input_format=ids"):
            status, sentence = refused(client, path, content=encode(image), headers=PNG)
            assert (status, part in sentence) == (400, True), sentence


@pytest.mark.parametrize("kind", [None, "", "text/plain", "image/svg+xml", "application/json", "multipart/form-data"])
def test_other_content_type_is_refused(client: TestClient, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    status, sentence = refused(client, "/api/synthesize", content=LABEL, headers=headers)
    assert status == 415
    assert sentence == "The body must be image/png or image/jpeg"


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
def test_body_that_is_not_an_image_is_refused(client: TestClient, body: bytes) -> None:
    for path, headers in (("/api/synthesize", PNG), ("/api/labels", PNG), ("/api/labels", JPEG)):
        assert refused(client, path, content=body, headers=headers)[0] == 415


def test_body_over_the_limit_is_refused(client: TestClient) -> None:
    def send(size: int, *, told: bool) -> int:
        body = LABEL.ljust(size, b"\0")  # data after the last chunk of a PNG are ignored
        content = body if told else (body[start : start + 2**16] for start in range(0, size, 2**16))
        return client.post("/api/synthesize", content=content, headers=PNG).status_code

    for told in (True, False):
        assert (send(MAX_BYTES, told=told), send(MAX_BYTES + 1, told=told)) == (200, 413), told
    assert refused(client, "/api/labels", content=LABEL, headers={**PNG, "content-length": "9" * 4000})[0] == 413


def test_memory_budget_is_shared_by_all_bodies() -> None:
    budget = MemoryBudget(100)
    with budget.share() as first:
        first(60)
        with budget.share() as second, pytest.raises(HTTPError, match="at once") as error:
            second(30)
            second(11)
        assert (error.value.status, error.value.headers) == (429, {"retry-after": "1"})
        with budget.share() as third:  # the second request's bytes are free again
            third(40)
    with budget.share() as fourth:
        fourth(100)


# --- responses ------------------------------------------------------------------------------------------------------


def test_every_response_has_security_headers(client: TestClient) -> None:
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


def test_wrong_method_is_refused_with_allow_header(client: TestClient) -> None:
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
        "/api/examples/..%2f..%2fstatic%2findex.html.png",
        "/api/examples/%2fetc%2fpasswd.png",
        "/api/examples/0000000000000000.png",
        "/api/examples/",
        "/api/model/",
        "/static/../app.py",
        "/static/index.html",
        "/static/drag.js",
        "/docs.html",
        "/docs",
        "/model.safetensors",
    ],
)
def test_unknown_path_is_not_served(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404, path
    assert response.json()["error"]


def test_model_error_has_status_500(
    synthesizer: Synthesizer, monkeypatch: pytest.MonkeyPatch, client: TestClient
) -> None:
    def draw(*_: object) -> torch.Tensor:
        raise CheckpointError("the weights of step 7 generate pixels that are not finite; use an earlier checkpoint")

    monkeypatch.setattr(Synthesizer, "generate", draw)
    response = client.post("/api/synthesize", content=LABEL, headers=PNG)
    assert (response.status_code, "not finite" in response.json()["error"]) == (500, True)


def test_internal_error_hides_its_message(synthesizer: Synthesizer, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(*_: object) -> torch.Tensor:
        raise RuntimeError("/secret/place")

    monkeypatch.setattr(Synthesizer, "generate", draw)
    app = create_app(PainterService(synthesizer), HostChecker("127.0.0.1"))
    with TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False) as opened:
        response = opened.post("/api/synthesize", content=LABEL, headers=PNG)
        assert (response.status_code, "secret" in response.text) == (500, False)
        assert "Internal error" in response.json()["error"]
        assert HEADERS.items() <= dict(response.headers).items()
        assert response.headers["cache-control"] == "no-store"
        monkeypatch.undo()
        assert opened.post("/api/synthesize", content=LABEL, headers=PNG).status_code == 200


# --- fuzzing --------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["seed", "seed_b", "mix", "samples", "input_format", "output_format", "channel"]) | st.text(
    max_size=8
)
VALUES = st.integers().map(str) | st.floats().map(str) | st.sampled_from(["ids", "file", "palette"]) | st.text()
QUERIES = st.dictionaries(NAMES, VALUES, max_size=4)


@st.composite
def damaged(draw: st.DrawFn) -> tuple[bytes, str]:
    """Return a label map with some bytes changed, left out or repeated, and a content type."""
    form = draw(st.sampled_from(["PNG", "JPEG"]))
    image = draw(st.sampled_from([np.full((16, 16), 3, np.uint8), np.full((9, 7, 3), (135, 190, 235), np.uint8)]))
    body = bytearray(encode(image, form))
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, len(body) - 1))
        body[start : start + draw(st.integers(0, 5))] = draw(st.binary(max_size=5))
    return bytes(body), draw(st.sampled_from([f"image/{form.lower()}"] * 9 + list(FORMATS)))


JUNK = st.tuples(st.binary(max_size=200), st.sampled_from(list(FORMATS)))


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=ANYTHING)
@given(query=QUERIES, sent=damaged() | JUNK)
def test_fuzzed_uploads_are_served_or_refused(
    client: TestClient, query: dict[str, str], sent: tuple[bytes, str]
) -> None:
    body, media_type = sent
    for path in ("/api/synthesize", "/api/labels"):
        response = client.post(path, params=query, content=body, headers={"content-type": media_type})
        assert response.status_code == 200 or set(response.json()) == {"error"}
        assert response.status_code in (200, 400, 413, 415, 422)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=ANYTHING)
@given(token=st.binary(max_size=30), query=st.binary(max_size=30))
def test_fuzzed_path_or_query_is_served_or_refused(client: TestClient, token: bytes, query: bytes) -> None:
    token = token.replace(b"\n", b"n")  # httpx takes a line's end off an address
    quoted, asked = ("".join(f"%{byte:02x}" for byte in part) for part in (token, query))
    assert client.get(f"/api/examples/{quoted}.png").status_code == 404
    assert client.post(f"/api/random?{asked}").status_code == (200 if not query else 400)
    assert client.get(f"/{quoted}").status_code == (200 if not token else 404)

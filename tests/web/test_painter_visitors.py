"""Whom the painter's server answers: those who know its address, and no pages of other sites."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("starlette", reason="the extra 'web' is not installed")
from starlette.testclient import TestClient

from lab2pix.inference import Synthesizer
from lab2pix.web.guard import host_checker
from lab2pix.web.painter import create_app
from lab2pix.web.painter_desk import Painter
from tests.helpers.http import PNG, label


@pytest.fixture(scope="module")
def client(drawer: Synthesizer) -> Iterator[TestClient]:
    app = create_app(Painter(drawer), host_checker("127.0.0.1", ["paint.example"]))
    with TestClient(app, base_url="http://127.0.0.1:8000") as opened:
        yield opened


LABEL = label()


def test_a_foreign_host_is_refused_everywhere(client: TestClient) -> None:
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "localhost@evil"):
        for method, path in (("GET", "/"), ("GET", "/api/model"), ("POST", "/api/synthesize"), ("GET", "/nothing")):
            response = client.request(method, path, headers={"host": host})
            assert response.status_code == 400, (host, path)
            assert "not known under that name" in response.json()["error"]
    assert client.get("/api/model", headers={"host": "paint.example"}).status_code == 200


@pytest.mark.parametrize(("site", "status"), [("cross-site", 403), ("same-site", 403), ("same-origin", 200)])
def test_pages_of_other_sites_draw_nothing(client: TestClient, site: str, status: int) -> None:
    headers = {**PNG, "sec-fetch-site": site, "origin": "http://evil.example"}
    for path in ("/api/synthesize", "/api/labels", "/api/random"):
        assert client.post(path, content=LABEL, headers=headers).status_code == status


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        ("http://evil.example", "127.0.0.1:8000", 403),
        ("http://127.0.0.1:8001", "127.0.0.1:8000", 403),
        ("http://127.0.0.1", "127.0.0.1:8000", 403),
        ("http://127.0.0.1:8000.evil.example", "127.0.0.1:8000", 403),
        ("null", "127.0.0.1:8000", 403),
        ("", "127.0.0.1:8000", 403),
        ("http://localhost:8000", "127.0.0.1:8000", 403),
        ("http://127.0.0.1:8000", "127.0.0.1:8000", 200),
        ("http://LOCALHOST:8000", "localhost:8000", 200),
        ("http://paint.example", "paint.example:80", 200),
        ("https://paint.example", "paint.example", 200),  # TLS ends at a server in front
        ("https://paint.example", "paint.example:443", 200),
        ("https://paint.example", "paint.example:80", 403),
    ],
)
def test_pages_of_other_sites_draw_nothing_where_browsers_tell_no_more_than_their_origin(
    client: TestClient, origin: str, host: str, status: int
) -> None:
    headers = {**PNG, "origin": origin, "host": host}
    for path in ("/api/synthesize", "/api/labels", "/api/random"):
        response = client.post(path, content=LABEL, headers=headers)
        assert response.status_code == status, path
        assert status == 200 or response.json() == {"error": "Pages of other sites cannot use this server"}
    assert client.get("/api/model", headers=headers).status_code == 200  # which no other page may read
    bare = {"origin": origin, "host": host, "content-type": "application/x-www-form-urlencoded"}  # as forms are sent
    assert client.post("/api/random", headers=bare).status_code == status


def test_no_other_origin_is_allowed(client: TestClient) -> None:
    asked = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    answers = [client.options("/api/synthesize", headers=asked), client.get("/api/model", headers=asked)]
    assert [answer.status_code for answer in answers] == [405, 200]
    for answer in answers:
        assert not [name for name in answer.headers if name.startswith("access-control")]

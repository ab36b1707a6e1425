"""Host and origin checks of the painter."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from tests.helpers.painter import PNG, label_png

LABEL = label_png()


def test_unknown_host_is_refused(client: TestClient) -> None:
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "localhost@evil"):
        for method, path in (("GET", "/"), ("GET", "/api/model"), ("POST", "/api/synthesize"), ("GET", "/nothing")):
            response = client.request(method, path, headers={"host": host})
            assert response.status_code == 400, (host, path)
            assert "host name is unknown" in response.json()["error"]
    assert client.get("/api/model", headers={"host": "paint.example"}).status_code == 200


@pytest.mark.parametrize(("site", "status"), [("cross-site", 403), ("same-site", 403), ("same-origin", 200)])
def test_cross_site_post_is_refused(client: TestClient, site: str, status: int) -> None:
    headers = {**PNG, "sec-fetch-site": site, "origin": "http://evil.example"}
    for path in ("/api/synthesize", "/api/labels", "/api/random"):
        assert client.post(path, content=LABEL, headers=headers).status_code == status


@pytest.mark.slow
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
        ("https://paint.example", "paint.example", 200),  # behind a TLS proxy
        ("https://paint.example", "paint.example:443", 200),
        ("https://paint.example", "paint.example:80", 200),
        ("http://paint.example:8780", "127.0.0.1:8000", 200),  # behind a proxy that names the painter's own address
        ("https://paint.example", "127.0.0.1:8000", 200),
        ("http://paint.example:8780", "paint.example", 200),  # behind a proxy that leaves out its port
        ("http://paint.example.evil.example", "127.0.0.1:8000", 403),
        ("http://evil.paint.example", "127.0.0.1:8000", 403),
        ("http://paint.example@evil.example", "127.0.0.1:8000", 403),
        ("http://paint.example:x", "127.0.0.1:8000", 403),
        ("file://paint.example", "127.0.0.1:8000", 403),
        ("http://evil.example", "paint.example", 403),
    ],
)
def test_cross_origin_post_is_refused_without_fetch_metadata(
    client: TestClient, origin: str, host: str, status: int
) -> None:
    headers = {**PNG, "origin": origin, "host": host}
    for path in ("/api/synthesize", "/api/labels", "/api/random"):
        response = client.post(path, content=LABEL, headers=headers)
        assert response.status_code == status, path
        assert status == 200 or response.json()["error"].startswith(
            "Pages of other sites cannot use this server; behind"
        )
    assert client.get("/api/model", headers=headers).status_code == 200  # other pages cannot read it
    bare = {"origin": origin, "host": host, "content-type": "application/x-www-form-urlencoded"}  # as a form is sent
    assert client.post("/api/random", headers=bare).status_code == status


def test_no_response_allows_another_origin(client: TestClient) -> None:
    asked = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    answers = [client.options("/api/synthesize", headers=asked), client.get("/api/model", headers=asked)]
    assert [answer.status_code for answer in answers] == [405, 200]
    for answer in answers:
        assert not [name for name in answer.headers if name.startswith("access-control")]

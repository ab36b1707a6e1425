"""The study's API: what it returns and refuses, and that no response reveals a method."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from lab2pix.errors import DataError, OutputError
from lab2pix.web.security import HostChecker
from lab2pix.web.serving import listen
from lab2pix.web.study.app import MAX_BODY, create_app, serve_study
from lab2pix.web.study.build import BuiltStudy
from lab2pix.web.study.samples import Study
from lab2pix.web.study.store import FILE_NAME, AnswerStore, read_answers
from tests.helpers.painter import static_files

Post = Callable[..., tuple[int, dict[str, Any]]]
ANYTHING = [HealthCheck.function_scoped_fixture]
KEYS = st.sampled_from(["participant", "id", "sample", "ranking", "seconds"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner),
)


@pytest.fixture
def client(study_folder: Path, study: Study, store: AnswerStore) -> Iterator[TestClient]:
    app = create_app(study_folder, study, store, HostChecker("127.0.0.1", ["study.example"]))
    with TestClient(app, base_url="http://127.0.0.1:8000") as opened:
        yield opened


@pytest.fixture
def post(client: TestClient) -> Post:
    """Sends JSON; returns status and response."""

    def call(path: str, body: object) -> tuple[int, dict[str, Any]]:
        response = client.post(f"/api/{path}", json=body)
        return response.status_code, response.json()

    return call


@pytest.fixture
def answer(post: Post) -> dict[str, Any]:
    """The page's request for Ada's first sample, ranked in the order of display."""
    first = post("participant", {"participant": "Ada"})[1]["samples"][0]
    return {
        "participant": "Ada",
        "id": "0123456789abcdef",
        "sample": first["sample"],
        "ranking": first["images"],
        "seconds": 4.5,
    }


# --- responses ------------------------------------------------------------------------------------------------------


def test_page_includes_all_static_files(client: TestClient) -> None:
    names = {"base.css", "style.css", "main.js", "api.js", "dom.js", "drag.js", "ranking.js", "viewport.js"}
    assert static_files(client) == names


def test_participant_gets_samples_in_shuffled_order(post: Post, study: Study) -> None:
    status, given_ = post("participant", {"participant": "  Ada  "})
    assert (status, given_["participant"], len(given_["samples"])) == (200, "Ada", 4)
    for shown, task in zip(given_["samples"], study.tasks("Ada"), strict=True):
        assert shown == {
            "sample": task.sample.label,
            "truth": task.sample.truth,
            "size": [6, 8],
            "classes": [0, 3],
            "images": [task.sample.images[method] for method in task.methods],
            "ranking": None,
        }
    assert given_["classes"][3] == {"name": "mountain", "color": list(study.classes[3].color)}


def test_no_classes_without_label_space(build: Callable[..., BuiltStudy]) -> None:
    built = build(label_space=None)
    with AnswerStore(built.folder, built.study) as store:
        app = create_app(built.folder, built.study, store, HostChecker("127.0.0.1"))
        with TestClient(app, base_url="http://127.0.0.1:8000") as client:
            response = client.post("/api/participant", json={"participant": "Ada"}).json()
    assert response["classes"] == []
    assert [sample["classes"] for sample in response["samples"]] == [[]] * 4


def test_images_are_served_without_times(client: TestClient, study_folder: Path, study: Study) -> None:
    for token in study.pool[0].tokens:
        response = client.get(f"/images/{token}.png")
        assert response.content == (study_folder / "images" / f"{token}.png").read_bytes()
        assert response.headers["content-type"] == "image/png"
        assert "last-modified" not in response.headers and "etag" not in response.headers


def test_answer_is_stored_by_method_and_returned_by_token(
    post: Post, answer: dict[str, Any], study: Study, study_folder: Path
) -> None:
    ranking = answer["ranking"][::-1]
    assert post("answers", {**answer, "ranking": ranking}) == (200, {"outcome": "stored"})
    (kept,) = read_answers(study_folder, study).latest.values()
    task = study.tasks("Ada")[0]
    assert (kept.participant, kept.sample, kept.seconds) == ("Ada", task.sample.name, 4.5)
    assert tuple(kept.ranking) == task.methods[::-1]
    samples = post("participant", {"participant": "ADA"})[1]["samples"]
    assert [sample["ranking"] for sample in samples] == [ranking, None, None, None]
    assert {sample["ranking"] is None for sample in post("participant", {"participant": "Bo"})[1]["samples"]} == {True}


def test_no_response_reveals_method_or_file_names(
    client: TestClient, post: Post, answer: dict[str, Any], study: Study
) -> None:
    sent = [
        client.get(path)
        for path in ("/", "/static/style.css", "/static/main.js", "/static/viewport.js", "/study.json", "/nothing")
    ]
    sent += [client.get(f"/images/{token}.png") for sample in study.pool for token in sample.tokens]
    sent += [client.post("/api/answers", json={**answer, **change}) for change in ({}, {"ranking": ["spade", "x"]})]
    sent += [client.post("/api/participant", json={"participant": name}) for name in ("Ada", "Bo", "spade")]
    for response in sent:
        everything = response.content + json.dumps(dict(response.headers)).encode()
        for secret in (b"lab2pix-v2", b"no norm", b"city/c"):
            assert secret not in everything, response.url
        assert b"spade" not in everything.replace(b'"participant":"spade"', b""), response.url


# --- what it refuses ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "status", "part"),
    [
        ({"participant": " "}, 400, "needs a letter"),
        ({"participant": 3}, 422, "participant"),
        ({"sample": "0" * 16}, 400, "no such sample"),
        ({"ranking": []}, 422, "ranking"),
        ({"ranking": ["a", "b", "c"]}, 400, "every image"),
        ({"id": "short"}, 422, "id"),
        ({"id": "0123456789abcdef\n"}, 422, "id"),
        ({"seconds": -1}, 422, "seconds"),
        ({"seconds": 1e300}, 422, "seconds"),
        ({"seconds": "4"}, 422, "seconds"),
        ({"method": "spade"}, 422, None),
    ],
)
def test_invalid_answer_is_refused(
    post: Post, answer: dict[str, Any], study_folder: Path, change: dict[str, Any], status: int, part: str | None
) -> None:
    got, message = post("answers", {**answer, **change})
    assert got == status, message
    assert (part or "") in message["error"]
    assert (study_folder / FILE_NAME).read_bytes() == b""


def test_sample_of_another_participant_is_refused(
    post: Post, answer: dict[str, Any], study: Study, study_folder: Path
) -> None:
    bos = [task.sample.name for task in study.tasks("Bo")]
    alien = next(task.sample for task in study.tasks("Ada") if task.sample.name not in bos)
    body = {**answer, "sample": alien.label, "ranking": list(alien.images.values())}
    status, message = post("answers", {**body, "participant": "Bo"})
    assert (status, "no such sample" in message["error"]) == (400, True)
    assert (study_folder / FILE_NAME).read_bytes() == b""
    assert post("answers", body)[0] == 200


def test_ranking_that_is_not_a_permutation_is_refused(post: Post, answer: dict[str, Any], study_folder: Path) -> None:
    first, second, third = answer["ranking"]
    for ranking in ([first, second], [first, first, third], [first, second, third, third], [first, second, "0" * 16]):
        assert post("answers", {**answer, "ranking": ranking})[0] == 400
    assert (study_folder / FILE_NAME).read_bytes() == b""


def test_unknown_host_is_refused(client: TestClient, answer: dict[str, Any], study_folder: Path) -> None:
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost@evil", "127.0.0.1:80a", ""):
        for response in (
            client.get("/", headers={"host": host}),
            client.post("/api/answers", json=answer, headers={"host": host}),
        ):
            assert response.status_code == 400, host
            assert "host name is unknown" in response.json()["error"]
    assert (study_folder / FILE_NAME).read_bytes() == b""
    for host in ("127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000", "study.example"):
        assert client.get("/", headers={"host": host}).status_code == 200, host


def test_host_checker_when_listening_on_all_addresses() -> None:
    known = HostChecker("0.0.0.0").is_known
    assert known("192.168.1.7:8000") and known("[fe80::1]:8000") and known(socket.gethostname())
    assert not known("evil.example") and not known("[evil]") and not known("")
    assert not HostChecker("127.0.0.1").is_known("192.168.1.7")
    assert HostChecker("192.168.1.7").is_known("192.168.1.7:8000")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_listening_on_ipv6_includes_ipv4() -> None:
    with listen("::", 0) as server:
        port = server.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port), 5).close()


@pytest.mark.slow
@settings(max_examples=100)
@given(st.text(max_size=30))
@example("[::1")
@example("localhost:")
def test_host_checker_accepts_only_local_names(header: str) -> None:
    if HostChecker("127.0.0.1").is_known(header):
        assert re.fullmatch(
            r"(localhost|127\.0\.0\.1|\[::1\]?|\[?(localhost|127\.0\.0\.1)\]?|::1)(:\d+)?", header.lower()
        )


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
def test_body_that_is_not_json_is_refused(
    client: TestClient, answer: dict[str, Any], study_folder: Path, kind: str | None
) -> None:
    headers = {} if kind is None else {"content-type": kind}
    response = client.post("/api/answers", content=json.dumps(answer), headers=headers)
    assert (response.status_code, response.json()) == (415, {"error": "The body must be application/json"})
    assert (study_folder / FILE_NAME).read_bytes() == b""


@pytest.mark.slow
@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 4000, b"null", b"[]", b'{"participant":"Ada","x":1}'])
def test_invalid_json_is_refused(client: TestClient, body: bytes) -> None:
    response = client.post("/api/participant", content=body, headers={"content-type": "application/json"})
    assert response.status_code in (400, 422)
    assert response.json()["error"]


def test_body_over_the_limit_is_refused(client: TestClient) -> None:
    def send(size: int) -> int:
        body = b'{"participant": "Ada"}'.ljust(size)
        chunks = (body[start : start + 1000] for start in range(0, size, 1000))  # without a content length
        return client.post("/api/participant", content=chunks, headers={"content-type": "application/json"}).status_code

    assert (send(MAX_BODY), send(MAX_BODY + 1), send(10**6)) == (200, 413, 413)


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        "/study.json",
        "/answers.jsonl",
        "/images/../study.json",
        "/images/%2e%2e/study.json",
        "/images/..%2f..%2fstudy.json",
        "/images/..%2fstudy.json.png",
        "/images/%2fetc%2fpasswd.png",
        "/images/0000000000000000.png",
        "/images/",
        "/static/index.html",
        "/docs",
        "/openapi.json",
    ],
)
def test_unknown_path_is_not_served(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert response.json() == {"error": response.json()["error"]}
    assert "methods" not in response.text


@settings(max_examples=60, deadline=None, suppress_health_check=ANYTHING)
@given(st.text(max_size=40))
def test_unknown_token_is_not_served(client: TestClient, token: str) -> None:
    response = client.get("/images/" + "".join(f"%{byte:02x}" for byte in token.encode()) + ".png")
    assert response.status_code == 404


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=ANYTHING)
@given(body=JSON)
def test_fuzzed_json_is_refused(client: TestClient, study_folder: Path, body: Any) -> None:
    response = client.post("/api/answers", json=body)
    assert 400 <= response.status_code < 500
    assert response.json()["error"]
    assert (study_folder / FILE_NAME).read_bytes() == b""


def test_wrong_method_is_refused(client: TestClient, answer: dict[str, Any]) -> None:
    assert client.post("/").status_code == 405
    assert client.get("/api/answers").status_code == 405
    assert client.delete("/api/answers").status_code == 405
    assert client.options("/api/answers", headers={"origin": "http://evil.example"}).status_code == 405


def test_every_response_has_security_headers(client: TestClient) -> None:
    for path in ("/", "/static/main.js", "/nothing"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
    assert client.get("/nothing").headers["cache-control"] == "no-store"


def test_full_disk_is_reported(
    post: Post, answer: dict[str, Any], store: AnswerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OutputError("cannot write /secret/answers.jsonl")

    with monkeypatch.context() as patch:
        patch.setattr(store, "_write", refuse)
        status, message = post("answers", answer)
    assert (status, "/secret" in message["error"]) == (507, False)
    assert "could not be written" in message["error"]
    assert post("answers", answer) == (200, {"outcome": "stored"})


# --- starting -------------------------------------------------------------------------------------------------------


def test_missing_image_is_named_at_start(study_folder: Path, study: Study) -> None:
    token = study.pool[0].tokens[0]
    (study_folder / "images" / f"{token}.png").unlink()
    with pytest.raises(DataError, match=f"lacks {token}.png"):
        serve_study(study_folder, port=0, open_browser=False)


def test_taken_port_is_refused(study_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OutputError, match=f"cannot listen on 127.0.0.1, port {port}"):
            serve_study(study_folder, port=port, open_browser=False)

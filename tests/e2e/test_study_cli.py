"""The user study on the command line: a complete study, a killed server, and user errors."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from tests.helpers.commands import Run, sentence


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Folders `labels`, `truth`, and `a` and `b` for two methods, with three images each."""
    for number, kind in enumerate(("labels", "truth", "a", "b")):
        (tmp_path / kind).mkdir()
        for name in ("one", "two", "three"):
            pixels = np.full((8, 8) if kind == "labels" else (8, 8, 3), 10 * number, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / kind / f"{name}.png")
    return tmp_path


@pytest.fixture
def make(run: Run, images: Path) -> Run:
    """Makes a study of the images; further arguments come last."""

    def call(*words: object) -> tuple[int, str, str]:
        named = [f"method-{method}={images / method}" for method in "ab"]
        folders = ("--labels", images / "labels", "--truth", images / "truth", "--label-space", "scenes")
        return run("study", "make", *named, *folders, "--count", 3, "--out", images / "study", *words)

    return call


def send(address: str, path: str, body: object) -> dict[str, Any]:
    where = urlsplit(address)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=20)
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    answer: dict[str, Any] = json.loads(response.read())
    connection.close()
    assert response.status == 200, answer
    return answer


def rank(address: str, name: str, count: int) -> None:
    """Rank the first few samples of a participant, the images in the order of their tokens."""
    for number, shown in enumerate(send(address, "/api/participant", {"participant": name})["samples"][:count]):
        ranking = sorted(shown["images"])
        body = {"participant": name, "sample": shown["sample"], "ranking": ranking, "seconds": 1.5}
        assert send(address, "/api/answers", {**body, "id": f"answer-{number}"})["outcome"] == "stored"


def test_complete_study_with_a_killed_server(run: Run, make: Run, images: Path, serve: Callable[..., Any]) -> None:
    study = images / "study"
    shutil.copy(images / "a" / "one.png", images / "a" / "lonely.png")
    code, output, errors = make("--allow-missing")
    assert code == 0, errors
    assert "1 name left out because a folder lacks it: lonely" in output
    assert "each participant ranks 3 samples of 2 methods (method-a, method-b)" in output
    assert f"lab2pix study serve {study}" in output
    first = serve("study", "serve", study, "--port", 0)
    rank(first.address, "Ada", 2)
    sentence(run("study", "serve", study, "--port", 0, "--no-browser"), "already being served")
    code, output, errors = run("study", "report", study)
    assert code == 0, errors
    assert "unfinished participants, whose rankings count: Ada (2 of 3)" in output
    assert first.stop(signal.SIGKILL) == -signal.SIGKILL
    with (study / "answers.jsonl").open("ab") as file:
        file.write(b'{"id":"cut-short","parti')
    second = serve("study", "serve", study, "--port", 0)
    assert "line 3: truncated by a crash" in second.output()
    shown = send(second.address, "/api/participant", {"participant": "ada"})["samples"]
    assert [sample["ranking"] is None for sample in shown] == [False, False, True]
    body = {"participant": "Ada", "sample": shown[2]["sample"], "ranking": shown[2]["images"], "seconds": 1}
    assert send(second.address, "/api/answers", {**body, "id": "the-third"}) == {"outcome": "stored"}
    assert second.stop() == 0
    code, output, errors = run("study", "report", study, "--out", images / "report")
    assert code == 0, errors
    assert "3 rankings by 1 participant" in output
    report = json.loads((images / "report" / "report.json").read_text())
    answers = [json.loads(line) for line in (study / "answers.jsonl").read_bytes().splitlines() if line.endswith(b"}")]
    won = [answer["ranking"][0] for answer in answers].count("method-a")
    assert [method["top1"] for method in report["methods"]] == pytest.approx([won / 3, 1 - won / 3])


def test_path_traversal_is_not_served(make: Run, images: Path, serve: Callable[..., Any]) -> None:
    make()
    server = serve("study", "serve", images / "study", "--port", 0)
    where = urlsplit(server.address)
    for path in ("/images/../study.json", "/../study.json", "//etc/passwd", "/images/..%2fstudy.json.png"):
        with socket.create_connection((where.hostname, where.port), timeout=20) as connection:
            # Sent verbatim: an HTTP client would normalize the path.
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {where.netloc}\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 404"), (path, answer)
        assert b"method-a" not in answer and b"root:" not in answer


# --- user errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["serve", "report"])
def test_missing_study_is_refused(run: Run, tmp_path: Path, verb: str) -> None:
    sentence(run("study", verb, tmp_path), f"There is no study in {tmp_path}", "lab2pix study make")
    sentence(run("study", verb, tmp_path / "nowhere"), "There is no study")
    (tmp_path / "study.json").write_text("{}")
    sentence(run("study", verb, tmp_path), "study.json", "make it again")

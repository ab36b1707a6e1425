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

Run = Callable[..., tuple[int, str, str]]


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

    def call(*words: object, methods: tuple[str, ...] = ("a", "b")) -> tuple[int, str, str]:
        named = [f"method-{method}={images / method}" for method in methods]
        folders = ("--labels", images / "labels", "--truth", images / "truth", "--label-space", "scenes")
        return run("study", "make", *named, *folders, "--samples", 3, "--out", images / "study", *words)

    return call


def sentence(result: tuple[int, str, str], *parts: object) -> None:
    """Check that a command failed with one sentence that contains all the parts."""
    code, output, errors = result
    assert (code, output) == (2, ""), errors
    assert errors.startswith("error: ") and errors.count("\n") == 1, errors
    for part in parts:
        assert str(part) in errors


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
    code, output, errors = make()
    assert code == 0, errors
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


def test_study_without_label_space(run: Run, tmp_path: Path, serve: Callable[..., Any]) -> None:
    for number, kind in enumerate(("labels", "truth", "a", "b")):
        (tmp_path / kind).mkdir()
        for index in range(100):
            pixels = np.full((4, 4, 3), 10 * number, dtype=np.uint8)
            if kind == "labels":
                pixels = np.full((4, 4), index % 3, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / kind / f"{index}.png")
    folders = ("--labels", tmp_path / "labels", "--truth", tmp_path / "truth")
    methods = [f"method-{method}={tmp_path / method}" for method in "ab"]
    study = tmp_path / "study"
    code, output, errors = run("study", "make", *folders, *methods, "--samples", 100, "--out", study)
    assert code == 0, errors
    assert "each participant ranks 100 samples of 2 methods (method-a, method-b)" in output
    assert "label maps are shown as they are" in output
    made = json.loads((study / "study.json").read_text())
    assert (made["format"], made["label_space"], made["classes"]) == ("lab2pix-study/1", None, [])
    colors: dict[int, set[tuple[int, ...]]] = {0: set(), 1: set(), 2: set()}
    for sample in made["pool"]:
        with Image.open(study / "images" / f"{sample['label']}.png") as image:
            assert (image.mode, image.size) == ("RGB", (4, 4))
            colors[int(sample["name"]) % 3] |= {tuple(color) for color in np.asarray(image).reshape(-1, 3).tolist()}
    assert [len(found) for found in colors.values()] == [1, 1, 1]
    assert len(set.union(*colors.values())) == 3
    server = serve("study", "serve", study, "--port", 0)
    rank(server.address, "Ada", 2)
    code, _, errors = run("study", "report", study, "--out", tmp_path / "report")
    assert code == 0, errors
    page = (tmp_path / "report" / "report.html").read_text()
    assert '<th scope="row">Label space</th><td>none given; label maps are shown as they are</td>' in page
    assert json.loads((tmp_path / "report" / "report.json").read_text())["protocol"]["label_space"] is None


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


def test_report_without_rankings_is_refused(run: Run, make: Run, images: Path) -> None:
    make()
    sentence(run("study", "report", images / "study"), "There are no rankings", "lab2pix study serve")


def test_empty_or_missing_folder_is_refused(make: Run, images: Path) -> None:
    shutil.rmtree(images / "b")
    (images / "b").mkdir()
    sentence(make(), images / "b", " no ")
    shutil.rmtree(images / "labels")
    sentence(make(), images / "labels", "no folder")


def test_missing_names_are_refused(make: Run, images: Path) -> None:
    (images / "b" / "two.png").rename(images / "b" / "zwei.png")
    sentence(make(), images / "labels", "lacks zwei", "and 3 other folders lack names too", "--allow-missing")
    assert not (images / "study").exists()
    assert make("--allow-missing", "--samples", 2)[0] == 0


def test_single_method_is_refused(make: Run) -> None:
    sentence(make(methods=("a",)), "compares 2 to 9 methods", "1 are given")


def test_invalid_method_argument_is_refused(make: Run, images: Path) -> None:
    sentence(make("spade"), "'spade' must be METHOD=DIR")
    sentence(make(f"method-a={images / 'truth'}"), "Two methods are called 'method-a'")


def test_too_many_samples_are_refused(make: Run) -> None:
    sentence(make("--samples", 100), "share 3 names, but 100 are requested", "--samples")


def test_nonempty_out_folder_is_refused(make: Run, images: Path) -> None:
    make()
    before = (images / "study" / "study.json").read_bytes()
    sentence(make(), images / "study", "is not empty", "--out")
    assert (images / "study" / "study.json").read_bytes() == before


def test_label_map_of_another_label_space_is_refused(make: Run, images: Path) -> None:
    Image.fromarray(np.full((8, 8), 33, dtype=np.uint8)).save(images / "labels" / "two.png")
    sentence(make(), "two.png", "33", "scenes")
    sentence(make("--label-space", "scene"), "did you mean 'scenes'")
    assert not (images / "study").exists()


def test_unreadable_image_is_refused(make: Run, images: Path) -> None:
    (images / "b" / "two.png").write_bytes(b"no image")
    sentence(make(), images / "b" / "two.png")
    assert not (images / "study").exists()


def test_unreadable_label_map_is_refused(run: Run, images: Path) -> None:
    words = ["study", "make", f"a={images / 'a'}", f"b={images / 'b'}", "--labels", images / "labels"]
    words += ["--samples", 3, "--out", images / "study"]
    file = images / "labels" / "two.png"
    file.write_bytes(b"no image")
    sentence(run(*words), file, "two.png")
    file.unlink()
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(file.with_suffix(".jpg"))
    sentence(run(*words), file.with_suffix(".jpg"), "compressed with loss", "save label maps as PNG")
    assert not (images / "study").exists()


@pytest.mark.parametrize("verb", ["serve", "report"])
@pytest.mark.parametrize(
    ("line", "part"),
    [("hello", "is damaged"), ('{"id":"0123456789"}', "is not an answer"), ('["a"]', "is not an answer")],
)
def test_damaged_answer_is_named(run: Run, make: Run, images: Path, verb: str, line: str, part: str) -> None:
    make()
    file = images / "study" / "answers.jsonl"
    file.write_text(f"\n{line}\n")
    words = ("--port", 0, "--no-browser") if verb == "serve" else ()
    sentence(run("study", verb, images / "study", *words), f"Line 2 of {file}", part)
    assert file.read_text() == f"\n{line}\n"


def test_answers_of_another_study_are_refused(run: Run, make: Run, images: Path, serve: Callable[..., Any]) -> None:
    make()
    server = serve("study", "serve", images / "study", "--port", 0)
    rank(server.address, "Ada", 1)
    server.stop()
    assert (
        run(
            "study",
            "make",
            f"x={images / 'a'}",
            f"y={images / 'b'}",
            "--labels",
            images / "labels",
            "--label-space",
            "scenes",
            "--samples",
            3,
            "--out",
            images / "other",
        )[0]
        == 0
    )
    shutil.copy(images / "study" / "answers.jsonl", images / "other" / "answers.jsonl")
    sentence(run("study", "report", images / "other"), "Line 1 of", "methods are x, y", "restore the study.json")


def test_missing_image_is_named(run: Run, make: Run, images: Path) -> None:
    make()
    file = next((images / "study" / "images").iterdir())
    file.unlink()
    sentence(run("study", "serve", images / "study", "--no-browser"), f"lacks {file.name}")


def test_taken_port_is_refused(run: Run, make: Run, images: Path) -> None:
    make()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        words = ("--port", port, "--no-browser")
        sentence(run("study", "serve", images / "study", *words), f"port {port}", "choose another --host or --port")

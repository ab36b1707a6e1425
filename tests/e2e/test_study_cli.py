"""The user study on the command line: the whole way, a server that is killed, and whatever a user gets wrong."""

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
def pictures(tmp_path: Path) -> Path:
    """Three label maps, their true pictures, and the pictures of methods `a` and `b`, in folders of these names."""
    for number, kind in enumerate(("labels", "truth", "a", "b")):
        (tmp_path / kind).mkdir()
        for name in ("one", "two", "three"):
            pixels = np.full((8, 8) if kind == "labels" else (8, 8, 3), 10 * number, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / kind / f"{name}.png")
    return tmp_path


@pytest.fixture
def make(run: Run, pictures: Path) -> Run:
    """Makes a study of the pictures; words that are given come last and so decide."""

    def call(*words: object, methods: tuple[str, ...] = ("a", "b")) -> tuple[int, str, str]:
        named = [f"method-{method}={pictures / method}" for method in methods]
        folders = ("--labels", pictures / "labels", "--truth", pictures / "truth", "--label-space", "scenes")
        return run("study", "make", *named, *folders, "--samples", 3, "--out", pictures / "study", *words)

    return call


def sentence(result: tuple[int, str, str], *parts: object) -> None:
    """Check that a command failed with one sentence that holds all the parts."""
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
    """Rank the first few samples of a participant, the pictures in the order of their tokens."""
    for number, shown in enumerate(send(address, "/api/participant", {"participant": name})["samples"][:count]):
        ranking = sorted(shown["pictures"])
        body = {"participant": name, "sample": shown["sample"], "ranking": ranking, "seconds": 1.5}
        assert send(address, "/api/answers", {**body, "id": f"answer-{number}"})["outcome"] == "stored"


def test_the_whole_way_with_a_server_that_is_killed(
    run: Run, make: Run, pictures: Path, serve: Callable[..., Any]
) -> None:
    study = pictures / "study"
    code, output, errors = make()
    assert code == 0, errors
    assert "each participant ranks 3 samples of 2 methods (method-a, method-b)" in output
    assert f"lab2pix study serve {study}" in output
    first = serve("study", "serve", study, "--port", 0)
    rank(first.address, "Ada", 2)
    sentence(run("study", "serve", study, "--port", 0, "--no-browser"), "served already")
    code, output, errors = run("study", "report", study)
    assert code == 0, errors
    assert "unfinished, counted as far as they came: Ada (2 of 3)" in output
    assert first.stop(signal.SIGKILL) == -signal.SIGKILL
    with (study / "answers.jsonl").open("ab") as file:
        file.write(b'{"id":"cut-short","parti')
    second = serve("study", "serve", study, "--port", 0)
    assert "line 3: cut short, as by a crash" in second.output()
    shown = send(second.address, "/api/participant", {"participant": "ada"})["samples"]
    assert [sample["ranking"] is None for sample in shown] == [False, False, True]
    body = {"participant": "Ada", "sample": shown[2]["sample"], "ranking": shown[2]["pictures"], "seconds": 1}
    assert send(second.address, "/api/answers", {**body, "id": "the-third"}) == {"outcome": "stored"}
    assert second.stop() == 0
    code, output, errors = run("study", "report", study, "--out", pictures / "report")
    assert code == 0, errors
    assert "3 rankings by 1 participant" in output
    report = json.loads((pictures / "report" / "report.json").read_text())
    answers = [json.loads(line) for line in (study / "answers.jsonl").read_bytes().splitlines() if line.endswith(b"}")]
    won = [answer["ranking"][0] for answer in answers].count("method-a")
    assert [method["top1"] for method in report["methods"]] == pytest.approx([won / 3, 1 - won / 3])


def test_without_label_space(run: Run, tmp_path: Path, serve: Callable[..., Any]) -> None:
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
        with Image.open(study / "pictures" / f"{sample['label']}.png") as image:
            assert (image.mode, image.size) == ("RGB", (4, 4))
            colors[int(sample["name"]) % 3] |= {tuple(color) for color in np.asarray(image).reshape(-1, 3).tolist()}
    assert [len(found) for found in colors.values()] == [1, 1, 1]
    assert len(set.union(*colors.values())) == 3
    server = serve("study", "serve", study, "--port", 0)
    rank(server.address, "Ada", 2)
    code, _, errors = run("study", "report", study, "--out", tmp_path / "report")
    assert code == 0, errors
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<tr><th>Label space</th><td>none given; label maps are shown as they are</td></tr>" in page
    assert json.loads((tmp_path / "report" / "report.json").read_text())["protocol"]["label_space"] is None


def test_paths_that_climb_are_not_served(make: Run, pictures: Path, serve: Callable[..., Any]) -> None:
    make()
    server = serve("study", "serve", pictures / "study", "--port", 0)
    where = urlsplit(server.address)
    for path in ("/pictures/../study.json", "/../study.json", "//etc/passwd", "/pictures/..%2fstudy.json.png"):
        with socket.create_connection((where.hostname, where.port), timeout=20) as connection:
            # As it stands: a client would tidy the path.
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {where.netloc}\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 404"), (path, answer)
        assert b"method-a" not in answer and b"root:" not in answer


# --- whatever a user gets wrong -------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["serve", "report"])
def test_study_commands_refuse_a_folder_without_study(run: Run, tmp_path: Path, verb: str) -> None:
    sentence(run("study", verb, tmp_path), f"There is no study in {tmp_path}", "lab2pix study make")
    sentence(run("study", verb, tmp_path / "nowhere"), "There is no study")
    (tmp_path / "study.json").write_text("{}")
    sentence(run("study", verb, tmp_path), "study.json", "make it again")


def test_study_report_without_rankings_is_refused(run: Run, make: Run, pictures: Path) -> None:
    make()
    sentence(run("study", "report", pictures / "study"), "Nobody has ranked anything", "lab2pix study serve")


def test_study_make_refuses_an_empty_folder(make: Run, pictures: Path) -> None:
    shutil.rmtree(pictures / "b")
    (pictures / "b").mkdir()
    sentence(make(), pictures / "b", "holds no pictures")
    shutil.rmtree(pictures / "labels")
    sentence(make(), pictures / "labels", "there is no folder")


def test_study_make_names_unmatched_files(make: Run, pictures: Path) -> None:
    (pictures / "b" / "two.png").rename(pictures / "b" / "zwei.png")
    sentence(make(), pictures / "labels", "lacks zwei", "and so it is with 3 other folders", "--allow-missing")
    assert not (pictures / "study").exists()
    assert make("--allow-missing", "--samples", 2)[0] == 0


def test_study_make_refuses_one_method(make: Run) -> None:
    sentence(make(methods=("a",)), "compares 2 to 9 methods", "has 1")


def test_a_word_that_is_no_method(make: Run, pictures: Path) -> None:
    sentence(make("spade"), "'spade' must be METHOD=DIR")
    sentence(make(f"method-a={pictures / 'truth'}"), "Two methods are called 'method-a'")


def test_more_samples_than_there_are(make: Run) -> None:
    sentence(make("--samples", 100), "share 3 names, but 100 are asked for", "--samples")


def test_an_out_folder_that_holds_something(make: Run, pictures: Path) -> None:
    make()
    before = (pictures / "study" / "study.json").read_bytes()
    sentence(make(), pictures / "study", "holds something already", "--out")
    assert (pictures / "study" / "study.json").read_bytes() == before


def test_label_maps_of_another_label_space(make: Run, pictures: Path) -> None:
    Image.fromarray(np.full((8, 8), 33, dtype=np.uint8)).save(pictures / "labels" / "two.png")
    sentence(make(), "two.png", "33", "scenes")
    sentence(make("--label-space", "scene"), "did you mean 'scenes'")
    assert not (pictures / "study").exists()


def test_a_picture_that_cannot_be_read(make: Run, pictures: Path) -> None:
    (pictures / "b" / "two.png").write_bytes(b"no picture")
    sentence(make(), pictures / "b" / "two.png")
    assert not (pictures / "study").exists()


def test_a_label_map_that_cannot_be_shown_as_it_is(run: Run, pictures: Path) -> None:
    words = ["study", "make", f"a={pictures / 'a'}", f"b={pictures / 'b'}", "--labels", pictures / "labels"]
    words += ["--samples", 3, "--out", pictures / "study"]
    file = pictures / "labels" / "two.png"
    file.write_bytes(b"no picture")
    sentence(run(*words), file, "is no picture")
    file.unlink()
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(file.with_suffix(".jpg"))
    sentence(run(*words), file.with_suffix(".jpg"), "compressed with loss", "save label maps as PNG")
    assert not (pictures / "study").exists()


@pytest.mark.parametrize("verb", ["serve", "report"])
@pytest.mark.parametrize(
    ("line", "part"),
    [("hello", "is damaged"), ('{"id":"0123456789"}', "is no answer"), ('["a"]', "is no answer")],
)
def test_a_damaged_line_of_the_answers(run: Run, make: Run, pictures: Path, verb: str, line: str, part: str) -> None:
    make()
    file = pictures / "study" / "answers.jsonl"
    file.write_text(f"\n{line}\n")
    words = ("--port", 0, "--no-browser") if verb == "serve" else ()
    sentence(run("study", verb, pictures / "study", *words), f"Line 2 of {file}", part)
    assert file.read_text() == f"\n{line}\n"


def test_answers_of_another_study(run: Run, make: Run, pictures: Path, serve: Callable[..., Any]) -> None:
    make()
    server = serve("study", "serve", pictures / "study", "--port", 0)
    rank(server.address, "Ada", 1)
    server.stop()
    assert (
        run(
            "study",
            "make",
            f"x={pictures / 'a'}",
            f"y={pictures / 'b'}",
            "--labels",
            pictures / "labels",
            "--label-space",
            "scenes",
            "--samples",
            3,
            "--out",
            pictures / "other",
        )[0]
        == 0
    )
    shutil.copy(pictures / "study" / "answers.jsonl", pictures / "other" / "answers.jsonl")
    sentence(run("study", "report", pictures / "other"), "Line 1 of", "methods are x, y", "put back the study.json")


def test_study_serve_names_a_missing_image(run: Run, make: Run, pictures: Path) -> None:
    make()
    file = next((pictures / "study" / "pictures").iterdir())
    file.unlink()
    sentence(run("study", "serve", pictures / "study", "--no-browser"), f"lacks {file.name}")


def test_study_serve_refuses_a_port_in_use(run: Run, make: Run, pictures: Path) -> None:
    make()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        words = ("--port", port, "--no-browser")
        sentence(run("study", "serve", pictures / "study", *words), f"port {port}", "choose another --host or --port")

"""The painter as it runs: behind a socket, left by those who asked, and told to end."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import lab2pix
from lab2pix import cli
from lab2pix.errors import CheckpointError, ConfigError, OutputError
from lab2pix.inference import Synthesizer, modes, weights
from lab2pix.web import painter as module
from lab2pix.web.painter import find_model, serve_painter
from lab2pix.web.painter_desk import Painter
from tests.helpers.http import label, post, until

pytest.importorskip("uvicorn", reason="the extra 'web' is not installed")

# --- whoever leaves, or never comes to an end -----------------------------------------------------------------------


def test_whoever_leaves_gives_the_place_up(served: Any, held: tuple[threading.Event, list[int]]) -> None:
    event, came = held
    worker = served.painter.worker
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(post, served.port, "/api/synthesize", label(1))
        until(lambda: came == [1])
        with pytest.raises(TimeoutError):
            post(served.port, "/api/synthesize", label(2), timeout=0.3)
        until(lambda: worker.waiting == 0)
        last = pool.submit(post, served.port, "/api/synthesize", label(3))
        until(lambda: worker.waiting == 1)
        event.set()
        assert (first.result(20)[0], last.result(20)[0]) == (200, 200)
    assert came == [1, 3]


def test_a_failure_that_nobody_waits_for_is_not_complained_about(
    served: Any, held: tuple[threading.Event, list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    event, _ = held
    assert post(served.port, "/api/random", b"")[0] == 200  # the examples, which are made first, are
    read = threading.Event()

    def slow(*_: object, **__: object) -> Tensor:
        read.set()
        assert event.wait(20)
        raise RuntimeError("too late")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lab2pix.web.painter_desk.read_layout", slow)
        with pytest.raises(TimeoutError):
            post(served.port, "/api/synthesize", label(), timeout=0.5)
        assert read.wait(20)
        time.sleep(0.2)  # for the server to see that nobody is there
        event.set()
        assert post(served.port, "/api/random", b"")[0] == 200  # done after it
    gc.collect()
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []


def test_a_body_that_ends_too_early_is_forgotten(served: Any) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        head = f"POST /api/synthesize HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nContent-Type: image/png\r\n"
        connection.sendall(head.encode() + b"Content-Length: 500\r\n\r\n" + label()[:50])
    assert post(served.port, "/api/synthesize", label())[0] == 200
    assert served.painter.worker.waiting == 0


def test_a_body_that_takes_too_long(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab2pix.web.guard.read_body.__kwdefaults__", {"seconds": 0.2})
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        head = f"POST /api/synthesize HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nContent-Type: image/png\r\n"
        connection.sendall(head.encode() + b"Content-Length: 500\r\n\r\n" + label()[:50])
        assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def command(painter_model: Path, tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], int, Path]]]:
    """Starts `lab2pix paint MODEL --no-browser`; gives process, port and the file that it prints to."""
    started: list[subprocess.Popen[bytes]] = []

    def call(*words: str) -> tuple[subprocess.Popen[bytes], int, Path]:
        log = tmp_path / "log"
        with log.open("wb") as out:
            argv = [sys.executable, "-m", "lab2pix", "paint", str(painter_model), "--no-browser", "--port", "0", *words]
            process = subprocess.Popen(argv, stdout=out, stderr=subprocess.STDOUT)
        started.append(process)
        end = time.monotonic() + 90
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)/", log.read_text())):
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        return process, int(found.group(1)), log

    yield call
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait(20)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_cleanly(
    command: Callable[..., tuple[subprocess.Popen[bytes], int, Path]], number: signal.Signals
) -> None:
    process, port, log = command()
    large = label(side=1600)  # whose decoding takes a while
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/api/examples")  # which are made first
    assert connection.getresponse().read().count(b"token") == 6
    with ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(post, port, "/api/synthesize?samples=16", large, 60) for _ in range(8)]
        while True:  # until one is drawn and others wait
            connection.request("GET", "/api/model")
            if b'"busy":{"waiting":7' in connection.getresponse().read():
                break
            assert not any(answer.done() for answer in sent)
        connection.close()
        process.send_signal(number)
        answers = [answer.result(60) for answer in sent]
    assert [status for status, _, _ in answers].count(503) >= 1
    for status, content, headers in answers:
        if status == 503:
            assert b"shutting down" in content and headers["retry-after"] == "5"
        else:  # it was drawn meanwhile, and soon enough
            assert (status, content[:2]) == (200, b"PK")
    assert process.wait(20) == 0
    assert re.fullmatch(r"The painter is at .*\ndrawing: .*\nStopped\n", log.read_text())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_does_not_wait_for_what_is_held_open(
    command: Callable[..., tuple[subprocess.Popen[bytes], int, Path]], number: signal.Signals
) -> None:
    process, port, log = command()
    host = f" HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
    begun = f"POST /api/synthesize{host}Content-Type: image/png\r\nContent-Length: 500\r\n\r\n".encode()
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 20)) for _ in range(3)]
        for connection, part in zip(held, (b"", b"GET /api/mod", begun + label()[:50]), strict=True):
            connection.sendall(part)
        assert post(port, "/api/random", b"")[0] == 200  # what was sent before is there now
        process.send_signal(number)
        told = time.monotonic()
        assert process.wait(60) == 0
        assert time.monotonic() - told < 20, "it waited for the body, for which there are 30 seconds"
        assert held[2].recv(100).startswith(b"HTTP/1.1 503 ")
    assert re.fullmatch(r"The painter is at .*\ndrawing: .*\nStopped\n", log.read_text())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("words", "name"), [("paint --no-browser", "torch"), ("study serve .", "uvicorn")])
def test_while_it_gets_ready_it_ends_at_once(tmp_path: Path, words: str, name: str, number: signal.Signals) -> None:
    """An import takes long here, and has clauses that swallow an exception."""
    (tmp_path / f"{name}.py").write_text(
        "import time\nprint('ready', flush=True)\ntry:\n  time.sleep(60)\nexcept BaseException:\n  time.sleep(60)\n"
    )
    paths = os.pathsep.join([str(tmp_path), str(Path(lab2pix.__file__).parents[1])])
    argv = [sys.executable, "-m", "lab2pix", *words.split()]
    with subprocess.Popen(
        argv, env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.read() == "Stopped\n"
        assert process.wait(20) == 128 + number


def test_it_ends_though_a_thread_still_computes(painter_model: Path) -> None:
    """Taking the process apart meanwhile aborts it, more often than not; so its end must not come to that."""
    script = f"""
import atexit
from lab2pix.cli import main
from lab2pix.web import serving
serving.run = lambda *_: atexit.register(print, "taken apart")
main(["paint", {str(painter_model)!r}, "--no-browser", "--port", "0", "--device", "cpu"])
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert re.fullmatch(r"The painter is at .*\ndrawing: .*\nStopped\n", done.stdout)


def test_it_draws_in_the_way_that_it_chose_first(
    command: Callable[..., tuple[subprocess.Popen[bytes], int, Path]], painter_model: Path
) -> None:
    _, port, log = command()
    with urlopen(f"http://127.0.0.1:{port}/api/model", timeout=30) as answer:
        drawing = json.loads(answer.read())["drawing"]
    said = rf"drawing: {drawing} \(one picture: plain \d+\.\d\d s, fast \d+\.\d\d s\)\n"
    assert drawing in ("plain", "fast") and re.search(said, log.read_text())
    drawn = [post(port, "/api/synthesize?seed=5&form=ids", label()) for _ in range(2)]
    assert drawn[0][0] == 200 and drawn[0][1] == drawn[1][1]
    synthesizer = Synthesizer.load(painter_model, device="cpu", optimize=drawing)
    expected = synthesizer(torch.full((64, 64), 3), seed=5)[0]
    pixels = torch.from_numpy(np.array(Image.open(BytesIO(drawn[0][1])))).permute(2, 0, 1)
    assert int((pixels.int() - expected.int()).abs().max()) <= 1  # the number of threads moves the last bit


def test_the_fastest_way_is_measured_before_anything_is_served(
    painter_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ServedError(Exception):
        pass

    def create(painter: Painter, _: Callable[[str], bool]) -> None:
        raise ServedError(painter.synthesizer.mode)

    monkeypatch.setattr(module, "create_app", create)
    for plain, fast, mode in ((2.0, 1.0, "fast"), (1.0, 2.0, "plain")):
        times = iter([plain, fast])
        monkeypatch.setattr(modes, "_timed", lambda draw, _, times=times: (next(times), draw()))
        said: list[str] = []
        with pytest.raises(ServedError, match=mode):
            serve_painter(painter_model, port=0, open_browser=False, device="cpu", say=said.append)
        assert not said


def test_without_a_model_the_command_says_what_to_give(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(weights, "_SHIPPED", tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(["paint", "--no-browser"])
    assert stop.value.code == 2
    assert "lab2pix paint runs/mine" in capsys.readouterr().err


def test_a_model_that_came_along_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weights, "_SHIPPED", tmp_path / "weights")
    with pytest.raises(ConfigError):
        find_model(None)
    (tmp_path / "weights" / "scenes").mkdir(parents=True)
    (tmp_path / "weights" / "scenes" / "model.safetensors").touch()
    assert find_model(None) == tmp_path / "weights" / "scenes"
    assert find_model("mine") == "mine"


def test_what_cannot_be_served_is_told_at_once(
    painter_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match="there is no"):
        serve_painter(tmp_path / "gone", port=0, open_browser=False)
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(OutputError, match="cannot listen on"):
        serve_painter(painter_model, port=other.getsockname()[1], open_browser=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ConfigError, match=r"pip install 'lab2pix\[web\]'"):
        serve_painter(painter_model, open_browser=False)


def test_more_classes_than_a_byte_holds(make_painter_model: Callable[..., Synthesizer], tmp_path: Path) -> None:
    file = tmp_path / "many.yaml"
    file.write_text("classes: [" + ", ".join(f"class{number}" for number in range(257)) + "]\n")
    with pytest.raises(ConfigError, match="has 257 classes"):
        Painter(make_painter_model(str(file)))

"""The painter's server and command: disconnects, slow bodies, shutdown, and start."""

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
from lab2pix.errors import CheckpointError, ConfigError, OutputError
from lab2pix.inference import Synthesizer, modes, weights
from lab2pix.web.painter import app as module
from lab2pix.web.painter import follow
from lab2pix.web.painter.app import find_model, serve_painter
from lab2pix.web.painter.service import PainterService
from tests.helpers.generators import tiny_synthesizer
from tests.helpers.painter import label_png, post, wait_until

Command = Callable[..., tuple[subprocess.Popen[bytes], int, Path]]
OUTPUT = r"The painter is at .*\nmode: .*\nStopped\n"

# --- disconnects and slow bodies ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_disconnected_client_leaves_the_queue(server: Any, blocked: tuple[threading.Event, list[int]]) -> None:
    event, came = blocked
    queue = server.service.queue
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(post, server.port, "/api/synthesize", label_png(1))
        wait_until(lambda: came == [1])
        with pytest.raises(TimeoutError):
            post(server.port, "/api/synthesize", label_png(2), timeout=0.3)
        wait_until(lambda: queue.waiting == 0)
        last = pool.submit(post, server.port, "/api/synthesize", label_png(3))
        wait_until(lambda: queue.waiting == 1)
        event.set()
        assert (first.result(20)[0], last.result(20)[0]) == (200, 200)
    assert came == [1, 3]


@pytest.mark.slow
def test_failure_after_disconnect_is_not_logged(
    server: Any, blocked: tuple[threading.Event, list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    event, _ = blocked
    assert post(server.port, "/api/random", b"")[0] == 200  # after the examples, which come first
    read = threading.Event()

    def slow(*_: object, **__: object) -> Tensor:
        read.set()
        assert event.wait(20)
        raise RuntimeError("too late")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lab2pix.web.painter.service.read_label_map", slow)
        with pytest.raises(TimeoutError):
            post(server.port, "/api/synthesize", label_png(), timeout=0.5)
        assert read.wait(20)
        time.sleep(0.2)  # for the server to notice the disconnect
        event.set()
        assert post(server.port, "/api/random", b"")[0] == 200  # runs after it
    gc.collect()
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []


@pytest.mark.slow
def test_truncated_body_is_dropped(server: Any) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        head = f"POST /api/synthesize HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: image/png\r\n"
        connection.sendall(head.encode() + b"Content-Length: 500\r\n\r\n" + label_png()[:50])
    assert post(server.port, "/api/synthesize", label_png())[0] == 200
    assert server.service.queue.waiting == 0


@pytest.mark.slow
def test_slow_body_times_out(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab2pix.web.security.read_body.__kwdefaults__", {"seconds": 0.2})
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        head = f"POST /api/synthesize HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: image/png\r\n"
        connection.sendall(head.encode() + b"Content-Length: 500\r\n\r\n" + label_png()[:50])
        assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def command(model_folder: Path, tmp_path: Path) -> Iterator[Command]:
    """Starts `lab2pix paint MODEL --no-browser`; returns process, port and the file with its output."""
    started: list[subprocess.Popen[bytes]] = []

    def call(*words: str) -> tuple[subprocess.Popen[bytes], int, Path]:
        log = tmp_path / "log"
        with log.open("wb") as out:
            argv = [sys.executable, "-m", "lab2pix", "paint", str(model_folder), "--no-browser", "--port", "0", *words]
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


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_paint_shuts_down_cleanly(command: Command, number: signal.Signals) -> None:
    process, port, log = command()
    large = label_png(side=1600)  # takes a while to decode
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/api/examples")  # which come first
    assert connection.getresponse().read().count(b"token") == 6
    with ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(post, port, "/api/synthesize?samples=16", large, 60) for _ in range(8)]
        while True:  # until one runs and the others wait
            connection.request("GET", "/api/model")
            if b'"queue":{"waiting":7' in connection.getresponse().read():
                break
            assert not any(answer.done() for answer in sent)
        connection.close()
        process.send_signal(number)
        answers = [answer.result(60) for answer in sent]
    assert [status for status, _, _ in answers].count(503) >= 1
    for status, content, headers in answers:
        if status == 503:
            assert b"shutting down" in content and headers["retry-after"] == "5"
        else:  # it was generated within the grace period
            assert (status, content[:2]) == (200, b"PK")
    assert process.wait(20) == 0
    assert re.fullmatch(OUTPUT, log.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_paint_does_not_wait_for_open_connections(command: Command, number: signal.Signals) -> None:
    process, port, log = command()
    host = f" HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
    begun = f"POST /api/synthesize{host}Content-Type: image/png\r\nContent-Length: 500\r\n\r\n".encode()
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 20)) for _ in range(3)]
        for connection, part in zip(held, (b"", b"GET /api/mod", begun + label_png()[:50]), strict=True):
            connection.sendall(part)
        assert post(port, "/api/random", b"")[0] == 200  # the server has received what was sent before
        process.send_signal(number)
        told = time.monotonic()
        assert process.wait(60) == 0
        assert time.monotonic() - told < 20, "the server waited for the body"
        assert held[2].recv(100).startswith(b"HTTP/1.1 503 ")
    assert re.fullmatch(OUTPUT, log.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("words", "name"), [("paint --no-browser", "torch"), ("study serve .", "uvicorn")])
def test_server_command_exits_at_once_during_start(
    tmp_path: Path, words: str, name: str, number: signal.Signals
) -> None:
    """The import of a module takes long and swallows exceptions."""
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


@pytest.mark.slow
def test_paint_exits_although_a_thread_computes(model_folder: Path) -> None:
    """Interpreter shutdown would abort the process while a thread computes, so the command must exit before it."""
    script = f"""
import atexit
from lab2pix.cli import main
from lab2pix.web import serving
serving.run = lambda *_: atexit.register(print, "interpreter shutdown")
main(["paint", {str(model_folder)!r}, "--no-browser", "--port", "0", "--device", "cpu"])
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert re.fullmatch(OUTPUT, done.stdout)


@pytest.mark.slow
def test_paint_keeps_the_mode_chosen_at_start(command: Command, model_folder: Path) -> None:
    _, port, log = command()
    with urlopen(f"http://127.0.0.1:{port}/api/model", timeout=30) as answer:
        mode = json.loads(answer.read())["mode"]
    said = rf"mode: {mode} \(.*: plain \d+\.\d\d s, fast \d+\.\d\d s\)\n"
    assert mode in ("plain", "fast") and re.search(said, log.read_text())
    images = [post(port, "/api/synthesize?seed=5&input_format=ids", label_png()) for _ in range(2)]
    assert images[0][0] == 200 and images[0][1] == images[1][1]
    synthesizer = Synthesizer.load(model_folder, device="cpu", optimize=mode)
    expected = synthesizer(torch.full((64, 64), 3), seed=5).tensor[0]
    pixels = torch.from_numpy(np.array(Image.open(BytesIO(images[0][1])))).permute(2, 0, 1)
    assert int((pixels.int() - expected.int()).abs().max()) <= 1  # the last bit depends on the number of threads


def test_fastest_mode_is_measured_before_serving(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class ServedError(Exception):
        pass

    def create(painter: PainterService, _: Callable[[str], bool]) -> None:
        raise ServedError(painter.synthesizer.mode)

    monkeypatch.setattr(module, "create_app", create)
    for plain, fast, mode in ((2.0, 1.0, "fast"), (1.0, 2.0, "plain")):
        times = iter([plain, fast])
        monkeypatch.setattr(modes, "_timed", lambda draw, _, times=times: (next(times), draw()))
        said: list[str] = []
        with pytest.raises(ServedError, match=mode):
            serve_painter(model_folder, port=0, open_browser=False, device="cpu", echo=said.append)
        assert not said


def test_missing_shipped_model_is_explained(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(weights, "_SHIPPED", tmp_path)
    monkeypatch.setattr(weights, "model_folders", dict)
    code, _, errors = run("paint", "--no-browser")
    assert (code, "lab2pix paint runs/mine" in errors) == (2, True), errors


def test_shipped_model_is_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weights, "_SHIPPED", tmp_path / "models")
    monkeypatch.setattr(weights, "model_folders", dict)
    with pytest.raises(ConfigError):
        find_model(None)
    (tmp_path / "models" / "scenes").mkdir(parents=True)
    (tmp_path / "models" / "scenes" / "model.safetensors").touch()
    assert find_model(None) == tmp_path / "models" / "scenes"
    assert find_model("mine") == "mine"


def test_missing_model_or_taken_port_is_refused(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match="there is no"):
        serve_painter(tmp_path / "gone", port=0, open_browser=False)
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(OutputError, match="cannot listen on"):
        serve_painter(model_folder, port=other.getsockname()[1], open_browser=False)


@pytest.mark.parametrize("words", ["paint", "study serve ."])
def test_missing_web_extra_is_named(
    run: Callable[..., tuple[int, str, str]], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, _, errors = run(*words.split())
    assert (code, "pip install 'fastapi>=" in errors) == (2, True), errors


@pytest.mark.slow
def test_model_with_more_than_256_classes_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "many.yaml"
    file.write_text("classes: [" + ", ".join(f"class{number}" for number in range(257)) + "]\n")
    with pytest.raises(ConfigError, match="has 257 classes"):
        PainterService(tiny_synthesizer(str(file)))


def test_painter_follows_the_checkpoints_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.01)
    old, new = tiny_synthesizer(), tiny_synthesizer(lively=False)
    service = PainterService(old, following=True)
    service.queue.start()
    with follow.followed(service, tmp_path, "cpu"):
        wait_until(lambda: service.queue.waiting == 0)
        assert service.synthesizer is old
        new.save(tmp_path / "checkpoints" / "step-00000009")
        wait_until(lambda: service.synthesizer is not old)
        assert service.model().following
        assert service.synthesizer.mode == old.mode
    service.queue.close()


def test_painter_follows_runs_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run, so there are no new checkpoints"):
        serve_painter(tmp_path, follow=True)

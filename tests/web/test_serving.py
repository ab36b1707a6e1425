"""How a server of pages ends, and what it says to what is no request."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the extra 'web' is not installed")
from lab2pix.web import serving
from lab2pix.web.guard import HEADERS
from tests.helpers.http import label, post, until


@pytest.fixture
def complaints(served: Any, caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """Tells what the server said of its own errors, which else go nowhere but to the terminal."""
    logger = logging.getLogger("uvicorn.error")
    logger.addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    logger.removeHandler(caplog.handler)


# --- how a server ends ----------------------------------------------------------------------------------------------


def test_what_is_drawn_in_time_is_answered_at_the_end(
    served: Any, held: tuple[threading.Event, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "GRACE", 20)
    event, came = held
    with ThreadPoolExecutor(2) as pool:
        drawn = pool.submit(post, served.port, "/api/synthesize", label(1))
        until(lambda: came == [1])
        waiting = pool.submit(post, served.port, "/api/synthesize", label(2))
        until(lambda: served.painter.worker.waiting == 1)
        served.end()
        status, content, headers = waiting.result(20)
        assert (status, b"shutting down" in content, headers["retry-after"]) == (503, True, "5")
        event.set()
        assert drawn.result(20)[0] == 200
    served.stop()


def test_what_is_not_drawn_in_time_is_refused_at_the_end(
    served: Any, held: tuple[threading.Event, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "GRACE", 0.2)
    _, came = held
    with ThreadPoolExecutor(1) as pool:
        drawn = pool.submit(post, served.port, "/api/synthesize", label(1))
        until(lambda: came == [1])
        served.stop()  # though the event is not set
        status, content, headers = drawn.result(20)
        assert (status, b"shutting down" in content, headers["retry-after"]) == (503, True, "5")
        assert HEADERS.items() <= headers.items()


def test_who_does_not_read_is_left_at_the_end(
    served: Any, monkeypatch: pytest.MonkeyPatch, complaints: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr(serving, "GRACE", 0.2)
    served.painter.pages["/"] = (b"\0" * 2**25, "text/plain")
    with socket.create_connection(("127.0.0.1", served.port), 20) as connection:
        connection.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n".encode())
        assert connection.recv(10) == b"HTTP/1.1 2"
        served.stop()
    assert complaints() == []


# --- what is no request ---------------------------------------------------------------------------------------------


def talk(port: int, *parts: bytes) -> bytes:
    """Send parts to a server, one after the other; return all that it says until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            connection.sendall(part)
            time.sleep(0.02)
        said = b""
        while more := connection.recv(2**16):
            said += more
        return said


def refusal_of(said: bytes) -> tuple[int, str]:
    """Return status and sentence of an error that is like all others."""
    head, _, body = said.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert HEADERS.items() <= headers.items()
    assert (headers["content-type"], headers["cache-control"]) == ("application/json", "no-store")
    answer = json.loads(body)
    assert set(answer) == {"error"} and int(headers["content-length"]) == len(body)
    return int(first.split()[1]), answer["error"]


HOST = b"Host: localhost\r\n"
PNG_HEAD = b"Content-Type: image/png\r\n"


@pytest.mark.parametrize(
    "parts",
    [
        (b"GET / HTTP/1.1\r\n\r\n",),
        (b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n",),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",),
        (b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 100_000,),
        (b"\x16\x03\x01 hello\r\n\r\n",),
        (b"POST /api/synthesize HTTP/1.1\r\n" + HOST + PNG_HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"z\r\n"),
        (b"POST /api/synthesize HTTP/1.1\r\n" + HOST + PNG_HEAD + b"Transfer-Encoding: chunked\r\n\r\nz\r\n",),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nz\r\n",),
        (b"GET /api/model HTTP/1.1\r\n" + HOST + b"\r\n", b"\0\r\n\r\n"),
    ],
)
def test_what_is_no_http_is_refused_as_all_else(
    served: Any, parts: tuple[bytes, ...], complaints: Callable[[], list[str]]
) -> None:
    said = talk(served.port, *parts)
    if parts[0].startswith(b"GET /api/model"):  # a good one before, on the same connection
        good, said = said.split(b"HTTP/1.1 400", 1)
        assert good.startswith(b"HTTP/1.1 200 ")
        said = b"HTTP/1.1 400" + said
    status, sentence = refusal_of(said)
    assert (status, "no valid HTTP" in sentence) == (400, True)
    assert complaints() == []


def test_what_goes_wrong_after_an_answer_closes_the_connection(
    served: Any, complaints: Callable[[], list[str]]
) -> None:
    head = b"HEAD /api/model HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    assert talk(served.port, head, b"z\r\n").count(b"HTTP/1.1 ") == 1
    assert talk(served.port, head + b"z\r\n").count(b"HTTP/1.1 ") <= 1
    assert complaints() == []


def test_a_head_that_takes_too_long(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEADER_SECONDS", 0.3)
    slow = [b"GET /api/model HTTP/1.1\r\n", *[b"X: y\r\n"] * 50]  # each line comes long before the time is up
    said = talk_until_closed(served.port, slow)
    assert refusal_of(said) == (408, "The request did not arrive within 0.3 seconds")
    good = b"GET /api/model HTTP/1.1\r\n" + HOST + b"\r\n"
    said = talk_until_closed(served.port, [good, *slow])  # a second one on the connection of a first
    assert said.startswith(b"HTTP/1.1 200 ") and b"HTTP/1.1 408 " in said
    assert talk(served.port) == b""  # nothing was begun, and so nothing is said


def test_a_body_that_nobody_waits_for_is_not_taken_for_ever(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEADER_SECONDS", 0.3)
    head = b"GET /api/model HTTP/1.1\r\n" + HOST + b"Content-Length: 5000\r\n\r\n"
    said = talk_until_closed(served.port, [head, *[b"x"] * 50])
    assert said.startswith(b"HTTP/1.1 200 ") and said.count(b"HTTP/1.1 ") == 1


def talk_until_closed(port: int, parts: list[bytes]) -> bytes:
    """Send parts with pauses; return what was said, and fail if the server takes all of them."""
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        said = b""
        connection.settimeout(0.1)
        for part in parts:
            try:
                connection.sendall(part)
                more = connection.recv(2**16)
            except TimeoutError:
                continue
            except ConnectionError:
                return said
            if not more:
                return said
            said += more
    raise AssertionError(f"it took everything: {said!r}")


def test_a_connection_is_kept_for_the_next_request(served: Any) -> None:
    connection = HTTPConnection("127.0.0.1", served.port, timeout=20)
    connection.connect()
    own = connection.sock
    for path, status in (("/api/model", 200), ("/nothing", 404), ("/", 200)):
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        assert (answer.status, connection.sock) == (status, own)
    connection.close()

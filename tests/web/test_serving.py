"""Shutdown of the server, time limits, and invalid HTTP."""

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
from starlette.responses import Response
from starlette.routing import Route

from lab2pix.web import serving
from lab2pix.web.security import HEADERS
from tests.helpers.painter import label_png, post, wait_until


@pytest.fixture
def server_errors(server: Any, caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """Returns the errors that the server logged."""
    logger = logging.getLogger("uvicorn.error")
    logger.addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    logger.removeHandler(caplog.handler)


# --- shutdown -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_shutdown_answers_requests_within_the_grace_period(
    server: Any, blocked: tuple[threading.Event, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "GRACE", 20)
    event, came = blocked
    with ThreadPoolExecutor(2) as pool:
        drawn = pool.submit(post, server.port, "/api/synthesize", label_png(1))
        wait_until(lambda: came == [1])
        waiting = pool.submit(post, server.port, "/api/synthesize", label_png(2))
        wait_until(lambda: server.service.queue.waiting == 1)
        server.request_stop()
        status, content, headers = waiting.result(20)
        assert (status, b"shutting down" in content, headers["retry-after"]) == (503, True, "5")
        event.set()
        assert drawn.result(20)[0] == 200
    server.stop()


@pytest.mark.slow
def test_shutdown_refuses_requests_after_the_grace_period(
    server: Any, blocked: tuple[threading.Event, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "GRACE", 0.2)
    _, came = blocked
    with ThreadPoolExecutor(1) as pool:
        drawn = pool.submit(post, server.port, "/api/synthesize", label_png(1))
        wait_until(lambda: came == [1])
        server.stop()  # although generation is blocked
        status, content, headers = drawn.result(20)
        assert (status, b"shutting down" in content, headers["retry-after"]) == (503, True, "5")
        assert HEADERS.items() <= headers.items()


@pytest.mark.slow
def test_shutdown_drops_a_client_that_does_not_read(
    server: Any, monkeypatch: pytest.MonkeyPatch, server_errors: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr(serving, "GRACE", 0.2)
    server.app.router.routes.insert(0, Route("/large", Response(b"\0" * 2**25)))
    with socket.create_connection(("127.0.0.1", server.port), 20) as connection:
        connection.sendall(f"GET /large HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode())
        assert connection.recv(10) == b"HTTP/1.1 2"
        server.stop()
    assert server_errors() == []


# --- invalid and slow requests --------------------------------------------------------------------------------------


def talk(port: int, *parts: bytes) -> bytes:
    """Send parts one after the other; return the response up to the end of the connection."""
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
    """Return status and message of an error, which must look like all others."""
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


@pytest.mark.slow
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
def test_invalid_http_is_refused_as_json(
    server: Any, parts: tuple[bytes, ...], server_errors: Callable[[], list[str]]
) -> None:
    said = talk(server.port, *parts)
    if parts[0].startswith(b"GET /api/model"):  # a valid request before it on the same connection
        good, said = said.split(b"HTTP/1.1 400", 1)
        assert good.startswith(b"HTTP/1.1 200 ")
        said = b"HTTP/1.1 400" + said
    status, sentence = refusal_of(said)
    assert (status, "not valid HTTP" in sentence) == (400, True)
    assert server_errors() == []


@pytest.mark.slow
def test_error_after_a_response_closes_the_connection(server: Any, server_errors: Callable[[], list[str]]) -> None:
    head = b"HEAD /api/model HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    assert talk(server.port, head, b"z\r\n").count(b"HTTP/1.1 ") == 1
    assert talk(server.port, head + b"z\r\n").count(b"HTTP/1.1 ") <= 1
    assert server_errors() == []


@pytest.mark.slow
def test_slow_head_times_out(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEADER_SECONDS", 0.3)
    slow = [b"GET /api/model HTTP/1.1\r\n", *[b"X: y\r\n"] * 50]  # each line arrives in time
    said = talk_until_closed(server.port, slow)
    assert refusal_of(said) == (408, "The request did not arrive within 0.3 seconds")
    good = b"GET /api/model HTTP/1.1\r\n" + HOST + b"\r\n"
    said = talk_until_closed(server.port, [good, *slow])  # a second request on the connection
    assert said.startswith(b"HTTP/1.1 200 ") and b"HTTP/1.1 408 " in said
    assert talk(server.port) == b""  # no request, no response


@pytest.mark.slow
def test_unread_body_times_out(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEADER_SECONDS", 0.3)
    head = b"GET /api/model HTTP/1.1\r\n" + HOST + b"Content-Length: 5000\r\n\r\n"
    said = talk_until_closed(server.port, [head, *[b"x"] * 50])
    assert said.startswith(b"HTTP/1.1 200 ") and said.count(b"HTTP/1.1 ") == 1


def talk_until_closed(port: int, parts: list[bytes]) -> bytes:
    """Send parts with pauses; return the response, and fail if the server accepts all of them."""
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
    raise AssertionError(f"the server accepted everything: {said!r}")


@pytest.mark.slow
def test_connection_is_kept_alive(server: Any) -> None:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.connect()
    own = connection.sock
    for path, status in (("/api/model", 200), ("/nothing", 404), ("/", 200)):
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        assert (answer.status, connection.sock) == (status, own)
    connection.close()

"""Uvicorn server with time limits: for request heads, and for shutdown whatever connections are open.

Shutdown waits `GRACE` seconds for running requests, answers the others with 503, and then closes all connections.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from lab2pix.errors import OutputError
from lab2pix.utils.signals import on_signals
from lab2pix.web.responses import exception_response, shutdown_error
from lab2pix.web.security import EVERYWHERE, HEADERS, Application, Receive, Scope, Send

GRACE = 1.5
"""Seconds that running requests have left after shutdown was requested."""
HEADER_SECONDS = 10.0
"""Seconds in which the head of a request must arrive, and the rest of a body that the application did not read."""


# --- the address ----------------------------------------------------------------------------------------------------


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Port 0 takes a free one.

    Raises:
        OutputError: the address is not this machine's, or the port is taken.
    """
    try:
        return socket.create_server(
            (host, port),
            family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            backlog=128,
            dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),
        )
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(
            f"cannot listen on {host}, port {port} ({reason}); choose another --host or --port"
        ) from error


def server_url(host: str, port: int) -> str:
    """Return the page's URL; if the server listens on all addresses, the one that other machines can reach."""
    if host in EVERYWHERE:
        host = _local_network_address()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def _local_network_address() -> str:
    """Return the address of this machine in its network; connecting a UDP socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def open_browser_soon(url: str) -> None:
    """Open a URL in the browser after a second, when the server has started."""
    timer = threading.Timer(1.0, webbrowser.open, [url])
    timer.daemon = True
    timer.start()


# --- the server -----------------------------------------------------------------------------------------------------


def run(app: Application, listening: socket.socket, on_shutdown: Callable[[], None] = lambda: None) -> None:
    """Serve an application until Ctrl-C or SIGTERM.

    `on_shutdown` is called when shutdown begins, before running requests are waited for.
    """
    server = Server(app, on_shutdown)
    with on_signals(server.handle_exit):
        server.run(sockets=[listening])


class Server(uvicorn.Server):
    """Uvicorn server with a time limit on shutdown.

    `on_shutdown` is called when shutdown begins, before running requests are waited for.
    """

    def __init__(self, app: Application, on_shutdown: Callable[[], None] = lambda: None) -> None:
        self._deadlines = _ShutdownDeadlines(app)
        self._on_shutdown = on_shutdown
        super().__init__(
            uvicorn.Config(self._deadlines, http=Protocol, ws="none", log_level="warning", server_header=False)
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut down; called by uvicorn."""
        self._on_shutdown()
        self._deadlines.set(GRACE)
        asyncio.get_running_loop().call_later(GRACE + 0.2, self._abort)
        await super().shutdown(sockets)

    def _abort(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


class _ShutdownDeadlines:
    """Middleware that answers 503 to requests that are still running when the grace period ends."""

    def __init__(self, app: Application) -> None:
        self.app = app
        self._deadlines: set[asyncio.Timeout] = set()

    def set(self, seconds: float) -> None:
        """Give all running requests so many seconds more."""
        end = asyncio.get_running_loop().time() + seconds
        for deadline in self._deadlines:
            deadline.reschedule(end)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def send_noting(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        deadline = asyncio.timeout(None)
        try:
            async with deadline:
                self._deadlines.add(deadline)
                await self.app(scope, receive, send_noting)
        except TimeoutError:
            if not deadline.expired():
                raise
            if not started:
                response = exception_response(shutdown_error())
                response.headers.update({"cache-control": "no-store", **HEADERS})
                await response(scope, receive, send)
        finally:
            self._deadlines.discard(deadline)


class Protocol(H11Protocol):
    """Uvicorn's HTTP protocol with a time limit for request heads, and with its own errors as JSON."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer of the first request."""
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Process data, and time the rest unless a request is being served."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._start_timer()
        else:
            self._stop_timer()

    def send_400_response(self, msg: str) -> None:
        """Respond to invalid HTTP."""
        self._refuse(400, "This is not valid HTTP; send the request with an ordinary client")

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(HEADER_SECONDS, self._time_out)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_out(self) -> None:
        """Close the connection, with a response if a request has begun."""
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._refuse(408, f"The request did not arrive within {HEADER_SECONDS:g} seconds")
        else:
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        """Send an error unless a response has begun, and close the connection."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # keeps the application from responding as well
            self.cycle.message_event.set()
        body = json.dumps({"error": message}).encode()
        own = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
        headers = {**own, "cache-control": "no-store", **HEADERS}
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        head = h11.Response(status_code=status, headers=pairs, reason=STATUS_PHRASES[status])
        with suppress(h11.LocalProtocolError):  # a response has begun
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

"""Runs a server of pages: how long it waits for those who ask, what it says to what is no HTTP, and how it ends.

It ends soon after it is told to, whatever is held open: what is answered within `GRACE` is answered, the rest is told
that the server is shutting down, and whoever then still neither sends nor reads is left.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from lab2pix.utils.signals import on_signals
from lab2pix.web.guard import HEADERS, Application, Receive, Scope, Send, closing_error, refusal

__all__ = ["GRACE", "HEADER_SECONDS", "Server", "configure", "run"]

GRACE = 1.5
"""Seconds after the end was asked for in which answers are still given."""
HEADER_SECONDS = 10.0
"""Seconds in which the head of a request must arrive, and what is left of a body that nobody waits for."""


def run(app: Application, listening: socket.socket, on_closing: Callable[[], None] = lambda: None) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        app: answers requests.
        listening: where they come.
        on_closing: called when the end has been asked for, before anybody is waited for.
    """
    server = Server(app, on_closing)
    with on_signals(server.handle_exit):
        server.run(sockets=[listening])


def configure(app: Application) -> uvicorn.Config:
    """Return how applications are served: by `Protocol`, without web sockets."""
    return uvicorn.Config(app, http=Protocol, ws="none", log_level="warning", server_header=False)


class Server(uvicorn.Server):
    """A server that ends in time.

    Args:
        app: answers requests.
        on_closing: called when the end has been asked for, before anybody is waited for.
    """

    def __init__(self, app: Application, on_closing: Callable[[], None] = lambda: None) -> None:
        self._limited = _Limited(app)
        self._on_closing = on_closing
        super().__init__(configure(self._limited))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End; called by uvicorn once it was told to."""
        self._on_closing()
        self._limited.close(GRACE)
        asyncio.get_running_loop().call_later(GRACE + 0.2, self._abort)
        await super().shutdown(sockets)

    def _abort(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


class _Limited:
    """Passes requests on, and after the end was asked for answers those that take too long.

    Args:
        app: answers requests.
    """

    def __init__(self, app: Application) -> None:
        self.app = app
        self._limits: set[asyncio.Timeout] = set()

    def close(self, seconds: float) -> None:
        """Give all requests that are being answered so many seconds more."""
        end = asyncio.get_running_loop().time() + seconds
        for limit in self._limits:
            limit.reschedule(end)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def noting(message: Any) -> None:
            nonlocal begun
            begun = True
            await send(message)

        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._limits.add(limit)
                await self.app(scope, receive, noting)
        except TimeoutError:
            if not limit.expired():
                raise
            if not begun:
                answer = refusal(closing_error())
                answer.headers.update({"cache-control": "no-store", **HEADERS})
                await answer(scope, receive, send)
        finally:
            self._limits.discard(limit)


class Protocol(H11Protocol):
    """HTTP as uvicorn speaks it, with a limit on waiting for requests, and its own refusals as JSON."""

    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what has come, and wait for the rest where it is no whole request yet."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._watch()
        else:
            self._unwatch()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._refuse(400, "This is no valid HTTP request; send it with an ordinary client")

    def _watch(self) -> None:
        if self._limit is None:
            self._limit = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _unwatch(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _give_up(self) -> None:
        """Close a connection whose request did not come to its end; where none was begun, without a word."""
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._refuse(408, f"The request did not arrive within {HEADER_SECONDS:g} seconds")
        else:
            self.transport.close()

    def _refuse(self, status: int, sentence: str) -> None:
        """Answer as far as nothing was answered yet, and close the connection."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # or it would answer as well
            self.cycle.message_event.set()
        body = json.dumps({"error": sentence}).encode()
        own = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
        headers = {**own, "cache-control": "no-store", **HEADERS}
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        head = h11.Response(status_code=status, headers=pairs, reason=STATUS_PHRASES[status])
        with suppress(h11.LocalProtocolError):  # an answer has begun
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

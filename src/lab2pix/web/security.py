"""Protection of local servers: Host and Origin checks, security headers, and limits on request bodies.

A page of another site can make a browser send requests to this machine.
The Host header must therefore name this server, responses allow no other origin, cross-site requests are refused, and
bodies must be of a content type that no foreign page can send without a CORS preflight.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Collection, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from lab2pix.errors import Lab2PixError
from lab2pix.web.responses import HTTPError, error_response

__all__ = [
    "EVERYWHERE",
    "HEADERS",
    "Application",
    "HostChecker",
    "HostGuardMiddleware",
    "MemoryBudget",
    "Receive",
    "Scope",
    "Send",
    "guarded_app",
    "read_body",
]

HEADERS = {
    "content-security-policy": "default-src 'none'; img-src 'self' blob: data:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
"""Security headers of every response."""

EVERYWHERE = ("0.0.0.0", "::", "")
"""Hosts that stand for all addresses of this machine."""
_LOCAL = ("localhost", "127.0.0.1", "::1")
_PORTS = {"http": 80, "https": 443}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


# --- who may send requests ------------------------------------------------------------------------------------------


class HostChecker:
    """Tells which Host headers name this server, and whose pages may use it.

    It prevents DNS rebinding, where the name of another site is made to point to this machine.
    A server that listens on all addresses accepts any IP address, because only names can be rebound.

    Args:
        host: address that the server listens on.
        allow_hosts: additional names, such as a proxy's, at any port.
    """

    def __init__(self, host: str, allow_hosts: Sequence[str] = ()) -> None:
        self._allowed = {name.lower() for name in allow_hosts}
        self._names = {name.lower() for name in (*_LOCAL, host)} | self._allowed
        self._everywhere = host in EVERYWHERE
        if self._everywhere:
            own = socket.gethostname().lower()
            self._names |= {own, own.partition(".")[0], f"{own.partition('.')[0]}.local"}

    def is_known(self, header: str) -> bool:
        """Return whether a Host header names this server."""
        name = header.lower()
        if name.startswith("["):
            name, _, rest = name[1:].partition("]")
        else:
            name, colon, rest = name.partition(":")
            rest = colon + rest
        if rest and not (rest[0] == ":" and rest[1:].isascii() and rest[1:].isdigit()):
            return False
        return name in self._names or (self._everywhere and _is_ip_address(name))

    def is_own_origin(self, origin: str, host: str) -> bool:
        """Return whether a page of this origin belongs to this server.

        Args:
            origin: the Origin header.
            host: the Host header, which a proxy may have replaced by this server's own address.
        """
        own = {_without_default_port(f"{scheme}://{host}".lower()) for scheme in _PORTS}
        scheme, separator, name = origin.lower().partition("://")
        allowed = separator and scheme in _PORTS and self.is_known(name) and name.partition(":")[0] in self._allowed
        return bool(allowed) or _without_default_port(origin.lower()) in own


def _is_ip_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


class HostGuardMiddleware:
    """Refuses unknown hosts and cross-site POST requests, and adds `HEADERS` to every response.

    Args:
        app: the application.
        hosts: tells which hosts and origins are this server's.
    """

    def __init__(self, app: Application, hosts: HostChecker):
        self.app = app
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                own = {name.lower() for name, _ in message["headers"]}
                extra = {"cache-control": "no-store", **HEADERS}
                pairs = [(name.encode(), value.encode()) for name, value in extra.items()]
                message["headers"] = [*message["headers"], *(pair for pair in pairs if pair[0] not in own)]
            await send(message)

        hosts = _header_values(scope, b"host")
        app: Application = self.app
        if len(hosts) != 1 or not self.hosts.is_known(hosts[0]):
            app = error_response(400, "This host name is unknown; use the address that was printed, or --allow-host")
        elif scope["method"] == "POST" and self._is_cross_site(scope, hosts[0]):
            app = error_response(
                403,
                "Pages of other sites cannot use this server; behind a proxy, add --allow-host and its name",
            )
        await app(scope, receive, send_guarded)

    def _is_cross_site(self, scope: Scope, host: str) -> bool:
        """Tell whether a browser sends a request on behalf of another site.

        Browsers send Sec-Fetch-Site only to trustworthy servers (on their own machine or behind TLS).
        Others receive the page's Origin alone, which is `null` if the browser withholds it. Programs send neither.
        """
        sites = _header_values(scope, b"sec-fetch-site")
        if sites:
            return not set(sites) <= {"same-origin", "none"}
        return not all(self.hosts.is_own_origin(origin, host) for origin in _header_values(scope, b"origin"))


def _header_values(scope: Scope, wanted: bytes) -> list[str]:
    return [value.decode("latin-1") for name, value in scope["headers"] if name == wanted]


def _without_default_port(origin: str) -> str:
    return origin.removesuffix(f":{_PORTS.get(origin.partition(':')[0])}")


# --- request bodies -------------------------------------------------------------------------------------------------


class MemoryBudget:
    """Limits the bytes that all request bodies together hold in memory."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that reserves bytes for one request until the context ends.

        The function raises HTTPError (429) if the budget is used up.
        """
        reserved = 0

        def reserve(count: int) -> None:
            nonlocal reserved
            if count > self._left:
                raise HTTPError(429, "Too much is being uploaded at once; try again later", {"retry-after": "1"})
            self._left -= count
            reserved += count

        try:
            yield reserve
        finally:
            self._left += reserved


async def read_body(
    request: Request,
    media_types: Collection[str],
    limit: int,
    reserve: Callable[[int], None] = lambda count: None,
    *,
    seconds: float = 30.0,
) -> tuple[bytes, str]:
    """Return a request's body and its media type.

    No accepted media type may be one that pages of other sites can send without a preflight. `reserve` is called with
    the size of each chunk before it is kept, and may raise to refuse it.

    Raises:
        HTTPError: 415, another media type; 413, too large; 408, too slow; 400, the body ends early.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in media_types:
        raise HTTPError(415, f"The body must be {' or '.join(media_types)}")
    too_large = HTTPError(413, f"The body is larger than {limit} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and (len(declared) > 15 or int(declared) > limit):
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                if len(body) + len(chunk) > limit:
                    raise too_large
                reserve(len(chunk))
                body += chunk
    except ClientDisconnect as error:
        raise HTTPError(400, "The body ended early") from error
    except TimeoutError as error:
        raise HTTPError(408, f"The body did not arrive within {seconds:g} seconds") from error
    return bytes(body), media_type


# --- applications -----------------------------------------------------------------------------------------------------


def guarded_app(routes: Sequence[BaseRoute], hosts: HostChecker, respond: Callable[[Exception], Response]) -> Starlette:
    """Return a web application that answers only requests to its own hosts.

    Args:
        routes: its routes.
        hosts: tells which hosts and origins are this server's.
        respond: returns the response for an `HTTPError`, `Lab2PixError` or exception of Starlette.
    """

    async def refuse(_: Request, error: Exception) -> Response:
        return respond(error)

    return Starlette(
        routes=routes,
        exception_handlers=dict.fromkeys((HTTPError, Lab2PixError, HTTPException), refuse),
        middleware=[Middleware(HostGuardMiddleware, hosts=hosts)],
    )

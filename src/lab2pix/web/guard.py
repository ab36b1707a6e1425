"""What every server of pages here shares: whom it answers, what it takes in, what each answer says, where it listens.

A page of another site can make a browser send requests to this machine. So the Host header must name this server, no
answer allows other origins, what browsers say comes from another site is refused, bodies must be of a kind that no
foreign page may send unasked, and none is read beyond its limit.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import webbrowser
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from importlib import resources
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from lab2pix.errors import OutputError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = [
    "HEADERS",
    "Application",
    "Budget",
    "Gate",
    "Receive",
    "RefusedError",
    "Scope",
    "Send",
    "address_of",
    "closing_error",
    "error_answer",
    "host_checker",
    "listen",
    "open_soon",
    "page_file",
    "read_body",
    "refusal",
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
"""What each answer says to browsers."""

_LOCAL = ("localhost", "127.0.0.1", "::1")
_EVERYWHERE = ("0.0.0.0", "::", "")
_PORTS = {"http": 80, "https": 443}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class RefusedError(Exception):
    """A request that cannot be served.

    Args:
        status: of HTTP: 400 to 499 where the request is to blame, else 503.
        sentence: why, for the one who asked.
        headers: what else the answer says.
    """

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = dict(headers or {})


# --- who is answered ------------------------------------------------------------------------------------------------


def host_checker(host: str, allow_hosts: Sequence[str] = ()) -> Callable[[str], bool]:
    """Return what says of a Host header whether it names this server.

    A page of another site that has its name point here is refused by that. Listening on all addresses, any address
    in numbers is this server's: only names can be made to point elsewhere.

    Args:
        host: address that is listened on.
        allow_hosts: further names.
    """
    names = {name.lower() for name in (*_LOCAL, host, *allow_hosts)}
    everywhere = host in _EVERYWHERE
    if everywhere:
        own = socket.gethostname().lower()
        names |= {own, own.partition(".")[0], f"{own.partition('.')[0]}.local"}

    def is_known(header: str) -> bool:
        name = header.lower()
        if name.startswith("["):
            name, _, rest = name[1:].partition("]")
        else:
            name, colon, rest = name.partition(":")
            rest = colon + rest
        if rest and not (rest[0] == ":" and rest[1:].isascii() and rest[1:].isdigit()):
            return False
        return name in names or (everywhere and _is_address(name))

    return is_known


class Gate:
    """What each request passes first and each answer last: Host header, whose page asks, headers of the answer.

    Args:
        app: what comes after.
        is_known_host: says of a Host header whether requests under it are served.
    """

    def __init__(self, app: Application, is_known_host: Callable[[str], bool]):
        self.app = app
        self.is_known_host = is_known_host

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

        hosts = _values(scope, b"host")
        if len(hosts) != 1 or not self.is_known_host(hosts[0]):
            sentence = "This server is not known under that name; use the address that it printed, or --allow-host"
            await error_answer(400, sentence)(scope, receive, send_guarded)
            return
        if scope["method"] == "POST" and _is_foreign(scope, hosts[0]):
            await error_answer(403, "Pages of other sites cannot use this server")(scope, receive, send_guarded)
            return
        await self.app(scope, receive, send_guarded)


def _is_foreign(scope: Scope, host: str) -> bool:
    """Say whether a browser sends a request for a page of another site.

    Browsers say so in Sec-Fetch-Site, but only to servers on their own machine or behind TLS. To others they tell the
    page's origin alone, which is `null` where they keep it to themselves; programs tell neither.
    """
    sites = _values(scope, b"sec-fetch-site")
    if sites:
        return not set(sites) <= {"same-origin", "none"}
    own = {_without_port(f"{scheme}://{host}".lower()) for scheme in _PORTS}
    return not {_without_port(origin.lower()) for origin in _values(scope, b"origin")} <= own


def _values(scope: Scope, wanted: bytes) -> list[str]:
    return [value.decode("latin-1") for name, value in scope["headers"] if name == wanted]


def _without_port(origin: str) -> str:
    """Return an origin without the port that its scheme has anyway, which not everyone writes."""
    return origin.removesuffix(f":{_PORTS.get(origin.partition(':')[0])}")


# --- what is taken in -----------------------------------------------------------------------------------------------


class Budget:
    """Bytes that all requests together may hold in memory.

    Args:
        limit: how many.
    """

    def __init__(self, limit: int) -> None:
        self._left = limit

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """Give one request what takes so many bytes more for it, until the context ends.

        What is given raises RefusedError: 429, too many are held already.
        """
        mine = 0

        def take(count: int) -> None:
            nonlocal mine
            if count > self._left:
                raise RefusedError(429, "Too much is being sent here at once; try again later", {"retry-after": "1"})
            self._left -= count
            mine += count

        try:
            yield take
        finally:
            self._left += mine


async def read_body(
    request: Request,
    kinds: Collection[str],
    limit: int,
    take: Callable[[int], None] = lambda count: None,
    *,
    seconds: float = 30.0,
) -> tuple[bytes, str]:
    """Return a request's body and its kind.

    Args:
        request: the request.
        kinds: content types that are taken; none may be one that pages of other sites can send here unasked.
        limit: bytes that it may have.
        take: told of bytes before they are kept; may refuse them.
        seconds: that it may take to arrive.

    Raises:
        RefusedError: 415, it is of another kind; 413, too large; 408, too slow; 400, it ends too early.
    """
    from starlette.requests import ClientDisconnect

    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in kinds:
        *others, last = kinds
        raise RefusedError(415, f"The body must be {', '.join(others)}{' or ' * bool(others)}{last}")
    too_large = RefusedError(413, f"The body is larger than {limit} bytes")
    told = request.headers.get("content-length", "")
    if told.isascii() and told.isdigit() and (len(told) > 15 or int(told) > limit):
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                if len(body) + len(chunk) > limit:
                    raise too_large
                take(len(chunk))
                body += chunk
    except ClientDisconnect as error:
        raise RefusedError(400, "The body ended too early") from error
    except TimeoutError as error:
        raise RefusedError(408, f"The body did not arrive within {seconds:g} seconds") from error
    return bytes(body), kind


# --- what is answered -----------------------------------------------------------------------------------------------


def error_answer(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error as JSON: `{"error": sentence}`."""
    from starlette.responses import JSONResponse

    return JSONResponse({"error": sentence}, status_code=status, headers=headers)


def closing_error() -> RefusedError:
    """Return what those are told who wait while the server ends."""
    return RefusedError(503, "The server is shutting down; try again when it runs again", {"retry-after": "5"})


def refusal(error: Exception) -> Response:
    """Return the answer to a request that was refused, here or by Starlette."""
    if isinstance(error, RefusedError):
        return error_answer(error.status, str(error), error.headers)
    status = int(getattr(error, "status_code", 400))
    sentence = {404: "There is nothing at this address", 405: "This address takes no such request"}.get(
        status, "The request cannot be served"
    )
    return error_answer(status, sentence, getattr(error, "headers", None))


def page_file(name: str) -> bytes:
    """Return a file that a page consists of."""
    return resources.files("lab2pix.web").joinpath("pages", name).read_bytes()


# --- where it listens -----------------------------------------------------------------------------------------------


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address.

    Args:
        host: the address.
        port: the port; 0 takes a free one.

    Raises:
        OutputError: the address is not this machine's, or the port is taken.
    """
    try:
        return socket.create_server(
            (host, port),
            family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            backlog=128,
            dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),  # everywhere is IPv4 as well
        )
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(
            f"cannot listen on {host}, port {port} ({reason}); choose another --host or --port"
        ) from error


def address_of(host: str, port: int) -> str:
    """Return the page's address for a browser; listening everywhere, the one that other machines of the net reach."""
    if host in _EVERYWHERE:
        host = _own_address()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def open_soon(address: str) -> None:
    """Show a page in this machine's browser, as soon as the server will have started."""
    timer = threading.Timer(1.0, webbrowser.open, [address])
    timer.daemon = True
    timer.start()


def _own_address() -> str:
    """Return this machine's address in its net, as far as it can be told; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _is_address(name: str) -> bool:
    """Say whether a host is named by an address in numbers."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True

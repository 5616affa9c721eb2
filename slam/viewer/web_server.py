"""viser behind the guard, on one port: page and websocket. viser itself asks for no password."""

from __future__ import annotations

import errno
import http.client
import logging
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import rich
import viser
import websockets.asyncio.server
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from slam.viewer.web_guard import Guard, expect_token, is_loopback

log = logging.getLogger(__name__)

TOKEN = "SLAM_WEB_TOKEN"  # environment variable
TOKEN_BYTES = 24  # of a random one
PORT, TRIED = 8080, 20  # where a free port is sought, and how many
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # all interfaces; one of them
ATTEMPT = 10.0  # s, for the server to refuse what it has to
SAFE = {  # of each answer: no token in a Referer, nothing that outlives the page
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
POLICY = (  # viser's page goes to any websocket that its address names, and shows what that says
    "connect-src 'self' ws://{host} wss://{host} blob: data:; frame-ancestors 'none'; "
    "form-action 'none'; base-uri 'none'; object-src 'none'"
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where the page is served."""

    host: str = "127.0.0.1"  # name or number of the interface
    port: int | None = None  # None = the first free one from PORT on; 0 = any


class Server(viser.ViserServer):
    """viser's, that no browser can make reachable from elsewhere."""

    def request_share_url(self, verbose: bool = True) -> str | None:
        """viser would open a tunnel to a public address for everybody who asks."""
        return None


@dataclass(frozen=True, slots=True)
class Door:
    """Where browsers come in, before anybody serves them."""

    listening: socket.socket
    guard: Guard

    @property
    def url(self) -> str:
        """What to open in a browser, token included."""
        host, port = self.listening.getsockname()[:2]
        if host in ANYWHERE:
            host = socket.gethostname()
        name = f"[{host}]" if ":" in host else host
        return f"http://{name}:{port}/" + (f"?token={self.guard.token}" if self.guard.token else "")


def open_door(address: Address) -> Door:
    """Takes the address; raises ValueError where that cannot be, or for a token that is no good."""
    given = os.environ.get(TOKEN)
    token = expect_token(given) if given else None
    listening = listen(address)
    host, port = listening.getsockname()[:2]
    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(TOKEN_BYTES)
    return Door(listening, Guard(token, f"slam_token_{port}"))


@contextmanager
def serving(door: Door) -> Iterator[Server]:
    """A server inside a `with` block. Raises ValueError where viser lets everybody in."""
    rich.reconfigure(quiet=True)  # viser prints to standard output
    logging.getLogger("websockets.server").setLevel(logging.CRITICAL)  # strangers' mistakes
    with _guarded(door):
        server = Server(host="127.0.0.1", port=0, verbose=False)
    try:
        _expect_guarded(door.listening)
        yield server
    finally:
        server.stop()


def listen(address: Address) -> socket.socket:
    """A socket bound to the address. Raises ValueError where that cannot be, in one line."""
    ports = range(PORT, PORT + TRIED) if address.port is None else [address.port]
    if not all(0 <= port < 65536 for port in ports):
        raise ValueError(f"--web-port: wanted a port from 0 to 65535, got {address.port}")
    for port in ports:
        try:
            return socket.create_server((address.host, port), family=_family(address.host))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                said = error.strerror or error
                raise ValueError(f"{address.host}:{port} cannot be listened at: {said}") from error
    taken = f"{ports[0]}" if len(ports) == 1 else f"{ports[0]} to {ports[-1]}"
    raise ValueError(f"--web-port: {taken} taken on {address.host}; wanted a free port, or 0")


def _family(host: str) -> socket.AddressFamily:
    """IPv4 or IPv6. Raises ValueError for a name that nobody knows."""
    try:
        return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    except (OSError, UnicodeError) as error:
        raise ValueError(f"--web-host: wanted a name or address of this machine: {host}") from error


# --- the guard, before viser ---------------------------------------------------------------------


@contextmanager
def _guarded(door: Door) -> Iterator[None]:
    """A server that `websockets` makes inside of a `with` block listens there and asks the guard.

    viser offers no place for it. `_expect_guarded` finds out where a version of it evades this.
    """
    plain: Any = websockets.asyncio.server.serve

    def serve(handler: Any, *_: Any, process_request: Any, **options: Any) -> Any:
        asked = _asking(door.guard, process_request)
        return plain(handler, sock=door.listening, process_request=asked, **options)

    websockets.asyncio.server.serve = serve  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        websockets.asyncio.server.serve = plain


def _asking(guard: Guard, answer: Callable[[Any, Request], Response | None]) -> Callable[..., Any]:
    """viser's answer to a request that the guard lets pass, 403 to another one."""

    def process_request(connection: Any, request: Request) -> Response | None:
        if why := guard.refusal(request.path, request.headers):
            log.info("web viewer: a request was refused: %s", why)
            return _text(HTTPStatus.FORBIDDEN, why)
        response = answer(connection, request)
        if response is not None:
            response.headers.update(SAFE)
            policy = POLICY.format(host=request.headers["Host"])
            response.headers["Content-Security-Policy"] = policy
            if cookie := guard.cookie(request.path):
                response.headers["Set-Cookie"] = cookie
        return response

    return process_request


def _text(status: HTTPStatus, text: str) -> Response:
    body = f"{text}\n".encode()
    headers = Headers({"Content-Type": "text/plain", "Content-Length": str(len(body)), **SAFE})
    return Response(status.value, status.phrase, headers, body)


def _expect_guarded(listening: socket.socket) -> None:
    """Raises ValueError where a request that is to be refused is not."""
    bound: tuple[str, int] = listening.getsockname()[:2]
    host, port = bound
    asking = http.client.HTTPConnection(ANYWHERE.get(host, host), port, timeout=ATTEMPT)
    asking.request("GET", "/", headers={"Host": "elsewhere.example", "Origin": "http://other"})
    status = asking.getresponse().status
    asking.close()
    if status != HTTPStatus.FORBIDDEN:
        raise ValueError(f"viser {viser.__version__} answers without asking; wanted 1.1")

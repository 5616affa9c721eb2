"""Who may open the web viewer: a token, and no page of another site."""

from __future__ import annotations

import hmac
import ipaddress
import re
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

AUTHORITY = re.compile(r"[\w.-]+(:\d+)?|\[[\da-fA-F:.]+\](:\d+)?", re.ASCII)  # name:port
SHORTEST_TOKEN = 16  # characters
ATTRIBUTES = "Path=/; HttpOnly; SameSite=Strict"


class Headers(Protocol):
    """Of a request."""

    def get_all(self, key: str, /) -> list[str]:
        """All values of a header, in any spelling of its name."""
        ...


@dataclass(frozen=True, slots=True)
class Guard:
    """What requests are held to, HTTP and websockets alike."""

    token: str | None  # None = everybody may who calls this machine by a loopback name
    name: str = "slam_token"  # of the cookie; a browser shares it among all ports

    def refusal(self, target: str, headers: Headers) -> str:
        """Why a request is refused, in one line; empty = it may pass.

        Without a token the Host has to be a loopback name: a name that somebody else has pointed
        to this machine (DNS rebinding) is not. An Origin has to be the Host: pages of other sites
        may not open a websocket here.

        Args: target: path and query.
        """
        hosts, origins = headers.get_all("Host"), headers.get_all("Origin")
        if len(hosts) != 1 or not _is_authority(hosts[0]) or len(origins) > 1:
            return "wanted one Host and at most one Origin"
        if self.token is None and not is_loopback(host_name(hosts[0])):
            return "wanted localhost as the Host; for other names set a token"
        if origins and _authority(origins[0]) != hosts[0].lower():
            return "wanted no other site's page as the Origin"
        if self.token is None or self._knows(target, headers):
            return ""
        return "wanted the token: open the address that `slam` printed, with ?token="

    def cookie(self, target: str) -> str | None:
        """What a browser that came with the token in its address is to bring from now on."""
        if self.token is None or not self._same(_query_token(target)):
            return None
        return f"{self.name}={self.token}; {ATTRIBUTES}"

    def _knows(self, target: str, headers: Headers) -> bool:
        cookies = (_cookie(text, self.name) for text in headers.get_all("Cookie"))
        found = [_query_token(target), *cookies]
        return any([self._same(token) for token in found])

    def _same(self, token: str) -> bool:
        """Takes the same time for every wrong one."""
        given = token.encode(errors="surrogatepass")  # bytes that are no ASCII come as surrogates
        return hmac.compare_digest(given, (self.token or "").encode()) and bool(token)


def expect_token(token: str) -> str:
    """The token; raises ValueError where it is too short, or would not fit into an address."""
    fits = all(c.isascii() and (c.isalnum() or c in "-_") for c in token)
    if len(token) < SHORTEST_TOKEN or not fits:
        raise ValueError(
            f"SLAM_WEB_TOKEN: wanted {SHORTEST_TOKEN} or more letters, digits, - and _, got "
            f"{len(token)} characters; leave it out for a random one"
        )
    return token


def is_loopback(name: str) -> bool:
    """Whether a name can only be this machine's own."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def host_name(authority: str) -> str:
    """The name in `name:port`, without brackets, in lower case; empty where that is none."""
    try:
        return urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return ""


def _is_authority(host: str) -> bool:
    return AUTHORITY.fullmatch(host) is not None and host_name(host) != ""


def _authority(origin: str) -> str:
    """The `name:port` of an Origin; empty for `null` and the like."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _query_token(target: str) -> str:
    try:
        given = parse_qs(urlsplit(target).query).get("token", [])
    except ValueError:
        return ""
    return given[0] if len(given) == 1 else ""


def _cookie(header: str, name: str) -> str:
    try:
        morsel = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value

"""The door of the web viewer: address, token, and who is refused."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("viser", reason="viser is not installed: pip install '.[web]'")

from chromium import Chromium
from conftest import PACKAGE_PARENT, CommandResult, expect_one_line
from sequences import SAMPLE
from web_pages import Shown
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from slam.viewer.web_server import Address, Door, open_door, serving

TOKEN = "a-token-of-some-length"
Command = Callable[..., CommandResult]


@contextmanager
def opened(monkeypatch: pytest.MonkeyPatch, host: str = "127.0.0.1", token: str = "") -> Iterator:
    """A server on any free port: its door."""
    monkeypatch.setenv("SLAM_WEB_TOKEN", token)
    door = open_door(Address(host, 0))
    with serving(door):
        yield door


def get(door: Door, target: str, **headers: str) -> http.client.HTTPResponse:
    """An answer to a plain request."""
    asking = http.client.HTTPConnection("127.0.0.1", door.listening.getsockname()[1], timeout=10)
    asking.request("GET", target, headers=headers)
    answer = asking.getresponse()
    answer.body = answer.read()
    asking.close()
    return answer


def websocket_status(door: Door, target: str = "/", **headers: str) -> int:
    """101 where a websocket is opened, otherwise the status of the refusal."""
    port = door.listening.getsockname()[1]
    origin = headers.pop("Origin", None)
    try:
        with connect(
            f"ws://127.0.0.1:{port}{target}",
            origin=origin,  # pyright: ignore[reportArgumentType]
            additional_headers=headers,
            subprotocols=["viser-v0"],  # pyright: ignore[reportArgumentType]
            proxy=None,
        ):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


def test_other_machines_need_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(monkeypatch, "0.0.0.0") as door:
        address = urlsplit(door.url)
        token = address.query.removeprefix("token=")
        assert address.hostname == socket.gethostname().lower() and len(token) >= 32
        assert get(door, "/").status == get(door, "/?token=wrong").status == 403
        assert websocket_status(door) == websocket_status(door, "/?token=wrong") == 403
        page = get(door, f"/?token={token}")
        assert page.status == 200 and b"<html" in page.body
        cookie = page.headers["Set-Cookie"].partition(";")[0]
        assert get(door, "/", Cookie=cookie).status == 200
        assert websocket_status(door, Cookie=cookie) == 101
        assert websocket_status(door, Cookie=cookie, Origin="http://evil.example") == 403


def test_two_servers_have_two_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(monkeypatch, "0.0.0.0") as one, opened(monkeypatch, "0.0.0.0") as other:
        assert one.guard.token != other.guard.token and one.guard.name != other.guard.name
        assert get(other, f"/?token={one.guard.token}").status == 403


def test_on_loopback_no_other_site_may_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(monkeypatch) as door:
        own = f"http://127.0.0.1:{door.listening.getsockname()[1]}"
        assert door.url == own + "/"
        page = get(door, "/")
        assert page.status == 200 and "Set-Cookie" not in page.headers
        policy = page.headers["Content-Security-Policy"]
        assert f"connect-src 'self' {own.replace('http', 'ws')} " in policy
        assert "frame-ancestors 'none'" in policy
        assert websocket_status(door) == websocket_status(door, Origin=own) == 101
        assert get(door, "/", Host="evil.example").status == 403  # DNS rebinding
        assert get(door, "/", Origin="http://evil.example").status == 403
        assert websocket_status(door, Origin="http://evil.example") == 403
        assert websocket_status(door, Host="evil.example") == 403


def test_a_token_that_is_given_holds_on_loopback_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(monkeypatch, token=TOKEN) as door:
        assert door.url.endswith(f"/?token={TOKEN}")
        assert get(door, "/").status == 403 and get(door, f"/?token={TOKEN}").status == 200


@pytest.mark.parametrize("token", ["", TOKEN])
@pytest.mark.parametrize(
    "request_line_and_host",
    [b"GET / HTTP/1.1\r\nHost: [1:2:3]", b"GET /?token=\xff HTTP/1.1\r\nHost: far.example"],
)
def test_what_is_malformed_is_refused_like_everything_else(
    monkeypatch: pytest.MonkeyPatch, token: str, request_line_and_host: bytes
) -> None:
    with (
        opened(monkeypatch, token=token) as door,
        socket.create_connection(door.listening.getsockname(), timeout=10) as asking,
    ):
        asking.sendall(request_line_and_host + b"\r\n\r\n")
        assert asking.recv(1000).startswith(b"HTTP/1.1 403 ")


def test_only_the_port_of_the_door_is_open_and_no_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLAM_WEB_TOKEN", raising=False)
    door = open_door(Address(port=0))
    with serving(door) as server:
        assert server.get_port() == door.listening.getsockname()[1]
        assert server.request_share_url() is None
    assert door.listening.fileno() == -1  # closed with the server


def test_what_strangers_send_is_not_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(monkeypatch) as door:
        for nonsense in (b"\x16\x03\x01\x02\x00\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n"):
            with socket.create_connection(door.listening.getsockname()) as stranger:
                stranger.sendall(nonsense)
                stranger.settimeout(10)
                stranger.recv(1000)
        assert get(door, "/").status == 200
    assert not caplog.records


def test_a_server_that_lets_everybody_in_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slam.viewer.web_guard.Guard.refusal", lambda *_: "")
    door = open_door(Address(port=0))
    with pytest.raises(ValueError, match="answers without asking"), serving(door):
        pass


def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch, run_cli: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        line = run_cli("run", SAMPLE, "--viewer", "web", "--web-port", taken)
        expect_one_line(line, "--web-port", str(taken), "taken")
        monkeypatch.setattr("slam.viewer.web_server.PORT", taken)
        door = open_door(Address())
        assert taken < door.listening.getsockname()[1] < taken + 20
        door.listening.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--web-port", "65536"), ("--web-port", "65536")),
        (("--web-port", "-1"), ("--web-port", "-1")),
        (("--web-host", "no.such.name.invalid"), ("--web-host", "no.such.name.invalid")),
        (("--web-host", "192.0.2.1"), ("192.0.2.1",)),  # nobody's
    ],
)
def test_an_address_that_cannot_be_used_is_bad_input(
    arguments: tuple[str, ...], words: tuple[str, ...], run_cli: Command
) -> None:
    expect_one_line(run_cli("run", SAMPLE, "--viewer", "web", *arguments), *words)


def test_viser_that_is_missing_leaves_the_run_alone(
    run_cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    monkeypatch.delitem(sys.modules, "slam.viewer.web_server")
    shown = run_cli("view", tmp_path, "--viewer", "web")
    expect_one_line(shown, "no viewer", "viser", "'.[web]'")
    missing = run_cli("run", tmp_path / "nowhere", "--viewer", "web")
    assert "slam: no viewer: wanted viser" in missing.err and "running without it" in missing.err
    assert "nowhere" in missing.err  # it did run


@pytest.mark.slow
def test_the_web_viewer_wants_no_qt() -> None:
    script = "import sys; sys.modules['PySide6'] = None; import slam.viewer.web_live"
    subprocess.run([sys.executable, "-c", script], cwd=PACKAGE_PARENT, check=True)


def test_the_token_in_the_address_is_enough_for_a_browser(
    browser: Chromium, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLAM_WEB_TOKEN", TOKEN)
    door = open_door(Address(port=0))
    with serving(door) as server, browser.page() as tab:
        shown = Shown(server)
        tab.open(door.url.partition("?")[0])
        assert "wanted the token" in tab.evaluate("document.body.innerText")
        tab.open(door.url)
        shown.heed_until(lambda: shown.page.watched)
        assert TOKEN not in tab.evaluate("document.cookie")


@pytest.mark.slow
def test_another_site_cannot_lend_the_page_its_own_websocket(
    monkeypatch: pytest.MonkeyPatch, browser: Chromium
) -> None:
    monkeypatch.delenv("SLAM_WEB_TOKEN", raising=False)
    door = open_door(Address(port=0))
    with (
        serving(door) as server,
        socket.create_server(("127.0.0.1", 0)) as other,
        browser.page() as tab,
    ):
        shown = Shown(server)
        other.settimeout(5)
        lent = f"ws://127.0.0.1:{other.getsockname()[1]}"
        tab.open(f"http://127.0.0.1:{server.get_port()}/?websocket={lent}")
        with pytest.raises(TimeoutError):
            other.accept()
    assert not shown.page.watched

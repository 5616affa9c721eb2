"""Who may open the web viewer, and how `--viewer` is spelled; without viser."""

from __future__ import annotations

import argparse

import pytest

from slam.arguments import add_source_arguments, add_viewer_arguments, viewer_spelled
from slam.viewer.web_guard import Guard, expect_token

TOKEN = "a-token-of-some-length"
HERE = "127.0.0.1:8080"


class Given(dict[str, list[str]]):
    """Headers of a request."""

    def get_all(self, key: str, /) -> list[str]:
        return self.get(key, [])


def refused(guard: Guard, target: str = "/", **headers: str | list[str]) -> str:
    """Why a request is; headers by their names, several values as a list."""
    given = {"Host": [HERE]} | {k: v if isinstance(v, list) else [v] for k, v in headers.items()}
    return guard.refusal(target, Given(given))


@pytest.mark.parametrize(
    ("headers", "word"),
    [
        ({}, ""),
        ({"Host": "localhost:9000"}, ""),  # as a tunnel of ssh is called
        ({"Host": "[::1]:8080"}, ""),
        ({"Host": "LOCALHOST"}, ""),
        ({"Origin": f"http://{HERE}"}, ""),
        ({"Host": "evil.example:8080"}, "localhost"),
        ({"Host": "127.0.0.1.evil.example"}, "localhost"),
        ({"Host": "localhost@evil.example"}, "one Host"),
        ({"Host": "192.168.0.7:8080"}, "localhost"),
        ({"Host": "[::1"}, "one Host"),
        ({"Host": "[1:2:3]"}, "one Host"),
        ({"Host": ""}, "one Host"),
        ({"Host": "localhost; script-src *"}, "one Host"),
        ({"Host": "localhost:"}, "one Host"),
        ({"Host": []}, "one Host"),
        ({"Host": [HERE, "evil.example"]}, "one Host"),
        ({"Origin": "http://evil.example"}, "Origin"),
        ({"Origin": "http://127.0.0.1:9999"}, "Origin"),  # another server of this machine
        ({"Origin": "null"}, "Origin"),
        ({"Origin": "http://[::1"}, "Origin"),
        ({"Origin": [f"http://{HERE}", "http://evil.example"]}, "Origin"),
    ],
)
def test_without_a_token_only_this_machines_own_pages_pass(
    headers: dict[str, str | list[str]], word: str
) -> None:
    why = refused(Guard(None), **headers)
    assert word in why if word else why == ""


@pytest.mark.parametrize(
    ("target", "cookie", "passes"),
    [
        (f"/?token={TOKEN}", "", True),
        ("/", f"slam_token={TOKEN}", True),
        ("/", f"a=b; slam_token={TOKEN}; c=d", True),
        ("/", "", False),
        ("/", "slam_token=", False),
        ("/", f"other={TOKEN}", False),
        (f"/?token={TOKEN}x", "", False),
        (f"/?token={TOKEN[:-1]}", "", False),
        ("/?token=", "", False),
        ("/?token=ä", "slam_token=\x00", False),
        ("/?token=\udcff", "slam_token=\udcff", False),
        (f"/?token=x&token={TOKEN}", "", False),
        (f"/{TOKEN}", "", False),
        (f"/?x={TOKEN}", "", False),
    ],
)
def test_with_a_token_only_who_knows_it_passes(target: str, cookie: str, passes: bool) -> None:
    why = refused(Guard(TOKEN), target, Host="far.example:8080", Cookie=cookie)
    assert (why == "") == passes
    assert TOKEN not in why


def test_a_token_does_not_excuse_a_host_that_is_none() -> None:
    assert "one Host" in refused(Guard(TOKEN), f"/?token={TOKEN}", Host="[1:2:3]:8080")


def test_a_token_does_not_open_the_door_to_other_sites() -> None:
    headers = {"Cookie": f"slam_token={TOKEN}", "Origin": "http://evil.example"}
    assert "Origin" in refused(Guard(TOKEN), **headers)
    assert refused(Guard(TOKEN), **headers | {"Origin": f"http://{HERE}"}) == ""


def test_a_browser_is_told_to_keep_the_token_to_itself() -> None:
    cookie = Guard(TOKEN, "slam_token_7").cookie(f"/?token={TOKEN}")
    assert cookie is not None and cookie.startswith(f"slam_token_7={TOKEN};")
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert Guard(TOKEN).cookie("/?token=another") is None
    assert Guard(TOKEN).cookie("/") is None
    assert Guard(None).cookie("/?token=") is None


@pytest.mark.parametrize(
    "token", ["short", "", "a" * 15, "a token of some length", "ä" * 20, "\n" * 20]
)
def test_a_token_that_is_no_good_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="SLAM_WEB_TOKEN: wanted 16 or more"):
        expect_token(token)


@pytest.mark.parametrize(
    ("given", "viewer", "source"),
    [
        ("seq", None, "seq"),
        ("seq --viewer", "desktop", "seq"),
        ("--viewer seq", "desktop", "seq"),
        ("--viewer web seq", "web", "seq"),
        ("seq --viewer web", "web", "seq"),
        ("--viewer=web seq", "web", "seq"),
        ("seq --viewer desktop", "desktop", "seq"),
        ("--viewer --start 3 seq", "desktop", "seq"),
        ("--viewer ./web", "desktop", "./web"),
    ],
)
def test_viewer_never_swallows_the_source(given: str, viewer: str | None, source: str) -> None:
    parser = argparse.ArgumentParser()
    add_source_arguments(parser)
    add_viewer_arguments(parser, "watch it")
    options = parser.parse_args(viewer_spelled(given.split()))
    assert (options.viewer, options.source) == (viewer, source)

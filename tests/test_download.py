"""`slam download` against a server of its own: ranges, none, cut connections, other files."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slam import cli
from slam import download as module
from slam.download import PUBLISHED, Asset, describe, download, find_asset

if TYPE_CHECKING:
    from tests.conftest import CommandResult

CONTENT = bytes(range(256)) * 20_000  # 5 MB: several blocks
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = "weights.pth"


@dataclass
class Server:
    """A file server whose faults can be chosen."""

    address: str = ""
    content: bytes = CONTENT
    ranges: bool = True
    cut_after: int | None = None  # bytes that a connection brings before it ends
    says_length: bool = True
    wrong_begin: int = 0  # bytes that a part starts too early
    surplus: int = 0  # bytes that a part is too long
    asked: list[str] = field(default_factory=list)  # method and range of each request


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            state.asked.append("HEAD")
            self.answer(200, len(state.content))

        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            state.asked.append(f"GET {wanted}".strip())
            if NAME not in self.path:
                self.send_error(404)
                return
            total = len(state.content)
            begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            if not (state.ranges and wanted):
                self.answer(200, total)
                self.send_body(state.content)
            elif begin >= total:
                self.answer(416, 0, f"bytes */{total}")
            else:
                begin -= state.wrong_begin
                length = total - begin + state.surplus
                self.answer(206, length, f"bytes {begin}-{total - 1}/{total}")
                self.send_body(state.content[begin:] + bytes(state.surplus))

        def answer(self, status: int, length: int, span: str = "") -> None:
            self.send_response(status)
            if state.says_length:
                self.send_header("Content-Length", str(length))
            if span:
                self.send_header("Content-Range", span)
            self.end_headers()

        def send_body(self, body: bytes) -> None:
            with contextlib.suppress(ConnectionError):  # of a client that leaves
                self.wfile.write(body[: state.cut_after])

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing: the tests read `asked`."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        state.address = f"http://127.0.0.1:{http.server_port}/models/{NAME}?download=1"
        yield state
        http.shutdown()
        thread.join()


@pytest.fixture
def asset(server: Server) -> Asset:
    return Asset("tiny", "a test", server.address, "none", len(CONTENT), SHA256)


def part_of(folder: Path) -> Path:
    return folder / f"{NAME}.part"


def test_a_file_comes_whole_under_its_published_name(
    server: Server, asset: Asset, tmp_path: Path
) -> None:
    done = download(asset, tmp_path / "a" / "b")
    assert done.path == tmp_path / "a" / "b" / NAME
    assert done.path.read_bytes() == CONTENT
    assert (done.size, done.sha256, done.verified) == (len(CONTENT), SHA256, True)
    assert [path.name for path in done.path.parent.iterdir()] == [NAME]
    assert server.asked == ["GET"]


def test_it_goes_on_from_what_is_there(server: Server, asset: Asset, tmp_path: Path) -> None:
    part_of(tmp_path).write_bytes(CONTENT[:1_234_567])
    assert download(asset, tmp_path).path.read_bytes() == CONTENT
    assert server.asked == ["GET bytes=1234567-"]


def test_a_part_that_is_the_whole_file_is_taken(
    server: Server, asset: Asset, tmp_path: Path
) -> None:
    part_of(tmp_path).write_bytes(CONTENT)
    assert download(asset, tmp_path).path.read_bytes() == CONTENT
    part_of(tmp_path).write_bytes(CONTENT + b"more")
    (tmp_path / NAME).unlink()
    assert download(asset, tmp_path).path.read_bytes() == CONTENT
    assert server.asked[1:] == [f"GET bytes={len(CONTENT) + 4}-", "GET"]


def test_a_cut_connection_is_taken_up_again(server: Server, asset: Asset, tmp_path: Path) -> None:
    server.cut_after = 2_000_000
    assert download(asset, tmp_path).path.read_bytes() == CONTENT
    assert server.asked == ["GET", "GET bytes=2000000-", "GET bytes=4000000-"]


def test_a_connection_that_brings_nothing_ends_and_the_part_is_kept(
    server: Server, asset: Asset, tmp_path: Path
) -> None:
    part_of(tmp_path).write_bytes(CONTENT[:1000])
    server.cut_after = 0
    with pytest.raises(ConnectionError, match=r"after 1000 of 5120000 bytes; run again to go on"):
        download(asset, tmp_path)
    assert part_of(tmp_path).read_bytes() == CONTENT[:1000]
    assert not (tmp_path / NAME).exists()
    server.cut_after = None
    assert download(asset, tmp_path).path.read_bytes() == CONTENT


def test_a_server_without_ranges_starts_anew(server: Server, asset: Asset, tmp_path: Path) -> None:
    part_of(tmp_path).write_bytes(b"x" * 1000)
    server.ranges = False
    assert download(asset, tmp_path).path.read_bytes() == CONTENT
    (tmp_path / NAME).unlink()
    server.cut_after = 3_000_000  # each attempt ends there: no endless loop
    with pytest.raises(ConnectionError, match="after 3000000 of 5120000 bytes"):
        download(asset, tmp_path)
    assert len(server.asked) == 3


def test_a_server_that_sends_too_much_is_not_asked_for_ever(
    server: Server, asset: Asset, tmp_path: Path
) -> None:
    part_of(tmp_path).write_bytes(CONTENT[:1000])
    server.surplus = 7
    with pytest.raises(ConnectionError, match="after 5120007 of 5120000 bytes"):
        download(asset, tmp_path)
    server.surplus = 0
    assert download(asset, tmp_path).path.read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing(server: Server, asset: Asset, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"x"
    with pytest.raises(ValueError, match=rf"wanted sha256 {SHA256}, got \w+; it is deleted"):
        download(asset, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_size_is_not_fetched(
    server: Server, asset: Asset, tmp_path: Path
) -> None:
    server.content = CONTENT[:-1]
    with pytest.raises(ValueError, match="published file of 5120000 bytes, the server has one of"):
        download(asset, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_size_and_checksum_may_be_unknown(server: Server, asset: Asset, tmp_path: Path) -> None:
    server.cut_after = 4_000_000
    unknown = replace(asset, size=None, sha256="")
    assert "0.01 GB" in describe(unknown)
    done = download(unknown, tmp_path)
    assert done.path.read_bytes() == CONTENT
    assert (done.sha256, done.verified) == (SHA256, False)


def test_answers_that_make_no_sense_are_refused(
    server: Server, asset: Asset, tmp_path: Path
) -> None:
    server.says_length = False
    with pytest.raises(ConnectionError, match="does not say how large"):
        download(asset, tmp_path)
    server.says_length, server.wrong_begin = True, 10
    part_of(tmp_path).write_bytes(CONTENT[:1000])
    with pytest.raises(ConnectionError, match="wanted bytes from 1000, got from 990"):
        download(asset, tmp_path)
    with pytest.raises(ConnectionError, match="404 Not Found"):
        download(replace(asset, address=server.address.replace(NAME, "other")), tmp_path)
    with pytest.raises(ConnectionError, match="refused"):
        download(replace(asset, address="http://127.0.0.1:9/weights.pth"), tmp_path)


def test_a_file_that_is_there_is_only_checked(server: Server, asset: Asset, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(CONTENT)
    assert download(asset, tmp_path).verified
    (tmp_path / NAME).write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match=r"wanted 5120000 bytes, got 5119999; move .* away"):
        download(asset, tmp_path)
    assert (tmp_path / NAME).stat().st_size == len(CONTENT) - 1
    assert server.asked == []


def test_a_full_disk_is_said_before_it_is_full(
    server: Server, asset: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = type("Usage", (), {"free": 4_000_000})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: free)
    with pytest.raises(ValueError, match=r"wanted 0.01 GB of free disk, got 0.00 GB"):
        download(asset, tmp_path)


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, asset: Asset) -> Asset:
    monkeypatch.setattr(module, "PUBLISHED", (asset,))
    return asset


def test_the_command_shows_the_licence_and_fetches(
    run_cli: Callable[..., CommandResult], published: Asset, tmp_path: Path
) -> None:
    result = run_cli("download", "tiny", "--yes", "--out", tmp_path)
    assert (result.code, result.err) == (0, "")
    assert re.search(r"^licence +none$", result.out, re.MULTILINE)
    assert f"{tmp_path / NAME}: 5120000 bytes, sha256 {SHA256} (as published)" in result.out
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_without_a_terminal_the_licence_must_be_accepted(
    run_cli: Callable[..., CommandResult], published: Asset, server: Server, tmp_path: Path
) -> None:
    result = run_cli("download", "tiny", "--out", tmp_path)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "got no terminal; give --yes" in result.err
    assert server.asked == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("", 1), ("no", 1)])
def test_on_a_terminal_it_asks(
    run_cli: Callable[..., CommandResult],
    published: Asset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    code: int,
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(cli, "input", lambda _: answer, raising=False)
    assert run_cli("download", "tiny", "--out", tmp_path).code == code
    assert (tmp_path / NAME).exists() == (code == 0)


def test_a_download_that_fails_is_one_line(
    run_cli: Callable[..., CommandResult], published: Asset, server: Server, tmp_path: Path
) -> None:
    server.content = CONTENT[:100]
    result = run_cli("download", "tiny", "--yes", "--out", tmp_path)
    assert (result.code, result.err.count("\n")) == (2, 1)
    unknown = run_cli("download", "huge")
    assert (unknown.code, unknown.err) == (
        2,
        "slam: error: no 'huge' to download; there are: tiny\n",
    )


def test_published_files_are_named_and_licensed() -> None:
    assert [asset.name for asset in PUBLISHED] == ["mast3r", "dust3r", "dust3r-224"]
    for asset in PUBLISHED:
        assert asset.address.startswith("https://download.europe.naverlabs.com/")
        assert asset.file_name.endswith(".pth")
        assert "CC BY-NC-SA 4.0" in asset.licence
    mast3r = find_asset("mast3r")
    assert mast3r.file_name == "MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric.pth"
    assert "2.75 GB" in describe(mast3r)

"""Files of weights that others publish: where they are, under which licence, and fetching them."""

from __future__ import annotations

import hashlib
import logging
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from tqdm import tqdm

from slam import __version__

TIMEOUT = 60.0  # s without a byte from the server
BLOCK = 1 << 20  # bytes read at a time
RANGE_NOT_SATISFIABLE = 416
PARTIAL_CONTENT = 206

Answer = HTTPResponse | urllib.error.HTTPError  # the error, too, has a status and headers

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asset:
    """A published file."""

    name: str  # what `slam download` calls it
    what: str
    address: str
    licence: str
    size: int | None = None  # bytes; None: only the server says
    sha256: str = ""  # hexadecimal; empty: its authors publish none

    @property
    def file_name(self) -> str:
        """As published."""
        return PurePosixPath(urlsplit(self.address).path).name


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that is there in whole."""

    path: Path
    size: int  # bytes
    sha256: str  # hexadecimal
    verified: bool  # sha256 was known beforehand, and is the same


NAVER = "https://download.europe.naverlabs.com/ComputerVision"
NAVER_LICENCE = (
    "CC BY-NC-SA 4.0 (Naver): no commercial use; you also accept the licences of the data sets "
    "that it was trained on, which its authors list with it"
)
PUBLISHED = (
    Asset(
        "mast3r",
        "MASt3R ViT-L 512, metric: two-view pointmaps with descriptors",
        f"{NAVER}/MASt3R/MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric.pth",
        NAVER_LICENCE,
        size=2_754_910_614,
    ),
    Asset(
        "dust3r",
        "DUSt3R ViT-L 512, DPT heads: two-view pointmaps",
        f"{NAVER}/DUSt3R/DUSt3R_ViTLarge_BaseDecoder_512_dpt.pth",
        NAVER_LICENCE,
    ),
    Asset(
        "dust3r-224",
        "DUSt3R ViT-L 224, linear heads: two-view pointmaps",
        f"{NAVER}/DUSt3R/DUSt3R_ViTLarge_BaseDecoder_224_linear.pth",
        NAVER_LICENCE,
    ),
)


def find_asset(name: str) -> Asset:
    """A published file by its name. Raises ValueError, with all names, where there is none."""
    for asset in PUBLISHED:
        if asset.name == name:
            return asset
    names = ", ".join(asset.name for asset in PUBLISHED)
    raise ValueError(f"no {name!r} to download; there are: {names}")


def describe(asset: Asset) -> str:
    """What it is, how large, from where, under which licence: one line each.

    Raises ConnectionError where only the server knows the size and does not answer.
    """
    size = _size_on_server(asset) if asset.size is None else asset.size
    rows = {
        asset.name: asset.what,
        "size": f"{size / 1e9:.2f} GB",
        "address": asset.address,
        "licence": asset.licence,
    }
    return "\n".join(f"{word:<10} {text}" for word, text in rows.items())


def download(asset: Asset, folder: Path) -> Fetched:
    """Fetches a file into a folder, or what is missing of it; one that is there is only checked.

    Until it is whole and verified the file is called NAME.part; where the server can, it goes on
    from there, now and in later calls.

    Raises:
        ValueError: the file is not the published one, or the disk is too small.
        ConnectionError: the server does not answer, or not with the file.
    """
    target = folder / asset.file_name
    if target.exists():
        logger.info("%s is there already", target)
        return _verify(target, asset, asset.size, f"move {target} away, and run again")
    folder.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    size = _receive_all(asset, part)
    try:
        fetched = _verify(part, asset, size, "it is deleted; run again")
    except ValueError:
        part.unlink()
        raise
    part.replace(target)
    return Fetched(target, fetched.size, fetched.sha256, fetched.verified)


# --- over the network ----------------------------------------------------------------------------


def _receive_all(asset: Asset, part: Path) -> int:
    """Connects again as long as that brings anything; returns the size of the file."""
    while True:
        before = _size(part)
        total = _receive(asset, part, before)
        if _size(part) == total:
            return total
        if not before < _size(part) < total:
            raise ConnectionError(
                f"{asset.address}: the connection ended after {_size(part)} of {total} bytes; "
                "run again to go on"
            )
        logger.info("the connection ended after %d of %d bytes; going on", _size(part), total)


def _receive(asset: Asset, part: Path, start: int) -> int:
    """Appends what one connection brings; returns the size of the whole file."""
    with _opened(asset, start) as answer:
        if answer.status == RANGE_NOT_SATISFIABLE:  # nothing is left to send, or too much is here
            total = _total(answer, asset)
            if start == total:
                return total
            part.unlink()
            return _receive(asset, part, 0)
        begin, total = _span(answer, asset)
        if begin not in (0, start):
            raise ConnectionError(f"{asset.address}: wanted bytes from {start}, got from {begin}")
        _check_disk(part, total - begin)
        with part.open("r+b" if begin else "wb") as file, _bar(total, begin) as bar:
            file.seek(begin)
            for block in _blocks(answer):
                file.write(block)
                bar.update(len(block))
        return total


@contextmanager
def _opened(asset: Asset, start: int, method: str = "GET") -> Iterator[Answer]:
    headers = {"User-Agent": f"slam/{__version__}"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(asset.address, headers=headers, method=method)
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != RANGE_NOT_SATISFIABLE:
            raise ConnectionError(f"{asset.address}: {error.code} {error.reason}") from error
        answer = error
    except (urllib.error.URLError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ConnectionError(f"{asset.address}: {reason or type(error).__name__}") from error
    with answer:
        yield answer


def _blocks(answer: Answer) -> Iterator[bytes]:
    """What comes until the end, also where that is too early."""
    try:
        while block := answer.read(BLOCK):
            yield block
    except (ConnectionError, TimeoutError, HTTPException) as error:
        logger.info("the connection broke: %s", error)


def _span(answer: Answer, asset: Asset) -> tuple[int, int]:
    """The first byte that an answer holds, and the size of the whole file."""
    if answer.status != PARTIAL_CONTENT:
        return 0, _total(answer, asset)
    begin = answer.headers.get("Content-Range", "").removeprefix("bytes ").split("-")[0]
    if not begin.isdecimal():
        raise ConnectionError(f"{asset.address}: a part without a Content-Range")
    return int(begin), _total(answer, asset)


def _total(answer: Answer, asset: Asset) -> int:
    """Size of the whole file in bytes, as the server says, checked where it is known."""
    span = answer.headers.get("Content-Range", "")
    text = span.rpartition("/")[2] if span else answer.headers.get("Content-Length", "")
    if not text.isdecimal():
        raise ConnectionError(f"{asset.address}: the server does not say how large the file is")
    if asset.size is not None and int(text) != asset.size:
        raise ValueError(
            f"{asset.address}: wanted the published file of {asset.size} bytes, "
            f"the server has one of {text}"
        )
    return int(text)


def _size_on_server(asset: Asset) -> int:
    with _opened(asset, 0, "HEAD") as answer:
        return _total(answer, asset)


# --- on the disk ---------------------------------------------------------------------------------


def _verify(path: Path, asset: Asset, size: int | None, remedy: str) -> Fetched:
    """Raises ValueError where size or checksum are not those of the file, as far as known."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if size is not None and _size(path) != size:
        raise ValueError(f"{path}: wanted {size} bytes, got {_size(path)}; {remedy}")
    if asset.sha256 and found != asset.sha256:
        raise ValueError(f"{path}: wanted sha256 {asset.sha256}, got {found}; {remedy}")
    return Fetched(path, _size(path), found, bool(asset.sha256))


def _check_disk(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise ValueError(
            f"{path.parent}: wanted {needed / 1e9:.2f} GB of free disk, got {free / 1e9:.2f} GB; "
            "free some, or give --out elsewhere"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _bar(total: int, begin: int) -> tqdm:
    """Bytes on a terminal's standard error; none elsewhere, nor with -q."""
    quiet = logging.getLogger("slam").getEffectiveLevel() >= logging.ERROR
    return tqdm(
        total=total,
        initial=begin,
        unit="B",
        unit_scale=True,
        disable=True if quiet else None,
        file=sys.stderr,
    )

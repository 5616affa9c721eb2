"""Records: what was written whole is read, what was not is left out, damage is named."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from slam.record_file import START, Record, RecordReader, RecordWriter

VALUES = {
    "number": np.array(-3),
    "time": np.array(0.1),
    "flag": np.array(True),
    "none": np.zeros((0, 4), np.float32),
    "image": np.arange(24, dtype=np.uint8).reshape(2, 4, 3),
    "strided": np.arange(12, dtype=np.float64).reshape(3, 4).T,
    "special": np.array([np.nan, np.inf, -0.0], np.float32),
}


@pytest.fixture
def three(tmp_path: Path) -> Path:
    path = tmp_path / "three"
    writer = RecordWriter(path)
    for number in range(3):
        writer.write("some kind", {"number": np.array(number), "x": np.arange(5.0) + number})
    writer.close()
    return path


def read(path: Path) -> tuple[list[Record], RecordReader]:
    reader = RecordReader(path)
    return list(reader), reader


def test_every_value_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "values"
    writer = RecordWriter(path)
    written = [writer.write("first", VALUES), writer.write("empty", {})]
    writer.close()
    records, reader = read(path)
    assert [r.kind for r in records] == ["first", "empty"]
    assert records[0].values.keys() == VALUES.keys() and records[1].values == {}
    for name, wanted in VALUES.items():
        got = records[0].values[name]
        assert got.dtype == wanted.dtype and got.shape == wanted.shape, name
        assert got.tobytes() == wanted.tobytes() and got.flags.writeable, name
    assert reader.end == path.stat().st_size == len(START) + sum(written) and reader.dropped == 0


def test_a_file_cut_anywhere_gives_the_records_before(three: Path, tmp_path: Path) -> None:
    data, ends = three.read_bytes(), [record.end for record in read(three)[0]]
    for size in range(len(data) + 1):
        cut = tmp_path / "cut"
        cut.write_bytes(data[:size])
        records, reader = read(cut)
        assert len(records) == sum(end <= size for end in ends), size
        whole = max([min(size, len(START)), *(end for end in ends if end <= size)])
        assert (reader.end, reader.dropped) == (whole, size - whole), size


def test_any_damaged_byte_of_the_last_record_drops_it(three: Path, tmp_path: Path) -> None:
    data, before = three.read_bytes(), read(three)[0][1].end
    for place in range(before, len(data)):
        bad = bytearray(data)
        bad[place] ^= 0x10
        (tmp_path / "bad").write_bytes(bad)
        records, reader = read(tmp_path / "bad")
        assert len(records) == 2 and reader.dropped == len(data) - before, place


def test_any_damaged_byte_before_whole_records_is_named(three: Path, tmp_path: Path) -> None:
    data, ends = three.read_bytes(), [record.end for record in read(three)[0]]
    for place in range(ends[0], ends[1]):
        bad = bytearray(data)
        bad[place] ^= 0x10
        (tmp_path / "bad").write_bytes(bad)
        with pytest.raises(ValueError, match=rf"number 2, at byte {ends[0]} .* again at {ends[1]}"):
            read(tmp_path / "bad")


@pytest.mark.parametrize("tail", [b"", b"\xf5", b"\0" * 100, b"\xf5\x9dRC" * 30])
def test_appending_cuts_a_damaged_end_first(three: Path, tail: bytes) -> None:
    three.write_bytes(three.read_bytes() + tail)
    _, reader = read(three)
    assert reader.dropped == len(tail)
    writer = RecordWriter(three, reader.end)
    writer.write("more", {})
    writer.close()
    records, reader = read(three)
    assert [r.kind for r in records] == ["some kind"] * 3 + ["more"] and reader.dropped == 0


@pytest.mark.parametrize("size", [0, 5, len(START)])
def test_a_file_cut_within_its_start_is_written_anew(tmp_path: Path, size: int) -> None:
    path = tmp_path / "cut"
    path.write_bytes(START[:size])
    records, reader = read(path)
    assert records == []
    writer = RecordWriter(path, reader.end)
    writer.write("first", {})
    writer.close()
    assert [r.kind for r in read(path)[0]] == ["first"]


def test_what_is_synced_is_on_the_disk_before_the_file_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced, sync = tmp_path / "open", [], os.fsync

    def noting(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, len(read(path)[0])))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    writer = RecordWriter(path)
    assert {inode for inode, _ in synced} == {path.stat().st_ino, tmp_path.stat().st_ino}
    writer.write("small", {})
    writer.sync()
    assert synced[-1] == (path.stat().st_ino, 1)
    writer.close()


def test_a_new_file_takes_the_place_of_an_old_one(three: Path) -> None:
    RecordWriter(three).close()
    assert three.read_bytes() == START


def test_two_cannot_write_one_file(three: Path) -> None:
    before, writer = three.read_bytes(), RecordWriter(three, three.stat().st_size)
    for end in (0, 20):
        with pytest.raises(ValueError, match=r"three: .*another process"):
            RecordWriter(three, end)
    writer.close()
    assert three.read_bytes() == before
    RecordWriter(three, len(before)).close()


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"slam records 2\n\0")
    with pytest.raises(ValueError, match=r"other: .*slam records 1"):
        RecordReader(tmp_path / "other")


def test_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="bad"):
        RecordWriter(tmp_path / "new").write("kind", {"bad": np.array([None])})

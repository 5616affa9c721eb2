"""Values that move to a file when memory has no room for them, and come back when they are read.

A value is a frozen dataclass. What `Pages.keep` returns reads just as it does; its large tensors
and arrays are in memory while they were used of late, and else in a scratch file that has no name
and is gone with the process. Values never change, so one that was written is only dropped the next
time, and one that is replaced while it is still in memory is never written at all.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import tempfile
import threading
import weakref
from collections import OrderedDict, deque
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from slam.config import RunSettings
from slam.memory import MEGABYTE, resident_memory, trim

log = logging.getLogger(__name__)

ALIGNMENT = 64  # bytes, of each tensor in its block: a cache line
BLOCK = 4096  # bytes, that blocks of the file are multiples of
LARGE = 1024  # bytes, from which on a tensor is worth its place in the file
HEADROOM = 300.0  # MB of the budget, for what comes and goes
LEAST = 64.0  # MB of values that stay in memory, however little there is
LOOK = 4.0  # MB of values taken in between two looks at what the process has

Value = TypeVar("Value")
Large = dict[str, Any]  # name of a field to its tensor or array


@dataclass(frozen=True, slots=True)
class Column:
    """One tensor or array of a value."""

    name: str  # of the field
    dtype: torch.dtype | np.dtype
    shape: tuple[int, ...]
    offset: int  # bytes, in the value's block
    size: int  # bytes

    def read(self, block: Tensor) -> Tensor | np.ndarray:
        """Out of the value's bytes [n] uint8."""
        part = block[self.offset : self.offset + self.size]
        if isinstance(self.dtype, torch.dtype):
            return part.view(self.dtype).reshape(self.shape)
        return part.numpy().view(self.dtype).reshape(self.shape)


@dataclass(slots=True)
class _Slot:
    """Where the large fields of one value are. Its store alone changes it, under its lock."""

    key: int
    columns: tuple[Column, ...]
    size: int  # bytes
    place: int | None = None  # byte of the file; None = not written


class _Page:
    """A value that is kept. Its store learns when nobody has it any more."""

    __slots__ = ("_plain", "_slot", "_store")

    def __init__(self, store: Pages, slot: _Slot, plain: dict[str, Any]) -> None:
        self._store, self._slot, self._plain = store, slot, plain

    def get(self, name: str) -> Any:
        """A field."""
        plain = self._plain
        return plain[name] if name in plain else self._store.large(self._slot)[name]

    def __del__(self) -> None:  # in any thread at any time, so that no lock may be waited for
        self._store.dropped.append(self._slot)


class Pages:
    """Keeps values, in memory as far as a budget for the whole process allows. For any thread."""

    def __init__(self, budget: float | None = None, *folders: Path) -> None:
        """Args:
        budget: MB that the process may have; None = no limit, and values stay as they are.
        folders: the first one that is there when a scratch file is needed has it.
        """
        self.budget = budget
        self.folders = folders or (Path(),)
        self.dropped: deque[_Slot] = deque()  # of values that nobody has any more
        self._lock = threading.Lock()
        self._held: OrderedDict[int, tuple[_Slot, Large]] = OrderedDict()  # used last at the end
        self._held_bytes = 0
        self._limit = 0.0  # bytes that may be held, at the last look
        self._taken = 0  # bytes taken in since then
        self._next = 0  # key
        self._file: int | None = None
        self._end = 0  # bytes of the file
        self._free: dict[int, list[int]] = {}  # places in the file that can be had, by their size
        self._complained = False

    @property
    def unlimited(self) -> bool:
        """Whether values stay as they are."""
        return self.budget is None

    @property
    def held(self) -> float:
        """MB of values in memory."""
        return self._held_bytes / MEGABYTE

    @property
    def written(self) -> float:
        """MB of the scratch file."""
        return self._end / MEGABYTE

    def keep(self, value: Value) -> Value:
        """A value that reads like this one; without a limit, this one.

        Tensors of a GPU, and anything that is no tensor nor array, stay where they are.
        """
        if self.budget is None or isinstance(value, _Kept) or not dataclasses.is_dataclass(value):
            return value
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        large = {name: _owned(field) for name, field in fields.items() if _is_large(field)}
        if not large:
            return value
        columns, size = _layout(large)
        slot = _Slot(self._number(), columns, size)
        plain = {name: field for name, field in fields.items() if name not in large}
        kept = object.__new__(_kept_kind(type(value)))
        object.__setattr__(kept, "_page", _Page(self, slot, plain))
        self._hold(slot, large)
        return kept

    def let_go(self) -> None:
        """Makes all the room there is, until values are read again: much else needs it now."""
        if self.budget is not None:
            with self._lock:
                self._sweep()
                self._limit = 0.0
                self._make_room()

    def large(self, slot: _Slot) -> Large:
        """The tensors and arrays of a value, from memory or from the file."""
        with self._lock:
            found = self._held.get(slot.key)
            if found is not None:
                self._held.move_to_end(slot.key)
                return found[1]
            file, place = self._file, slot.place
        assert file is not None and place is not None  # what is not held was written
        block = _read(file, place, slot.size)
        large = {column.name: column.read(block) for column in slot.columns}
        self._hold(slot, large)
        return large

    def _number(self) -> int:
        with self._lock:
            self._next += 1
            return self._next

    def _hold(self, slot: _Slot, large: Large) -> None:
        """Takes a value into memory, for which others may have to go."""
        with self._lock:
            if slot.key not in self._held:
                self._held[slot.key] = (slot, large)
                self._held_bytes += slot.size
                self._taken += slot.size
            self._sweep()
            if self._taken >= LOOK * MEGABYTE or self._held_bytes > self._limit:
                self._look()
                self._make_room()

    def _sweep(self) -> None:
        """Forgets what nobody has any more."""
        while self.dropped:
            slot = self.dropped.popleft()
            if self._held.pop(slot.key, None) is not None:
                self._held_bytes -= slot.size
            if slot.place is not None:
                self._free.setdefault(_room(slot.size), []).append(slot.place)

    def _look(self) -> None:
        """How much may be held, by what the process has besides."""
        assert self.budget is not None
        self._taken = 0
        besides = resident_memory() - self.held
        self._limit = max(LEAST, self.budget - HEADROOM - besides) * MEGABYTE

    def _make_room(self) -> None:
        """Some more than is needed: not every value that comes has to look for it."""
        if self._held_bytes <= self._limit:
            return
        while self._held_bytes > self._limit - LOOK * MEGABYTE and len(self._held) > 1:
            slot, large = next(iter(self._held.values()))
            if slot.place is None and not self._write(slot, large):
                self._limit = self._held_bytes + LOOK * MEGABYTE  # until then there may be room
                return
            del self._held[slot.key]
            self._held_bytes -= slot.size
        trim()

    def _write(self, slot: _Slot, large: Large) -> bool:
        """Whether a value is in the file now; why not is said once."""
        place = self._end
        if free := self._free.get(_room(slot.size)):
            place = free.pop()
        try:
            _write(self._opened(), place, slot, large)
        except OSError as error:
            if place != self._end:
                self._free[_room(slot.size)].append(place)
            if not self._complained:
                why = error.strerror or str(error)
                log.warning(
                    "%s: %s; what has no room under the memory budget stays in memory",
                    *(self._folder(), why),
                )
            self._complained = True
            return False
        slot.place = place
        self._end = max(self._end, place + _room(slot.size))
        return True

    def _opened(self) -> int:
        if self._file is None:
            with tempfile.TemporaryFile(dir=self._folder()) as file:
                self._file = os.dup(file.fileno())
            weakref.finalize(self, os.close, self._file)
        return self._file

    def _folder(self) -> Path:
        return next((folder for folder in self.folders if folder.is_dir()), self.folders[0])


class _Kept:
    """Of the kinds that `keep` makes."""

    __slots__ = ()


@cache
def _kept_kind(kind: type) -> type:
    """A frozen dataclass whose fields are read from a page. Made anew, it is a plain one."""

    def reader(name: str) -> property:
        return property(lambda self: self._page.get(name))

    def plain(_: type, *arguments: Any, **named: Any) -> Any:
        return kind(*arguments, **named)

    fields = {field.name: reader(field.name) for field in dataclasses.fields(kind)}
    body = {"__slots__": ("_page",), "__new__": plain, **fields}
    return type(f"Kept{kind.__name__}", (_Kept, kind), body)


def pages_of(settings: RunSettings) -> Pages:
    """What a run's settings ask for. Raises ValueError for less memory than the program needs."""
    budget = settings.memory_budget
    least = resident_memory() + HEADROOM + LEAST
    if budget is not None and budget < least:
        raise ValueError(
            f"memory budget: wanted at least {least:.0f} MB, of which the program alone takes "
            f"{resident_memory():.0f}, got {budget:.0f} MB; give it more"
        )
    if settings.scratch and not Path(settings.scratch).is_dir():
        raise ValueError(f"run.scratch: wanted a folder that is there, got {settings.scratch}")
    chosen = [settings.scratch] if settings.scratch else [settings.out, "."]
    return Pages(budget, *(Path(name) for name in chosen if name))


# --- tensors and bytes ----------------------------------------------------------------------------


def _is_large(field: object) -> bool:
    if isinstance(field, Tensor):
        return field.device.type == "cpu" and field.nbytes >= LARGE
    return isinstance(field, np.ndarray) and field.nbytes >= LARGE and not field.dtype.hasobject


def _owned(field: Tensor | np.ndarray) -> Tensor | np.ndarray:
    """The same without what lies beside it in memory."""
    if isinstance(field, Tensor):
        alone = field.is_contiguous() and field.untyped_storage().nbytes() == field.nbytes
        return field if alone else field.clone(memory_format=torch.contiguous_format)
    return field if field.base is None and field.flags.c_contiguous else field.copy()


def _layout(large: Large) -> tuple[tuple[Column, ...], int]:
    """Columns one after the other, and the bytes of them all."""
    columns, end = [], 0
    for name, field in large.items():
        columns.append(Column(name, field.dtype, tuple(field.shape), end, field.nbytes))
        end += -(-field.nbytes // ALIGNMENT) * ALIGNMENT
    return tuple(columns), end


def _room(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _bytes_of(field: Tensor | np.ndarray) -> memoryview:
    if isinstance(field, Tensor):
        field = field.reshape(-1).view(torch.uint8).numpy()
    return field.reshape(-1).view(np.uint8).data


def _write(file: int, place: int, slot: _Slot, large: Large) -> None:
    """All of a value. Raises OSError where there is no room."""
    for column in slot.columns:
        rest, at = _bytes_of(large[column.name]), place + column.offset
        while rest:
            done = os.pwrite(file, rest, at)
            rest, at = rest[done:], at + done


def _read(file: int, place: int, size: int) -> Tensor:
    """[size] uint8."""
    block = torch.empty(size, dtype=torch.uint8)
    rest = block.numpy().data
    while rest:
        done = os.preadv(file, [rest], place)
        if done == 0:  # the last column need not be written up to the end of its last line
            break
        rest, place = rest[done:], place + done
    return block

"""Files of weights, `.pth` or `.safetensors`, and putting them into a network; nothing is run."""

from __future__ import annotations

import argparse
import json
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SAFETENSORS_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
LONGEST_HEADER = 100_000_000  # bytes, as the format allows


@dataclass(frozen=True, slots=True)
class Weights:
    """What a file holds."""

    tensors: dict[str, Tensor]  # by name, on the CPU
    model: str  # the constructor call that the file spells; empty: it does not
    arguments: dict[str, Any] = field(default_factory=dict)  # of the training, where it has them


def load_weights(network: nn.Module, path: Path, *, prefix: str, name: str) -> None:
    """Fills a network from a file that maps `prefix` + parameter name to tensor.

    Args: name: of the network, for errors.
    Raises FileNotFoundError where there is no such file, ValueError where it does not fit.
    """
    found = read_weights(path, name).tensors
    fill_network(network, found, source=str(path), name=name, prefix=prefix)


def fill_network(
    network: nn.Module, found: Mapping[str, Tensor], *, source: str, name: str, prefix: str = ""
) -> None:
    """Makes tensors, not copied, the parameters of a network: all of them, and no others.

    Args: source: what they come from; name: of the network; both for errors.
    Raises ValueError where they do not fit.
    """
    wanted = network.state_dict()
    missing = [key for key in wanted if prefix + key not in found]
    other = [key for key in found if key.removeprefix(prefix) not in wanted]
    shaped = [
        k for k, v in wanted.items() if k not in missing and found[prefix + k].shape != v.shape
    ]
    faults = {"missing": missing, "unknown": other, "of another shape": shaped}
    if any(faults.values()):
        words = "; ".join(f"{len(v)} {k} ({_few(v)})" for k, v in faults.items() if v)
        raise ValueError(f"{source}: wanted the {len(wanted)} tensors of {name}, got {words}")
    network.load_state_dict({key: found[prefix + key] for key in wanted}, assign=True)


def read_weights(path: Path, name: str) -> Weights:
    """Tensors by name from a file: safetensors by its ending, else what torch.save wrote.

    Args: name: of the network that is wanted, for errors.
    Raises FileNotFoundError where there is no such file, ValueError where it is cut off, would run
    code, or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; wanted the weights of {name}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path, name)
    content = _unpickle(path, name)
    named: Any = content
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        named = content["model"]
    if not isinstance(named, dict) or not all(isinstance(v, Tensor) for v in named.values()):
        raise ValueError(f"{path}: wanted tensors by name, the weights of {name}, got other things")
    arguments = content.get("args") if named is not content else None
    said = vars(arguments) if isinstance(arguments, argparse.Namespace) else {}
    model = said.get("model", "")
    return Weights(named, model if isinstance(model, str) else "", said)


# --- pickles -------------------------------------------------------------------------------------


def _unpickle(path: Path, name: str) -> Any:
    """The content of a pickle of tensors, containers and an argparse.Namespace; nothing else."""
    with path.open("rb") as file, _namespaces_allowed():
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged bytes raise anything: KeyError, struct.error, ...
            raise ValueError(
                f"{path}: wanted the weights of {name} as torch.save writes them, got "
                f"{_unpickling_fault(error)}"
            ) from error


def _unpickling_fault(error: Exception) -> str:
    """What torch found, in few of its many words."""
    foreign = re.search(r"GLOBAL (\S+)", str(error))
    if foreign:
        return f"a pickle that would run {foreign[1]}; nothing was run"
    said = re.search(r"WeightsUnpickler error: (.*)", str(error))
    reason = said[1] if said else f"{type(error).__name__}: {error}".splitlines()[0]
    reason = reason.strip() or type(error).__name__
    return f"a file that is cut off or something else ({reason:.100})"


@contextmanager
def _namespaces_allowed() -> Iterator[None]:
    """Published checkpoints hold the arguments of their training: plain values in a Namespace."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([argparse.Namespace])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


# --- safetensors ---------------------------------------------------------------------------------


def _read_safetensors(path: Path, name: str) -> Weights:
    """Length of the header (8 bytes), header (JSON), values one after the other."""
    with path.open("rb") as file:
        size = path.stat().st_size
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if 8 + length > min(size, LONGEST_HEADER):
            raise _broken(path, name, f"{size} bytes with a header of {length}")
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise _broken(path, name, f"a header that is no JSON: {error}") from error
        values = bytearray(size - 8 - length)
        file.readinto(values)
    if not isinstance(header, dict):
        raise _broken(path, name, "a header without names")
    metadata = header.pop("__metadata__", {})
    tensors = {key: _tensor(entry, values, key, path, name) for key, entry in header.items()}
    model = metadata.get("model", "") if isinstance(metadata, dict) else ""
    return Weights(tensors, model if isinstance(model, str) else "")


def _tensor(entry: Any, values: bytearray, key: str, path: Path, name: str) -> Tensor:
    """One tensor of the file, which shares the memory of `values`."""
    try:
        dtype = SAFETENSORS_TYPES[entry["dtype"]]
        shape = [int(n) for n in entry["shape"]]
        begin, end = (int(n) for n in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(path, name, f"{key} described as {entry!r:.80}") from error
    size = prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or begin < 0 or end - begin != size:
        raise _broken(path, name, f"{key} of shape {shape} in bytes {begin} to {end}")
    if end > len(values):
        raise _broken(path, name, f"{key} up to byte {end} of {len(values)}")
    if size == 0:
        return torch.empty(shape, dtype=dtype)
    if begin % dtype.itemsize:  # not aligned: a copy is
        values, begin = values[begin:end], 0
    return torch.frombuffer(values, dtype=dtype, count=prod(shape), offset=begin).view(shape)


def _broken(path: Path, name: str, found: str) -> ValueError:
    return ValueError(
        f"{path}: wanted the weights of {name} as safetensors, "
        f"got a file that is cut off or something else ({found})"
    )


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")

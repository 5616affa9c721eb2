"""Reading a file of weights into a network, with errors that say what does not fit."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def load_weights(network: nn.Module, path: Path, *, prefix: str, name: str) -> None:
    """Fills a network from a file that maps `prefix` + parameter name to tensor.

    Nothing in the file is executed.

    Args: name: of the network, for errors.
    Raises FileNotFoundError where there is no such file, ValueError where it does not fit.
    """
    found = _tensors(path, name)
    wanted = network.state_dict()
    missing = [key for key in wanted if prefix + key not in found]
    other = [key for key in found if key.removeprefix(prefix) not in wanted]
    shaped = [
        k for k, v in wanted.items() if k not in missing and found[prefix + k].shape != v.shape
    ]
    faults = {"missing": missing, "unknown": other, "of another shape": shaped}
    if any(faults.values()):
        words = "; ".join(f"{len(v)} {k} ({_few(v)})" for k, v in faults.items() if v)
        raise ValueError(f"{path}: wanted the {len(wanted)} tensors of {name}, got {words}")
    network.load_state_dict({key: found[prefix + key] for key in wanted})


def _tensors(path: Path, name: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; wanted the weights of {name}")
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path}: wanted the weights of {name} as torch.save writes them, "
            f"got a file that is cut off or something else ({reason})"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ValueError(f"{path}: wanted tensors by name, the weights of {name}, got other things")
    return found


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")

"""Files that come with the package: presets and published calibrations."""

from __future__ import annotations

import difflib
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = {"configs": "configs", "calibrations": "datasets/calibrations"}


def data_folder(kind: str) -> Path:
    """Folder of one kind of file, `configs` or `calibrations`.

    An installed package holds it under `slam/_data`; a checkout (also an editable install) in the
    folder that CHECKOUT names, beside the package.
    """
    installed = PACKAGE / "_data" / kind
    return installed if installed.is_dir() else PACKAGE.parent / CHECKOUT[kind]


def data_names(kind: str) -> list[str]:
    """Names of all files of one kind, sorted, without folder and `.yaml`."""
    return sorted(path.stem for path in data_folder(kind).glob("*.yaml"))


def data_path(kind: str, name: str) -> Path:
    """Path of the file `name` of one kind; FileNotFoundError names what there is."""
    names = data_names(kind)
    if name not in names:
        closest = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {closest[0]}?" if closest else f"there are: {', '.join(names)}"
        raise FileNotFoundError(f"no {name!r} among the {kind}; {hint}")
    return data_folder(kind) / f"{name}.yaml"

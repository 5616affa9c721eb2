"""The output folder of a run, and its files: one that cannot be written leaves the others alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slam.config import Config


def output_folder(config: Config, source_name: str) -> Path:
    """Folder of the results, made now so that an unwritable one stops a run before it starts.

    Raises ValueError where the path is a file, PermissionError where it cannot be written.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = Path(config.run.out or Path("runs") / f"{source_name}-{stamp}")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out wants a folder, got the file {folder}; name another one")
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".writable"
    probe.touch()
    probe.unlink()
    return folder


class Files:
    """The files of an output folder: one that cannot be written leaves the others alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.unwritten: dict[str, str] = {}  # name → why

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Path of a file for the body to write; why it could not is kept for `complaint`."""
        try:
            yield self.folder / name
        except OSError as error:
            self.unwritten[name] = error.strerror or str(error)

    def remove_numbered(self, last: int) -> None:
        """Removes files of submaps, numbered beyond the last one, that were written before."""
        for pattern in ("trajectory-*.txt", "map-*.slam"):
            for path in self.folder.glob(pattern):
                number = path.stem.rpartition("-")[2]
                if number.isdigit() and int(number) > last:
                    path.unlink()

    def complaint(self) -> str:
        """What could not be written and why, in one line; empty = everything was."""
        if not self.unwritten:
            return ""
        names: dict[str, list[str]] = {}
        for name, why in self.unwritten.items():
            names.setdefault(why, []).append(name)
        failures = "; ".join(f"{', '.join(files)} ({why})" for why, files in names.items())
        return f"{self.folder}: could not write {failures}; the other files are there"

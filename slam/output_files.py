"""The output folder of a run, and its files: one that cannot be written leaves the others alone."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator
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
        self.written = False  # whether anything was

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Path of a file for the body to write; why it could not is kept for `complaint`."""
        try:
            yield self.folder / name
            self.written = True
        except OSError as error:
            self.unwritten[name] = error.strerror or str(error)

    def remove_earlier(self, written: Collection[str], keep: str) -> None:
        """Removes files of submaps that an earlier run left here, as its report lists them.

        Args:
            written: names that are this run's.
            keep: path of a file that stays all the same.
        """
        for name in self._earlier() - set(written):
            with self.writing(name) as path:
                if path.resolve() != Path(keep).resolve():
                    path.unlink(missing_ok=True)

    def _earlier(self) -> set[str]:
        try:
            submaps = json.loads((self.folder / "report.json").read_text()).get("submaps", [])
            names = {str(part[kind]) for part in submaps for kind in ("trajectory", "map")}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return set()  # there is none, or it is nobody's
        return {name for name in names if Path(name).name == name and "-" in name}

    def complaint(self) -> str:
        """What could not be written and why, in one line; empty = everything was."""
        if not self.unwritten:
            return ""
        names: dict[str, list[str]] = {}
        for name, why in self.unwritten.items():
            names.setdefault(why, []).append(name)
        failures = "; ".join(f"{', '.join(files)} ({why})" for why, files in names.items())
        rest = "the other files are there"
        if not self.written:
            rest = f"no file was; make room, then: slam resume {self.folder}"
        return f"{self.folder}: could not write {failures}; {rest}"

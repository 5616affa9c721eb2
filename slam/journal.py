"""The journal's writer: a thread that puts entries into a file, commits on the disk at once."""

from __future__ import annotations

import queue
import threading
from contextlib import suppress

from slam.changes import Adopted, Cleared, DepthChanged
from slam.journal_records import Commit, Entry, encode
from slam.record_file import RecordWriter

PATIENCE = 10.0  # s that a commit may take: beyond it, the disk is as good as gone


class Journal:
    """Takes entries from any thread; nothing waits for the disk but `wait` and `close`.

    Entries are values that the map holds anyway, and one that waits for commits before it makes
    more keeps the queue short. A keyframe's depths change with every frame: of changes that
    nothing depended on in between, only the last is written.
    """

    def __init__(self, writer: RecordWriter) -> None:
        """Args: writer: closed at the end."""
        self._writer = writer
        self._entries: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._depths: dict[int, DepthChanged] = {}  # not yet written, by keyframe
        self._lock = threading.Lock()  # of what comes in
        self._written = threading.Condition()
        self._asked, self._durable = 0, 0  # commits
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Appends an entry, some time; the order stays."""
        with self._lock:
            match entry:
                case DepthChanged(number, depth, pointmap):
                    if pointmap is None and number in self._depths:
                        pointmap = self._depths[number].pointmap
                    self._depths[number] = DepthChanged(number, depth, pointmap)
                    return
                case Adopted() | Cleared() | Commit():  # what depends on depths
                    for change in self._depths.values():
                        self._entries.put(change)
                    self._depths.clear()
            self._asked += isinstance(entry, Commit)
            self._entries.put(entry)

    def wait(self) -> None:
        """Returns when every commit is on the disk. Raises what kept the thread from writing it."""
        with self._written:
            done = self._written.wait_for(
                lambda: self._error is not None or self._durable >= self._asked, PATIENCE
            )
            if self._error is not None:
                raise self._error
        if not done:
            raise TimeoutError(f"{self._writer.path}: not on the disk after {PATIENCE:.0f} s")

    def close(self) -> None:
        """Writes what has been put, and ends the thread. Raises as `wait`."""
        self._entries.put(None)
        self._thread.join(PATIENCE)
        if self._error is not None:
            raise self._error
        if self._thread.is_alive():
            raise TimeoutError(f"{self._writer.path}: not closed after {PATIENCE:.0f} s")

    def abandon(self) -> None:
        """Lets the thread end when it can."""
        self._entries.put(None)

    def _work(self) -> None:
        try:
            while (entry := self._entries.get()) is not None:
                self._writer.write(*encode(entry))
                if isinstance(entry, Commit):
                    self._writer.sync()
                    self._tell(1)
            self._writer.close()
        except BaseException as error:  # raised where the journal is waited for
            self._error = error
            self._tell(0)
            while self._entries.get() is not None:
                pass  # nothing is kept that will not be written
            with suppress(OSError):  # what is still in its buffer has no room either
                self._writer.close()

    def _tell(self, commits: int) -> None:
        with self._written:
            self._durable += commits
            self._written.notify_all()

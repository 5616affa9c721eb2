"""What a status line says of a run."""

from __future__ import annotations

from slam.memory import resident_memory
from slam.viewer.scene import Scene
from slam.viewer.watcher import LiveState

RATE_SPAN = 2.0  # s over which frames/s is measured


class Pace:
    """Frames a second, of what was seen of a run lately."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = []

    def note(self, now: float, frames: int) -> None:
        """At a time, s, there were so many frames."""
        self._seen.append((now, frames))
        while len(self._seen) > 2 and now - self._seen[1][0] > RATE_SPAN:
            del self._seen[0]

    @property
    def rate(self) -> float:
        """Frames/s; 0 before it can be told."""
        if not self._seen:
            return 0.0
        (first, before), (last, after) = self._seen[0], self._seen[-1]
        return (after - before) / (last - first) if last > first else 0.0


def state_words(state: LiveState, total: int | None, rate: float, *, paused: bool) -> list[str]:
    """State, place in the source, frames/s, latency, drops.

    Args: total: images of the source; None = nobody knows.
    """
    return [
        "paused" if paused else state.step.record.state.value,
        f"image {state.frames + state.dropped}" + (f" of {total}" if total else ""),
        f"{rate:.1f} frames/s",
        f"{1e3 * state.latency:.0f} ms",
        f"{state.dropped} dropped",
    ]


def focal_words(state: LiveState) -> str:
    """The focal length, and its uncertainty where it is estimated."""
    sigma = f" ± {state.focal_sigma:.1f}" if state.focal_sigma < state.focal else ""
    return f"focal length {state.focal:.1f}{sigma} px"


def map_words(scene: Scene | None) -> str:
    """How large the map is, and the process."""
    keyframes = 0 if scene is None else len(scene.keyframes)
    return f"{keyframes} keyframes · {resident_memory():.0f} MB"

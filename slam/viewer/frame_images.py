"""Images of a recording's frames, read from its source, which is opened when one is wanted."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import cv2
import numpy as np

from slam.frame import PER_SOURCE, Image
from slam.sources import Source
from slam.viewer.recording import Recording
from slam.viewer.scene import KeyframeView

SAME_TIME = 1e-5  # s: stamps are written with 6 decimals
SAME_PICTURE = 12.0  # grey levels of mean difference from a keyframe's stored image
NEAR = 64  # frames ahead that a video is read on, rather than from its beginning


class MissingImage(ValueError):
    """A frame's image is not at hand; its text says why, in one line."""


def expect_same_recording(source: Source, index: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Places [N] in a source's selection of images with these indices and times [N].

    Raises ValueError where the source is another one.
    """
    places = np.searchsorted(source.indices, index)
    inside = places < len(source.indices)
    known = inside & (source.indices[np.where(inside, places, 0)] == index)
    if not known.all() or (np.abs(source.times[places] - time) > SAME_TIME).any():
        raise ValueError(f"{source.path}: not the images of the run")
    return places


class FrameImages:
    """Reads the images, one after the other or in any order; not from two threads at a time."""

    def __init__(
        self,
        recording: Recording,
        keyframes: Sequence[KeyframeView],
        open_source: Callable[[], Source],
    ) -> None:
        """Args: keyframes: those of the recording, whose images tell the source from another."""
        self._recording, self._keyframes = recording, keyframes
        self._open = open_source
        self._source: Source | None = None
        self._places = np.empty(0, np.int64)  # [N] in the source's selection; -1 = of another one
        self._why = ""  # there are no images
        self._images: Generator[Image, None, None] | None = None  # of a video, from `_next` on
        self._next = 0

    def read(self, place: int) -> np.ndarray:
        """[h, w, 3] uint8 of a frame. Raises MissingImage."""
        if self._source is None and not self._why:
            self._begin()
        if self._source is None:
            raise MissingImage(self._why)
        if self._places[place] < 0:
            raise MissingImage("of another source of this map")
        return self._read(self._source, int(self._places[place]))

    def close(self) -> None:
        """Ends what is being read ahead."""
        if self._images is not None:
            self._images.close()
            self._images = None

    def _begin(self) -> None:
        try:
            source = self._open()
            self._places = self._matched(source)
            self._source = source
        except (ValueError, OSError) as error:
            self._why = " ".join(str(error).split())

    def _matched(self, source: Source) -> np.ndarray:
        """Places of the one source of the map that this is. Raises ValueError where it is none."""
        recording = self._recording
        number, within = np.divmod(recording.index, PER_SOURCE)
        for candidate in reversed(np.unique(number)):
            own = np.flatnonzero(number == candidate)
            try:
                found = expect_same_recording(source, within[own], recording.time[own])
            except ValueError:
                continue
            places = np.full(len(recording), -1, np.int64)
            places[own] = found
            if self._shows_the_same(source, places):
                return places
        raise ValueError(f"{source.path}: not the images of the run")

    def _shows_the_same(self, source: Source, places: np.ndarray) -> bool:
        """Whether the first keyframe of these images looks as it was stored, if it was."""
        for keyframe, made in zip(self._keyframes, self._recording.made, strict=True):
            if places[made] >= 0 and keyframe.rgb is not None:
                image = next(source.images([int(places[made])]), None)
                if image is None:
                    continue
                size = keyframe.rgb.shape[1::-1]
                small = cv2.resize(image.rgb.numpy(), size, interpolation=cv2.INTER_AREA)
                apart = np.abs(small.astype(float) - keyframe.rgb).mean()
                return bool(apart < SAME_PICTURE)
        return True

    def _read(self, source: Source, place: int) -> np.ndarray:
        forwards = source.format == "video"  # which is decoded from its beginning
        if self._images is None or not self._next <= place < self._next + NEAR:
            self.close()
            self._images = source.images(range(place, len(source)) if forwards else [place])
        wanted = int(source.indices[place])
        image = next((i for i in self._images if i.index >= wanted), None)
        self._next = place + 1
        if not forwards:
            self.close()
        if image is None or image.index != wanted:
            raise MissingImage("damaged")
        return image.rgb.numpy()

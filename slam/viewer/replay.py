"""A recording in the window: what the map, the lines and the pictures show of one of its frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import QSignalBlocker

from slam.viewer.frame_images import FrameImages
from slam.viewer.image_loader import ImageLoader
from slam.viewer.lines import drawn_until
from slam.viewer.recording import Recording

if TYPE_CHECKING:
    from slam.viewer.window import Window


class Replay:
    """Keeps a window at the frame that its timeline is at. Nothing is uploaded for it."""

    def __init__(self, window: Window, recording: Recording, images: FrameImages | None) -> None:
        """The window shows the recording's scene already."""
        self.window, self.recording = window, recording
        self._loader = None if images is None else ImageLoader(images)
        if self._loader is not None:
            self._loader.loaded.connect(self._show_image)
            self._loader.missing.connect(self._miss_image)
        window.timeline.moved.connect(self.show_frame)
        window.timeline.show_recording(recording)

    def show_frame(self, place: int) -> None:
        """Everything as it was when this frame was seen, at the poses found in the end."""
        window, recording, scene = self.window, self.recording, self.window.scene
        if scene is None:
            return
        keyframes = recording.keyframes_until(place)
        window.view.keyframes = keyframes
        frames = recording.posed_until(place)
        window.view.lengths = drawn_until(scene, keyframes, frames)
        posed = bool(recording.posed[place])
        window.show_camera(recording.T_WC[place] if posed else None)
        self._show_pictures(place)
        window.timeline.text.setText(self._words(place))
        window.chase() if window.timeline.playing else window.chase(1.0)

    def go_to_keyframe(self, number: int) -> None:
        """To the frame that a keyframe was made of."""
        self.window.timeline.go_to(int(self.recording.made[number]))

    def close(self) -> None:
        """Ends what is being read; the window stays as it is."""
        self.window.timeline.moved.disconnect(self.show_frame)
        if self._loader is not None:
            self._loader.close()

    def _show_pictures(self, place: int) -> None:
        window, number = self.window, self.recording.shown_keyframe(place)
        assert window.scene is not None
        if number >= 0:
            window.show_pictures(window.scene.keyframes[number], None)
            with QSignalBlocker(window.controls.keyframe):
                window.controls.keyframe.setValue(number)
        else:
            for name in ("depth", "confidence"):
                window.panes.pictures[name].say("no keyframe yet")
        window.say_keyframe(number)
        if self._loader is not None:
            self._loader.ask(place)

    def _show_image(self, place: int, rgb: object) -> None:
        self.window.panes.pictures["image"].show_rgb(rgb)  # pyright: ignore[reportArgumentType]

    def _miss_image(self, place: int, why: str) -> None:
        """A keyframe's is in the map; of others the pane says why there is none."""
        scene, number = self.window.scene, self.recording.shown_keyframe(place)
        stored = None if scene is None or number < 0 else scene.keyframes[number].rgb
        pane = self.window.panes.pictures["image"]
        if stored is not None and self.recording.made[number] == place:
            pane.show_rgb(stored)
        else:
            pane.say(f"no image: {why}")

    def _words(self, place: int) -> str:
        recording = self.recording
        at, end = recording.seconds[place], recording.seconds[-1]
        state = recording.states[place].value
        return f"{state} · frame {place + 1} of {len(recording)} · {at:.2f} of {end:.2f} s"

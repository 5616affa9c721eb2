"""The window: 3D view, controls, pictures and status line, and what each command does."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QAction, QCloseEvent, QKeySequence, QResizeEvent
from PySide6.QtWidgets import (
    QApplication,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QMainWindow,
    QSplitter,
    QVBoxLayout,
    QWidget,
)

from slam.export import write_ply
from slam.viewer.colors import DARK, LIGHT, Theme
from slam.viewer.commands import COMMANDS, LAYERS, Command, help_text
from slam.viewer.controls import Controls
from slam.viewer.frame_images import FrameImages
from slam.viewer.lines import camera_lines, scene_lines
from slam.viewer.map_view import MapView
from slam.viewer.panes import Overlay, Panes
from slam.viewer.pictures import confidence_picture, depth_picture
from slam.viewer.points import VERTEX, pose_matrix
from slam.viewer.recording import Recording
from slam.viewer.replay import Replay
from slam.viewer.ruler import Ruler
from slam.viewer.scene import KeyframeView, Scene
from slam.viewer.styling import Styling
from slam.viewer.theme import desktop_theme, palette
from slam.viewer.timeline import Timeline
from slam.viewer.viewpoints import overview, scene_up

log = logging.getLogger(__name__)

CHASE = 0.12  # share of the way to its place behind the camera that the view goes at once
NOTICE = 8000  # ms that a message stays


class Steering(Protocol):
    """What a window can ask of a run."""

    def pause(self, on: bool) -> None:
        """Stops before the next image, or goes on."""
        ...

    def step(self) -> None:
        """Lets one image through a pause."""
        ...

    def save(self) -> None:
        """Writes what there is, after the image at work."""
        ...


class Window(QMainWindow):
    """Shows Scenes; `steering` is the run that it may pause and save, None for files."""

    closed = Signal()

    def __init__(self, title: str, steering: Steering | None, least_confidence: float) -> None:
        super().__init__()
        self.setWindowTitle(title)
        self.steering = steering
        self.scene: Scene | None = None
        self.camera: np.ndarray | None = None  # [7] T_WC that is drawn as the current one
        self.view = MapView()
        self.view.style = replace(self.view.style, least=least_confidence)
        self.panes = Panes()
        self.actions_of = {c.name: self._action(c) for c in COMMANDS if steering or not c.live}
        self.controls = Controls(self.actions_of, live=steering is not None)
        self.styling = Styling(self.view, self.controls)
        self.timeline = Timeline(self.actions_of)
        self.replay: Replay | None = None  # of what the timeline goes through
        self.status = QLabel()
        self.help_overlay = Overlay(self.view)
        self.colors: Theme = desktop_theme()
        self.ruler = Ruler()
        self._touched = False  # somebody chose the viewpoint
        self._lay_out()
        self._connect()
        self.set_theme(self.colors)

    def _action(self, command: Command) -> QAction:
        action = QAction(command.label or command.name, self)
        action.setShortcut(QKeySequence(command.keys))
        action.setToolTip(f"{command.help} ({command.keys})")
        action.setCheckable(command.toggles)
        action.setEnabled(not command.replay)  # until there is a recording
        signal = action.toggled if command.toggles else action.triggered
        signal.connect(lambda on: self._do(command.name, *([on] if command.toggles else [])))
        self.addAction(action)
        return action

    def _do(self, name: str, *on: bool) -> None:
        """A command, by that part of the window that knows it."""
        method, parts = f"do_{name}", (self, self.styling, self.timeline)
        getattr(next(part for part in parts if hasattr(part, method)), method)(*on)

    def _lay_out(self) -> None:
        upper = QWidget()
        column = QVBoxLayout(upper)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(self.view, stretch=1)
        column.addWidget(self.timeline)
        left = QSplitter(Qt.Orientation.Vertical)
        left.addWidget(upper)
        left.addWidget(self.panes)
        left.setSizes([560, 190])
        left.setStretchFactor(0, 1)
        row = QHBoxLayout()
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(0)
        row.addWidget(left, stretch=1)
        row.addWidget(self.controls)
        whole = QWidget()
        whole.setLayout(row)
        self.setCentralWidget(whole)
        self.status.setContentsMargins(0, 0, 8, 0)
        self.statusBar().addPermanentWidget(self.status)
        self.statusBar().setSizeGripEnabled(False)
        self.statusBar().showMessage("? shows all keys", NOTICE)
        self.resize(1280, 800)
        self.view.setFocus()

    def _connect(self) -> None:
        controls, view = self.controls, self.view
        view.moved.connect(self._moved)
        view.picked.connect(self.measure_to)
        for name, box in controls.layers.items():
            box.toggled.connect(lambda on, name=name: self.set_layer(name, shown=on))
            box.setShortcut(QKeySequence(LAYERS[name][0]))
        controls.keyframe.valueChanged.connect(self.show_keyframe)
        self.actions_of["see_through"].setChecked(True)
        self.styling.restyle()
        if self.steering is not None:
            self.actions_of["follow"].setChecked(True)
            controls.keyframe.setEnabled(False)
        else:
            self.panes.hide_flow()

    # --- what is shown ------------------------------------------------------------------------

    def show_scene(self, scene: Scene) -> None:
        """Takes over a newer state of the map."""
        first = self.scene is None or not (self.scene.points or len(self.scene.path))
        self.scene = scene
        if first or (self.following and not self._touched):
            self.view.viewpoint = replace(self.view.viewpoint, up=scene_up(scene))
        self.view.show_scene(scene)
        self._draw_lines()
        if first:
            self.look_at_all()
            self.styling.show_budget()
        if self.steering is None and scene.keyframes:
            self.controls.keyframe.setRange(0, len(scene.keyframes) - 1)
            self.show_keyframe(self.controls.keyframe.value())

    def show_recording(self, recording: Recording, images: FrameImages | None) -> None:
        """Lets the scene that is shown be gone through in time. Args: images: of its frames."""
        for command in COMMANDS:
            if command.replay:
                self.actions_of[command.name].setEnabled(True)
        self.replay = Replay(self, recording, images)

    def show_camera(self, T_WC: np.ndarray | None) -> None:
        """Takes over the pose [7] of the current camera; None = it has none."""
        self.camera = T_WC
        self._draw_camera()

    def show_keyframe(self, number: int) -> None:
        """Its image, depth and confidence in the panes, its frustum as the current one."""
        if self.scene is None or number >= len(self.scene.keyframes):
            return
        if self.replay is not None:
            self.replay.go_to_keyframe(number)
            return
        keyframe = self.scene.keyframes[number]
        self.show_pictures(keyframe, keyframe.rgb)
        self.show_camera(keyframe.T_WC)
        self.say_keyframe(number)
        self.chase(1.0)

    def say_keyframe(self, number: int) -> None:
        """Which keyframe the pictures are of; -1 = of none."""
        keyframes = () if self.scene is None else self.scene.keyframes
        words = "none yet"
        if number >= 0:
            words = f"{number + 1} of {len(keyframes)}: image {keyframes[number].index}"
        self.controls.keyframe_text.setText(words)

    def show_pictures(self, keyframe: KeyframeView | None, image: np.ndarray | None) -> None:
        """An image [h, w, 3] uint8, and depth and confidence of a keyframe."""
        pictures = self.panes.pictures
        if image is not None:
            pictures["image"].show_rgb(image)
        if keyframe is not None:
            depth = depth_picture(keyframe.inverse_depth, keyframe.confidence)
            pictures["depth"].show_rgb(depth)
            pictures["confidence"].show_rgb(confidence_picture(keyframe.confidence))

    def chase(self, share: float = CHASE) -> None:
        """Moves the view a part of the way to its place behind the current camera."""
        if self.following and self.camera is not None and self.scene is not None:
            goal = self.view.viewpoint.behind(pose_matrix(self.camera), self.scene.depth)
            self.view.viewpoint = self.view.viewpoint.towards(goal, share)
            self.view.update()

    def end_run(self) -> None:
        """The run is over: there is nothing more to steer, keyframes can be looked at."""
        self.steering = None
        for command in COMMANDS:
            if command.live:
                self.actions_of[command.name].setEnabled(False)
        self.controls.keyframe.setEnabled(True)
        self.panes.hide_flow()
        self.actions_of["follow"].setChecked(False)
        if not self._touched:
            self.scene = None  # the next one is looked at as a whole

    @property
    def following(self) -> bool:
        """Whether the view follows the camera."""
        return self.actions_of["follow"].isChecked()

    def _draw_lines(self) -> None:
        if self.scene is not None:
            for layer, vertices in scene_lines(self.scene, self.colors).items():
                self.view.set_lines(layer, vertices)
            self._draw_camera()

    def _draw_camera(self) -> None:
        lines = np.empty(0, VERTEX)
        if self.camera is not None and self.scene is not None:
            lines = camera_lines(self.scene, self.camera, self.colors.camera)
        self.view.set_lines("camera", lines)

    def set_layer(self, name: str, *, shown: bool) -> None:
        """Shows or hides one of LAYERS."""
        (self.view.hidden.discard if shown else self.view.hidden.add)(name)
        self.view.update()

    def set_theme(self, theme: Theme) -> None:
        """Colours of widgets and map."""
        self.colors = theme
        QApplication.setPalette(palette(theme))
        accent = "QToolButton:checked {{ background: rgb{}; color: white; }}"
        self.controls.setStyleSheet(accent.format(theme.accent))
        red, green, blue = theme.view
        self.view.background = (red / 255, green / 255, blue / 255)
        self._draw_lines()
        self._draw_ruler()
        self.view.update()

    def _moved(self) -> None:
        self._touched = True
        self.actions_of["follow"].setChecked(False)

    # --- commands -----------------------------------------------------------------------------

    def do_pause(self, on: bool) -> None:
        """Stops the run before its next image, or lets it go on."""
        if self.steering is not None:
            self.steering.pause(on)

    def do_step(self) -> None:
        """Pauses, and lets one image through."""
        self.actions_of["pause"].setChecked(True)
        if self.steering is not None:
            self.steering.step()

    def do_save(self) -> None:
        """Asks the run to write its files."""
        if self.steering is not None:
            self.steering.save()
            self.notice("saving after this image ...")

    def do_follow(self, on: bool) -> None:
        """Follows the camera, or stays."""
        if on:
            self._touched = False
            self.chase()

    def do_reset(self) -> None:
        """All of the map; the camera is no longer followed."""
        self._moved()
        self.look_at_all()

    def look_at_all(self) -> None:
        """Takes a viewpoint from which all of the map is seen."""
        if self.scene is not None:
            self.view.viewpoint = overview(self.scene, self.view.style.least)
            self.view.update()

    def do_measure(self, on: bool) -> None:
        """Clicks pick points, or no longer do; then the line goes too."""
        self.view.picking = on
        self.ruler.clear()
        self._draw_ruler()
        if on:
            self.notice("click two points")

    def measure_to(self, point: np.ndarray) -> None:
        """Takes one end of a distance; the third point starts anew."""
        self.ruler.add(point)
        self._draw_ruler()
        if self.ruler.complete:
            distance = f"{self.ruler.distance:.4g}"
            self.notice(f"distance {distance} (metres, where the scale is known)", 0)

    def _draw_ruler(self) -> None:
        size = 0.01 * self.view.viewpoint.distance
        self.view.set_lines("measure", self.ruler.lines(size, self.colors.measure))

    def do_screenshot(self, path: Path | None = None) -> None:
        """A picture of the window, into the working directory where no path is given."""
        chosen = str(path or f"slam-{time.strftime('%Y%m%d-%H%M%S')}.png")
        written = self.grab().save(chosen)
        self.notice(f"written: {chosen}" if written else f"could not write {chosen}")

    def do_export(self, path: Path | None = None) -> None:
        """The points that are confident enough, into a PLY file that is asked for."""
        if self.scene is None:
            return
        name = "" if path else QFileDialog.getSaveFileName(self, "Export", "map.ply", "*.ply")[0]
        if not (chosen := path or name):
            return
        shown = replace(self.scene, keyframes=self.scene.keyframes[: self.view.keyframes])
        points, colors, trust = shown.cloud(self.view.style.least)
        try:
            write_ply(chosen, points, colors, trust)
        except OSError as error:
            self.notice(f"could not write {chosen}: {error.strerror}")
            return
        self.notice(f"{len(points)} points written: {chosen}")

    def do_theme(self) -> None:
        """The other one."""
        self.set_theme(LIGHT if self.colors is DARK else DARK)

    def do_help(self, on: bool) -> None:
        """All keys, over the map."""
        self.help_overlay.setText(help_text())
        self.help_overlay.setVisible(on)
        if on:
            self.help_overlay.show_in_the_middle()

    def do_close(self) -> None:
        """As the window's own button."""
        self.close()

    # --- window -------------------------------------------------------------------------------

    def notice(self, text: str, milliseconds: int = NOTICE) -> None:
        """A message at the left of the status line."""
        self.statusBar().showMessage(text, milliseconds)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Keeps the help in the middle."""
        super().resizeEvent(event)
        if self.help_overlay.isVisible():
            self.help_overlay.show_in_the_middle()

    def closeEvent(self, event: QCloseEvent) -> None:
        """Says so; nothing is read any more."""
        if self.replay is not None:
            self.replay.close()
            self.replay = None
        self.closed.emit()
        event.accept()

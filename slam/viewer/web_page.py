"""The page in all browsers that have it open: what it shows, and who looks at it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import viser

from slam.viewer.colors import DARK
from slam.viewer.orbit import FAR, FIELD_OF_VIEW, NEAR, Orbit
from slam.viewer.points import pose_matrix
from slam.viewer.scene import Scene
from slam.viewer.viewpoints import overview, scene_up
from slam.viewer.web_map import WebMap
from slam.viewer.web_panel import Panel

SEEN = 2.0  # times the keyframes, at which views that nobody moved take in all of the map again
UNMOVED = 1e-3  # of its distance, by which a view that nobody moved may be elsewhere
CHASE = 0.25  # of the way to its place behind the camera that a following view goes at once
WIDEST = 320  # px of the current image as it is sent


@dataclass(frozen=True, slots=True)
class Event:
    """Something that the thread which shows things is to deal with."""

    name: str  # of a button; choice, joined, left, reset; news, over, interrupted of a run
    client: Any = None  # viser's handle of the browser it came from


@dataclass(frozen=True, slots=True)
class Visitor:
    """One browser."""

    client: Any  # viser's ClientHandle
    follow: Any  # its check box
    put: Orbit | None = None  # the view that it was given; None = viser's own


class WebPage:
    """Called by one thread only; browsers are heard as events in `tell`, called by any thread."""

    def __init__(
        self, server: viser.ViserServer, tell: Callable[[Event], None], least: float, *, live: bool
    ) -> None:
        self._server, self._tell = server, tell
        self.panel = Panel(server.gui, lambda name: tell(Event(name)), least, live=live)
        self.map = WebMap(server.scene, DARK)
        self._scene: Scene | None = None
        self._aimed = 0  # keyframes at which views took in all of the map
        self._visitors: dict[int, Visitor] = {}
        server.scene.set_up_direction("-y")  # for good: cameras that were set before would turn
        server.scene.set_background_image(np.array(DARK.view, np.uint8).reshape(1, 1, 3), "png")
        server.on_client_connect(lambda client: tell(Event("joined", client)))
        server.on_client_disconnect(lambda client: tell(Event("left", client)))

    @property
    def watched(self) -> bool:
        """Whether any browser has it open."""
        return bool(self._visitors)

    def follows(self, number: int) -> bool:
        """Whether the view of a browser, by viser's number, follows the camera."""
        return number in self._visitors and bool(self._visitors[number].follow.value)

    @property
    def scene(self) -> Scene | None:
        """What is shown."""
        return self._scene

    def heed(self, event: Event) -> None:
        """Does what an event asks of the page itself; others are left alone."""
        if event.name == "joined":
            self._join(event.client)
        elif event.name == "left":
            self._visitors.pop(event.client.client_id, None)
        elif event.name == "reset":
            self.look_at_all(event.client.client_id)
        elif event.name == "choice":
            self._choose()

    def show(self, scene: Scene) -> None:
        """Takes over a scene."""
        self._scene = scene
        with self._server.atomic():
            self.map.show(scene, self.panel.choice)
        if scene.points and len(scene.keyframes) >= SEEN * self._aimed:
            self._aim(scene)

    def show_camera(self, T_WC: np.ndarray | None, image: np.ndarray) -> None:
        """The current camera [7], None = it has no pose; what it sees, [h, w, 3] uint8."""
        height, width = image.shape[:2]
        share = min(1.0, WIDEST / width)
        size = round(share * width), round(share * height)
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        self.panel.show_image(small)
        if T_WC is None or self._scene is None:
            return
        self.map.show_camera(self._scene, T_WC, small)
        for number, visitor in self._visitors.items():
            if self.follows(number):
                self._chase(visitor.client, self._scene, T_WC)

    def notice(self, words: str) -> None:
        """Says something to everybody, for a moment."""
        for visitor in self._visitors.values():
            visitor.client.add_notification("slam", words, auto_close_seconds=5.0)

    # --- browsers -----------------------------------------------------------------------------

    def _join(self, client: Any) -> None:
        follow = client.gui.add_checkbox("follow the camera", False, order=0.5)
        reset = client.gui.add_button("Reset view", order=0.6)
        reset.on_click(lambda _: self._tell(Event("reset", client)))
        self._visitors[client.client_id] = Visitor(client, follow)
        self.look_at_all(client.client_id)

    def _choose(self) -> None:
        for name, visible in self.panel.layers.items():
            self.map.set_layer(name, visible=visible)
        if self._scene is not None:
            self.show(self._scene)

    def _aim(self, scene: Scene) -> None:
        """Takes in all of a map that has grown, where nobody has chosen another view."""
        self._aimed = max(1, len(scene.keyframes))
        for number, visitor in list(self._visitors.items()):
            if not self.follows(number) and _unmoved(visitor):
                self.look_at_all(number)

    def look_at_all(self, number: int) -> None:
        """Gives a browser, by viser's number, the view that takes in all of the map."""
        scene, visitor = self._scene, self._visitors.get(number)
        if scene is None or visitor is None or not scene.points:
            return
        whole = overview(scene, self.panel.choice.least)
        camera = visitor.client.camera
        with visitor.client.atomic():
            camera.near, camera.far = NEAR * whole.distance, FAR * whole.distance
            camera.fov = FIELD_OF_VIEW
            _look(camera, whole)
        self._visitors[number] = replace(visitor, put=whole)

    def _chase(self, client: Any, scene: Scene, T_WC: np.ndarray) -> None:
        camera = client.camera
        now = Orbit(scene_up(scene), np.zeros(3), 1.0, 0.0, 0.0)
        now = now.looking(camera.position, camera.look_at)
        with client.atomic():
            _look(camera, now.towards(now.behind(pose_matrix(T_WC), scene.depth), CHASE))


def _unmoved(visitor: Visitor) -> bool:
    """Whether nobody has moved a browser's view since it was given one."""
    if visitor.put is None:
        return True
    apart = np.linalg.norm(visitor.client.camera.position - visitor.put.eye)
    return bool(apart < UNMOVED * visitor.put.distance)


def _look(camera: Any, orbit: Orbit) -> None:
    """Moves a browser's view."""
    camera.up_direction = orbit.up
    camera.position, camera.look_at = orbit.eye, orbit.target

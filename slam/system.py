"""The whole system: images in, poses and a map out. Frontend here, backend in its own thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable

import cv2
import torch

from slam.backend import Backend
from slam.camera import Camera
from slam.config import Config
from slam.edges import step_aside
from slam.frame import Frame, Image, Keyframe, Step
from slam.frontend import Frontend
from slam.graph import Graph
from slam.initialization import known_depths
from slam.paging import pages_of
from slam.places import make_places
from slam.pointmap_backend import PointmapBackend
from slam.pointmap_frontend import PointmapFrontend
from slam.predictors import PointmapPredictor
from slam.predictors.factory import make_predictor
from slam.refinement import fill_gaps, refine_frames
from slam.saved_map import SavedMap, expect_layout, restore_into
from slam.session import Session
from slam.standing import BackendStanding, Standing
from slam.timing import Timings

WAIT = "wait for backend"  # stage of the frontend


class Slam:
    """Feed it images in the order of time; `finish`, then read `graph`.

    Offline, the frontend is at most `config.run.ahead` frames ahead of the backend, and takes over
    what that found at a frame that does not depend on how fast either is: a run is the same every
    time. With `config.run.realtime` it never waits.
    """

    def __init__(self, camera: Camera, config: Config, *, calibrated: bool = True) -> None:
        """Args:
        camera: pinhole camera of the images to come.
        calibrated: False = the focal length is a guess, to be refined.
        """
        cv2.setNumThreads(1)  # DIS splits its work by the thread count: one, or results differ
        torch.set_num_threads(config.run.threads)
        self.config = config
        self.timings = Timings()
        self.predictor = make_predictor(camera.width, camera.height, config)
        grid = self.predictor.grid
        pages = pages_of(config.run)
        self.graph = Graph(camera.resized(grid.width, grid.height).intrinsics, pages)
        self.graph.set_readout(config.shutter.readout or 0.0)
        self.backend, self.frontend = self._parts(calibrated)
        self._tasks: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._ahead: int | None = None  # frames since the keyframe at work; None = none is
        self._most_ahead = config.run.ahead
        self._linked = 1  # keyframes that the backend knows; the first has no links
        self._error: BaseException | None = None
        self._session: Session | None = None
        self._taken = -1  # index of the image taken last
        self._committed = 0  # keyframes that the session was told of
        self._thread = threading.Thread(target=self._work, name="backend", daemon=True)
        self._thread.start()

    def _parts(self, calibrated: bool) -> tuple[Backend, Frontend | PointmapFrontend]:
        """Backend and frontend for what the predictor measures: flow or pointmaps."""
        places = make_places(self.config, self.predictor, self.graph.pages)
        parts = self.graph, self.config, self.timings, places
        hooks = self._bring_up_to_date, self._on_keyframe
        if isinstance(self.predictor, PointmapPredictor):
            backend = PointmapBackend(self.predictor, *parts, calibrated=calibrated)
            return backend, PointmapFrontend(self.predictor, *parts, *hooks)
        backend = Backend(self.predictor, *parts, refine_focal=not calibrated)
        frontend = Frontend(
            self.predictor,
            *parts,
            *hooks,
            good_start=self._good_start,
            on_restart=self._on_restart,
            focal_factors=(1.0,) if calibrated else self.config.focal.start_factors(),
        )
        return backend, frontend

    def feed(self, image: Image) -> Step:
        """Takes one image; raises here what went wrong in the backend."""
        self._check()
        if self._ahead is not None:
            if self._ahead >= self._most_ahead:
                self._catch_up()
            else:
                self._ahead += 1
        step = self.frontend.step(image)
        self._taken = image.index
        if self._session is not None:
            self._session.published(step)
            if len(self.graph) != self._committed:
                self.commit()
        return step

    def keep(self, session: Session) -> None:
        """Lets a session keep what happens from now on."""
        self._session = session
        self.graph.observe(session.changed)

    def commit(self) -> None:
        """Tells the session that the run can be gone on with after the image taken last."""
        if self._session is not None:
            frontend, backend = self.frontend.standing(), self.backend.standing
            standing = Standing(self._taken, self._linked, frontend, backend)
            self._committed = len(self.graph)
            self._session.commit(standing, self._committed)

    def end_session(self) -> None:
        """What follows can be computed from the map again: the session keeps it no more."""
        if self._session is not None:
            self.commit()
            self.graph.observe(None)
            self._session.end()
            self._session = None

    def take_up(self, standing: Standing, early: Iterable[Image], lost: Iterable[Image]) -> None:
        """Goes on with the map that the graph holds, and the image after the last one taken.

        Args: images that wait for `finish` to pose them: from before the start, and lost ones.
        """
        self.backend.take_up(standing.backend)
        frames = (self._encoded(images) for images in (early, lost))
        self.frontend.take_up(standing.frontend, *frames)
        self._taken, self._linked = standing.frame, standing.linked
        self._committed = len(self.graph)
        for number in range(standing.linked, len(self.graph)):
            self._on_keyframe(number)

    def enter(self, saved: SavedMap, *, frozen: bool = False) -> None:
        """Goes on in a finished map: the images to come are sought there, and posed in its world.

        Args: frozen: nothing of that map changes: what is new adapts to it.
        Raises ValueError where the map is another predictor's, or of another working size.
        """
        if saved.predictor != self.config.predictor:
            raise ValueError(
                f"map of {saved.origin.name}: wanted one made by {self.config.predictor}, which is "
                f"to go on with it, got one by {saved.predictor}; take the map's own settings"
            )
        expect_layout(saved, self.predictor)
        restore_into(self.graph, saved, self.predictor, sources=-saved.sources)
        if frozen:
            self.graph.freeze()
        if frozen or saved.origin.calibrated:
            self.backend.refine_focal = False
        self._linked = self._committed = len(self.graph)
        self.backend.places.take(self.graph.keyframes())
        self.backend.take_up(BackendStanding.entering(self._linked, self.config.focal.growth))
        self.frontend.enter()

    def _encoded(self, images: Iterable[Image]) -> list[Frame]:
        encode = self.predictor.encode
        return [Frame(i.index, i.time, i.seconds, encode(i)) for i in images]

    def finish(self) -> None:
        """Drains the backend, poses the early frames, adjusts everything, poses every frame."""
        self._catch_up()
        self._most_ahead = 0  # early frames get records that the backend may be reading
        with self.timings.measure("final early frames"):
            self.frontend.pose_early()
            self._catch_up()
        self._tasks.put(self.backend.finish)
        self._drain()
        with self.timings.measure("final poses"):
            refine_frames(self.graph, self.predictor.grid, self.config)
            fill_gaps(self.graph)

    @property
    def failed(self) -> bool:
        """Whether the backend raised: nothing more can be adjusted."""
        return self._error is not None

    def hurry(self) -> None:
        """Lets `finish` end after the round it is in; may be called from a signal handler."""
        self.backend.hurry.set()

    def close(self) -> None:
        """Ends the threads. What the graph holds stays."""
        self._tasks.put(None)
        self._thread.join()
        self.backend.close()
        self.predictor.close()

    def _bring_up_to_date(self) -> None:
        if not self.config.run.realtime:
            self._catch_up()
        if self._session is not None:
            self._session.before_keyframe()

    def _on_keyframe(self, number: int) -> None:
        made_before = self.graph.submaps.of(number) != number  # else a start, by a later image
        if made_before and self.graph.keyframe(number).frame.index == self._taken:
            self.commit()  # the image being taken now is through
        if self.config.run.realtime:
            self._tasks.put(self._adjust_new)
            return
        keyframes = self.graph.keyframes()[: number + 1]
        self._tasks.put(lambda: self.backend.step(keyframes, number))
        self._ahead = 0
        if self._most_ahead == 0:
            self._catch_up()

    def _adjust_new(self) -> None:
        """Takes all keyframes that are new by now at once: where it is behind it catches up."""
        keyframes = self.graph.keyframes()
        if self._linked < len(keyframes):
            self.backend.step(keyframes, self._linked)
            self.backend.publish()
            self._linked = len(keyframes)

    def _on_restart(self, first: int) -> None:
        """A start is discarded. Args: first: its first keyframe."""
        self._drain()
        self._linked = max(1, min(self._linked, first))
        if first > 0:  # no commit: from the last one, the images say the same again
            self._committed = first
        self.backend.reset(first)

    def _good_start(self, first: int) -> bool | None:
        """Whether the keyframes from `first` on explain their measurements and know their depths.

        None while the backend has not come to them, in real time; it is not waited for.
        """
        if not self.config.run.realtime:
            self._catch_up()
        elif self._linked < min(len(self.graph), first + self.config.start.trial_keyframes):
            return None
        start = self.config.start
        known = max(known_share(k, self.config) for k in self.graph.keyframes()[first:])
        return self.backend.last_cost < start.trial_cost and known > start.trial_known

    def _catch_up(self) -> None:
        """Lets the backend end what it does while the frontend waits; takes over what it found."""
        with self.timings.measure(WAIT):
            self._drain()
        if self._ahead is not None:
            self._ahead = None
            self.backend.publish()
            self._linked = max(1, len(self.graph))

    def _drain(self) -> None:
        self._tasks.join()
        self._check()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        if self.config.run.realtime:
            step_aside()
        while (task := self._tasks.get()) is not None:
            try:
                if self._error is None:
                    task()
            except BaseException as error:  # raised in the caller by the next call
                self._error = error
            finally:
                self._tasks.task_done()
        self._tasks.task_done()


def known_share(keyframe: Keyframe, config: Config) -> float:
    """Share of a keyframe's depths that are known, of those whose texture lets them be."""
    known = known_depths(keyframe.depth, config.start)
    measurable = keyframe.frame.features.texture > config.flow.texture_noise
    few = int(measurable.sum()) < config.start.minimum_points
    return float((known if few else known[measurable]).float().mean())

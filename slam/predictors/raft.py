"""Learned flow: DIS started from RAFT-small, always or only where DIS is in doubt."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace
from functools import partial

import torch

from slam.config import FlowSettings
from slam.frame import Features, Image, PairGuess, PairPrediction, Pointmap
from slam.networks.raft_small import CELL, Encoding, RaftSmall, to_cells
from slam.predictors.flow import FlowPredictor

REMEMBERED = 32  # images whose encodings are kept, 2 MB each
MOST_CELLS = 16_384  # of an image, 8 x 8 px each: their squares are compared, 6 GB


class RaftFlow:
    """Dense flow of RAFT both ways; encodes an image once as long as it is in use.

    One thread at a time: the network itself takes all the threads that torch has.
    """

    def __init__(self, network: RaftSmall, iterations: int) -> None:
        self.network = network
        self.iterations = iterations
        self._lock = threading.Lock()
        self._encodings: OrderedDict[int, tuple[Features, Encoding]] = OrderedDict()

    def __call__(self, first: Features, second: Features, guess: PairGuess) -> PairGuess:
        """Flow of the first image to the second and back, from a guess if it is both ways."""
        start = None
        if guess.forward is not None and guess.backward is not None:
            both = torch.stack([guess.forward, guess.backward]).permute(0, 3, 1, 2)
            start = to_cells(both)
        with self._lock:
            encodings = self._encoding(first), self._encoding(second)
            found = self.network.match_both(*encodings, self.iterations, start).flow
        forward, backward = found.permute(0, 2, 3, 1).contiguous()
        return PairGuess(forward, backward)

    def _encoding(self, features: Features) -> Encoding:
        """Kept here, by identity, and not in Features: frames wait for the start by the hundred."""
        key = id(features)
        if key not in self._encodings:
            image = features.rgb.permute(2, 0, 1)[None]
            self._encodings[key] = (features, self.network.encode(image))
        self._encodings.move_to_end(key)
        if len(self._encodings) > REMEMBERED:
            self._encodings.popitem(last=False)
        return self._encodings[key][1]


class RaftFlowPredictor:
    """The default predictor, started from RAFT-small: always (`raft`) or where in doubt (`mixed`).

    Measured: RAFT finds motions several times larger than DIS, which is twice as precise where it
    finds them. So RAFT says where to look, and what is measured is always the default's.
    """

    def __init__(self, width: int, height: int, settings: FlowSettings, network: RaftSmall) -> None:
        """Args: width, height: size in px of the images to come.

        Raises ValueError where the working images are too large to compare all of their cells.
        """
        self.settings = settings
        finely = replace(settings, tracking_finest_scale=settings.keyframe_finest_scale)
        self._dis = FlowPredictor(width, height, finely)  # beside RAFT it costs next to nothing
        self._raft = RaftFlow(network, settings.raft_iterations)
        self.grid = self._dis.grid
        if self.grid.width * self.grid.height > MOST_CELLS * CELL**2:
            raise ValueError(
                f"flow.method {settings.method} wants working images of at most {MOST_CELLS} cells "
                f"of {CELL} x {CELL} px, got {self.grid.width} x {self.grid.height} px; "
                "lower flow.long_side"
            )

    def close(self) -> None:
        """Ends the helper thread."""
        self._dis.close()

    def encode(self, image: Image) -> Features:
        """As the default predictor's; the network's own encoding is made when it is needed."""
        return self._dis.encode(image)

    def single(self, features: Features) -> Pointmap:
        """Nothing is known from one image."""
        return self._dis.single(features)

    def pair(
        self,
        keyframe: Features,
        frame: Features,
        guess: PairGuess,
        *,
        fine: bool = False,
        one_thread: bool = False,
    ) -> PairPrediction:
        """Flow both ways, checked against each other (see `Predictor.pair`)."""
        refine = partial(self._dis.pair, keyframe, frame, fine=fine, one_thread=one_thread)
        if self.settings.method == "raft":
            return refine(self._raft(keyframe, frame, guess))
        found = refine(guess)
        if guess.forward is not None or found.match_fraction >= self.settings.doubt:
            return found
        other = refine(self._raft(keyframe, frame, guess))
        return max(found, other, key=lambda p: p.match_fraction)

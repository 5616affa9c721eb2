"""Edges of a map of pointmaps: pairs matched both ways, their matches kept for the pose graph."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from slam.config import Config
from slam.edges import Edges
from slam.frame import Correspondence, Intrinsics, Keyframe
from slam.graph import Edge, Graph
from slam.optimization import PointmapFactor, factor_of
from slam.predictors import PointmapPredictor


class PointmapEdges(Edges):
    """As `Edges`; what is matched is kept as factors too, a few bytes a match."""

    def __init__(self, predictor: PointmapPredictor, graph: Graph, config: Config) -> None:
        super().__init__(predictor, graph, config)
        self.factors: dict[Edge, PointmapFactor] = {}  # (matched in, whose pixels)

    @property
    def held(self) -> object:
        """With the factors."""
        return [super().held, self.factors]

    def stale(
        self, keyframes: Sequence[Keyframe], pairs: Sequence[Edge], intrinsics: Intrinsics
    ) -> list[Edge]:
        """New pairs: a network sees no more in the same two images when it looks again."""
        return [p for p in pairs if p not in self._measured_with]

    def _measure_pair(
        self,
        keyframes: Sequence[Keyframe],
        pair: Edge,
        ahead: Tensor,
        back: Tensor,
        near: bool,
    ) -> dict[Edge, Correspondence]:
        """Both directions of a pair; none where it is not `near` and either matches too little."""
        i, j = pair
        prediction = self._predict_pair(keyframes, pair, ahead, back)
        if prediction.ahead is None or prediction.behind is None:
            raise TypeError("wanted a predictor of pointmaps")
        edges = {(i, j): prediction.forward, (j, i): prediction.backward}
        share = [float((c.weight > 0).float().mean()) for c in edges.values()]
        if not near and min(share) < self.config.pointmap.edge_overlap:
            return {}
        most = self.config.pointmap.edge_matches
        keep = self.graph.pages.keep
        self.factors[j, i] = keep(factor_of(j, i, prediction.ahead, most))
        self.factors[i, j] = keep(factor_of(i, j, prediction.behind, most))
        return edges

"""Settings of place recognition and of loops, with units; config.py puts them beside the others."""

from __future__ import annotations

from dataclasses import dataclass

from slam.settings import Section, setting


@dataclass(frozen=True, slots=True)
class RetrievalSettings(Section):
    """Which earlier keyframes look like an image."""

    head: str = setting(
        "", help="weights of MASt3R's retrieval head: tokens are compared; empty = corners are"
    )
    codebook: str = setting("", help="words for what the head makes; empty = they are learnt")
    candidates: int = setting(3, unit="keyframes", help="that a search gives at most", minimum=1)
    minimum_score: float = setting(
        5e-3, help="of a candidate; an image has 1 with itself", minimum=0.0, maximum=1.0
    )
    exclude: int = setting(
        5, unit="keyframes", help="most recent ones that close no loop", minimum=0
    )
    assignments: int = setting(5, help="words of a real descriptor looked for", minimum=1)
    binary_assignments: int = setting(1, help="words of a binary one looked for", minimum=1)
    exponent: float = setting(3.0, help="of the similarity in a word: selectivity", minimum=0.0)
    agreement: float = setting(
        0.0, help="similarity in a word that counts, of real descriptors", minimum=0.0, maximum=0.99
    )
    binary_agreement: float = setting(
        0.5,
        help="the same of binary ones; 0.5 = a quarter of the bits differ",
        minimum=0.0,
        maximum=0.99,
    )
    words: int = setting(16384, help="of a vocabulary that is learnt, at most", minimum=1)
    descriptors_per_word: int = setting(4, help="that it is learnt from, at least", minimum=1)
    learn_until: int = setting(
        256, unit="keyframes", help="after which the vocabulary stays as it is", minimum=1
    )


@dataclass(frozen=True, slots=True)
class LoopSettings(Section):
    """When two keyframes that look alike are taken for one place."""

    votes: int = setting(
        3, help="verified pairs that must tell the same correction of the map", minimum=1
    )
    scale_spread: float = setting(
        0.1, help="of log depth ratios of a pair, beyond which it tells no scale", minimum=0.0
    )
    shift: float = setting(
        0.1, help="of what is seen, by which the votes may put the camera apart", minimum=0.0
    )
    turn: float = setting(0.05, unit="rad", help="by which they may turn it", minimum=0.0)
    stretch: float = setting(0.1, help="log scale by which they may differ", minimum=0.0)
    drift: float = setting(
        0.15, help="share of the way between, by which a map may be off", minimum=0.0
    )
    most_turn: float = setting(0.5, unit="rad", help="by which it may be turned", minimum=0.0)
    most_stretch: float = setting(1.1, help="log scale by which it may be off", minimum=0.0)
    sigma: float = setting(
        0.01, help="of relative poses: rad, log scale, and of what is seen", minimum=1e-6
    )

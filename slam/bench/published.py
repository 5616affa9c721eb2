"""Published trajectory errors, each with where it is from and how it was measured.

ATE RMSE in m. Unless a protocol says otherwise: monocular, keyframes only, after Sim(3) alignment,
so that scale, missing frames and lost tracking do not show.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

KEYFRAMES = "keyframes, Sim(3)"


@dataclass(frozen=True, slots=True)
class Published:
    """One system on one benchmark."""

    benchmark: str  # as in sequences.TITLES
    system: str
    calibrated: bool  # whether it was given the intrinsics
    ate: dict[str, float]  # short name of a sequence → m
    average: float | None  # m, as published, over all sequences of the benchmark
    source: str  # where the numbers are from
    protocol: str = KEYFRAMES
    posed: dict[str, float] | None = None  # share of the frames with a pose; None = not published


FOUNDATION = "FoundationSLAM (AAAI 2026) table 1, and the systems' own papers"
PAPERS = "the papers of FoundationSLAM (AAAI 2026) and of the systems"
FREE = "the papers of VGGT-SLAM, VGGT-SLAM 2.0, ViSTA-SLAM and SLAM-Former"
DASH = "DASH-SLAM repository, result files"
DASH_AGAIN = "re-measured: DASH-SLAM repository, result files"
DPVO_LOGS = "DPVO's own logs"
MUST3R = "MUSt3R, assets/evals.md"
PROTOCOLS = {  # of systems whose published runs differ from KEYFRAMES
    "MASt3R-SLAM": f"{KEYFRAMES}; every 2nd image, one thread, RTX 4090",
    "DPVO": "Sim(3), median of 5 runs",
}

TUM = ("360", "desk", "desk2", "floor", "plant", "room", "rpy", "teddy", "xyz")
TUM_CALIBRATED = (
    ("ORB-SLAM3 (mono)", FOUNDATION, "- .017 .210 - .034 - - - .009", None),
    ("DPVO", DPVO_LOGS, ".171 .029 .054 .045 .031 .388 .045 .063 .012", 0.093),
    ("DPV-SLAM", FOUNDATION, ".112 .018 .029 .057 .021 .330 .030 .084 .010", 0.076),
    ("DPV-SLAM++", FOUNDATION, ".132 .018 .029 .050 .022 .096 .032 .098 .010", 0.054),
    ("DROID-SLAM", FOUNDATION, ".111 .018 .042 .021 .016 .049 .026 .048 .012", 0.038),
    ("GlORIE-SLAM", FOUNDATION, ".128 .016 .028 .021 .021 .042 .020 .035 .010", 0.036),
    ("GO-SLAM", FOUNDATION, ".089 .016 .028 .025 .026 .052 .019 .048 .010", 0.035),
    ("MASt3R-SLAM", FOUNDATION, ".049 .016 .024 .025 .020 .061 .027 .041 .009", 0.030),
    (
        *("MASt3R-SLAM, again", DASH_AGAIN),
        *(".0482 .0161 .0235 .0250 .0196 .0612 .0231 .0403 .0089", 0.0295),
    ),
    ("DASH-SLAM", DASH, ".0565 .0157 .0214 .0218 .0258 .0455 .0201 .0263 .0071", 0.0267),
    ("FoundationSLAM", FOUNDATION, ".055 .015 .028 .020 .014 .038 .015 .018 .009", 0.024),
)
TUM_UNCALIBRATED = (
    ("DROID-SLAM", FREE, ".202 .032 .091 .064 .045 .918 .056 .045 .012", 0.158),
    ("VGGT-SLAM Sim(3)", FREE, ".123 .040 .055 .254 .022 .088 .041 .032 .016", 0.074),
    ("MASt3R-SLAM", FREE, ".070 .035 .055 .056 .035 .118 .041 .114 .020", 0.060),
    ("VGGT-SLAM SL(4)", FREE, ".071 .025 .040 .141 .023 .102 .030 .034 .014", 0.053),
    ("ViSTA-SLAM", FREE, ".104 .030 .030 .070 .052 .067 .023 .080 .015", 0.052),
    ("VGGT-SLAM 2.0", FREE, ".050 .025 .029 .102 .026 .063 .026 .038 .014", 0.041),
    ("SLAM-Former", FREE, ".067 .018 .026 .079 .021 .082 .017 .030 .011", 0.039),
    ("AMB3R-SLAM", DASH_AGAIN, "- - - - - - - - -", 0.0358),
    ("MUSt3R, causal", MUST3R, ".099 .051 .040 .073 .052 .098 .044 .062 .029", None),
    ("MUSt3R, re-rendered", MUST3R, ".066 .024 .037 .066 .037 .073 .035 .048 .020", None),
)
EUROC = ("MH01", "MH02", "MH03", "MH04", "MH05", "V101", "V102", "V103", "V201", "V202", "V203")
EUROC_CALIBRATED = (
    ("ORB-SLAM3 (mono)", PAPERS, ".071 .067 .071 .082 .060 .015 .020 - .021 .018 -", None),
    ("MASt3R-SLAM", PAPERS, ".023 .017 .057 .113 .067 .040 .019 .027 .020 .025 .043", 0.041),
    ("DPV-SLAM", PAPERS, ".013 .016 .022 .043 .041 .035 .008 .015 .020 .011 .040", 0.024),
    ("GO-SLAM", PAPERS, ".016 .014 .023 .045 .045 .037 .011 .023 .016 .010 .022", 0.024),
    ("DROID-SLAM", PAPERS, ".013 .014 .022 .043 .043 .037 .012 .020 .017 .013 .014", 0.022),
    ("FoundationSLAM", PAPERS, ".010 .011 .020 .041 .040 .034 .009 .015 .014 .010 .011", 0.019),
)
EUROC_UNCALIBRATED = (("MASt3R-SLAM", PAPERS, "- - - - - - - - - - -", 0.164),)
SCENES = ("chess", "fire", "heads", "office", "pumpkin", "kitchen", "stairs")
SCENES_CALIBRATED = (
    ("NICER-SLAM", PAPERS, ".033 .069 .042 .108 .200 .039 .108", 0.086),
    ("DROID-SLAM", PAPERS, ".036 .027 .025 .066 .127 .040 .026", 0.049),
    ("MASt3R-SLAM", PAPERS, ".053 .025 .015 .097 .088 .041 .011", 0.047),
    ("FoundationSLAM", PAPERS, "- - - - - - -", 0.043),
)
SCENES_UNCALIBRATED = (
    ("DROID-SLAM", FREE, ".047 .038 .034 .136 .166 .080 .044", 0.078),
    ("VGGT-SLAM", FREE, ".036 .028 .018 .103 .133 .058 .093", 0.067),
    ("MASt3R-SLAM", FREE, ".063 .046 .029 .103 .114 .074 .032", 0.066),
    ("ViSTA-SLAM", FREE, ".073 .035 .028 .055 .129 .035 .029", 0.055),
    ("AMB3R-SLAM", DASH_AGAIN, "- - - - - - -", 0.0532),
    ("SLAM-Former", FREE, ".039 .033 .018 .070 .065 .035 .033", 0.042),
)
ETH3D_CALIBRATED = tuple(
    (name, PAPERS, "", average)
    for name, average in (
        *(("ORB-SLAM3", 0.135), ("DROID-SLAM", 0.171), ("DPVO", 0.137), ("DPV-SLAM", 0.109)),
        *(("DPV-SLAM++", 0.132), ("MASt3R-SLAM", 0.086), ("FoundationSLAM", 0.069)),
    )
)
TABLES = (
    ("tum-fr1", True, TUM, TUM_CALIBRATED),
    ("tum-fr1", False, TUM, TUM_UNCALIBRATED),
    ("euroc", True, EUROC, EUROC_CALIBRATED),
    ("euroc", False, EUROC, EUROC_UNCALIBRATED),
    ("7scenes", True, SCENES, SCENES_CALIBRATED),
    ("7scenes", False, SCENES, SCENES_UNCALIBRATED),
    ("eth3d", True, (), ETH3D_CALIBRATED),
)
MEASURED = "measured by this project on 2 CPU cores"
WHOLE, CUT = "all its poses, Sim(3)", "all its poses, Sim(3); the first 200 frames (lr), 101 (of)"
OWN = (
    Published(
        *("tum-fr1", "ORB-SLAM3 (2 cores)", True, {"xyz": 0.0092}, None),
        *(MEASURED, WHOLE, {"xyz": 0.997}),
    ),
    Published(
        *("tum-fr1", "DSO (2 cores)", True, {"xyz": 0.030}, None),
        *(MEASURED, WHOLE, {"xyz": 0.992}),
    ),
    Published(
        *("icl", "ORB-SLAM3 (2 cores)", True, {"lr-kt3": 0.133, "of-kt0": 0.0074}, None),
        *(MEASURED, CUT, {"lr-kt3": 0.86, "of-kt0": 0.61}),
    ),
    Published(
        *("icl", "DSO (2 cores)", True, {"lr-kt3": 0.0018, "of-kt0": 0.009}, None),
        *(MEASURED, CUT, {"lr-kt3": 0.82, "of-kt0": 0.68}),
    ),
)


def published(benchmark: str, calibrated: bool) -> list[Published]:
    """All that is known of a benchmark, in the order of the tables above."""
    rows = [*_from_tables(), *OWN]
    return [r for r in rows if (r.benchmark, r.calibrated) == (benchmark, calibrated)]


def sequence_order(benchmark: str) -> tuple[str, ...]:
    """Short names of a benchmark's sequences as papers list them; empty where none do."""
    return next((names for known, _, names, _ in TABLES if known == benchmark), ())


def _from_tables() -> Iterator[Published]:
    for benchmark, calibrated, names, rows in TABLES:
        for system, source, numbers, average in rows:
            cells = dict(zip(names, numbers.split(), strict=True))
            ate = {name: float(cell) for name, cell in cells.items() if cell != "-"}
            protocol = PROTOCOLS.get(system, KEYFRAMES)
            yield Published(benchmark, system, calibrated, ate, average, source, protocol)

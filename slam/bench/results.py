"""What the runs of a suite came to: one outcome a run, one row a sequence, one average a set."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from slam.bench.published import published


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run: its report, or why there is none."""

    benchmark: str  # as in sequences.TITLES
    sequence: str
    short: str  # name in published tables
    mode: str
    number: int  # of the runs of this sequence and mode, from 1
    folder: str  # of its results, below the suite's
    report: dict[str, Any] | None  # report.json; None = failed
    error: str | None  # one line; None = did not fail
    seconds: float  # wall time of the process
    code: str  # fingerprint of the code that made it

    def in_words(self) -> str:
        """One line for a person."""
        name = f"{self.benchmark} {self.sequence} {self.mode}-{self.number}"
        if self.report is None:
            return f"{name}: FAILED: {self.error}"
        figures = Figures.of(self)
        ate = "no ATE" if figures.ate_sim3 is None else f"ATE {figures.ate_sim3:.4f} m"
        return f"{name}: {ate}, {100 * (figures.posed or 0):.1f} % posed, {self.seconds:.0f} s"

    def to_dict(self) -> dict[str, Any]:
        names = [f.name for f in fields(self) if f.name != "report"]
        return {name: getattr(self, name) for name in names} | asdict(Figures.of(self))


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a run, their medians over runs, or their averages; None = not known."""

    frames: float | None = None  # images of the source
    posed: float | None = None  # share of them with a measured pose; 0 for a run that failed
    ate_sim3: float | None = None  # m RMSE, all poses, after Sim(3) alignment
    ate_se3: float | None = None  # m RMSE, without the scale
    scale: float | None = None  # true length / estimated length
    ate_causal: float | None = None  # m RMSE, poses as first published, after Sim(3) alignment
    rate_loop: float | None = None  # frames/s
    rate_total: float | None = None  # frames/s, with the final adjustment
    peak_mb: float | None = None  # memory of the process

    @staticmethod
    def of(run: Outcome) -> Figures:
        if run.report is None:
            return Figures(posed=0.0)
        report, ate = run.report, run.report["ate"] or {}
        rates = report["frames_per_second"]
        return Figures(
            frames=report["frames"],
            posed=report["posed"] / report["frames"],
            ate_sim3=ate.get("sim3_rmse"),
            ate_se3=ate.get("se3_rmse"),
            scale=ate.get("scale"),
            ate_causal=(report["ate_causal"] or {}).get("sim3_rmse"),
            rate_loop=rates["loop"],
            rate_total=rates["with_final_adjustment"],
            peak_mb=report["peak_memory_mb"],
        )

    @staticmethod
    def median(several: Sequence[Figures]) -> Figures:
        """Of each figure, over those where it is known."""
        return Figures(*(_over(several, f.name, statistics.median) for f in fields(Figures)))

    @staticmethod
    def mean(several: Sequence[Figures]) -> Figures:
        """Likewise."""
        return Figures(*(_over(several, f.name, statistics.fmean) for f in fields(Figures)))


def _over(several: Sequence[Figures], name: str, function: Any) -> float | None:
    values = [v for v in (getattr(one, name) for one in several) if v is not None]
    return function(values) if values else None


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence in one mode: medians over its runs."""

    benchmark: str
    sequence: str
    short: str
    mode: str
    finished: int  # runs
    failed: int  # runs
    without_calibration: bool  # none was found: it ran uncalibrated, whatever the mode says
    figures: Figures


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """All that there is of a suite."""

    outcomes: tuple[Outcome, ...]  # finished and failed
    planned: int  # runs
    overrides: tuple[str, ...]  # section.key=value
    config: str | None  # YAML file or preset
    workers: int  # runs at once
    code: str  # fingerprint of the code now

    @property
    def failures(self) -> tuple[Outcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome.report is None)

    @property
    def older(self) -> tuple[Outcome, ...]:
        """Runs kept from other code."""
        return tuple(outcome for outcome in self.outcomes if outcome.code != self.code)

    def groups(self) -> list[tuple[str, str]]:
        """(benchmark, mode) in the order they were planned."""
        return list(dict.fromkeys((o.benchmark, o.mode) for o in self.outcomes))

    def rows(self, benchmark: str, mode: str) -> list[Row]:
        """The sequences of a group."""
        mine = [o for o in self.outcomes if (o.benchmark, o.mode) == (benchmark, mode)]
        names = dict.fromkeys(o.sequence for o in mine)
        return [_row([o for o in mine if o.sequence == name]) for name in names]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        groups = []
        for benchmark, mode in self.groups():
            rows = self.rows(benchmark, mode)
            known = published(benchmark, calibrated=mode != "uncalibrated")
            groups.append(
                {
                    "benchmark": benchmark,
                    "mode": mode,
                    "sequences": [asdict(row) for row in rows],
                    "average": asdict(Figures.mean([row.figures for row in rows])),
                    "published": [asdict(one) for one in known],
                }
            )
        return {
            "planned": self.planned,
            "finished": len(self.outcomes) - len(self.failures),
            "failed": len(self.failures),
            "settings": list(self.overrides),
            "config": self.config,
            "workers": self.workers,
            "code": self.code,
            "groups": groups,
            "runs": [outcome.to_dict() for outcome in self.outcomes],
        }


def _row(outcomes: list[Outcome]) -> Row:
    first = outcomes[0]
    reports = [o.report for o in outcomes if o.report is not None]
    return Row(
        benchmark=first.benchmark,
        sequence=first.sequence,
        short=first.short,
        mode=first.mode,
        finished=len(reports),
        failed=len(outcomes) - len(reports),
        without_calibration=any(report["focal"] is not None for report in reports),
        figures=Figures.median([Figures.of(o) for o in outcomes]),
    )

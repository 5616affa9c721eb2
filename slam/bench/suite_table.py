"""The tables of a suite as Markdown: our figures, the published ones beside them, the failures."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence

from slam import __version__
from slam.bench.published import Published, published, sequence_order
from slam.bench.results import Figures, Row, SuiteResult
from slam.bench.sequences import TITLES

UNKNOWN = "–"
OURS = "**slam**"
HEAD = (
    *("sequence", "runs", "frames", "posed", "ATE Sim(3), m", "ATE SE(3), m", "scale"),
    *("causal ATE, m", "frames/s", "with final", "MB"),
)
ATE_SIM3 = HEAD.index("ATE Sim(3), m") - 2  # among the cells of _cells
LEGEND = (
    "Each row: medians over its runs. posed: share of all images with a measured pose, 0 for a run "
    "that failed. ATE: RMSE over all poses; Sim(3): scale aligned too; SE(3): not. scale: true / "
    "estimated, free without a metric source. causal: poses as first published. frames/s: in the "
    "loop, and with the final adjustment. MB: most memory of the process. Averages are over the "
    "sequences with a figure; those of `posed` over all."
)


def format_suite(result: SuiteResult) -> str:
    """All of suite.md."""
    parts = [_title(result), *_failures(result)]
    for benchmark, mode in result.groups():
        rows = result.rows(benchmark, mode)
        parts += [f"## {TITLES[benchmark]}, {mode}", _own_table(rows), *_notes(rows)]
        known = published(benchmark, calibrated=mode != "uncalibrated")
        if known:
            parts += ["### Beside published errors, ATE RMSE in m", *_published(rows, known)]
    return "\n\n".join([*parts, LEGEND]) + "\n"


def _title(result: SuiteResult) -> str:
    finished = len(result.outcomes) - len(result.failures)
    settings = ", ".join(f"`{override}`" for override in result.overrides) or "none"
    lines = [
        "# slam bench suite",
        "",
        f"{finished} of {result.planned} runs finished, {len(result.failures)} failed. "
        f"slam {__version__}, code {result.code}; {os.cpu_count()} CPU cores, "
        f"{result.workers} at once; settings: {settings}, "
        f"config: {result.config or 'the defaults'}.",
    ]
    if result.workers > 1:
        lines += ["", f"frames/s: {result.workers} runs shared the machine."]
    if result.older:
        names = ", ".join(o.folder for o in result.older)
        lines += ["", f"Kept from other code than {result.code}: {names}."]
    return "\n".join(lines)


def _failures(result: SuiteResult) -> list[str]:
    if not result.failures:
        return []
    lines = [
        f"- {o.benchmark} {o.sequence}, {o.mode}-{o.number}: {o.error}" for o in result.failures
    ]
    return ["## Failed runs\n\n" + "\n".join(lines)]


def _own_table(rows: Sequence[Row]) -> str:
    lines = [_line(HEAD), _line(["---"] * len(HEAD))]
    for row in rows:
        mark = " †" if row.without_calibration and row.mode != "uncalibrated" else ""
        runs = str(row.finished) if not row.failed else f"{row.finished}, {row.failed} FAILED"
        lines.append(_line([row.sequence + mark, runs, *_cells(row.figures)]))
    finished, failed = sum(r.finished for r in rows), sum(r.failed for r in rows)
    runs = f"{finished}, {failed} FAILED" if failed else str(finished)
    cells = _cells(Figures.mean([row.figures for row in rows]))
    cells[ATE_SIM3] = _average([row.figures.ate_sim3 for row in rows])
    lines.append(_line(["average", runs, *cells]))
    return "\n".join(lines)


def _cells(figures: Figures) -> list[str]:
    return [
        _number(figures.frames, ".0f"),
        UNKNOWN if figures.posed is None else f"{100 * figures.posed:.1f} %",
        _number(figures.ate_sim3, ".4f"),
        _number(figures.ate_se3, ".4f"),
        _number(figures.scale, ".4g"),
        _number(figures.ate_causal, ".4f"),
        _number(figures.rate_loop, ".1f"),
        _number(figures.rate_total, ".1f"),
        _number(figures.peak_mb, ".0f"),
    ]


def _notes(rows: Sequence[Row]) -> list[str]:
    if any(row.without_calibration and row.mode != "uncalibrated" for row in rows):
        return ["† no calibration was found: it ran uncalibrated."]
    return []


def _published(rows: Sequence[Row], known: Sequence[Published]) -> list[str]:
    """A line a system, ours first; then where each line is from and how it was measured."""
    benchmark = rows[0].benchmark
    order = sequence_order(benchmark)
    shorts = list(dict.fromkeys(row.short for row in rows))
    names = [name for name in order if name in shorts] + [s for s in shorts if s not in order]
    here = f"average of these {len(names)}"
    head = ["system", *names, here, "average, published", "posed", "from", "how"]
    lines = [_line(head), _line(["---"] * len(head)), _line(_our_line(rows, names, order))]
    for one in known:
        own = [one.ate.get(name) for name in names]
        lines.append(
            _line(
                [
                    one.system,
                    *(_as_published(value) for value in own),
                    _average(own),
                    _as_published(one.average),
                    _posed(one, names),
                    one.source,
                    one.protocol,
                ]
            )
        )
    return ["\n".join(lines)]


def _our_line(rows: Sequence[Row], names: Sequence[str], order: Sequence[str]) -> list[str]:
    """Our figures; a name that several sequences share (a scene) has their mean."""
    values = [_of_name(rows, name) for name in names]
    whole = bool(order) and set(order) <= set(names)
    posed = [row.figures.posed or 0.0 for row in rows]
    return [
        OURS,
        *(_number(value, ".4f") for value in values),
        _average(values),
        _average([_of_name(rows, name) for name in order]) if whole else UNKNOWN,
        f"{100 * statistics.fmean(posed):.1f} %",
        "this suite",
        "all poses, Sim(3)",
    ]


def _of_name(rows: Sequence[Row], name: str) -> float | None:
    found = [r.figures.ate_sim3 for r in rows if r.short == name]
    values = [value for value in found if value is not None]
    return statistics.fmean(values) if values else None


def _average(values: Sequence[float | None]) -> str:
    """Of values that are all known; of some, it says of how many."""
    known = [value for value in values if value is not None]
    if not known:
        return UNKNOWN
    number = f"{statistics.fmean(known):.4f}"
    return number if len(known) == len(values) else f"{number} (of {len(known)})"


def _posed(one: Published, names: Sequence[str]) -> str:
    shares = [(one.posed or {})[name] for name in names if name in (one.posed or {})]
    return f"{100 * statistics.fmean(shares):.1f} %" if shares else "not published"


def _as_published(value: float | None) -> str:
    """Three decimals, or four where it has them."""
    return _number(value, ".4f" if value is not None and round(value, 3) != value else ".3f")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _number(value: float | None, style: str) -> str:
    return UNKNOWN if value is None else format(value, style)

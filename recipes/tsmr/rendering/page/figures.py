"""The charts of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from recipes.faces import Comparison, Evaluation, Verdict, roc
from recipes.tsmr.rendering.page.chart import Axis, Chart, nice_step
from recipes.tsmr.results import Arm, Point, TSMRReport
from recipes.tsmr.stages import LOSSES

STYLES = {
    "before": "before",
    "after": "after",
    "old-old": "before",
    "new-new": "after",
    "new-old": "cross",
}
"""The look of a model's figures, everywhere on the page."""

_BINS = 40
_LONGEST = 26  # letters of a name beside a chart
_FEW = 30  # points, up to which each gets a dot


def draw_differences(comparison: Comparison) -> Chart | None:
    """Return a row for each share that was compared: its difference in points, with the interval; grey where it may be
    chance. None where there is no such share.
    """
    compared = [d for d in comparison.differences if d.value is not None and d.interval and d.before.share]
    if not compared:
        return None
    ends = [100 * end for d in compared for end in (*(d.interval or ()), 0.0)]
    names = tuple(_short(difference.before.name) for difference in compared)
    chart = Chart(
        "Differences and their intervals",
        Axis.around(ends, "after minus before, in points, with its 95 % interval"),
        Axis(len(compared) - 0.5, -0.5, names=names),
        height=46.0 + 28 * len(compared),
        top=6.0,
    )
    chart.stick(0.0, "rule")
    for row, difference in enumerate(compared):
        low, high = (100 * end for end in difference.interval or ())
        style = "after" if difference.significant() else "before"
        told = f"{difference.before.name}: {difference.told(comparison.examples)}"
        chart.line([low, high], [row, row], f"{style} bar")
        chart.dots([100 * (difference.value or 0)], [row], style, [told])
    return chart


def _short(name: str) -> str:
    """Return a name that leaves room for the chart beside it."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"


def draw_roc(evaluations: Mapping[str, Evaluation], title: str) -> Chart:
    """Return a curve for each evaluation, with a dot at each false accept rate that its figures name."""
    lowest = 1 / max(2, min(evaluation.impostors for evaluation in evaluations.values()))
    curves = {}
    for name, evaluation in evaluations.items():
        far, tar, _ = roc(evaluation.scores, evaluation.same)
        first = tar[far <= lowest].max()
        curves[name] = np.append(lowest, far[far > lowest]), np.append(first, tar[far > lowest])
    heights = [tar[0] for _, tar in curves.values()]
    x = Axis(lowest, 1, "false accept rate (FAR)", log=True)
    chart = Chart(title, x, Axis.around([*heights, 1], "true accept rate (TAR)", True, (0, 1)))
    for name, (far, tar) in curves.items():
        known = {
            at: rate for at, rate in evaluations[name].tar_at_far.items() if at >= lowest and rate is not None
        }
        chart.line(far, tar, STYLES[name], name, steps=True)
        chart.dots(
            list(known),
            list(known.values()),
            STYLES[name],
            [f"{name}: TAR {rate:.2%} at FAR {at:g}" for at, rate in known.items()],
        )
    return chart


def draw_histograms(evaluations: Mapping[str, Evaluation]) -> list[Chart]:
    """Similarities of genuine and impostor pairs, a chart for each evaluation, all on the same axes."""
    scores = np.concatenate([evaluation.scores for evaluation in evaluations.values()])
    width = nice_step(max(float(np.ptp(scores)), 1e-6) / _BINS)
    low, high = (math.floor(scores.min() / width), math.floor(scores.max() / width) + 1)
    edges = np.arange(low, high + 1) * width
    shares = {
        name: [
            np.histogram(e.scores[which], edges)[0] / np.count_nonzero(which) for which in (~e.same, e.same)
        ]
        for name, e in evaluations.items()
    }
    top = max(float(np.max(share)) for both in shares.values() for share in both)
    x = Axis(edges[0], edges[-1], "cosine similarity")
    y = Axis(0, 1.08 * top, f"share of pairs, in steps of {width:g}", percent=True)
    charts = []
    for name, (impostor, genuine) in shares.items():
        chart = Chart(name, x, y)
        chart.area(edges, impostor, "impostor", "impostor pairs")
        chart.area(edges, genuine, "genuine", "genuine pairs")
        threshold = evaluations[name].threshold
        if edges[0] <= threshold <= edges[-1]:
            chart.stick(threshold, "rule")
            chart.note(threshold, f"threshold {threshold:.2f}", left=2 * threshold > edges[0] + edges[-1])
        charts.append(chart)
    return charts


def draw_validation(report: TSMRReport) -> Chart:
    """Return what decides, after each epoch, against that of the model as it was."""
    figure = report.before[0].deciding
    judged = {e.epoch: _number(e.validation[0]) for e in report.epochs if e.validation}
    known = [*judged.values(), _number(report.before[0])]
    title = f"{figure.name[0].upper()}{figure.name[1:]} on the validation set"
    chart = _along(report, title, Axis.around(known, figure.name, figure.share))
    chart.level(_number(report.before[0]), "before", "before")
    chart.line(list(judged), list(judged.values()), "after", "each epoch")
    if report.kept:
        chart.dots([report.kept], [judged[report.kept]], "kept", name="kept")
    told = [f"epoch {epoch}: {figure.shown(value)}" for epoch, value in judged.items()]
    chart.dots(list(judged), list(judged.values()), "after", told)
    return chart


def _number(verdict: Verdict) -> float:
    """Return what decides; 0 where that could not be measured."""
    return verdict.deciding.value or 0.0


def draw_losses(report: TSMRReport) -> list[Chart]:
    """Return each loss along the run, without its weight."""
    names = dict.fromkeys(name for point in report.curve for name in point.losses)
    return [_curve(report, name, LOSSES[name].title, partial(_loss, name=name)) for name in names]


def _loss(point: Point, name: str) -> float | None:
    return point.losses.get(name)


def draw_figures(report: TSMRReport) -> list[Chart]:
    """Return what losses show besides themselves, along the run."""
    names = dict.fromkeys(name for point in report.curve for name in point.figures)
    return [
        _curve(report, name.partition("/")[0], name.partition("/")[2], partial(_figure, name=name))
        for name in names
    ]


def _figure(point: Point, name: str) -> float | None:
    return point.figures.get(name)


def draw_rate(report: TSMRReport) -> Chart:
    """Return the learning rate along the run."""
    top = max(point.lr for point in report.curve)
    power = math.floor(math.log10(top))
    label = f"learning rate, in units of 1e{power}"
    return _curve(
        report, "Learning rate", label, lambda point: point.lr / 10.0**power, within=(0, top / 10.0**power)
    )


def draw_weight_change(report: TSMRReport) -> Chart:
    """Return how far each weight moved, in the order of the net; those that did not move or started at zero are
    left out.
    """
    moved = moved_weights(report)
    at = [number for number, name in enumerate(report.weight_change) if name in moved]
    values = list(moved.values())
    y = Axis(
        10.0 ** math.floor(math.log10(min(values))),
        10.0 ** math.ceil(math.log10(max(values)) + 1e-9),
        "relative change",
        log=True,
        percent=True,
    )
    chart = Chart("Change of each weight", Axis(-1, len(report.weight_change), "parameters"), y)
    for x, value in zip(at, values, strict=True):
        chart.stick(x, "stem", high=value)
    chart.dots(at, values, "after small", [f"{name}: {value:.2%}" for name, value in moved.items()])
    return chart


def moved_weights(report: TSMRReport) -> dict[str, float]:
    """Relative change by name, of weights that moved and had a length to compare with."""
    return {name: change for name, change in report.weight_change.items() if 0 < change < 1e6}


def draw_ablation(arms: Sequence[Arm], before: Verdict | None) -> Chart:
    """Return what decides, of every run, a row for each arm, with a line at the arm's mean."""
    figure = arms[0].verdicts[0].deciding
    runs = [[_number(verdict) for verdict in arm.verdicts] for arm in arms]
    known = [value for row in runs for value in row] + ([_number(before)] if before else [])
    chart = Chart(
        f"{figure.name[0].upper()}{figure.name[1:]} of each run",
        Axis.around(known, f"{figure.name} on the validation set", figure.share),
        Axis(len(arms) - 0.5, -0.5, names=tuple(arm.name for arm in arms)),
        height=52.0 + 34 * len(arms),
        left=150.0,
    )
    if before:
        chart.stick(_number(before), "before")
        chart.keys.append(("before", "before"))
    for row, (arm, values) in enumerate(zip(arms, runs, strict=True)):
        chart.stick(arm.deciding.mean, "after", row + 0.32, row - 0.32)
        chart.dots(
            values, [row] * len(values), "after faint", [f"{arm.name}: {figure.shown(v)}" for v in values]
        )
    chart.keys.append(("after", "mean of the seeds"))
    return chart


def _curve(
    report: TSMRReport,
    title: str,
    label: str,
    value: Callable[[Point], float | None],
    percent: bool = False,
    within: tuple[float, float] | None = None,
) -> Chart:
    points = [(_epochs(report, point), value(point)) for point in report.curve]
    known = [(at, number) for at, number in points if number is not None]
    x, y = zip(*known, strict=True)
    chart = _along(report, title, Axis.around([*y, *(within or ())], label, percent))
    chart.line(x, y, "after")
    if len(known) <= _FEW:
        chart.dots(x, y, "after small")
    return chart


def _along(report: TSMRReport, title: str, y: Axis) -> Chart:
    """Return an empty chart over the epochs, with the stages marked."""
    chart = Chart(title, Axis(0, len(report.epochs), "epoch"), y, height=200.0)
    if len(report.config.plan.stages) > 1:
        chart.top += 12.0
        chart.height += 12.0
        start = 0
        for number, stage in enumerate(report.config.plan.stages, start=1):
            if start:
                chart.stick(start, "rule")
            chart.above(start, f"stage {number}")
            start += stage.epochs
    return chart


def _epochs(report: TSMRReport, point: Point) -> float:
    """Return where a step lies in the run; the last point is the end of the last epoch."""
    return point.step * len(report.epochs) / report.curve[-1].step

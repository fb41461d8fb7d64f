"""The verdicts as a line each while they come, and as a table in Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import timm
import torch
import torchvision

from benchmarks.zoo.judge import Verdict


def line(verdict: Verdict) -> str:
    """One architecture, as it goes."""
    found = f"{verdict.sites:4} of {verdict.convolutions:4}  {verdict.finders:5}"
    errors = f"{_number(verdict.scale64):8} {_number(verdict.scale32):6} {_number(verdict.batch64):8}"
    rest = "; ".join([verdict.operators, *verdict.notes, *verdict.faults])
    return f"{verdict.seconds:6.1f} s  {verdict.title:48} {found} {errors} {rest}"


def table(verdicts: list[Verdict], what: str, arguments: list[str]) -> str:
    """The result file: ``what`` was shown, by a command with ``arguments``."""
    left_out = sum((verdict.left_out for verdict in verdicts), Counter[str]())
    faults = [f"{verdict.title}: {fault}" for verdict in verdicts for fault in verdict.faults]
    both = sum(verdict.finders == "both" for verdict in verdicts)
    exported = sum(" = " in verdict.operators for verdict in verdicts)
    batched = [verdict for verdict in verdicts if verdict.batch64 is not None]
    rows = [
        f"# Expand and fold across the zoo\n\n`{' '.join(['python -m benchmarks.zoo', *arguments])}`, "
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}, CPU.\n",
        what.strip().replace("``", "`"),
        "",
        f"- architectures: {len(verdicts)}; with an unanswered convolution, a false site, a mismatch, finders apart "
        f"or other operators: {sum(bool(verdict.faults) for verdict in verdicts)}",
        f"- convolutions: {sum(v.convolutions for v in verdicts)}, of which "
        f"{sum(v.sites for v in verdicts)} sites and {left_out.total()} with a reason; "
        f"besides, {sum(v.linear for v in verdicts)} linear layers were expanded and folded",
        f"- finders: {both} architectures by tracing and by running, {len(verdicts) - both} by running alone",
        f"- largest error in float64: {_number(_largest(v.scale64 for v in verdicts))} (`scale`, "
        f"{sum(v.scale64 is not None for v in verdicts)} architectures), "
        f"{_number(_largest(v.batch64 for v in verdicts))} (`batch`, {len(batched)} architectures, "
        f"{sum(v.batch_sites or 0 for v in batched)} sites)",
        f"- largest float32 ratio: {_number(_largest(v.scale32 for v in verdicts))}",
        f"- ONNX operators: the same before and after in {exported} architectures; "
        f"{sum(v.operators.startswith('no export') for v in verdicts)} cannot be exported as they are",
        *(f"- fault: {fault}" for fault in faults),
        *(f"- ill-conditioned: {v.title}, {note}" for v in verdicts for note in v.notes),
        *(f"- no site: {count} x {reason}" for reason, count in left_out.most_common()),
        "",
        "`float64`: relative distance of the folded net from the branches convolved one by one, the truth. "
        "`float32`: distance of the folded float32 net from that truth, in units of the expanded float32 net's own. "
        "`ONNX`: nodes before and after.",
        "",
        "| architecture | input | parameters | convolutions | sites | linear | found by | left out | float64 | float32 "
        "| batch sites | batch float64 | ONNX |",
        "|---|---|--:|--:|--:|--:|---|---|--:|--:|--:|--:|--:|",
    ]
    for v in verdicts:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in v.left_out.items())
        size = "x".join(map(str, v.size))
        cells = [v.title, size, f"{v.parameters:,}", v.convolutions, v.sites, v.linear, v.finders, reasons]
        cells += [_number(v.scale64), _number(v.scale32)]
        cells += ["-" if v.batch_sites is None else v.batch_sites, _number(v.batch64), v.operators]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows) + "\n"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)

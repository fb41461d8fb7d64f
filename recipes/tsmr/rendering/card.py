"""A model card in Markdown: what the file is, what it is worth, from what it was made, and what it was not tried on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import reparam_kit as rk
from recipes.faces import Comparison, Verdict
from recipes.tsmr.improved import Improved
from recipes.tsmr.results import TSMRReport

_LIBRARIES = {".onnx": "onnx", ".pt": "pytorch", ".safetensors": "pytorch"}
_PIPELINES = {
    "embeddings": "image-feature-extraction",
    "logits": "image-classification",
}  # names of Hugging Face


def write_card(improved: Improved) -> None:
    """Write ``OUTPUT.md``, which begins as model cards of Hugging Face do.

    Raises:
        InputError: it cannot be written.
    """
    parts = (_front, _head, _figures, _unchanged, _data, _reproduction, _limits)
    blocks = ["\n".join(part(improved)) for part in parts]
    with rk.atomic_file(improved.card) as file:
        file.write("\n\n".join(filter(None, blocks)).encode() + b"\n")


def _front(improved: Improved) -> Iterator[str]:
    report, task = improved.report, improved.report.config.task
    known: dict[str, Any] = {"library_name": _LIBRARIES.get(improved.output.suffix, "pytorch")}
    if task in _PIPELINES:
        known["pipeline_tag"] = _PIPELINES[task]
    known["tags"] = ["reparam-kit", "knowledge-distillation", "structural-reparameterization"]
    if task in _PIPELINES and report.after:
        results = [_result(verdict, _PIPELINES[task]) for verdict in report.after]
        known["model-index"] = [{"name": rk.printable(improved.output.stem), "results": results}]
    yield "---"
    for name, value in known.items():  # JSON is YAML
        yield f"{name}: {value if isinstance(value, str) else json.dumps(value)}"
    yield "---"


def _result(verdict: Verdict, task: str) -> dict[str, Any]:
    figure = verdict.deciding
    metric = {"type": figure.name, "name": figure.name, "value": figure.value}
    return {
        "task": {"type": task},
        "dataset": {"type": "local", "name": rk.printable(verdict.subject)},
        "metrics": [metric],
    }


def _head(improved: Improved) -> Iterator[str]:
    report = improved.report
    yield f"# {_text(improved.output.name)}\n"
    same = (
        "with the same weights"
        if report.before and not report.kept
        else "with other weights in the same graph"
    )
    yield f"{_file(improved, 'output')} is {_file(improved, 'student')} {same},"
    yield f"after training by reparam-kit {rk.__version__} (TSMR) to answer as {_file(improved, 'teacher')} does.\n"
    yield f"**{_text(_sentence(report))}**"


def _sentence(report: TSMRReport) -> str:
    told = report.told[:1].upper() + report.told[1:]
    if not report.kept or not report.comparisons or not report.comparisons[0].deciding.significant():
        return f"{told}."
    found = report.comparisons[0].deciding
    return f"{told}: {found.before.name} {found.before.shown()} → {found.after.shown()}."


def _figures(improved: Improved) -> Iterator[str]:
    report = improved.report
    if not report.before:
        return
    yield "## Figures"
    for before, comparison in zip(report.before, report.comparisons, strict=True):
        yield f"\n{_text(before.subject)}; {_text(comparison.decides)} decides.\n"
        yield from _compared(comparison) if report.kept else _alone(before)
    if report.kept:
        yield "\nBoth models were judged by the same. The weights were chosen by the first of these figures, which is"
        yield "therefore optimistic: judge by another set."


def _alone(verdict: Verdict) -> Iterator[str]:
    yield "| | as deployed |\n|---|--:|"
    for figure in verdict.figures:
        if figure.value is not None:
            yield f"| {_figure(figure.name, verdict.decides)} | {figure.shown()} |"


def _compared(comparison: Comparison) -> Iterator[str]:
    yield "| | before | after | difference | 95 % interval | |\n|---|--:|--:|--:|--:|---|"
    for one in comparison.differences:
        if one.value is not None:
            change, told = one.before.change, one.told(comparison.examples)
            ends = " to ".join(map(change, one.interval or ()))
            cells = [one.before.shown(), one.after.shown(), change(one.value), ends, told]
            yield f"| {_figure(one.before.name, comparison.decides)} | {' | '.join(cells)} |"


def _figure(name: str, decides: str) -> str:
    """Return the name of a figure, bold where it decides."""
    return f"**{_text(name)}**" if name == decides else _text(name)


def _unchanged(improved: Improved) -> Iterator[str]:
    report, verification = improved.report, improved.verification
    preset = report.config.student_input
    yield "## What is unchanged\n"
    if verification is None:
        yield "- Graph: not compared, since these are not two ONNX files that were verified."
    else:
        count = len(verification.structure.payloads)
        yield f"- Graph: operators, names, attributes and order are the same; {count} weights differ."
    yield f"- Input: as before, {_code(preset)} in the terms of reparam-kit."
    others = ", ".join(_code(name) for name, change in report.other_outputs.items() if change)
    yield f"- Outputs: names, types and shapes are the same{f'; the numbers of {others} moved too' * bool(others)}."


def _data(improved: Improved) -> Iterator[str]:
    report = improved.report
    yield "## Data\n"
    yield f"- Trained on {report.images:,} images of {_file(improved, 'images')}, identity `{report.data}`."
    yield f"- Teacher: {_file(improved, 'teacher')}."
    if report.before:
        yield f"- Judged by {_file(improved, 'validation')}."


def _reproduction(improved: Improved) -> Iterator[str]:
    made, report = improved.provenance, improved.report
    yield "## How to reproduce\n"
    if made.command:
        fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", made.command + "``")))
        yield f"{fence}sh\n{rk.printable(made.command)}\n{fence}\n"
    else:
        yield "Called from Python (`recipes.tsmr.improve`).\n"
    versions = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    yield f"- {_text(versions)}; seed {report.config.seed}."
    yield f"- {_text(', '.join(f'{name} {what}' for name, what in made.machine.items()))}."
    if made.git:
        yield f"- Working directory: git {_text(made.git)}."
    for file in made.files:
        if file.sha256:
            part = _text(file.part[:1].upper() + file.part[1:])
            yield f"- {part}: {_code(file.name)}, {file.size:,} bytes, sha256 `{file.sha256}`."
    yield f"\nEvery choice in force is on the page of the run, {_code(improved.page.name)}."


def _limits(improved: Improved) -> Iterator[str]:
    report = improved.report
    yield "## Limits\n"
    if not report.before:
        yield "- Nothing judged this model: whether it is better is not known."
    else:
        groups = "people" if report.config.task == "embeddings" else "images"
        yield f"- The figures hold for data like those above. How they differ between groups of {groups} was not"
        yield "  measured."
    if report.config.task == "embeddings" and (report.kept or not report.before):
        yield "- Similarities may have moved: choose thresholds anew, and enrol people anew unless the page shows that"
        yield "  stored embeddings still match."
    yield "- Model, teacher and images have licences of their own, which this card does not know."


def _file(improved: Improved, part: str) -> str:
    """Name the files of a part, numbered ones too."""
    files = [file.name for file in improved.provenance.files if re.fullmatch(rf"{part}( \d+)?", file.part)]
    return ", ".join(map(_code, files)) or f"the {part}"


def _code(text: str) -> str:
    """Return a name as code, in which nothing is markup."""
    text = rk.printable(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"


def _text(text: str) -> str:
    """Return text of which nothing is markup."""
    return re.sub(r"([\\`*_{}\[\]<>|#~$])", r"\\\1", rk.printable(text))

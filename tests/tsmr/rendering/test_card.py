"""The model card: short, true, and readable by what reads model cards."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from reports import compared, judged

from recipes.tsmr import Improved, TSMRReport
from recipes.tsmr.provenance import FileFacts, Provenance
from recipes.tsmr.rendering.card import write_card

FILES = (
    FileFacts("student", "deployed.onnx", 1234, "1" * 64),
    FileFacts("teacher 1", "a|`b`.onnx", 5678, "2" * 64),
    FileFacts("images", "faces.rec", 99),
    FileFacts("output", "better.onnx", 1234, "3" * 64),
)
MADE = Provenance(
    "2026-01-02 03:04 UTC", {"torch": "2.13"}, {"processor": "A CPU"}, "", "reparam-kit tsmr", FILES
)
SAME = {
    "kept": 0,
    "share": 0.0,
    "after": (judged(1.8),),
    "comparisons": (compared(judged(1.8), judged(1.8)),),
}
BARE = {"before": (), "after": (), "comparisons": ()}


def written(report: TSMRReport, folder: Path, **changed: Any) -> str:
    verification: Any = SimpleNamespace(structure=SimpleNamespace(payloads=[1, 2]))
    known = Improved(
        folder / "better.onnx", folder / "page.html", folder / "better.onnx.md", torch.nn.Identity(), report, MADE,
        verification,
    )  # fmt: skip
    write_card(replace(known, **changed))
    return known.card.read_text()


def front(text: str) -> Any:
    """Read it as YAML, of which a word and JSON are parts."""
    pairs = (line.split(": ", 1) for line in text.split("---\n")[1].splitlines())
    return {name: json.loads(value) if value[0] in '[{"' else value for name, value in pairs}


def test_the_front_matter_holds_the_figures(report: TSMRReport, tmp_path: Path) -> None:
    report = replace(report, config=replace(report.config, task="embeddings"))
    found = front(written(report, tmp_path))
    assert found["library_name"] == "onnx"
    (result,) = found["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == report.after[0].deciding.value
    assert "model-index" not in front(written(replace(report, **BARE), tmp_path))


@pytest.mark.parametrize(
    ("changed", "says", "not_said"),
    [
        ({}, "**Better by more than chance: accuracy ", "Nothing judged"),
        (SAME, "with the same weights", "choose thresholds anew"),
        (SAME, "| **accuracy** | 81.41% |", "+0.00"),
        (BARE, "**Not judged: nothing says whether it is better.**", "## Figures"),
        ({"other_outputs": {"age": 0.1}}, "the numbers of `age` moved too", "not compared"),
    ],
)
def test_it_says_what_came_of_the_run(
    report: TSMRReport, tmp_path: Path, changed: dict[str, Any], says: str, not_said: str
) -> None:
    text = written(replace(report, **changed), tmp_path)
    assert says in text
    assert not_said not in text


def test_its_rows_are_the_differences_with_their_intervals(report: TSMRReport, tmp_path: Path) -> None:
    rows = [line for line in written(report, tmp_path).splitlines() if line.startswith("| **accuracy** ")]
    difference = report.comparisons[0].deciding
    low, high = difference.interval or ()
    assert f"| {100 * low:+.2f} to {100 * high:+.2f} | better by more than chance |" in rows[0]


def test_names_are_no_markup(report: TSMRReport, tmp_path: Path) -> None:
    hostile = "<b>*x*_y_|[z](u)`"
    text = written(
        replace(report, other_outputs={hostile: 1.0}), tmp_path, output=tmp_path / f"{hostile[:9]}.onnx"
    )
    assert "# \\<b\\>\\*x\\*\\_y\\_.onnx" in text
    assert re.search(r"`` <b>\*x\*_y_\|\[z\]\(u\)` ``", text)
    assert "`` a|`b`.onnx ``" in text
    assert front(text)


def test_a_file_that_was_not_verified_claims_nothing_of_its_graph(report: TSMRReport, tmp_path: Path) -> None:
    assert "Graph: not compared" in written(report, tmp_path, verification=None)

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from reports import compared, judged

from recipes.faces import Evaluation
from recipes.faces.judging.verdict import Difference
from recipes.tsmr import TSMRReport, write_report
from recipes.tsmr.candidates import Hyperparameters
from recipes.tsmr.provenance import FileFacts, Provenance
from recipes.tsmr.rendering.page import figures
from recipes.tsmr.rendering.page.chart import MINUS, Axis, Chart, nice_step
from recipes.tsmr.results import Trial
from reparam_kit import InputError, IntegerCount

HOSTILE = "<script>alert('x')</script>&\""


LATENCY = {
    "a": {"median": 1.5, "low": 1.4, "high": 1.7},
    "b": {"median": 1.6, "low": 1.5, "high": 1.8},
    "ratio": 1.0432,
    "interval": [0.98, 1.1],
    "runs": 50,
    "told": "no difference that these runs could show",
}


def untested(difference: Difference) -> Difference:
    return replace(difference, interval=None, chance=None)


class Verified:
    """What a page needs of ``rk.verify``."""

    def __init__(self, *changes: dict[str, Any], name: str = "initializer 'c1.w'") -> None:
        payload = {"name": name, "dtype": "float32", "shape": [8, 3], "max_abs": 0.25, "relative_l2": None}
        self.json = {
            "ok": not changes,
            "structure": {"same_graph": not changes, "changes": list(changes), "payloads": [payload]},
            "outputs": [{"name": "y", "cosine": 0.98765}],
            "file_sizes": [1000, 2000],
            "notes": ["run in onnxruntime on the given inputs"],
            "latency": LATENCY,
            "quantisation": {"kernels": [{}, {}], "at_risk": ["c1.w"], "outputs": []},
        }

    def to_json(self) -> dict[str, Any]:
        return self.json


class Page(HTMLParser):
    """Text, tags and tables of a page; fails where tags are not closed in order."""

    VOID = ("meta", "br")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.text, self.open = html, "", list[str]()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.feed(html)
        self.close()
        assert not self.open
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in (*self.VOID, "wbr"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    @property
    def title(self) -> str:
        return Page(re.findall("<h1>.*?</h1>", self.html, re.S)[0]).text

    @property
    def headings(self) -> list[str]:
        return re.findall("<h2>(.*?)</h2>", self.html)

    def row(self, name: str) -> list[str]:
        """The first with this name."""
        return next(
            [" ".join(cell.split()) for cell in row[1:]] for row in self.rows if row and row[0] == name
        )


def written(report: TSMRReport, folder: Path, **options: Any) -> Page:
    path = folder / "page.html"
    write_report(report, path, **options)
    return Page(path.read_text())


def test_the_figures_are_those_of_the_report(report: TSMRReport, tmp_path: Path) -> None:
    made = written(report, tmp_path, verification=Verified())
    (before,), (after,) = report.before, report.after
    assert isinstance(before, Evaluation)
    assert isinstance(after, Evaluation)

    def row(*shares: float) -> list[str]:
        return [f"{100 * share:.2f}" for share in shares]

    (paired,) = report.comparisons
    low, high = paired.deciding.interval or ()
    assert made.row("accuracy, %")[:2] == row(before.accuracy, after.accuracy)
    gain = f"{100 * (after.accuracy - before.accuracy):+.2f}"
    assert made.row("accuracy, %")[2] == f"{gain}{100 * low:+.2f} to {100 * high:+.2f}"
    assert made.row("accuracy, %")[3].startswith("better")
    first, then = (f"{100 * e.accuracy:.2f}\N{NO-BREAK SPACE}%" for e in (before, after))
    assert f"accuracy {first} → {then}" in made.html
    tars = before.tar_at_far[0.001], after.tar_at_far[0.001]
    assert made.row("TAR at FAR 0.001, %")[:2] == row(*tars)  # type: ignore[arg-type]
    assert "TAR at FAR 0.0001, %" not in made.text
    assert made.row("stem.weight") == ["3.1 %"]
    assert made.row("head.bias") == ["from zero"]
    mean, std = report.ablation[1].deciding.mean, report.ablation[1].deciding.std
    assert made.row("TSMR")[:2] == ["0.003", f"{100 * mean:.2f} ± {100 * std:.2f}"]
    assert made.row("raw")[1:] == row(report.inputs.verdicts["raw"].deciding.value)
    assert made.row("teacher 2")[2:] == row(report.teacher_scores[1].deciding.value)
    assert made.row("seed") == ["7"]
    assert made.row("initializer 'c1.w'") == ["float32", "8 \N{MULTIPLICATION SIGN} 3", "0.25", "from zero"]
    for text in (
        "1.5 (1.4 to 1.7) → 1.6 (1.5 to 1.8) ms",
        "1,000 → 2,000 bytes",
        "0.9877",
        "1 of 2 kernels",
        "1,234 images",
    ):
        assert text in made.text
    for digest in ("5", "7", "8", "d"):
        assert digest * 64 in made.text


@pytest.mark.parametrize(
    ("heading", "less"),
    [
        ("Before and after", {"before": (), "after": (), "comparisons": ()}),
        ("Stored galleries", {"gallery": {}}),
        ("Ablation", {"ablation": ()}),
        ("What changed in the net", {"weight_change": {"stem.weight": 0.0}}),
        ("Were the ingredients right?", {"inputs": None, "teacher_scores": ()}),
        ("The file", {}),
    ],
)
def test_a_section_is_there_if_its_data_are(
    report: TSMRReport, tmp_path: Path, heading: str, less: dict[str, Any]
) -> None:
    whole = written(report, tmp_path, verification=Verified()).headings
    rest = written(replace(report, **less), tmp_path, verification=Verified() if less else None).headings
    assert [h for h in whole if h not in rest] == [heading]
    assert [h for h in whole if h in rest] == rest


def test_a_run_without_a_validation_set(report: TSMRReport, tmp_path: Path) -> None:
    bare = replace(
        report,
        epochs=tuple(replace(epoch, validation=()) for epoch in report.epochs),
        **{"inputs": None, "teacher_scores": (), "gallery": {}, "ablation": ()},
        before=(),
        after=(),
        comparisons=(),
        kept=3,
    )
    made = written(bare, tmp_path)
    assert made.headings == ["Training", "What changed in the net", "Configuration", "Provenance"]
    assert "Not judged" in made.title
    assert "Trained for 3 epochs without a validation set" in made.text


SAME = (compared(judged(2.4), judged(2.4)),)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, "Better by more than chance: accuracy"),
        ({"kept": 0, "share": 0.0}, "No epoch beat the deployed model, whose weights are returned"),
        ({"comparisons": SAME}, "No difference that these pairs could show"),
        (
            {"comparisons": (replace(SAME[0], examples="queries"),)},
            "No difference that these queries could show",
        ),
        (
            {"comparisons": (replace(SAME[0], differences=tuple(map(untested, SAME[0].differences))),)},
            "Not tested",
        ),
    ],
)
def test_the_verdict_comes_first(
    report: TSMRReport, tmp_path: Path, changed: dict[str, Any], says: str
) -> None:
    made = written(replace(report, **changed), tmp_path)
    assert made.title.startswith(says)
    assert ("→" in made.title) is (changed == {})  # a figure is news where it is no chance


def test_an_exact_test_may_find_chance_where_the_interval_does_not(
    report: TSMRReport, tmp_path: Path
) -> None:
    """McNemar's, of few images: the interval leaves out zero, and nothing may claim that it does not."""
    one = replace(
        SAME[0].deciding,
        after=replace(SAME[0].deciding.after, value=0.99),
        interval=(0.01, 0.04),
        chance=0.125,
    )
    unsure = replace(report, comparisons=(replace(SAME[0], differences=(one,), examples="images"),))
    assert unsure.advice.startswith("more images to judge by")
    made = written(unsure, tmp_path)
    assert made.title == "No difference that these images could show"
    assert "Grey is a difference that may be chance" in made.text


def test_what_got_worse_is_told_at_the_top(report: TSMRReport, tmp_path: Path) -> None:
    made = written(replace(report, comparisons=(compared(judged(2.4), judged(1.8)),)), tmp_path)
    assert (
        "Worse by more than chance: accuracy; TAR at FAR 0.1;" in made.text.partition("Before and after")[0]
    )
    assert "Worse by more than chance" not in written(report, tmp_path).text


def test_of_a_model_that_is_returned_as_it_was_no_difference_is_shown(
    report: TSMRReport, tmp_path: Path
) -> None:
    same = replace(report, kept=0, share=0.0, after=report.before, comparisons=SAME, ablation=())
    made = written(same, tmp_path)
    assert "+0.00" not in made.text
    assert made.headings[0] == "The deployed model"
    assert made.row("accuracy, %") == [f"{100 * (report.before[0].deciding.value or 0):.2f}"]


def test_what_is_returned_may_lie_on_the_way_to_the_epoch(report: TSMRReport, tmp_path: Path) -> None:
    made = written(replace(report, share=0.5), tmp_path)
    assert "Epoch 2 of 3 is kept, 0.5 of the way to it from the deployed weights. It was chosen" in made.text


def test_latency_is_there_where_it_was_asked_for(report: TSMRReport, tmp_path: Path) -> None:
    asked, not_asked = Verified(), Verified()
    not_asked.json["latency"] = None
    assert LATENCY["told"] in written(report, tmp_path, verification=asked).text
    assert "latency" not in written(report, tmp_path, verification=not_asked).text


def test_provenance_is_shown_whole(report: TSMRReport, tmp_path: Path) -> None:
    files = (FileFacts("student", "a.onnx", 12345, "1" * 64), FileFacts("images", "faces", None))
    made = Provenance(
        "2026-01-02 03:04 UTC", {"torch": "2.13"}, {"processor": "A CPU"}, "abc, 2 tracked files changed since",
        "reparam-kit tsmr a.onnx", files,
    )  # fmt: skip
    text = written(report, tmp_path, provenance=made).text
    for what in (
        "2026-01-02 03:04",
        "torch 2.13",
        "A CPU",
        "abc, 2 tracked",
        "tsmr a.onnx",
        "12,345 bytes",
        "1" * 64,
    ):
        assert what in text
    assert "Called from Python" in written(report, tmp_path, provenance=replace(made, command="")).text


def test_another_graph_is_told_loudly(report: TSMRReport, tmp_path: Path) -> None:
    change = {"what": "removed", "where": "graph.node[relu]", "before": "Relu(c) -> d", "after": None}
    made = written(report, tmp_path, verification=Verified(change))
    assert "The graph is not the same: 1 differences" in made.text
    assert made.row("graph.node[relu]") == ["removed", "Relu(c) -> d", ""]
    assert "graph is the same" not in made.text


def test_a_quantised_file_says_how_many_integers_changed(report: TSMRReport, tmp_path: Path) -> None:
    sentence = "31 of 1,216 integers changed, 2 clipped"
    assert sentence not in written(report, tmp_path).text
    report = replace(report, integers=IntegerCount(total=1216, changed=31, clipped=2))
    assert sentence in written(report, tmp_path).text
    plain = {"total": 1216, "changed": 31, "clipped": 2, "rescaled": 0, "scales": 0}
    assert report.to_json()["integers"] == plain
    report = replace(report, integers=IntegerCount(1216, 31, 0, rescaled=3, scales=5))
    assert "0 clipped to the first or last level, 3 of 5 scales changed" in written(report, tmp_path).text


def test_a_better_input_is_told(report: TSMRReport, tmp_path: Path) -> None:
    asked = replace(report, config=replace(report.config, student_input="raw"))
    assert "does better with insightface than with raw" in written(asked, tmp_path).text
    assert "does better with" not in written(report, tmp_path).text


def test_it_fetches_nothing_and_runs_nothing(report: TSMRReport, tmp_path: Path) -> None:
    made = written(report, tmp_path, verification=Verified(), files={"student": "a.onnx", "output": "b.onnx"})
    assert not {tag for tag, _ in made.tags} & {"script", "link", "img", "iframe", "object", "image", "use"}
    attributes = {name for _, attributes in made.tags for name in attributes}
    assert not {name for name in attributes if name in ("src", "href", "srcset") or name.startswith("on")}
    assert not re.search(r"https?:|//|url\(|@import", made.html)
    assert "default-src 'none'" in made.html


def test_names_are_text(report: TSMRReport, tmp_path: Path) -> None:
    hostile = replace(
        report,
        student=HOSTILE,
        weight_change={HOSTILE: 0.5, "other": 0.1},
        ablation=(replace(report.ablation[0], name=HOSTILE), report.ablation[1]),
    )
    change = {"what": "changed", "where": HOSTILE, "before": HOSTILE, "after": HOSTILE}
    files = dict.fromkeys(("student", "teacher 1", "validation", "output", HOSTILE), HOSTILE)
    made = written(hostile, tmp_path, files=files, verification=Verified(change, name=HOSTILE))
    assert "script" not in {tag for tag, _ in made.tags}
    assert "alert" not in "".join(str(attributes) for tag, attributes in made.tags if tag != "svg")
    assert made.text.count(HOSTILE) >= 15


def test_names_that_a_terminal_would_obey_are_escaped(report: TSMRReport, tmp_path: Path) -> None:
    files = {"student": "a\x1b[2J\udcff\n{{7*7}}.onnx", "output": "\u202eb.onnx"}
    write_report(report, tmp_path / "r.html", files=files)
    text = (tmp_path / "r.html").read_text()
    assert not {"\x1b", "\u202e"} & set(text)
    assert r"a\x1b[2J\udcff\n{{7*7}}" in text.replace("<wbr>", "")


def test_equal_reports_give_equal_bytes(report: TSMRReport, tmp_path: Path) -> None:
    first, again = (written(report, tmp_path, verification=Verified()).html for _ in range(2))
    assert first == again


def test_what_was_tried_is_told_with_how_surely_it_is_better(report: TSMRReport, tmp_path: Path) -> None:
    tried = [Hyperparameters(lr, restore_bn=False, losses={"cosine": 1.0}) for lr in (1e-3, 2e-3, 3e-3, 4e-3)]
    trials = (
        Trial(tried[0], 20, 0.3, 0.95, 2.345, shown="accuracy 95.00%"),
        Trial(tried[1], 20, 0.3, 0.9, -0.5, shown="accuracy 90.00%"),
        Trial(tried[2], 20, 0.3, 0.9, shown="accuracy 90.00%"),
        Trial(tried[3], 20, 0.3),
    )
    page = written(replace(report, trials=trials), tmp_path)
    assert "judged 0.3 of the way" in page.html
    rows = [page.row(trial.choices.told) for trial in trials]
    assert [row[-1] for row in rows] == ["+2.35", f"{MINUS}0.50", "\N{EN DASH}", "\N{EN DASH}"]
    assert [row[-2] for row in rows] == ["accuracy 95.00%", *["accuracy 90.00%"] * 2, "diverged"]


def test_nothing_is_left_where_it_cannot_be_written(report: TSMRReport, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        write_report(report, tmp_path / "missing" / "page.html")
    assert not list(tmp_path.iterdir())


def test_an_arm_that_accepts_nobody_has_a_rate_of_zero(report: TSMRReport, tmp_path: Path) -> None:
    run = report.ablation[0].verdicts[0]
    none = [replace(f, value=0.0) if f.name == "TAR at FAR 0.001" else f for f in run.figures]
    arms = (replace(report.ablation[0], verdicts=(replace(run, figures=tuple(none)),)), report.ablation[1])
    made = written(replace(report, ablation=arms), tmp_path)
    assert made.row("distillation")[-2] == "0.00"


def test_a_set_of_a_million_pairs_makes_a_small_page(report: TSMRReport, tmp_path: Path) -> None:
    many = judged(2.0, 1_000_000)
    written(replace(report, before=(many,), after=(many,), comparisons=SAME), tmp_path)
    assert (tmp_path / "page.html").stat().st_size < 300_000


def test_the_roc_passes_through_the_rates_of_the_table(report: TSMRReport) -> None:
    evaluation = judged(1.8)
    chart = figures.draw_roc({"before": evaluation}, "ROC")
    line, *dots = chart.marks
    corners = walk(line.path)
    assert len(dots) == 3
    for dot in dots:
        (x, y) = walk(dot.path)[0]
        below = [b for a, b in corners if a <= x]
        assert min(below) == y


def test_histograms_share_axes_and_hold_every_pair() -> None:
    first, second = figures.draw_histograms({"a": judged(1.0), "b": judged(3.0, seed=1)})
    assert (first.x, first.y) == (second.x, second.y)
    for chart in (first, second):
        impostor = next(mark for mark in chart.marks if mark.style == "area impostor")
        levels = [
            (chart.bottom - y) / (chart.bottom - chart.top) * chart.y.high for _, y in bars(impostor.path)
        ]
        assert sum(levels) == pytest.approx(1, abs=0.02)


def walk(path: str) -> list[tuple[float, float]]:
    """The corners of a path."""
    x = y = 0.0
    corners = []
    for command, text in re.findall(r"([MLHVh])([-\d. ]*)", path):
        numbers = [float(number) for number in text.split()]
        x = numbers[0] if command in "MLH" else x
        y = numbers[-1] if command in "MLV" else y
        corners.append((x, y))
    return corners


def bars(path: str) -> list[tuple[float, float]]:
    """A place in each bin of a histogram, and its height in pixels."""
    corners = walk(path)
    width = min(b[0] - a[0] for a, b in pairwise(corners) if b[0] > a[0])
    return [(a[0], a[1]) for a, b in pairwise(corners) for _ in range(round((b[0] - a[0]) / width))]


@pytest.mark.parametrize(
    ("axis", "texts"),
    [
        (Axis(0, 1, percent=True), ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"]),
        (Axis(0.815, 0.842, percent=True), ["82 %", "83 %", "84 %"]),
        (Axis(-1, 1), [f"{MINUS}1.0", f"{MINUS}0.5", "0.0", "0.5", "1.0"]),
        (Axis(1 / 3000, 1, log=True), ["10⁻³", "10⁻²", "10⁻¹", "1"]),
        (Axis(1e-7, 1, log=True), ["10⁻⁶", "10⁻⁴", "10⁻²", "1"]),
        (Axis(1e-3, 1, log=True, percent=True), ["0.1 %", "1 %", "10 %", "100 %"]),
        (Axis(1.5, -0.5, names=("a", "b")), ["a", "b"]),
    ],
)
def test_ticks(axis: Axis, texts: list[str]) -> None:
    assert [tick.text for tick in axis.ticks] == texts
    assert all(0 <= tick.at <= 1 for tick in axis.ticks)


@pytest.mark.parametrize(("about", "step"), [(0.9, 1), (1.0, 1), (1.1, 2), (2.1, 5), (6, 10), (0.03, 0.05)])
def test_a_step_is_1_2_or_5(about: float, step: float) -> None:
    assert nice_step(about) == pytest.approx(step)


def test_an_axis_has_room_around_one_value_but_none_beyond_the_whole() -> None:
    axis = Axis.around([1.0, 1.0], whole=(0, 1))
    assert (axis.low, axis.high) == (0.9, 1)


def test_a_chart_leaves_out_points_that_fall_on_the_one_before() -> None:
    chart = Chart("line", Axis(0, 1), Axis(0, 1))
    chart.line([0, 1e-9, 1], [0, 1e-9, 1], "after")
    assert chart.marks[0].path == "M46 212L388 26"


def test_ticks_of_many_digits_have_the_room_that_they_need() -> None:
    near = Axis.around([0.98681, 0.98689], percent=True)
    assert "98.688 %" in [tick.text for tick in near.ticks]
    wide, usual = (Chart("a", Axis(0, 1), axis) for axis in (near, Axis(0, 1, percent=True)))
    assert wide.left >= 7 * len("98.688 %") > usual.left

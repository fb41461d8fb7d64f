from __future__ import annotations

import builtins
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recipes.faces import Evaluation, draw_roc, roc, save_roc, tar_at_far
from recipes.faces.judging.evaluation import judge_scores
from reparam_kit import InputError


def evaluation(distance: float) -> Evaluation:
    same = np.arange(400) % 2 == 0
    scores = np.random.default_rng(0).normal(same * distance)
    return judge_scores(scores, same, np.repeat(np.arange(10), 40), (0.1,), 8, "raw", False, 0)


@pytest.fixture
def both() -> dict[str, Evaluation]:
    return {"before.onnx": evaluation(1), "after.onnx": evaluation(3)}


def test_curves_are_those_of_the_scores(both: dict[str, Evaluation]) -> None:
    axes = draw_roc(both).axes[0]
    assert axes.get_xscale() == "log"
    assert axes.get_xlim() == (1 / 200, 1)
    at_lowest = min(tar_at_far(result.scores, result.same, 1 / 200) for result in both.values())
    low, high = axes.get_ylim()
    assert at_lowest - 0.05 < low < at_lowest
    assert 1 < high < 1.05
    for line, (name, result) in zip(axes.get_lines(), both.items(), strict=True):
        far, tar, _ = roc(result.scores, result.same)
        assert str(line.get_label()).startswith(name)
        np.testing.assert_array_equal(line.get_xdata(), far)
        np.testing.assert_array_equal(line.get_ydata(), tar)
        assert line.get_drawstyle() == "steps-post"


def test_svg_is_text_that_does_not_change(both: dict[str, Evaluation], tmp_path: Path) -> None:
    save_roc(tmp_path / "a.svg", both)
    save_roc(tmp_path / "b.svg", both)
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    assert "after.onnx" in text
    assert {path.name for path in tmp_path.iterdir()} == {"a.svg", "b.svg"}


def test_png(both: dict[str, Evaluation], tmp_path: Path) -> None:
    save_roc(tmp_path / "a.png", both)
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
        assert image.size == (900, 675)


@pytest.mark.parametrize(
    ("name", "message"),
    [("a.jpg", r"a\.jpg: a ROC plot is written as \.svg or \.png"), ("no/a.svg", "cannot be written")],
)
def test_refused(name: str, message: str, both: dict[str, Evaluation], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        save_roc(tmp_path / name, both)
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib(both: dict[str, Evaluation], monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(InputError, match=r'pip install "reparam-kit\[report\]"'):
        draw_roc(both)

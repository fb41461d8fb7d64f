from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from recipes.faces import Verdict, figures_table

VERDICT = Verdict.of_means({"right": np.array([True, False])}, decides="right")


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["runs/a.onnx", "runs/b.onnx"], ["a.onnx", "b.onnx"]),
        (["runs/one/net.onnx", "runs/other/net.onnx"], ["one/net.onnx", "other/net.onnx"]),
        (["/a.onnx", "b.onnx"], ["/a.onnx", "b.onnx"]),
        (["run", "runs"], ["run", "runs"]),
        (["old", "new"], ["old", "new"]),
    ],
)
def test_columns_are_headed_by_what_tells_models_apart(names: list[str], shown: list[str]) -> None:
    names, shown = ([name.replace("/", os.sep) for name in each] for each in (names, shown))
    table = figures_table(dict.fromkeys(names, VERDICT))
    assert [column.header for column in table.columns][1:] == shown


def test_a_model_alone_keeps_its_name() -> None:
    name = str(Path("runs") / "a.onnx")
    assert [column.header for column in figures_table({name: VERDICT}).columns][1:] == [name]

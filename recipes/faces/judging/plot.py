"""ROC curves of several models in one picture, for before and after.

The axis of false accept rates is logarithmic: what matters of a face model lies far below one in a hundred.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from recipes.faces.judging.evaluation import Evaluation
from recipes.faces.judging.protocols import roc
from reparam_kit import InputError, atomic_file, extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORMATS = (".svg", ".png")


def draw_roc(evaluations: Mapping[str, Evaluation]) -> Figure:
    """Draw one curve for each evaluation, under its name, from one false accept on.

    The curves are steps: between two thresholds that decide differently there is none.

    Raises:
        InputError: matplotlib is not installed.

    >>> figure = draw_roc({"deployed": evaluate("deployed.onnx", "lfw.bin")})
    >>> figure.axes[0].get_xlabel()
    'false accept rate'
    """
    figure = _figure_class()(figsize=(6, 4.5), layout="constrained")
    axes = figure.add_subplot()
    lowest = 1 / max(evaluation.impostors for evaluation in evaluations.values())
    bottom = 1.0
    for name, evaluation in evaluations.items():
        far, tar, _ = roc(evaluation.scores, evaluation.same)
        axes.step(far, tar, where="post", label=f"{name} (accuracy {evaluation.accuracy:.2%})", linewidth=1.5)
        bottom = min(bottom, float(tar[far <= lowest].max()))
    axes.set(xscale="log", xlim=(lowest, 1), xlabel="false accept rate", ylabel="true accept rate")
    room = 0.03 * max(1 - bottom, 0.01)
    axes.set_ylim(bottom - room, 1 + room)
    axes.grid(which="major", alpha=0.4)
    axes.legend(loc="lower right", fontsize="small")
    return figure


def save_roc(path: str | os.PathLike[str], evaluations: Mapping[str, Evaluation]) -> None:
    """Write :func:`draw_roc` as ``.svg`` or ``.png``, by the name; the same curves give the same file.

    Raises:
        InputError: the name ends in neither, matplotlib is not installed, or the folder cannot be written to.

    >>> save_roc("roc.svg", {"deployed": evaluate("deployed.onnx", "lfw.bin")})
    >>> Path("roc.svg").exists()
    True
    """
    path = Path(path)
    check_roc(path)
    figure = draw_roc(evaluations)
    from matplotlib import rc_context

    svg = path.suffix == ".svg"
    with rc_context({"svg.hashsalt": "roc"}), atomic_file(path) as file:
        figure.savefig(file, format=path.suffix[1:], dpi=150, metadata={"Date": None} if svg else None)


def check_roc(path: Path) -> None:
    """Refuse what :func:`save_roc` would refuse after a long evaluation.

    Raises:
        InputError: the name ends in neither ``.svg`` nor ``.png``, or matplotlib is not installed.
    """
    if path.suffix not in _FORMATS:
        raise InputError(f"{path}: a ROC plot is written as {' or '.join(_FORMATS)}, by the end of its name")
    _figure_class()


def _figure_class() -> type[Figure]:
    with extra("report", "a ROC plot needs matplotlib"):
        from matplotlib.figure import Figure
    return Figure

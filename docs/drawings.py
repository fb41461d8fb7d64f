"""The drawings of the documentation, as SVG, with their numbers computed: `python docs/drawings.py` writes them.

They are plain text, so a change shows in a diff; a test holds the files against what this script gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent / "drawings"

_STYLE = (
    "text{font:14px sans-serif;fill:#222}.small{font-size:12px;fill:#555}.bold{font-weight:bold}"
    ".wrong{fill:#b00020}rect{fill:#fff;stroke:#555}.kept{fill:#dbe9f6}.trained{fill:#fdebc8}.zero{fill:#eee}"
    "path{fill:none;stroke:#555}"
)


class Drawing:
    """Shapes at pixel positions, y down."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'role="img"><title>{title}</title><style>{_STYLE}</style>'
            '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
            '<path d="M1 1 L7 4 L1 7"/></marker></defs><rect width="100%" height="100%" style="stroke:none"/>'
        )
        self.parts: list[str] = []

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        self.parts.append(f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escaped}</text>')

    def box(self, x: float, y: float, width: float, text: str, kind: str = "", height: float = 30) -> None:
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="3" class="{kind}"/>'
        )
        self.text(x + width / 2, y + height / 2 + 5, text, "", "middle")

    def arrow(self, *points: tuple[float, float]) -> None:
        path = " ".join(f"{'L' if i else 'M'}{x:g} {y:g}" for i, (x, y) in enumerate(points))
        self.parts.append(f'<path d="{path}" marker-end="url(#tip)"/>')

    def cells(self, x: float, y: float, values: Sequence[object], kinds: Sequence[str] = ()) -> None:
        """A row of squares with a number in each."""
        for i, value in enumerate(values):
            kind = kinds[i] if kinds else ""
            text = f"{value:g}" if isinstance(value, float) else str(value)
            self.box(x + 40 * i, y, 40, text, kind)

    def __str__(self) -> str:
        return "\n".join([self.head, *self.parts, "</svg>"]) + "\n"


def sum_of_chains() -> Drawing:
    """One convolution, the sum it is trained as, and the one that comes back."""
    d = Drawing(740, 236, "A convolution becomes a sum of chains for training, and one convolution again")
    d.text(20, 24, "deployed", "bold")
    d.box(20, 96, 90, "conv W", "kept")
    d.text(190, 24, "trained", "bold")
    d.text(610, 24, "deployed again", "bold")
    d.arrow((114, 111), (184, 111))
    d.text(149, 102, "expand", "small", "middle")
    rows = [["conv W"], ["conv 1x1"], ["conv 1x1", "conv 3x3"], ["conv 1x1", "average"]]
    for i, row in enumerate(rows):
        y = 44 + 44 * i
        d.arrow((190, 111), (206, 111), (206, y + 15), (220, y + 15))
        for j, name in enumerate(row):
            d.box(220 + 100 * j, y, 86, name, "kept" if i == 0 else "trained")
            if j:
                d.arrow((306, y + 15), (320, y + 15))
        end = 206 + 100 * len(row)
        d.arrow((end, y + 15), (466, y + 15), (480, 111), (494, 111))
    d.box(496, 96, 30, "+")
    d.arrow((528, 111), (604, 111))
    d.text(566, 102, "fold", "small", "middle")
    d.box(610, 96, 90, "conv W'", "kept")
    d.text(220, 228, "blue: the deployed layer, yellow: added for training, zero at the start", "small")
    return d


def padding() -> Drawing:
    """A 1x1 with a bias in front of a row of three ones, on an input of ones: padded between, and padded first."""
    x, bias, taps = [1.0] * 4, 0.5, 3
    between = [0.0, *(value + bias for value in x), 0.0]
    first = [value + bias for value in (0.0, *x, 0.0)]
    wrong, right = ([sum(row[i : i + taps]) for i in range(len(x))] for row in (between, first))
    folded = [sum((0.0, *x, 0.0)[i : i + taps]) + taps * bias for i in range(len(x))]
    if right != folded or wrong == folded:
        raise AssertionError("the drawing shows what it says")
    d = Drawing(
        740, 250, "Padding between the factors of a chain is wrong at the border; padding first is right"
    )
    pad = ["zero", "", "", "", "", "zero"]
    for top, title, rows, note in (
        (20, "padded between the factors", (between, wrong), "off by 0.5 at both ends"),
        (140, "padded once, before the chain", (first, right), "what one kernel [1 1 1] with bias 1.5 gives"),
    ):
        d.text(20, top + 6, title, "bold")
        d.text(20, top + 34, "x + 0.5")
        d.cells(140, top + 14, rows[0], pad)
        d.arrow((392, top + 29), (440, top + 29))
        d.text(416, top + 20, "sum of 3", "small", "middle")
        d.cells(450, top + 14, rows[1])
        d.text(450, top + 64, note, "wrong small" if rows[1] == wrong else "small")
        d.text(
            140, top + 64, "grey: padding" + (", which the bias never reaches" if top == 20 else ""), "small"
        )
    return d


def batch_norm() -> Drawing:
    """Where the shift of a branch's BatchNorm goes at folding."""
    d = Drawing(740, 216, "Where the shift of a branch goes when it is folded")
    cases = (
        ("the layer has a bias", "conv W, b", "", "b' = b + shift"),
        (
            "the layer has none, and a BatchNorm of its own follows",
            "conv W",
            "BatchNorm",
            "running_mean' = mean - shift",
        ),
        (
            "neither: the site is left out for norm='batch'",
            "conv W",
            "",
            "the deployed graph has no place for it",
        ),
    )
    for i, (title, conv, norm, text) in enumerate(cases):
        y = 14 + 68 * i
        d.text(20, y + 8, title, "bold")
        d.box(20, y + 18, 110, conv, "kept")
        d.arrow((130, y + 33), (170, y + 33))
        if norm:
            d.box(170, y + 18, 110, norm, "kept")
            d.arrow((280, y + 33), (320, y + 33))
        d.text(340, y + 38, text, "wrong" if i == 2 else "")
    return d


def transposed() -> Drawing:
    """A transposed convolution with stride 2 as a correlation on the input with zeros between its values."""
    x, weight, stride = [1.0, 2.0, 3.0], [1.0, 10.0, 100.0], 2
    scattered = [0.0] * ((len(x) - 1) * stride + len(weight))
    for i, value in enumerate(x):
        for tap, factor in enumerate(weight):
            scattered[i * stride + tap] += value * factor
    stuffed = [0.0] * ((len(x) - 1) * stride + 1)
    stuffed[::stride] = x
    reach = len(weight) - 1
    padded = [0.0] * reach + stuffed + [0.0] * reach
    correlated = [
        sum(a * b for a, b in zip(padded[i:], reversed(weight), strict=False)) for i in range(len(scattered))
    ]
    if correlated != scattered:
        raise AssertionError("the drawing shows what it says")
    d = Drawing(
        740, 232, "A transposed convolution is a correlation on an input with zeros put between its values"
    )
    d.text(20, 30, "input, and the weight as it is stored")
    d.cells(20, 40, x)
    d.cells(180, 40, weight, ["kept"] * 3)
    d.text(20, 94, "stride 2: a zero between neighbours; then padding")
    kinds = ["zero"] * reach + ["", "zero", "", "zero", ""] + ["zero"] * reach
    d.cells(20, 104, padded, kinds)
    d.text(420, 94, "correlated with the taps reversed")
    d.cells(420, 104, list(reversed(weight)), ["kept"] * 3)
    d.text(20, 160, "output")
    d.cells(20, 170, correlated)
    d.text(20, 222, "The same kernel algebra as for every other layer holds on the stuffed grid.", "small")
    return d


DRAWINGS = {
    "sum-of-chains": sum_of_chains,
    "padding": padding,
    "batch-norm": batch_norm,
    "transposed": transposed,
}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, draw in DRAWINGS.items():
        (FOLDER / f"{name}.svg").write_text(str(draw()))

"""The report of a run as one HTML page, which opens anywhere and fetches nothing."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

import reparam_kit as rk
from recipes.faces import Evaluation, Figure, Verdict
from recipes.faces.judging.verdict import Difference
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.improved import Verification
from recipes.tsmr.provenance import Provenance, unnamed
from recipes.tsmr.rendering.page import figures
from recipes.tsmr.rendering.page.chart import MINUS
from recipes.tsmr.results import TSMRReport
from recipes.tsmr.sides import Sides

with rk.extra("faces", "the page of a run needs Jinja2 and Pillow"):
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup, escape
    from PIL import Image

_WIDEST = 160  # pixels of a picture
_SPACE = "\N{NO-BREAK SPACE}"


def write_report(
    report: TSMRReport,
    path: str | os.PathLike[str],
    *,
    files: Mapping[str, str] | None = None,
    verification: Verification | None = None,
    provenance: Provenance | None = None,
    sides: Sequence[Sides] | None = None,
) -> None:
    """Write ``report`` as an HTML page that holds all it shows; equal arguments give equal bytes.

    Args:
        report: the run; what it has no data of gets no section.
        path: file to write.
        files: what the run read and wrote, by part, such as ``{"student": "deployed.onnx"}``: for the reader, since
            the report itself knows only contents.
        verification: ``rk.verify`` of the old file and the new one, for graph, sizes and, if it was asked for,
            latency.
        provenance: by what the run was made, files included.
        sides: the examples that changed sides, whose images are shown; None: they were not asked for.

    Raises:
        InputError: ``path`` cannot be written.

    ```python
    config = TSMRConfig(stages=(Stage(epochs=1, cosine=1.0),), batch_size=8)
    result = apply_tsmr(rk.load("deployed.onnx"), "teacher.onnx", "train.rec", config=config)
    write_report(result.report, "run.html")
    ```
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: rk.printable(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "value": _value,
        "number": _number,
        "change_of": _change_of,
        "signed": _signed,
        "ends": _ends,
        "measured": _measured,
        "share": _share,
        "name": _name,
        "capitalised": _capitalised,
        "unnamed": unnamed,
        "picture": _picture,
    }
    page = environment.get_template("page.html").render(
        report=report,
        files={**_names(provenance), **(files or {})},
        provenance=provenance,
        sides=sides,
        verification=verification and verification.to_json(),
        figures=figures,
        is_pairs=lambda verdict: isinstance(verdict, Evaluation),
        choices=_choices(report.config),
    )
    with rk.atomic_file(os.fspath(path)) as file:
        file.write(page.encode())


def _names(provenance: Provenance | None) -> dict[str, str]:
    """Name the files of each part."""
    names: dict[str, str] = {}
    for file in provenance.files if provenance else ():
        names[file.part] = f"{names[file.part]}, {file.name}" if file.part in names else file.name
    return names


def _measured(verdicts: Iterable[Verdict]) -> list[Figure]:
    """Return the figures that each of the verdicts has a value of, as the first has them."""
    first, *others = verdicts
    found = [(figure, *(verdict[figure.name] for verdict in others)) for figure in first.figures]
    return [same[0] for same in found if all(figure.value is not None for figure in same)]


def _value(figure: Figure) -> str:
    """Return the value of a figure, a share in percent."""
    return f"{_number(figure)}{_SPACE}%" if figure.share else _number(figure)


def _number(figure: Figure, value: float | None = None) -> str:
    """Return the value of a figure, or another one of it, where the unit is said elsewhere."""
    value = figure.value if value is None else value
    if value is None:
        return ""
    return f"{100 * value:.2f}" if figure.share else f"{value:.3f}"


def _change_of(figure: Figure, change: float) -> str:
    """Return a difference of two values of a figure, of shares in percentage points."""
    return _signed(100 * change) if figure.share else _signed(change, 3)


def _signed(value: float, digits: int = 2) -> str:
    """Return a number with its sign."""
    return f"{value:+.{digits}f}".replace("-", MINUS)


def _ends(difference: Difference) -> str:
    """Return the interval of a difference; nothing where there is none."""
    return " to ".join(_change_of(difference.before, end) for end in difference.interval or ())


def _share(value: float) -> str:
    """Return a share of any size, to three digits."""
    return f"{100 * value:.3g}{_SPACE}%"


def _capitalised(text: str) -> str:
    """Return the beginning of a sentence; its other letters stay."""
    return text[:1].upper() + text[1:]


def _name(name: str) -> Markup:
    """Return a long name that may be broken after its parts."""
    return Markup(re.sub(r"([./_])", r"\1<wbr>", str(escape(rk.printable(name)))))


def _picture(image: Tensor) -> str:
    """Return uint8 ``[C, H, W]`` as the address of a JPEG that the page holds."""
    planes = image.permute(1, 2, 0).numpy()
    with io.BytesIO() as file:
        shown = Image.fromarray(planes[..., 0] if planes.shape[2] == 1 else planes)
        shown.thumbnail((_WIDEST, _WIDEST))
        shown.save(file, "JPEG", quality=85)
        return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _choices(config: TSMRConfig) -> list[tuple[str, Any, bool]]:
    """List name and value of every choice but the stages, and whether it is the usual one."""
    usual = _named(TSMRConfig().settled(config.task, True))
    return [(name, value, value == usual[name]) for name, value in _named(config).items()]


def _named(config: TSMRConfig) -> dict[str, Any]:
    """Name every choice but the stages, a choice within one as ``margin.size``."""
    return {
        f"{name}.{inner}" if inner else name: one
        for name, value in asdict(config).items()
        if name != "stages"
        for inner, one in (value.items() if isinstance(value, dict) else [("", value)])
    }

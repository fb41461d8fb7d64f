"""The report of a run as one HTML page, which opens anywhere and fetches nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

import reparam_kit as rk
from recipes.tsmr.config import TERMS, TSMRConfig
from recipes.tsmr.judging import better_input
from recipes.tsmr.page import figures
from recipes.tsmr.report import TSMRReport

if TYPE_CHECKING:
    from reparam_kit.verification import Report

_MINUS = str.maketrans("-", "−")  # as wide as a plus


def write_report(
    report: TSMRReport,
    path: str | os.PathLike[str],
    *,
    files: Mapping[str, str] | None = None,
    verification: Report | None = None,
) -> None:
    """Write ``report`` as an HTML page that holds all it shows; equal arguments give equal bytes.

    Args:
        report: the run; what it has no data of gets no section.
        path: file to write.
        files: what the run read and wrote, by part, such as ``{"student": "deployed.onnx"}``: for the reader, since
            the report itself knows only contents.
        verification: ``rk.verify`` of the old file and the new one, for graph, sizes and latency.

    Raises:
        InputError: ``path`` cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("recipes.tsmr.page", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "points": _points, "share": _share}
    page = environment.get_template("page.html").render(
        report=report,
        files=files or {},
        verification=verification,
        figures=figures,
        better_input=better_input(report.inputs, report.config.student_input) if report.inputs else None,
        terms=TERMS,
        choices=_choices(report.config),
    )
    with rk.atomic_file(os.fspath(path)) as file:
        file.write(page.encode())


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _points(value: float) -> str:
    """A difference of two shares, in percentage points."""
    return f"{100 * value:+.2f}".translate(_MINUS)


def _share(value: float) -> str:
    """A share of any size, to three digits."""
    return f"{100 * value:.3g} %"


def _choices(config: TSMRConfig) -> list[tuple[str, Any, bool]]:
    """Name and value of every choice but the stages, and whether it is the usual one."""
    usual = dict(_leaves(asdict(TSMRConfig())))
    return [(name, value, value == usual[name]) for name, value in _leaves(asdict(config))]


def _leaves(choices: Mapping[str, Any], within: str = "") -> list[tuple[str, Any]]:
    leaves = []
    for name, value in choices.items():
        if isinstance(value, dict):
            leaves += _leaves(value, f"{within}{name}.")
        elif name != "stages":
            leaves.append((within + name, value))
    return leaves

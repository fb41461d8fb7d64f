"""A better file, with all that is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from recipes.tsmr.provenance import Provenance
from recipes.tsmr.results import TSMRReport
from recipes.tsmr.sides import Sides


class Verification(Protocol):
    """What ``rk.verify`` gives."""

    @property
    def structure(self) -> Any: ...

    @property
    def outputs(self) -> Sequence[Any]: ...

    @property
    def notes(self) -> Sequence[str]: ...

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Improved:
    """A better file.

    Attributes:
        output: the file.
        page: of the run.
        card: of the model, in Markdown.
        model: what is in the file, on the device that it was trained on.
        report: the run.
        provenance: by what it was made.
        verification: ``rk.verify`` of the old file and the new one; None where they are not both ONNX files.
        sides: the examples that changed sides, for the page; None: they were not asked for.
    """

    output: Path
    page: Path
    card: Path
    model: nn.Module
    report: TSMRReport
    provenance: Provenance
    verification: Verification | None = None
    sides: tuple[Sides, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON: those of the report, the files, verification and provenance, and how many examples
        changed sides.
        """
        written = {"output": str(self.output), "page": str(self.page), "card": str(self.card)}
        verification = self.verification and self.verification.to_json()
        sides = [
            {"subject": side.subject, "gained": side.gained, "lost": side.lost} for side in self.sides or ()
        ]
        made = {"verification": verification, "provenance": self.provenance.to_json(), "sides": sides}
        return {**written, **made, **self.report.to_json()}

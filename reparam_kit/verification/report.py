"""What a verification found, and the judgement that follows from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from reparam_kit.errors import printable
from reparam_kit.onnx.changes import StructuralDiff, plain
from reparam_kit.onnx.latency import Latency
from reparam_kit.verification.quantisation import Quantisation


@dataclass(frozen=True)
class OutputError:
    """How far one output of ``b`` is from its reference, over all runs.

    The reference is the float64 run of ``a`` where both are modules, else the output of ``a``. ``max_abs`` is the
    largest absolute difference; ``relative`` the same in units of the reference's largest absolute value; ``cosine``
    the lowest cosine similarity between a sample and its reference; ``tolerance`` the bound on ``relative``. An
    output that one of the two lacks, or has in another shape, is infinitely far away.
    """

    name: str
    max_abs: float
    relative: float
    cosine: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether ``relative`` is within ``tolerance``."""
        return self.relative <= self.tolerance

    def __str__(self) -> str:
        return f"{self.name}: relative error {self.relative:.2e}, largest {self.max_abs:.2e}, cosine {self.cosine:.7f}"


@dataclass(frozen=True)
class Report:
    """What ``verify(a, b)`` found.

    ``structure`` is None for a module against a file. ``outputs`` is empty where the models were not run. ``notes``
    say what was not compared and why, and on what inputs the models were run. ``file_sizes``, of two files, are in
    bytes, external data included. ``latency``, where it was asked for, is the time that either takes. ``quantisation``,
    of two modules or two files, says what INT8 would cost either; it is for information and does not bear on ``ok``.
    """

    structure: StructuralDiff | None
    outputs: tuple[OutputError, ...]
    notes: tuple[str, ...]
    same_function: bool
    file_sizes: tuple[int, int] | None = None
    latency: Latency | None = None
    quantisation: Quantisation | None = None

    @property
    def ok(self) -> bool:
        """The same structure and, if ``same_function`` was asked for, every output within its tolerance; the same
        weights where files were not run.
        """
        same_structure = self.structure is None or self.structure.same_graph
        return same_structure and (not self.same_function or self._same_function)

    @property
    def latency_ratio(self) -> float | None:
        """The time that ``b`` takes over that of ``a``; None where it was not measured."""
        return None if self.latency is None else self.latency.ratio

    @property
    def _same_function(self) -> bool:
        moved = self.structure is not None and bool(self.structure.payloads or self.structure.scales)
        return not moved if self._not_run else all(output.ok for output in self.outputs)

    @property
    def _not_run(self) -> bool:
        """Whether these are files that onnxruntime could not run."""
        return self.file_sizes is not None and not self.outputs

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them, and ``ok``; a number that is not finite becomes None."""
        structure = self.structure.to_json() if self.structure is not None else None
        quantisation = plain(self.quantisation.to_json()) if self.quantisation is not None else None
        known = {"ok": self.ok, **plain(asdict(self)), "structure": structure, "quantisation": quantisation}
        taken = None if self.latency is None else {**asdict(self.latency), "told": self.latency.told}
        return {**known, "latency": taken, "latency_ratio": self.latency_ratio}

    def __str__(self) -> str:
        equal = "equal" if self.same_function else "equal but for the weights"
        judged = "graph and weights" if self.same_function else "the graph"
        known = f", judged by {judged} alone: the files were not run" if self._not_run else ""
        lines = [f"{'' if self.ok else 'NOT '}{equal}{known}"]
        if self.structure is not None:
            lines += str(self.structure).splitlines()
        for output in self.outputs:
            judgement = (
                f" ({'within' if output.ok else 'beyond'} {output.tolerance:.2e})"
                if self.same_function
                else ""
            )
            lines.append(f"output {output}{judgement}")
        if self.file_sizes is not None:
            lines.append("file sizes: {} and {} bytes".format(*self.file_sizes))
        if self.latency is not None:
            lines.append(f"latency: {self.latency}")
        if self.quantisation is not None:
            lines += self.quantisation.lines()
        return "\n".join(map(printable, [*lines, *self.notes]))

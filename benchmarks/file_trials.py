"""What has to hold of a quantised, half or fused ONNX file, whoever wrote it; for commands that try many.

- imports: it does, or the refusal is a reason that its user understands;
- equals: node by node, given the file's own values, it computes what onnxruntime makes of the file;
- bytes: expanded, folded untrained and written back, it gives the same bytes;
- step: after one step of training all numbers are finite, and every site has had a gradient;
- written: what was trained, folded and written is the file with other numbers, and onnxruntime makes of it, node by
  node, what the trained net computes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import torch
from torch import Tensor, nn

import reparam_kit as rk
from reparam_kit.onnx.importer.rounded import Rounded

COLUMNS = ("imports", "equals", "bytes", "step", "written")
_YES, _UNTRIED = "yes", "-"
T = TypeVar("T")


class Failed(Exception):
    """Something that has to hold does not; the message says what."""


@dataclass
class Trial:
    """What came of one file: each column is "yes", "-" where it could not be tried, or what went wrong.

    ``seconds`` is what the import took of a core, ``sites`` the number of layers that can be expanded, ``reasons`` why
    others cannot.
    """

    file: str
    seconds: float = 0.0
    sites: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    columns: dict[str, str] = field(default_factory=lambda: dict.fromkeys(COLUMNS, _UNTRIED))

    @property
    def failures(self) -> dict[str, str]:
        """Return what went wrong, by its column."""
        return {column: said for column, said in self.columns.items() if said not in (_YES, _UNTRIED)}

    def row(self) -> str:
        """Return its row of the table."""
        sites = f"{self.sites} of {self.sites + self.reasons.total()}"
        cells = ["**no**" if column in self.failures else self.columns[column] for column in COLUMNS]
        return "| " + " | ".join([self.file, f"{self.seconds:.1f}", sites, *cells]) + " |"

    def run(self, column: str, function: Callable[[], T]) -> T | None:
        """Return what ``function`` gives, and say in ``column`` that it did, or what it raised."""
        try:
            result = function()
        except Exception as error:  # whatever goes wrong is a line under the table
            own = isinstance(error, rk.ReparamError | Failed)
            line = rk.first_line(error)
            self.columns[column] = line if own else f"{type(error).__name__}: {line}"
            return None
        self.columns[column] = _YES
        return result


def try_file(name: str, path: Path, inputs: Sequence[Tensor] | None) -> Trial:
    """Try on ``inputs`` all that has to hold of ``path``; where one thing does not, the next is tried if it can be.

    Of a file that cannot be run there are none.
    """
    torch.manual_seed(0)
    trial = Trial(name)
    start = time.process_time()
    model = trial.run("imports", lambda: rk.load(path))
    trial.seconds = time.process_time() - start
    if model is None:
        return trial
    if inputs is not None:
        trial.run("equals", lambda: _compare(model, inputs))
    found = [site for site in rk.inspect(model) if site.kind != "Linear"] or rk.inspect(model)
    trial.sites = sum(site.reason is None for site in found)
    trial.reasons = Counter(site.reason for site in found if site.reason)
    student = _expanded(model, [site.name for site in found if site.reason is None])
    with TemporaryDirectory() as folder:
        new = Path(folder) / "new.onnx"
        trial.run("bytes", lambda: _write_same(student, path, new))
        if inputs is not None and trial.sites and trial.run("step", lambda: _step(student, inputs)):
            trial.run("written", lambda: _write_trained(student, path, new, inputs))
    return trial


def table(trials: Sequence[Trial]) -> list[str]:
    """Return lines of Markdown: what these trials gave, and below what went wrong and which layers stay as they are."""
    lines = ["| file | seconds | sites | " + " | ".join(COLUMNS) + " |", "|---" * (3 + len(COLUMNS)) + "|"]
    lines += [trial.row() for trial in trials]
    said = [
        f"- {trial.file}, {column}: {line}" for trial in trials for column, line in trial.failures.items()
    ]
    said += [
        f"- {trial.file}, {count} sites left alone: {reason}"
        for trial in trials
        for reason, count in trial.reasons.items()
    ]
    return lines + (["", *said] if said else [])


def _expanded(model: nn.Module, names: list[str]) -> nn.Module:
    """Expand the sites that have room for a branch besides their own kernel."""
    try:
        return rk.expand(model, "dbb", include=names) if names else model
    except rk.NothingToDoError:
        return model


def _folded(student: nn.Module) -> nn.Module:
    try:
        return rk.fold(student)
    except rk.NothingToDoError:
        return student


def _compare(model: nn.Module, inputs: Sequence[Tensor]) -> None:
    said = rk.check_import(model, inputs)
    if said is not None and "was not compared" in said:  # else it is of what the file itself does to a batch
        raise Failed(said)


def _write_same(student: nn.Module, path: Path, new: Path) -> None:
    rk.save(_folded(student), new)
    if new.read_bytes() != path.read_bytes():
        raise Failed(f"other bytes: {rk.diff(path, new)}".replace("\n", "; "))


def _step(student: nn.Module, inputs: Sequence[Tensor]) -> bool:
    """Take one step towards outputs that are noise away, in units of their size.

    It is a twentieth of a tensor's largest number, several levels of its integers, and where a net has none a tenth of
    that: more takes activations of some float16 nets beyond the largest number of float16.
    """
    student.train()
    trained = {name: x for name, x in student.named_parameters() if x.requires_grad}
    results = student(*inputs)
    loss = torch.zeros(())
    for output in results if isinstance(results, tuple) else [results]:
        if output.requires_grad:
            size = output.detach().float().square().mean().sqrt().clamp_min(1e-6)
            wanted = output.detach() + size * torch.randn(output.shape)
            loss = loss + ((output.float() - wanted) / size).square().mean()
    if not loss.requires_grad:
        raise Failed("no output has a gradient")
    loss.backward()
    cut = [name for name, x in trained.items() if x.grad is None]
    if cut:
        raise Failed(f"no gradient reaches {len(cut)} of {len(trained)} parameters: {', '.join(cut[:3])}")
    grads = {name: x.grad for name, x in trained.items()}
    if spoilt := [name for name, grad in grads.items() if not grad.isfinite().all()]:
        raise Failed(f"{len(spoilt)} of {len(grads)} gradients are not finite: {', '.join(spoilt[:3])}")
    if not any(grad.any() for grad in grads.values()):
        raise Failed("all gradients are zero: the outputs are at the ends of their quantisers' levels")
    parts = 20 if any(isinstance(module, Rounded) for module in student.modules()) else 200
    with torch.no_grad():
        for x in trained.values():
            x -= x.abs().max() / parts * x.grad.sign()
    infinite = [name for name, x in trained.items() if not x.isfinite().all()]
    if infinite or not loss.isfinite():
        raise Failed(f"the loss is {loss.item():.3g}, and not finite are {', '.join(infinite[:3])}")
    return True


def _write_trained(student: nn.Module, path: Path, new: Path, inputs: Sequence[Tensor]) -> None:
    folded = _folded(student.eval())
    rk.save(folded, new)
    found = rk.diff(path, new)
    if not found.same_graph or not found.payloads:
        raise Failed(f"more than numbers changed, or nothing: {found}".replace("\n", "; "))
    _compare(folded, inputs)

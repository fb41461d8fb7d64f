"""The main job from end to end: a deployed ONNX file, a teacher, faces, and the same file with better weights.

Everything that a user would have already is made first: pictures, a teacher, a student that was trained on
identities and exported. What follows is the recipe as he would run it. Nothing is chosen by looking at the pairs that
judge the result.
"""

from __future__ import annotations

import io
import json
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from rich.console import Console
from torch import Tensor, nn

import reparam_kit as rk
from recipes.demo import data, nets
from recipes.demo.drawing import SIZE
from recipes.demo.training import train_identities
from recipes.faces import Evaluation, evaluate, input_preset
from recipes.faces.files import replacing
from recipes.tsmr import TSMRConfig, apply_tsmr

_MARK = "reparam-kit demo"


@dataclass(frozen=True)
class Scale:
    """How many people, pictures and passes the demo takes. The default is for two minutes on two cores.

    ``pairs`` are judged in ten folds of as many people each, so ``val_people`` is at least 20.
    """

    teacher_people: int = 600
    teacher_pictures: int = 10
    teacher_epochs: int = 12
    people: int = 120
    pictures: int = 16
    student_epochs: int = 30
    val_people: int = 300
    pairs: int = 3000
    tsmr_epochs: int = 12


@dataclass(frozen=True)
class DemoReport:
    """What came of a run.

    Attributes:
        folder: where the files are.
        seed: decides everything random.
        trained_on: for "teacher", "before" and "after", what the network was trained on.
        figures: for the same three, its figures on ``pairs.bin`` in onnxruntime.
        nodes: nodes of ``deployed.onnx``.
        initializers: initializers of ``deployed.onnx``.
        structural_differences: between ``deployed.onnx`` and ``improved.onnx``.
        changed_initializers: those of which the two hold different numbers.
        latency_ratio: time of ``improved.onnx`` over that of ``deployed.onnx``, one picture on one thread.
        write_back_error: largest difference between the trained model in PyTorch and ``improved.onnx`` in onnxruntime,
            in units of the largest output.
        seconds: how long each part took.
    """

    folder: Path
    seed: int
    scale: Scale
    trained_on: dict[str, str]
    figures: dict[str, Evaluation]
    nodes: int
    initializers: int
    structural_differences: int
    changed_initializers: int
    latency_ratio: float
    write_back_error: float
    seconds: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, the fields by their names."""
        figures = {name: evaluation.to_json() for name, evaluation in self.figures.items()}
        return {
            "written_by": _MARK,
            **vars(self),
            "folder": str(self.folder),
            "scale": asdict(self.scale),
            "figures": figures,
        }


def run(folder: Path, seed: int = 0, scale: Scale | None = None) -> DemoReport:
    """Run the demo and write its files to ``folder``, which is made if needed.

    Raises:
        InputError: ``folder`` is a file, cannot be made, or holds files that the demo did not write.
        VerificationError: the improved file has another graph than the deployed one, or another function than the
            model that was trained.
    """
    scale = scale or Scale()
    _claim(folder)
    file = {name: folder / name for name in ("deployed.onnx", "improved.onnx", "teacher.onnx")}
    rec, pairs = folder / "faces.rec", folder / "pairs.bin"
    crowd, users, judges = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3))
    clock = _Clock()
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        with clock.part("drawing"):
            drawn, crowd_people = data.portraits(scale.teacher_people, scale.teacher_pictures, crowd)
            crowd_pictures = torch.from_numpy(drawn).permute(0, 3, 1, 2).contiguous()
            data.write_faces(rec, scale.people, scale.pictures, users)
            data.write_verification(pairs, scale.val_people, scale.pairs, judges)
            pictures, people = data.read_faces(rec)
            data.write_contact_sheet(folder / "faces.png", pictures, people)
        with clock.part("training the teacher"):
            teacher = nets.teacher()
            train_identities(
                teacher, crowd_pictures, torch.from_numpy(crowd_people), scale.teacher_epochs, "teacher"
            )
            _export(teacher, file["teacher.onnx"])
        with clock.part("training the student"):
            student = nets.student()
            train_identities(student, pictures, people, scale.student_epochs, "student")
            _export(student, file["deployed.onnx"])
        # From here on as any user: files in, a file out.
        with clock.part("improving the deployed file"):
            config = TSMRConfig(epochs=scale.tsmr_epochs, lr=2e-3, seed=seed)
            result = apply_tsmr(rk.load(file["deployed.onnx"]), file["teacher.onnx"], rec, config=config)
            rk.save(result.model, file["improved.onnx"])
        with clock.part("proving and judging"):
            proof = _prove(file["deployed.onnx"], file["improved.onnx"], result.model, pictures)
            figures = {
                name: evaluate(file[path], pairs, folds=data.FOLDS)
                for name, path in (
                    ("before", "deployed.onnx"),
                    ("after", "improved.onnx"),
                    ("teacher", "teacher.onnx"),
                )
            }
    report = DemoReport(folder, seed, scale, _trained_on(scale), figures, **proof, seconds=clock.seconds)
    _write_report(folder, report.to_json())
    return report


def _claim(folder: Path) -> None:
    """Make ``folder`` the demo's own, by a report that says so from the start: a run may be broken off."""
    if folder.exists() and not folder.is_dir():
        raise rk.InputError(f"{folder} is a file; name a folder for the demo to write to")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        foreign = any(folder.iterdir()) and not _is_own(folder / "report.json")
    except OSError as error:
        raise rk.InputError(f"{folder} cannot be used: {error.strerror}") from error
    if foreign:
        raise rk.InputError(
            f"{folder} holds files that the demo did not write, and would mix with its own: "
            "name an empty or new folder with -o"
        )
    _write_report(folder, {"written_by": _MARK})


def _is_own(report: Path) -> bool:
    try:
        content = json.loads(report.read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return isinstance(content, dict) and content.get("written_by") == _MARK


def _write_report(folder: Path, content: dict[str, Any]) -> None:
    with replacing(folder / "report.json") as file:
        file.write(json.dumps(content, indent=2).encode())


def _export(net: nn.Module, path: Path) -> None:
    """Export for inference, every BatchNorm folded into its convolution and the batch free."""
    payload = io.BytesIO()
    batch = {0: "n"}
    with warnings.catch_warnings():
        # The exporter that torch recommends instead needs onnxscript, which nothing else here does.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            net,
            (torch.zeros(1, 3, SIZE, SIZE),),
            payload,
            input_names=["pictures"],
            output_names=["embeddings"],
            dynamic_axes={"pictures": batch, "embeddings": batch},
            dynamo=False,
        )
    with replacing(path) as file:
        file.write(payload.getvalue())


def _prove(deployed: Path, improved: Path, trained: nn.Module, pictures: Tensor) -> dict[str, Any]:
    """The figures of the proof, by the names they have in the report."""
    graphs = rk.verify(deployed, improved, same_function=False, latency=True)
    inputs = input_preset("insightface")(pictures[:64])
    written = rk.verify(trained, improved, inputs)
    for report in (graphs, written):
        if not report.ok:
            raise rk.VerificationError(f"{improved} failed its verification: {report}")
    difference = rk.diff(deployed, improved)
    graph = onnx.load(deployed).graph
    return {
        "nodes": len(graph.node),
        "initializers": len(graph.initializer),
        "structural_differences": len(difference.changes),
        "changed_initializers": len(difference.payloads),
        "latency_ratio": graphs.latency_ratio,
        "write_back_error": max(output.relative for output in written.outputs),
    }


def _trained_on(scale: Scale) -> dict[str, str]:
    crowd, users = scale.teacher_people * scale.teacher_pictures, scale.people * scale.pictures
    return {
        "before": f"{users:,} pictures of {scale.people} people (faces.rec) by their labels, {scale.student_epochs} epochs",
        "after": f"the same pictures without labels, to the teacher's embeddings, {scale.tsmr_epochs} epochs more",
        "teacher": f"{crowd:,} pictures of {scale.teacher_people} other people by their labels, "
        f"{scale.teacher_epochs} epochs",
    }


class _Clock:
    """Says on stderr what is going on, and keeps how long it took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._console = Console(stderr=True, highlight=False)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._console.print(f"[bold]{name}[/]")
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 1)
        self._console.print(f"  {self.seconds[name]} s")

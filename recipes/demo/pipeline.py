"""The demo from end to end: draw faces, deploy a small net, learn of a larger one, and prove that the graph stayed."""

from __future__ import annotations

import io
import json
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import reparam_kit as rk
from recipes.demo import nets
from recipes.demo.drawing import SIZE, draw
from recipes.demo.identity import train_on_identities
from recipes.demo.people import IDENTITY, VARIATION, sample, take
from recipes.faces import PairSet, PairsJudge, write_pairs, write_records
from recipes.progress import Progress
from recipes.tsmr import TSMRConfig, TSMRReport, improve
from recipes.tsmr.stages import DISTIL, REFINE

with rk.extra("faces", "the demo needs Pillow"):
    from PIL import Image

Pictures = npt.NDArray[np.uint8]

REPORT = "report.json"
PAGE = "report.html"


@dataclass(frozen=True)
class Effort:
    """How much is drawn and trained; the default takes about two minutes on two cores.

    The deployed student has seen ``deployed_people`` of the ``people`` whose pictures there are now.
    """

    people: int = 200
    deployed_people: int = 60
    pictures: int = 12
    pairs: int = 2000
    teacher_epochs: int = 14
    student_epochs: int = 14
    distillation_epochs: int = 10
    refinement_epochs: int = 1


def run_demo(
    folder: Path, seed: int = 0, effort: Effort | None = None, *, progress: bool = False
) -> dict[str, Any]:
    """Run the demo into ``folder`` and return its figures, which are also written there as ``report.json``.

    ``report.html`` beside it shows the run of both stages.

    Args:
        folder: made if needed; one that is not empty must hold an earlier demo, finished or not.
        seed: decides the faces and all training.
        effort: amounts.
        progress: show on stderr what is going on.

    Raises:
        InputError: ``folder`` holds something else.
        VerificationError: the improved file has another graph than the deployed one.
    """
    effort = effort or Effort()
    say = Progress(silent=not progress).say
    report: dict[str, Any] = {"demo": "reparam-kit", "seed": seed}
    _prepare(folder)
    _write(report, folder)  # so that the folder of an interrupted demo is known as one
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    deployed, improved, teacher = (folder / f"{name}.onnx" for name in ("deployed", "improved", "teacher"))

    say(
        f"drawing {effort.people} people, {effort.pictures} pictures of each, and {2 * effort.pairs} pairs of others"
    )
    pictures, labels = _people(effort.people, effort.pictures, rng)
    write_records(folder / "faces.rec", zip(labels.tolist(), map(_png, pictures), strict=True), (SIZE, SIZE))
    choosing, judging = (_pairs(effort.pairs, rng) for _ in range(2))
    write_pairs(folder / "choose.bin", choosing)
    write_pairs(folder / "judge.bin", judging)
    _contact_sheet(pictures, effort.pictures).save(folder / "faces.png")

    images, people = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels)
    seen = people < effort.deployed_people
    say(f"training the student that is deployed, on {effort.deployed_people} people")
    _export(train_on_identities(nets.student(), images[seen], people[seen], effort.student_epochs), deployed)
    say(f"training a larger teacher, on {effort.people} people")
    _export(train_on_identities(nets.teacher(), images, people, effort.teacher_epochs), teacher)

    say("re-parameterised distillation of the deployed file")
    stages = (
        replace(DISTIL, epochs=effort.distillation_epochs),
        replace(REFINE, epochs=effort.refinement_epochs),
    )
    config = TSMRConfig(stages=stages, auto=True, seed=seed)
    with TemporaryDirectory() as work:
        found = improve(
            deployed, teacher, folder / "faces.rec", improved,
            val=folder / "choose.bin", config=config, work=work, report=folder / PAGE, progress=progress,
        )  # fmt: skip
    judge = PairsJudge(judging)
    verdicts = {path.stem: judge.judge(path) for path in (deployed, improved, teacher)}
    report |= {
        "stages": _stages(found.report),
        "evaluation": {name: verdict.to_json() for name, verdict in verdicts.items()},
        "comparison": judge.compare(verdicts["deployed"], verdicts["improved"]).to_json(),
        "verification": found.verification and found.verification.to_json(),
        "provenance": found.provenance.to_json(),
    }
    _write(report, folder)
    return report


def _stages(run: TSMRReport) -> list[dict[str, Any]]:
    """Return what the student was, as deployed and at the end of each stage, by the figure that chooses the epoch."""
    names = ("as deployed", "distillation", "adversarial refinement")
    ends = {0: run.before[0]} | {epoch.stage: epoch.validation[0] for epoch in run.epochs}
    counts = Counter(epoch.stage for epoch in run.epochs)
    return [
        {"stage": names[stage], "epochs": counts[stage], "figure": end.decides, "value": end.deciding.value}
        for stage, end in ends.items()
    ]


def _prepare(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise rk.InputError(f"{folder} is a file; name a folder with -o")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / REPORT).is_file():
        raise rk.InputError(f"{folder} is not empty and holds no earlier demo; name another folder with -o")
    folder.mkdir(parents=True, exist_ok=True)


def _write(report: dict[str, Any], folder: Path) -> None:
    with rk.atomic_file(folder / REPORT) as file:
        file.write(json.dumps(report, indent=2).encode())


def _people(count: int, pictures: int, rng: np.random.Generator) -> tuple[Pictures, npt.NDArray[np.int64]]:
    labels = np.repeat(np.arange(count), pictures)
    return draw(take(sample(IDENTITY, count, rng), labels), sample(VARIATION, len(labels), rng), rng), labels


def _pairs(count: int, rng: np.random.Generator) -> PairSet:
    """Return ``count`` pairs, every other one of the same person, of people who are in no other set."""
    people = count // 4
    first = rng.integers(people, size=count)
    same = np.arange(count) % 2 == 0
    second = np.where(same, first, (first + rng.integers(1, people, size=count)) % people)
    rows = np.stack([first, second], axis=1).reshape(-1)
    drawn = draw(take(sample(IDENTITY, people, rng), rows), sample(VARIATION, len(rows), rng), rng)
    return PairSet([_png(picture) for picture in drawn], same)


def _png(picture: Pictures) -> bytes:
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "PNG")
    return data.getvalue()


def _contact_sheet(pictures: Pictures, of_each: int, people: int = 8) -> Image.Image:
    """Draw a row for each of the first people."""
    columns = min(of_each, 12)
    rows = pictures[: people * of_each].reshape(-1, of_each, SIZE, SIZE, 3)[:, :columns]
    sheet = rows.transpose(0, 2, 1, 3, 4).reshape(-1, columns * SIZE, 3)
    return Image.fromarray(sheet).resize((2 * sheet.shape[1], 2 * sheet.shape[0]), Image.Resampling.LANCZOS)


def _export(net: nn.Module, path: Path) -> None:
    """Write ``net`` as deployed nets are: BatchNorm folded into the convolutions, batch free."""
    example: Tensor = torch.zeros(1, 3, SIZE, SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # torch would rather have its newer exporter, which needs another package
        torch.onnx.export(
            net,
            (example,),
            path,
            dynamo=False,
            opset_version=17,
            input_names=["image"],
            output_names=["embedding"],
            dynamic_axes={"image": {0: "n"}, "embedding": {0: "n"}},
        )

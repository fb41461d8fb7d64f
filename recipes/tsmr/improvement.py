"""From a deployed file to a better one, proven, with its page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

import reparam_kit as rk
from recipes.faces.judging.reading import Judged
from recipes.tsmr.ablation import Comparable, compare
from recipes.tsmr.arguments import require_kinds
from recipes.tsmr.choices import Scales
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.distributed import Processes
from recipes.tsmr.improved import Improved, Verification
from recipes.tsmr.parts import Ablation
from recipes.tsmr.places import hold_apart, paths_of
from recipes.tsmr.progress import LOGGER
from recipes.tsmr.provenance import FileFacts, Provenance, unnamed
from recipes.tsmr.recipe import apply_tsmr
from recipes.tsmr.rendering.card import write_card
from recipes.tsmr.rendering.page import write_report
from recipes.tsmr.results import TSMRReport
from recipes.tsmr.run import said
from recipes.tsmr.settings import write_settings
from recipes.tsmr.targets.teachers import Teacher, Weights
from recipes.tsmr.targets.views import Images
from recipes.tsmr.training.callbacks import Callback, Callbacks
from recipes.tsmr.training.logs import LogTo, placed, written

_DEFAULTS = TSMRConfig()

Named = str | Path


def improve(
    student: Named,
    teachers: Teacher | Sequence[Teacher],
    data: str | Path | Images,
    output: Named,
    *,
    val: Judged | Sequence[Judged] | None = None,
    config: TSMRConfig = _DEFAULTS,
    work: Named | None = None,
    report: Named | None = None,
    log_to: LogTo = (),
    weights: Named | None = None,
    unsafe: bool = False,
    outputs: Sequence[str] | None = None,
    float: Named | None = None,
    scales: Scales = "kept",
    teacher_weights: Weights = None,
    device: str | torch.device = "auto",
    latency: bool = False,
    show_images: bool = False,
    ablation: Ablation | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
) -> Improved:
    """Train what is in the file ``student``, see ``apply_tsmr``, and write it to ``output``: the same graph with new
    weights, which is verified, with a page of the run and a model card, ``OUTPUT.md``.

    Args:
        student: a .onnx file, a .pt file, or ``package.module:factory`` with ``weights``.
        teachers, data, val, config, teacher_weights, callbacks, progress: as in ``apply_tsmr``.
        output: .onnx, .pt, .pth or .safetensors file to write.
        work: folder of checkpoint and embeddings, from which the same call goes on. None: ``OUTPUT.work``.
        log_to: as in ``apply_tsmr``; "csv" alone is ``OUTPUT.csv``, and "tensorboard" the folder ``OUTPUT.logs``.
        report: HTML page to write. None: ``OUTPUT.html``.
        weights, unsafe, outputs, float, scales: as in ``rk.load``.
        device: where to train, as in ``rk.choose_device``.
        latency: also measure how long either file takes, run in turn.
        show_images: show on the page the images of ``val`` that changed sides; only where they are yours to show.
        ablation: the controls to train too; ``val`` judges them.

    Raises:
        InputError: as ``apply_tsmr``, ``rk.load`` and ``rk.save``, before anything is trained.
        VerificationError: what was written has another graph than ``student``.
        ReparamError: the file is written and good, but its page or its card cannot be.

    ```python
    config = TSMRConfig(stages=(Stage(epochs=1, cosine=1.0),), batch_size=8)
    improved = improve("deployed.onnx", "teacher.onnx", "train.rec", "improved.onnx", val="lfw.bin", config=config)
    print(improved.report.comparisons[0].deciding)
    ```
    """
    asked = {
        "student": student, "teacher": teachers, "data": data, "output": output, "val": val, "weights": weights,
        "teacher_weights": teacher_weights, "outputs": outputs, "float": float,
        "scales": None if scales == "kept" else scales, "report": report, "work": work, "log_to": log_to,
        "latency": latency, "show_images": show_images, "unsafe_load": unsafe, "device": str(device),
        "compare": None if ablation is None else asdict(ablation),
    }  # fmt: skip
    output = Path(output)
    work = output.with_name(f"{output.name}.work") if work is None else Path(work)
    page = output.with_name(f"{output.name}.html") if report is None else Path(report)
    card, kept = (output.with_name(f"{output.name}{ending}") for ending in (".md", ".yaml"))
    if ablation is not None and val is None:
        raise rk.InputError("an ablation (--compare) judges its arms on val (--val), which is not given")
    told = [Callbacks(callbacks), *([Unjudged()] if val is None else [])]
    read = {"student": student, "teachers": teachers, "data": data, "val": val, "weights": weights}
    read |= {"teacher_weights": teacher_weights, "float": float}
    require_kinds({"log_to": log_to})
    log_to = placed(log_to, output)
    hold_apart(
        read,
        {"output": output, "work": work, "report": page, "card": card, "choices": kept, **written(log_to)},
    )
    for path in (output, page, card, kept):
        rk.require_writable(path)
    went_in = _parts(
        student=student, weights=weights, float=float, teacher=teachers, images=data, validation=val
    )
    went_in += _parts(**{"teacher's weights": teacher_weights})
    place = rk.choose_device(device)
    with _work_folder(work):
        model = rk.load(student, weights=weights, unsafe=unsafe, outputs=outputs, float=float, scales=scales)
        _rehearse(model, output, work)
        model = model.to(place)
        if ablation is not None and val is not None:
            told.append(Comparable(model, data, val))
        result = apply_tsmr(
            model, teachers, data, val, config,
            teacher_weights=teacher_weights, cache=work, checkpoint=work / "checkpoint.pt", log_to=log_to,
            callbacks=told, progress=progress, show_images=show_images,
        )  # fmt: skip
        first = Processes.current().rank == 0
        if first:
            rk.save(rk.duplicate(result.model).cpu(), output)
            _keep_choices(kept, asked, result.report)
        files = [*went_in, ("output", output)] if first else []
        made = Provenance.of(next(result.model.parameters()).device, _facts(files, page.parent))
        improved = Improved(output, page, card, result.model, result.report, made, sides=result.sides)
        if first:
            try:
                improved = replace(
                    improved, verification=_verified(student, output, result.images, latency, scales)
                )
            finally:
                _write_pages(improved)
        if ablation is not None and val is not None:
            arms = compare(
                model, teachers, data, val, result.report.config, work / "arms",
                ablation=ablation, teacher_weights=teacher_weights, progress=progress,
            )  # fmt: skip
            improved = replace(improved, report=replace(result.report, ablation=arms))
            if first:
                _write_pages(improved)
    return improved


class Unjudged(Callback):
    """Says, once all has been found right and before anything is trained, that nothing judges the run."""

    def start(self, config: TSMRConfig, done: int) -> None:
        """Warn."""
        LOGGER.warning(
            "without val (--val, --val-people) nobody can know whether the result is better: give a set, or 'auto' to "
            "hold some of the images out"
        )


def _rehearse(model: nn.Module, output: Path, work: Path) -> None:
    """Write ``model`` as it is, for nothing: better known before hours of training that it cannot be."""
    with TemporaryDirectory(dir=work) as folder:
        trial = Path(folder) / output.name
        try:
            rk.save(model, trial)
        except rk.InputError as error:
            raise rk.InputError(str(error).replace(str(trial), str(output))) from error


def _verified(
    student: Named, output: Path, images: Tensor, latency: bool, scales: Scales
) -> Verification | None:
    """Hold ``output`` against the file that it came from; None where one of them is no ONNX file."""
    if Path(student).suffix != ".onnx" or output.suffix != ".onnx":
        return None
    try:
        verification = rk.verify(student, output, images, same_function=False, latency=latency, scales=scales)
    except rk.InputError:
        # onnxruntime does not run the file on what its net was trained on: on other inputs, or none.
        verification = rk.verify(student, output, same_function=False, latency=latency, scales=scales)
    if not verification.ok:
        raise rk.VerificationError(
            f"{output} has another graph than {student}: {verification.structure}", verification
        )
    return verification


def _parts(**given: object) -> list[tuple[str, object]]:
    """List what is given by its part, numbered where there are several, and the files of a judge one by one."""
    parts: list[tuple[str, object]] = []
    for part, values in given.items():
        each = [
            value for value in (values if isinstance(values, list | tuple) else [values]) if value is not None
        ]
        for number, value in enumerate(each, start=1):
            files: list[object] = [path for path in dict.fromkeys(paths_of(value)) if Path(path).is_file()]
            called = f"{part} {number}" if len(each) > 1 else part
            parts += [(called, one) for one in files or [value]]
    return parts


def _facts(parts: Iterable[tuple[str, object]], folder: Path) -> Iterator[FileFacts]:
    """Look at each part; a path is named from ``folder``, where it lies there or below."""
    for part, value in parts:
        if isinstance(value, str | Path):
            path = Path(value)
            name = unnamed(str(path.relative_to(folder) if path.is_relative_to(folder) else value))
        else:
            name = f"a {type(value).__name__}"
        yield FileFacts.of(part, value, name, read=part != "images")


def _write_pages(improved: Improved) -> None:
    """Write card and page; what fails, in whatever way, is one line that says that the model is there."""
    for path, write in {improved.card: write_card, improved.page: _write_page}.items():
        try:
            write(improved)
        except Exception as error:
            raise rk.ReparamError(
                f"{improved.output} is written and good, but its page {path} is not: {rk.first_line(error)}"
            ) from error


def _keep_choices(path: Path, asked: Mapping[str, Any], report: TSMRReport) -> None:
    """Write what was in force; what is no text or path, a data set or a module, no file can say."""
    own = {name: texts for name, value in asked.items() if (texts := _texts(value)) not in (None, [], False)}
    head = f"What was in force. Again: reparam-kit tsmr --config {path.name}"
    try:
        write_settings(path, said({**own, "sha256": report.digests}, report.config), head)
    except (OSError, ValueError) as error:
        raise rk.ReparamError(
            f"the choices of the run cannot be written to {path}: {rk.first_line(error)}"
        ) from error


def _texts(value: object) -> Any:
    """Return a value as a file has it; None where it, or one of several, is neither text nor path nor plain."""
    if isinstance(value, list | tuple):
        several = [_texts(one) for one in value]
        return None if None in several else several
    return str(value) if isinstance(value, str | Path) else value if isinstance(value, bool | dict) else None


def _write_page(improved: Improved) -> None:
    write_report(
        improved.report, improved.page, verification=improved.verification, provenance=improved.provenance,
        sides=improved.sides,
    )  # fmt: skip


@contextmanager
def _work_folder(path: Path) -> Iterator[None]:
    """Made if needed, and then taken away again if nothing was kept in it."""
    made = not path.exists()
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise rk.InputError(f"the folder {path} cannot be made: {error.strerror}") from error
    try:
        yield
    finally:
        if made:
            with suppress(OSError):  # it is not empty
                path.rmdir()

"""From a deployed file to a better one, proven, with its page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

import reparam_kit as rk
from recipes.faces.judging.reading import Judged
from recipes.tsmr.ablation import RefuseOthers, compare
from recipes.tsmr.config import Ablation, TSMRConfig
from recipes.tsmr.distributed import Processes
from recipes.tsmr.places import hold_apart
from recipes.tsmr.progress import LOGGER
from recipes.tsmr.recipe import apply_tsmr
from recipes.tsmr.rendering.page import write_report
from recipes.tsmr.results import Improved, Verification
from recipes.tsmr.targets.teachers import Teacher, Weights
from recipes.tsmr.targets.views import Images
from recipes.tsmr.training.callbacks import Callback, Callbacks

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
    logs: str | Path | None = None,
    logger: str = "tensorboard",
    weights: Named | None = None,
    unsafe: bool = False,
    outputs: Sequence[str] | None = None,
    float: Named | None = None,
    teacher_weights: Weights = None,
    device: str | torch.device = "cpu",
    ablation: Ablation | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
) -> Improved:
    """Train what is in the file ``student``, see ``apply_tsmr``, and write it to ``output``: the same graph with new
    weights, which is verified, and a page of the run.

    Args:
        student: a .onnx file, a .pt file, or ``package.module:factory`` with ``weights``.
        teachers, data, val, config, teacher_weights, logs, logger, callbacks, progress: as in ``apply_tsmr``.
        output: .onnx, .pt or .safetensors file to write.
        work: folder of checkpoint and embeddings, from which the same call goes on. None: ``OUTPUT.work``.
        report: HTML page to write. None: ``OUTPUT.html``.
        weights, unsafe, outputs, float: as in ``rk.load``.
        device: where to train.
        ablation: the controls to train too; ``val`` judges them.

    Raises:
        InputError: as ``apply_tsmr``, ``rk.load`` and ``rk.save``, before anything is trained.
        VerificationError: what was written has another graph than ``student``.
        ReparamError: the file is written and good, but its page cannot be.

    ```python
    config = TSMRConfig(stages=(Stage(epochs=1, cosine=1.0),), batch_size=8)
    improved = improve("deployed.onnx", "teacher.onnx", "train.rec", "improved.onnx", val="lfw.bin", config=config)
    print(improved.report.comparisons[0].deciding)
    ```
    """
    output = Path(output)
    work = output.with_name(f"{output.name}.work") if work is None else Path(work)
    page = output.with_name(f"{output.name}.html") if report is None else Path(report)
    if ablation is not None and val is None:
        raise rk.InputError("an ablation (--compare) judges its arms on val (--val), which is not given")
    told = [Callbacks(callbacks), *([Unjudged()] if val is None else [])]
    if ablation is not None:
        told.append(RefuseOthers())
    read = {"student": student, "teachers": teachers, "data": data, "val": val, "weights": weights}
    read |= {"teacher_weights": teacher_weights, "float": float}
    hold_apart(read, {"output": output, "work": work, "report": page, "logs": logs})
    for path in (output, page):
        rk.require_writable(path)
    names = _names(student, teachers, data, val, output, page)
    with _work_folder(work):
        model = rk.load(student, weights=weights, unsafe=unsafe, outputs=outputs, float=float)
        _rehearse(model, output, work)
        model = model.to(device)
        result = apply_tsmr(
            model, teachers, data, val, config,
            teacher_weights=teacher_weights, cache=work, checkpoint=work / "checkpoint.pt", logs=logs, logger=logger,
            callbacks=told, progress=progress,
        )  # fmt: skip
        improved = Improved(output, page, result.model, result.report)
        first = Processes.current().rank == 0
        if first:
            rk.save(rk.duplicate(result.model).cpu(), output)
            try:
                improved = replace(improved, verification=_verified(student, output, result.images))
            finally:
                _write_page(improved, names)
        if ablation is not None and val is not None:
            arms = compare(
                model, teachers, data, val, result.report.config, work / "arms",
                ablation=ablation, teacher_weights=teacher_weights, progress=progress,
            )  # fmt: skip
            improved = replace(improved, report=replace(result.report, ablation=arms))
            if first:
                _write_page(improved, names)
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


def _verified(student: Named, output: Path, images: Tensor) -> Verification | None:
    """Hold ``output`` against the file that it came from; None where one of them is no ONNX file."""
    if Path(student).suffix != ".onnx" or output.suffix != ".onnx":
        return None
    try:
        verification = rk.verify(student, output, images, same_function=False, latency=True)
    except (
        rk.InputError
    ):  # onnxruntime does not run the file on what its net was trained on: on other inputs, or none
        verification = rk.verify(student, output, same_function=False, latency=True)
    if not verification.ok:
        raise rk.VerificationError(
            f"{output} has another graph than {student}: {verification.structure}", verification
        )
    return verification


def _names(
    student: Named, teachers: object, data: object, val: object, output: Path, page: Path
) -> dict[str, str]:
    """Return what the page calls the files of a run: by their paths from where it lies, if they are there or below."""

    def name(value: object) -> str:
        if not isinstance(value, str | Path):
            return f"a {type(value).__name__}"
        path = Path(value)
        return str(path.relative_to(page.parent) if path.is_relative_to(page.parent) else value)

    each = teachers if isinstance(teachers, list | tuple) else [teachers]
    numbered = [f"teacher {i}" for i in range(1, len(each) + 1)] if len(each) > 1 else ["teacher"]
    return {
        "student": name(student),
        **dict(zip(numbered, map(name, each), strict=True)),
        "images": name(data),
        "validation": ", ".join(map(name, val if isinstance(val, list | tuple) else [val]))
        if val
        else "none",
        "output": name(output),
    }


def _write_page(improved: Improved, files: dict[str, str]) -> None:
    """Write the page; what fails, in whatever way, is one line that says that the model is there."""
    try:
        write_report(improved.report, improved.page, files=files, verification=improved.verification)
    except Exception as error:
        raise rk.ReparamError(
            f"{improved.output} is written and good, but its page {improved.page} is not: {rk.first_line(error)}"
        ) from error


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

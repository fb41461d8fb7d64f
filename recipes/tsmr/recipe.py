"""The recipe from a deployed model to one with better weights."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from recipes.faces import Evaluation, Judge, PairSet, PairsJudge, cross_evaluate
from recipes.faces.embedding.inputs import input_preset
from recipes.faces.judging.reading import Judged
from recipes.progress import Progress, labelled
from recipes.tsmr.arguments import require_kinds
from recipes.tsmr.averaging import Chosen, choose
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.distributed import Processes
from recipes.tsmr.expansion import deployable
from recipes.tsmr.ingredients import Ingredients, gather, logits_of_student
from recipes.tsmr.objective.objective import own_losses
from recipes.tsmr.places import hold_apart, own_places
from recipes.tsmr.prepare import Prepared, prepare
from recipes.tsmr.results import EpochReport, TSMRReport, TSMRResult
from recipes.tsmr.sides import changed_sides
from recipes.tsmr.targets.auto import with_auto
from recipes.tsmr.targets.teachers import Teacher, Weights
from recipes.tsmr.targets.views import Images
from recipes.tsmr.training.callbacks import Callback, Callbacks, ProgressBar
from recipes.tsmr.training.checkpoint import CheckpointFile
from recipes.tsmr.training.checks import shown_images
from recipes.tsmr.training.logs import Logger, LogTo, made, opened, written
from recipes.tsmr.training.memory import kept_memory
from recipes.tsmr.training.trained import MEASURED, changed_outputs
from reparam_kit import InputError, count_integers, imported_files, name_device

Model = TypeVar("Model", bound=nn.Module)

_DEFAULTS = TSMRConfig()
_SHOWN = 3


def apply_tsmr(
    model: Model,
    teacher: Teacher | Sequence[Teacher],
    data: str | Path | Images,
    val: Judged | Sequence[Judged] | None = None,
    config: TSMRConfig = _DEFAULTS,
    *,
    teacher_weights: Weights = None,
    cache: str | Path | None = None,
    checkpoint: str | Path | None = None,
    log_to: LogTo = (),
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
    show_images: bool = False,
) -> TSMRResult[Model]:
    """Expand ``model``, train it through the stages of ``config``, and fold it back.

    After each epoch the student is folded and judged by ``val``, and the best is kept, see
    ``recipes.faces.Verdict.rank``. What is returned lies between the weights as they were and those, where the judge
    finds it best, see ``recipes.tsmr.averaging``: never worse by ``val`` than what was passed in. Without ``val`` the
    last epoch is returned.

    In several processes (see ``recipes.tsmr.distributed``) each calls this with the same arguments. Only the
    first writes files, and its result is the one that counts.

    Args:
        model: face net, images float32 ``[N, C, H, W]`` to embeddings ``[N, D]``. It is not changed, and
            trained on the device that its parameters are on. Only what its embedding depends on is trained; other
            outputs that depend on that too are named in the report.
        teacher: path of an ``.onnx`` file, a module, or ``package.module:factory``, of any embedding size; or several
            of these. It runs on the device that ``model`` is on. Where a file fixes another image size, the images are
            scaled for it.
        data: what ``recipes.faces.read_faces`` opens (``.rec``, folder, list), or a dataset without augmentation,
            whose items are ``(image, label)``, dicts or images (``recipes.faces.item_image``): uint8 are pixels, to
            which presets are applied, floating point is taken as already normalised. Only losses that learn from
            identities use the labels; a negative one says that the person is not known.
        val: a judge, a verification set or its path, or what ``recipes.faces.read_judge`` takes; or several, of
            which the first decides and the others are reported. "auto" holds some of ``data`` out to judge by.
        config: all choices.
        teacher_weights: state_dict for each teacher that a factory makes, as in ``rk.load``.
        cache: folder for the teacher's embeddings, made if needed; a later run with the same teacher, input
            preset and images reads them there. None: they last as long as the run.
        checkpoint: file that is written after each epoch. Where it exists, the run goes on from it, to the
            same weights as if it had not been interrupted. None: no such file.
        log_to: loggers that are told how training goes, by name and place, see ``Logger``: "tensorboard:FOLDER",
            "csv:FILE", "wandb" or "wandb:PROJECT", "mlflow" or "mlflow:URI", or several of these.
        callbacks: are told how training goes, see ``Callback``.
        progress: show on stderr how far the run is. What it warns of goes to the logger "recipes.tsmr".
        show_images: also give the images that changed sides, see ``TSMRResult.sides``.

    Raises:
        InputError: data, teacher or checkpoint cannot be used, the student takes other images, its embedding or a
            teacher's cannot be told, a pattern matches nothing, what is written would replace what is read, another
            run writes to ``cache`` or ``checkpoint`` at this moment, a teacher is at chance on ``val``, or the
            checkpoint is from a run that differs.
        VerificationError: a student that came from ONNX computes something else than its file.
        ExpressionError, NothingToDoError: as ``rk.expand``.
        DivergedError: training diverged.

    ```python
    student = rk.load("deployed.onnx")
    config = TSMRConfig(stages=(Stage(epochs=1, cosine=1.0),), batch_size=8)
    result = apply_tsmr(student, "teacher.onnx", "train.rec", val="lfw.bin", config=config)
    rk.save(result.model, "trained.onnx")
    ```
    """
    begun = time.monotonic()
    read = {"teacher": teacher, "teacher_weights": teacher_weights, "data": data, "val": val}
    places = {"cache": cache, "checkpoint": checkpoint}
    require_kinds({"model": model, **read, "config": config, **places, "log_to": log_to})
    hold_apart(read, {**places, **written(log_to)})
    own, loggers = Callbacks(callbacks), made(log_to)
    processes = Processes.current()
    if processes.count > 1 and cache is None:
        raise InputError("several processes share the teacher's embeddings in a folder: give cache")
    shown = Progress(silent=not progress or processes.rank > 0)
    with own_places(cache, checkpoint), shown.shown(), kept_memory(), ExitStack() as stack:
        data, val, held_out = with_auto(data, val, partial(logits_of_student, model, config))
        if held_out:
            shown.say(held_out)
        given = gather(model, teacher, teacher_weights, data, val, config, processes)
        shown.say(f"device: {name_device(given.device)}")
        shown.say(given.task)
        stack.enter_context(torch.random.fork_rng([given.device] if given.device.type == "cuda" else []))
        torch.manual_seed(config.seed)
        kept = None if cache is None else Path(cache)
        folder = kept or Path(stack.enter_context(TemporaryDirectory(ignore_cleanup_errors=True)))
        file = None if checkpoint is None else Path(checkpoint)
        logs = _opened(loggers, processes)
        told = Callbacks([ProgressBar(shown), *logs] if processes.rank == 0 else [])
        report = None
        try:
            prepared = prepare(given, config, kept, folder, file, shown, begun)
            if processes.rank == 0:
                told = Callbacks([told, *_kept(prepared, file), own])
            train(prepared, told)
            if (trained := len(prepared.history.epochs)) < (planned := prepared.given.config.total_epochs):
                shown.say(f"the time is over (--budget): of {planned} epochs {trained} are trained")
            if prepared.given.judges:
                shown.say(f"judging epoch {prepared.history.kept} and shares of the way to it")
            with labelled("judging what to return"):
                result = prove(prepared, choose(prepared.given, prepared.history), show_images)
            report = result.report
        finally:
            told.end(report)
    return result


def _opened(loggers: Sequence[Logger], processes: Processes) -> list[Callback]:
    """Open them in the first process; where that fails, all do."""
    told: list[Callback] = []
    processes.told(lambda: told.extend(opened(loggers)))
    return told


def _kept(prepared: Prepared[Any], path: Path | None) -> list[Callback]:
    return [] if path is None else [CheckpointFile(path, prepared.origin, prepared.state)]


def train(prepared: Prepared[Any], callback: Callback) -> None:
    """Train the epochs that are left, or those for which there is time; the history takes in each as it would be
    deployed.
    """
    config, history = prepared.given.config, prepared.history
    callback.start(config, len(history.epochs))
    callback.deployed(history.before)
    took = 0.0
    while prepared.goes_on(took):
        start, epoch = time.monotonic(), len(history.epochs) + 1
        losses, rate = prepared.trainer.run_epoch(epoch, callback)
        folded = deployable(prepared.trainer.trained)
        with labelled(f"judging epoch {epoch}/{config.total_epochs}"):
            validation = prepared.given.judge(folded)
        report = EpochReport(epoch, config.place(epoch)[0] + 1, losses, rate, validation)
        history.add(report, folded.state_dict())
        callback.epoch(report, folded)
        took = time.monotonic() - start


def prove(prepared: Prepared[Model], chosen: Chosen[Model], show_images: bool) -> TSMRResult[Model]:
    """Measure what is returned against what was passed in."""
    given, history = prepared.given, prepared.history
    model, config = given.model, given.config
    report = TSMRReport(
        config,
        **vars(prepared.fingerprints),
        images=len(prepared.trainer.examples.showing),
        epochs=tuple(history.epochs),
        curve=tuple(prepared.trainer.curve),
        own_losses=own_losses(config),
        task=given.task,
        imported=imported_files(),
        inputs=history.inputs,
        teacher_scores=history.teacher_scores,
        before=history.before,
        after=chosen.verdicts,
        kept=history.kept if chosen.share else 0,
        share=chosen.share,
        shares=chosen.shares,
        comparisons=chosen.comparisons,
        held_back=chosen.held_back,
        gallery=_gallery(model, chosen.model, given.judges, config),
        weight_change=_weight_change(model, chosen.model),
        integers=count_integers(chosen.model),
        trials=prepared.trials,
        other_outputs=changed_outputs(model, chosen.model, given.others, _measured(given), config),
    )
    images = input_preset(config.student_input).prepare(given.views.first(_SHOWN)).cpu()
    sides = tuple(changed_sides(given.judges, history.before, chosen.verdicts)) if show_images else None
    return TSMRResult(chosen.model, report, images, sides)


def _gallery(
    old: nn.Module, new: nn.Module, judges: Sequence[Judge], config: TSMRConfig
) -> dict[str, Evaluation]:
    """Old embeddings against new ones, on the first pairs among the judges; empty without any."""
    for judge in judges:
        if isinstance(judge, PairsJudge) and isinstance(judge.pairs, PairSet):
            output = config.student_output
            return cross_evaluate(old, new, judge.pairs, config.student_input, embedding=output)
    return {}


def _measured(given: Ingredients[Any]) -> Tensor:
    """Images on which is measured how far other outputs moved."""
    shown = next((judge for judge in given.judges if judge.images(1)), None)
    return given.views.first(MEASURED) if shown is None else shown_images(shown, MEASURED)


def _weight_change(old: nn.Module, new: nn.Module) -> dict[str, float]:
    after = new.state_dict()
    changes = {}
    for name, parameter in old.named_parameters():
        before = parameter.detach().cpu().double()  # MPS has no float64
        length = before.norm()
        change = (after[name].cpu().double() - before).norm()
        changes[name] = float(change / length.clamp_min(1e-12))
    return changes

"""The recipe from a deployed model to one with better weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from recipes.faces import (
    Embedder,
    Evaluation,
    PairSet,
    compare_inputs,
    cross_evaluate,
    evaluate,
    read_faces,
    read_pairs,
)
from recipes.tsmr.config import LABELLED, TSMRConfig
from recipes.tsmr.distributed import Processes
from recipes.tsmr.judging import CHECKED, Teacher, score_teachers, warn_of_input
from recipes.tsmr.places import in_its_own_places
from recipes.tsmr.prepare import deployable, device_of, expanded, gather_examples, start_objective
from recipes.tsmr.progress import Progress
from recipes.tsmr.results import EpochReport, TSMRReport
from recipes.tsmr.targets.examples import identity_labels
from recipes.tsmr.targets.identity import data_identity, model_identity
from recipes.tsmr.targets.teacher import teacher_preset
from recipes.tsmr.targets.views import Images, Views
from recipes.tsmr.training.checkpoint import read_checkpoint, whole, write_checkpoint
from recipes.tsmr.training.history import History
from recipes.tsmr.training.ingredients import first_images, require_fit, warn_of_import
from recipes.tsmr.training.logs import Log
from recipes.tsmr.training.trained import MEASURED, changed_outputs, choose_trained
from recipes.tsmr.training.trainer import Trainer
from reparam_kit import InputError, __version__, fingerprint

Model = TypeVar("Model", bound=nn.Module)

_DEFAULTS = TSMRConfig()


@dataclass(frozen=True)
class TSMRResult(Generic[Model]):
    """The model with its new weights, of the same class and with the same state_dict keys, and what the run did."""

    model: Model
    report: TSMRReport


@in_its_own_places
def apply_tsmr(
    model: Model,
    teacher: Teacher | Sequence[Teacher],
    data: str | Path | Images,
    val: str | Path | PairSet | None = None,
    config: TSMRConfig = _DEFAULTS,
    *,
    cache: str | Path | None = None,
    checkpoint: str | Path | None = None,
    logs: str | Path | None = None,
) -> TSMRResult[Model]:
    """Expand ``model``, train it through the stages of ``config``, and fold it back.

    After each epoch the student is folded and judged on ``val``, and the best is kept, see
    ``recipes.tsmr.judging.rank``. The model as it was takes part, so what is returned is never worse on
    ``val`` than what was passed in. Without ``val`` the last epoch is kept.

    In several processes (see ``recipes.tsmr.distributed``) each calls this with the same arguments. Only the
    first writes files, and its result is the one that counts.

    Args:
        model: face net, images float32 ``[N, 3, H, W]`` to embeddings ``[N, D]``. It is not changed, and
            trained on the device that its parameters are on. Only what its embedding hangs on is trained; other
            outputs that hang on that too are named in the report.
        teacher: path of an ``.onnx`` file, or a module, of any embedding size; or several of these. Where a file
            fixes another image size, the images are scaled for it.
        data: what ``recipes.faces.read_faces`` opens (``.rec``, folder, list), or a dataset of ``(image uint8
            [3, H, W] RGB, label, index)`` without augmentation. Only terms that learn from identities use the
            labels; a negative one says that the person is not known.
        val: path of a ``.bin`` file, or pairs.
        config: all choices.
        cache: folder for the teacher's embeddings, made if needed; a later run with the same teacher, input
            preset and images reads them there. None: they last as long as the run.
        checkpoint: file that is written after each epoch. Where it exists, the run goes on from it, to the
            same weights as if it had not been interrupted. None: no such file.
        logs: folder for TensorBoard; None writes no logs.

    Raises:
        InputError: data, teacher or checkpoint cannot be used, the student takes other images, its embedding or a
            teacher's cannot be told, a pattern matches nothing, what is written would replace what is read, another
            run writes to ``cache`` or ``checkpoint`` at this moment, a teacher is at chance on ``val``, or the
            checkpoint is from a run that differs.
        VerificationError: a student that came from ONNX computes something else than its file.
        ExpressionError, NothingToDoError: as ``rk.expand``.
        DivergedError: training diverged.
    """
    processes = Processes.current()
    views = Views(read_faces(data) if isinstance(data, str | Path) else data)
    teachers = [teacher] if isinstance(teacher, str | Path | nn.Module) else list(teacher)
    names = config.teacher_inputs * (len(teachers) if len(config.teacher_inputs) == 1 else 1)
    if not teachers or len(names) != len(teachers):
        raise InputError(f"{len(names)} input presets for {len(teachers)} teachers: give one, or one each")
    outputs = config.teacher_embeddings * (len(teachers) if len(config.teacher_embeddings) == 1 else 1)
    if len(outputs) != len(teachers):
        raise InputError(
            f"{len(outputs)} names of embeddings for {len(teachers)} teachers: give one, or one each"
        )
    presets = [teacher_preset(t, name, views.shape) for t, name in zip(teachers, names, strict=True)]
    step = config.batch_size * config.accumulate * processes.count
    if len(views) < step:
        raise InputError(
            f"{len(views)} training images do not fill a batch: lower batch_size={config.batch_size}"
        )
    if processes.count > 1 and cache is None:
        raise InputError("several processes share the teacher's embeddings in a folder: give cache")
    device = device_of(model)
    pairs = read_pairs(val) if isinstance(val, str | Path) else val
    require_fit(model, views, pairs)
    embedders = [
        Embedder(t, preset, embedding=output)
        for t, preset, output in zip(teachers, presets, outputs, strict=True)
    ]
    for embed in embedders:
        embed(first_images(views, 2))  # hours before the first of the others
    chosen, others = choose_trained(model, views, config)
    progress = Progress(silent=processes.rank > 0)
    warn_of_import(model, views, config.student_input, progress)
    kept = None if cache is None else Path(cache)
    identities: dict[str, Any] = {
        "student": model_identity(model),
        "teachers": tuple(model_identity(t) for t in teachers),
        "data": processes.first(
            lambda: data_identity(views.images, kept, workers=config.workers, progress=progress)
        ),
    }
    labels = identity_labels(views.images) if config.uses(*LABELLED) else None
    run = {
        **config.to_json(),
        **identities,
        "labels": fingerprint(labels),
        "trained": fingerprint({name for name, p in chosen.named_parameters() if p.requires_grad}),
        "val": _pairs_identity(pairs),
        "processes": processes.count,
        "reparam-kit": __version__,
    }
    del run["workers"]  # changes nothing in the result
    saved = read_checkpoint(Path(checkpoint), run) if checkpoint is not None else None

    def judge(model: nn.Module) -> Evaluation | None:
        if pairs is None:
            return None
        return evaluate(model, pairs, config.student_input, embedding=config.student_embedding)

    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        torch.manual_seed(config.seed)
        student = expanded(chosen, views, config)
        history = History({}, (), None, model.state_dict())
        if saved is not None and checkpoint is not None:
            with whole(checkpoint):
                history = History.from_state(saved["history"])
                history.require_fit(model, config)
        elif pairs is not None:
            history.teacher_scores = score_teachers(teachers, presets, outputs, pairs)
            history.inputs = compare_inputs(
                model, pairs, CHECKED, inputs=[config.student_input], embedding=config.student_embedding
            )
            history.before = judge(model)
        warn_of_input(history.inputs, config.student_input, progress)
        for name in others:
            progress.warn(
                f"output {name!r} of the student hangs on weights that are trained for its embedding alone, and will "
                "change: where it is in use, keep the weights of both as they are with exclude (--exclude)"
            )
        folder = Path(cache or stack.enter_context(TemporaryDirectory(ignore_cleanup_errors=True)))
        examples = processes.first(
            lambda: gather_examples(model, embedders, views, labels, folder, identities, config, progress)
        )
        trainer = Trainer(student, start_objective(model, examples, config), examples, config, processes)
        log = stack.enter_context(Log(logs if processes.rank == 0 else None))
        if saved is not None and checkpoint is not None:
            done = len(history.epochs)
            with whole(checkpoint):
                trainer.load_state_dict(saved["trainer"], done)
            progress.say(f"going on after epoch {done} of {config.epochs}, from {checkpoint}")
        for epoch in range(len(history.epochs) + 1, config.epochs + 1):
            known = len(trainer.curve)
            losses, rate = trainer.run_epoch(epoch, progress)
            folded = deployable(trainer.trained)
            validation = judge(folded)
            history.add(
                EpochReport(epoch, config.place(epoch)[0] + 1, losses, rate, validation), folded.state_dict()
            )
            log.epoch(history.epochs[-1], trainer.curve[known:])
            if validation is not None:
                progress.say(
                    f"epoch {epoch}/{config.epochs}: accuracy {validation.accuracy:.4f} on the validation set"
                )
            if checkpoint is not None and processes.rank == 0:
                state = {"trainer": trainer.state_dict(), "history": history.state_dict()}
                write_checkpoint(Path(checkpoint), run, state)

    result = copy.deepcopy(model)
    result.load_state_dict(history.weights)
    report = TSMRReport(
        config,
        **identities,
        images=len(views),
        epochs=tuple(history.epochs),
        curve=tuple(trainer.curve),
        inputs=history.inputs,
        teacher_scores=history.teacher_scores,
        before=history.before,
        after=history.best,
        kept=history.kept,
        gallery={}
        if pairs is None
        else cross_evaluate(model, result, pairs, config.student_input, embedding=config.student_embedding),
        weight_change=_weight_change(model, result),
        other_outputs=changed_outputs(model, result, others, first_images(pairs or views, MEASURED), config),
    )
    return TSMRResult(result, report)


def _weight_change(old: nn.Module, new: nn.Module) -> dict[str, float]:
    after = new.state_dict()
    changes = {}
    for name, parameter in old.named_parameters():
        length = parameter.detach().double().norm()
        change = (after[name].double() - parameter.detach().double()).norm()
        changes[name] = float(change / length.clamp_min(1e-12))
    return changes


def _pairs_identity(pairs: PairSet | None) -> str | None:
    return None if pairs is None else fingerprint([pairs.images, pairs.same, pairs.folds])

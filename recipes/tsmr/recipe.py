"""The recipe from a deployed model to one with better weights."""

from __future__ import annotations

import copy
import hashlib
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import reparam_kit as rk
from recipes.faces import Embedder, Evaluation, FaceRecords, PairSet, evaluate, input_preset, read_pairs
from recipes.tsmr.checkpoint import read_checkpoint, write_checkpoint
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.losses import Distillation
from recipes.tsmr.progress import Progress
from recipes.tsmr.report import EpochReport, TSMRReport
from recipes.tsmr.teacher import data_identity, model_identity, teacher_embeddings
from recipes.tsmr.trainer import Trainer
from recipes.tsmr.views import Images, Views, epoch_order
from reparam_kit import InputError

Model = TypeVar("Model", bound=nn.Module)

_DEFAULTS = TSMRConfig()
_FITTED = 2048  # images to which the start of the projection is fitted
_CALIBRATED = 64  # images on which the start of the branches is measured


@dataclass(frozen=True)
class TSMRResult(Generic[Model]):
    """The model with its new weights, of the same class and with the same state_dict keys, and what the run did."""

    model: Model
    report: TSMRReport


def apply_tsmr(
    model: Model,
    teacher: str | Path | nn.Module,
    data: str | Path | Images,
    val: str | Path | PairSet | None = None,
    config: TSMRConfig = _DEFAULTS,
    *,
    cache: str | Path | None = None,
    checkpoint: str | Path | None = None,
) -> TSMRResult[Model]:
    """Expand ``model``, train it to give a teacher's embeddings, and fold it back.

    After each epoch the student is folded and judged on ``val``, and the best is kept: by accuracy, then by
    its true accept rates from the lowest false accept rate up. The model as it was takes part, so what is
    returned is never worse on ``val`` than what was passed in. Without ``val`` the last epoch is kept.

    Args:
        model: face net, images float32 ``[N, 3, H, W]`` to embeddings ``[N, D]``. It is not changed, and
            trained on the device that its parameters are on.
        teacher: path of an ``.onnx`` file, or a module, of any embedding size.
        data: path of a ``.rec`` file, or a dataset of ``(image uint8 [3, H, W] RGB, label, index)`` without
            augmentation.
        val: path of a ``.bin`` file, or pairs.
        config: all choices.
        cache: folder for the teacher's embeddings, made if needed; a later run with the same teacher, input
            preset and images reads them there. None: they last as long as the run.
        checkpoint: file that is written after each epoch. Where it exists, the run goes on from it, to the
            same weights as if it had not been interrupted. None: no such file.

    Raises:
        InputError: data, teacher or checkpoint cannot be used, or the checkpoint is from a run that differs.
        ExpressionError, NothingToDoError: as ``rk.expand``.
        ReparamError: training diverged.
    """
    views = Views(FaceRecords(data) if isinstance(data, str | Path) else data)
    if len(views) < config.batch_size:
        raise InputError(
            f"{len(views)} training images do not fill a batch: lower batch_size={config.batch_size}"
        )
    device = _device(model)
    pairs = read_pairs(val) if isinstance(val, str | Path) else val
    embed_teacher = Embedder(teacher, input_preset(config.teacher_input))
    identities = {
        "student": model_identity(model),
        "teacher": model_identity(teacher),
        "data": data_identity(views.images),
    }
    run = {**config.to_json(), **identities, "val": _pairs_identity(pairs)}
    del run["workers"]  # changes nothing in the result
    saved = read_checkpoint(Path(checkpoint), run) if checkpoint is not None else None
    progress = Progress()

    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        torch.manual_seed(config.seed)
        student = _expanded(model, views, config)
        folder = Path(cache or stack.enter_context(TemporaryDirectory(ignore_cleanup_errors=True)))
        targets = teacher_embeddings(embed_teacher, views, folder, identities, config, progress)
        stage = _distillation(model, views, targets, config)
        trainer = Trainer(student, stage, views, targets, config)
        if saved is None:
            before = _judge(model, pairs, config)
            kept, weights = 0, model.state_dict()
            epochs: list[EpochReport] = []
        else:
            trainer.load_state_dict(saved["trainer"])
            before = _unpacked(saved["before"])
            kept, weights = saved["kept"], saved["weights"]
            epochs = [
                EpochReport(**{**old, "validation": _unpacked(old["validation"])}) for old in saved["epochs"]
            ]
            progress.say(f"going on after epoch {len(epochs)} of {config.epochs}, from {checkpoint}")
        best = before if kept == 0 else epochs[kept - 1].validation
        for epoch in range(len(epochs) + 1, config.epochs + 1):
            losses, rate = trainer.run_epoch(epoch, progress)
            folded = copy.deepcopy(student) if config.block is None else rk.fold(student)
            validation = _judge(folded, pairs, config)
            epochs.append(EpochReport(epoch, losses, rate, validation))
            if validation is not None:
                progress.say(
                    f"epoch {epoch}/{config.epochs}: accuracy {validation.accuracy:.4f} on the validation set"
                )
            if validation is None or best is None or _rank(validation) > _rank(best):
                kept, best, weights = epoch, validation, folded.state_dict()
            if checkpoint is not None:
                state = {
                    "trainer": trainer.state_dict(),
                    "before": _packed(before),
                    "epochs": [{**vars(old), "validation": _packed(old.validation)} for old in epochs],
                    "kept": kept,
                    "weights": weights,
                }
                write_checkpoint(Path(checkpoint), run, state)

    result = copy.deepcopy(model)
    result.load_state_dict(weights)
    report = TSMRReport(
        config, **identities, images=len(views), epochs=tuple(epochs), before=before, after=best, kept=kept
    )
    return TSMRResult(result, report)


def _device(model: nn.Module) -> torch.device:
    parameter = next((p for p in model.parameters() if p.requires_grad), None)
    if parameter is None:
        raise InputError("the model has no parameter that requires a gradient: there is nothing to train")
    return parameter.device


def _expanded(model: Model, views: Views, config: TSMRConfig) -> Model:
    if config.block is None:
        return copy.deepcopy(model)
    order = epoch_order(len(views), config.flip, config.seed)
    images, _, _ = next(iter(views.batches(order, _CALIBRATED, workers=0)))
    inputs = input_preset(config.student_input)(images.to(_device(model)))
    return rk.expand(model, config.block, config.norm, calibration=[inputs])


def _distillation(
    model: nn.Module, views: Views, targets: npt.NDArray[np.float16], config: TSMRConfig
) -> Distillation:
    """The stage, its projection fitted to a sample of the training images."""
    embed = Embedder(model, input_preset(config.student_input))
    order = islice(epoch_order(len(views), config.flip, config.seed), _FITTED)
    ours, theirs = [], []
    for images, index, mirrored in views.batches(order, _CALIBRATED, config.workers):
        ours.append(embed(images))
        theirs.append(torch.from_numpy(targets[index.numpy(), mirrored.numpy().astype(int)]))
    student, teacher = torch.cat(ours), torch.cat(theirs)
    stage = Distillation(student.shape[1], teacher.shape[1], config.loss)
    stage.fit(student, teacher)
    return stage.to(_device(model))


def _judge(model: nn.Module, pairs: PairSet | None, config: TSMRConfig) -> Evaluation | None:
    return None if pairs is None else evaluate(model, pairs, input=config.student_input)


def _rank(evaluation: Evaluation) -> tuple[float, ...]:
    """What makes one evaluation better than another. A rate that the set is too small to measure is left out."""
    rates = [rate for _, rate in sorted(evaluation.tar_at_far.items()) if rate is not None]
    return (evaluation.accuracy, *rates)


def _packed(evaluation: Evaluation | None) -> dict[str, Any] | None:
    """As a checkpoint holds it, which is read without running anything: tensors, numbers and text."""
    if evaluation is None:
        return None
    scores, same = torch.from_numpy(evaluation.scores), torch.from_numpy(evaluation.same)
    return {**vars(evaluation), "scores": scores, "same": same}


def _unpacked(saved: dict[str, Any] | None) -> Evaluation | None:
    if saved is None:
        return None
    return Evaluation(**{**saved, "scores": saved["scores"].numpy(), "same": saved["same"].numpy()})


def _pairs_identity(pairs: PairSet | None) -> str | None:
    if pairs is None:
        return None
    digest = hashlib.sha256(pairs.same.tobytes())
    for image in pairs.images:
        digest.update(image)
    return digest.hexdigest()

"""The recipe from a deployed model to one with better weights."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Generic, TypeVar

import numpy as np
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

    After each epoch the student is folded and judged on ``val``, and the best is kept: by accuracy, then by its true accept
    rates from the lowest false accept rate up. The model as it was takes part, so what is returned is never worse on ``val``
    than what was passed in. Without ``val`` the last epoch is kept.

    Args:
        model: face net, images float32 ``[N, 3, H, W]`` to embeddings ``[N, D]``. It is not changed, and trained on the
            device that its parameters are on.
        teacher: path of an ``.onnx`` file, or a module, of any embedding size.
        data: path of a ``.rec`` file, or a dataset of ``(image uint8 [3, H, W] RGB, label, index)`` without augmentation.
        val: path of a ``.bin`` file, or pairs.
        config: all choices.
        cache: folder for the teacher's embeddings, made if needed; a later run with the same teacher, input preset and
            images reads them there. None: they last as long as the run.
        checkpoint: file that is written after each epoch. Where it exists, the run goes on from it, to the same weights as
            if it had not been interrupted. None: no such file.

    Raises:
        InputError: data, teacher or checkpoint cannot be used, or the checkpoint is from a run that differs.
        ExpressionError, NothingToDoError: as ``rk.expand``.
        ReparamError: training diverged.
    """
    views = Views(FaceRecords(data) if isinstance(data, str | Path) else data)
    if len(views) < config.batch_size:
        raise InputError(f"{len(views)} training images do not fill a batch: lower batch_size={config.batch_size}")
    pairs = read_pairs(val) if isinstance(val, str | Path) else val
    progress = Progress()
    run = {
        **config.to_dict(),
        "student": model_identity(model),
        "teacher": model_identity(teacher),
        "data": data_identity(views.images),
        "val": _pairs_identity(pairs),
    }
    del run["workers"]  # does not change the result
    ...

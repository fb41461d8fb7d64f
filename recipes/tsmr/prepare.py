"""What training starts from: the expanded student, the tables it learns from, and the map between spaces."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import reparam_kit as rk
from recipes.faces import Embedder, input_preset
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.objective.objective import Objective
from recipes.tsmr.progress import Progress
from recipes.tsmr.targets.examples import Examples, PartTable, Table, Targets
from recipes.tsmr.targets.identity import data_identity
from recipes.tsmr.targets.teacher import embedding_table
from recipes.tsmr.targets.views import Part, Views, epoch_order
from reparam_kit import InputError

Model = TypeVar("Model", bound=nn.Module)

_FITTED = 2048  # images to which the start of the map is fitted
_CALIBRATED = 64  # images on which the start of the branches is measured
_MEASURED = 1024  # images over which the start of a BatchNorm is measured


def device_of(model: nn.Module) -> torch.device:
    """Where ``model`` is trained. Raises InputError where it has nothing to train."""
    parameter = next((p for p in model.parameters() if p.requires_grad), None)
    if parameter is None:
        raise InputError("the model has no parameter that requires a gradient: there is nothing to train")
    return parameter.device


def expanded(model: Model, views: Views, config: TSMRConfig) -> Model:
    """What is trained: a copy of ``model``, with the BatchNorms and the branches that ``config`` asks for.

    Both are started from the first images of the training.
    """
    preset = input_preset(config.student_input)
    device = device_of(model)

    def inputs(images: int) -> Iterator[Tensor]:
        order = islice(epoch_order(len(views), config.flip, config.seed), images)
        for batch, _, _ in views.batches(order, _CALIBRATED, workers=0):
            yield preset(batch.to(device))

    student = copy.deepcopy(model)
    if config.restore_bn:
        with suppress(rk.NothingToDoError):  # every convolution has its BatchNorm
            student = rk.restore_bn(student, inputs(_MEASURED))
    if config.block is not None:
        try:
            student = rk.expand(student, config.block, config.norm, calibration=inputs(_CALIBRATED))
        except rk.NothingToDoError as error:
            raise rk.NothingToDoError(f"{error}; block=None (--block plain) trains it as it is") from error
    # Laid out as the images are in `Step`, branches multiply out without copies. `Module.to` would refuse 3-D kernels.
    for parameter in student.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return student


def deployable(trained: Model) -> Model:
    """A copy of ``trained`` without what ``expanded`` put in: the student's graph again."""
    try:
        return rk.fold(trained)
    except rk.NothingToDoError:
        return copy.deepcopy(trained)


def gather_examples(
    model: nn.Module,
    teachers: Sequence[Embedder],
    views: Views,
    labels: npt.NDArray[np.int64] | None,
    folder: Path,
    identities: dict[str, Any],
    config: TSMRConfig,
    progress: Progress,
) -> Examples:
    """The images with ``labels``, the teachers' embeddings and, where a term needs them, the old embeddings.

    Tables are computed into ``folder`` where they are not there. Those of a part of some images are rows of the
    tables of all of them, so that a run on the part and one on the whole compute them once.

    Raises:
        InputError: as ``embedding_table``, or a term needs identities and there are none.
    """

    part = views.images if isinstance(views.images, Part) else None
    whole = views if part is None else Views(part.images)
    data = identities["data"]
    if part is not None:
        data = data_identity(part.images, folder, workers=config.workers, progress=progress)

    def table(embed: Embedder, identity: str, who: str) -> Table:
        full = embedding_table(
            embed, identity, whole, data, folder,
            flip=config.flip, workers=config.workers, progress=progress, who=who,
        )  # fmt: skip
        return full if part is None else PartTable(full, part.chosen)

    tables = [table(embed, of, "teacher") for embed, of in zip(teachers, identities["teachers"], strict=True)]
    old = None
    if config.keep_gallery or config.uses("margin"):
        embed = Embedder(model, input_preset(config.student_input), embedding=config.student_embedding)
        old = table(embed, identities["student"], "deployed model")
    if labels is not None and labels.max() < 1:
        raise InputError("the terms margin and centres tell people apart, and the data names fewer than two")
    return Examples(views, Targets(tables, config.combine), labels, old)


def start_objective(model: nn.Module, examples: Examples, config: TSMRConfig) -> Objective:
    """Map and terms, started from a sample of the training images."""
    embed = Embedder(model, input_preset(config.student_input), embedding=config.student_embedding)
    order = islice(epoch_order(len(examples.views), config.flip, config.seed), _FITTED)
    ours, theirs = [], []
    for images, index, mirrored in examples.views.batches(order, _CALIBRATED, config.workers):
        ours.append(embed(images))
        theirs.append(examples.known(index, mirrored)[0])
    student, teacher = torch.cat(ours), torch.cat(theirs)
    if not student.isfinite().all():
        raise InputError(
            "the student's embeddings of the training images are not finite: check the student and "
            f"student_input={config.student_input!r}"
        )
    objective = Objective(student.shape[1], teacher.shape[1], examples.identities, config)
    objective.fit(student, teacher)
    objective.start_centres(examples)
    return objective.to(device_of(model))

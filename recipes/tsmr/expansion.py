"""The student as it is trained, with branches and BatchNorms, and as it is deployed, without."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor, nn

import reparam_kit as rk
from recipes.faces import input_preset
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.targets.views import Views, epoch_order
from reparam_kit import InputError

Model = TypeVar("Model", bound=nn.Module)

_CALIBRATED = 64  # images on which the start of the branches is measured
_MEASURED = 1024  # images over which the start of a BatchNorm is measured


def device_of(model: nn.Module) -> torch.device:
    """Return where ``model`` is trained. Raises InputError where it has nothing to train."""
    parameter = next((p for p in model.parameters() if p.requires_grad), None)
    if parameter is None:
        raise InputError("the model has no parameter that requires a gradient: there is nothing to train")
    return parameter.device


def expanded(model: Model, views: Views, config: TSMRConfig) -> Model:
    """Return what is trained: a copy of ``model``, with the BatchNorms and the branches that ``config`` asks for.

    Both are started from the first images of the training.
    """
    preset = input_preset(config.student_input)
    device = device_of(model)

    def inputs(images: int) -> Iterator[Tensor]:
        order = islice(epoch_order(len(views), config.flip, config.seed), images)
        for batch, _, _ in views.batches(order, _CALIBRATED, workers=0):
            yield preset.prepare(batch.to(device))

    student = rk.duplicate(model)
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
    """Return a copy of ``trained`` without what ``expanded`` put in: the student's graph again, with the weights that
    its file will hold.
    """
    with suppress(rk.NothingToDoError):
        trained = rk.fold(trained)
    return rk.as_written(trained)

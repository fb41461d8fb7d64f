"""Student, teachers, training and validation images, held against each other before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from recipes.faces import InputPreset, Judge, Verdict, better_input, input_preset
from recipes.faces.embedding.signature import read_signature
from recipes.tsmr.progress import LOGGER
from recipes.tsmr.targets.views import Views
from reparam_kit import InputError, check_import

CHECKED = 300  # examples on which inputs and teachers are tried before training

Teacher = str | Path | nn.Module


def require_fit(model: nn.Module, views: Views, judges: Sequence[Judge]) -> None:
    """Raise InputError where the student's file takes other images than there are, or those of a judge differ in size.

    Teachers are not asked: where a file fixes another size, the images are scaled for it.
    """
    training = tuple(views.shape)
    judged = [tuple(shown_images(judge, 1).shape[1:]) for judge in judges if judge.images(1)]
    signature = read_signature(model)
    if signature is not None:
        signature.require_images("the student")
        signature.require_size("the student", training, "the training images are")
        for shape in judged:
            signature.require_size("the student", shape, "the validation images are")
    for shape in judged:
        if shape != training:
            raise InputError(
                f"the training images are {training[1]} x {training[2]} pixels (height x width) and the validation "
                f"images {shape[1]} x {shape[2]}: align the faces of both alike"
            )


def score_teachers(
    teachers: Sequence[Teacher], presets: Sequence[InputPreset], outputs: Sequence[str | None], judge: Judge
) -> tuple[Verdict, ...]:
    """What ``judge`` says of each teacher, under its preset and by its output, on ``CHECKED`` of its examples.

    Raises:
        InputError: one of them does no better than chance.
    """
    few = judge.sample(CHECKED)
    verdicts = []
    asked = zip(teachers, presets, outputs, strict=True)
    for number, (teacher, preset, output) in enumerate(asked, start=1):
        name = f"teacher {number}" if isinstance(teacher, nn.Module) else f"the teacher {teacher}"
        verdicts.append(few.judge(teacher, preset, output))
        if verdicts[-1].at_chance():
            raise InputError(
                f"{name} scores at chance on the validation set ({told(verdicts[-1])}, input {preset.name!r}): it is "
                "no teacher for these images, or the preset is wrong"
            )
    return tuple(verdicts)


def told(verdict: Verdict) -> str:
    """What decides, what separates, and on what: for messages."""
    figures = dict.fromkeys((verdict.deciding, verdict.separation))
    return f"{', '.join(f'{figure.name} {figure.shown()}' for figure in figures)}; {verdict.subject}"


def warn_of_input(inputs: Mapping[str, Verdict], asked: str) -> None:
    """Say so, loudly, where the student does better with another input than the one ``asked`` for."""
    better = better_input(inputs, asked) if inputs else None
    if better is not None:
        now = told(inputs[asked]) if asked in inputs else "no usable embedding"
        LOGGER.warning(
            f"the student does better with input {better!r} ({told(inputs[better])}) than with {asked!r} as asked for "
            f"({now}): training a model under another input than its own spoils it"
        )


def warn_of_import(model: nn.Module, views: Views, preset: str) -> None:
    """Hold a student that came from ONNX against its file on a few of the images, or warn of why that cannot be.

    Raises VerificationError where the two differ by more than rounding.
    """
    if isinstance(model, fx.GraphModule) and "onnx" in model.meta:
        note = check_import(model, input_preset(preset)(first_images(views, 3)))
        if note is not None:
            LOGGER.warning(note)


def first_images(views: Views, count: int) -> Tensor:
    """The first training images, at most ``count``: uint8 ``[N, 3, H, W]``."""
    return torch.stack([views[i, False][0] for i in range(min(count, len(views)))])


def shown_images(judge: Judge, count: int) -> Tensor:
    """The first images of a judge, at most ``count``: uint8 ``[N, 3, H, W]``."""
    return torch.stack([torch.from_numpy(image.copy()).movedim(-1, 0) for image in judge.images(count)])

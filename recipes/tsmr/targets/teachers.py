"""The nets that are learnt from: opened, each on the device of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reparam_kit as rk
from recipes.faces import Embedder, InputPreset, input_preset
from recipes.faces.embedding.signature import read_signature
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.progress import LOGGER
from recipes.tsmr.targets.identity import model_identity
from recipes.tsmr.targets.task import Task
from recipes.tsmr.targets.views import Views
from reparam_kit import InputError

Teacher = str | Path | nn.Module
Weights = str | Path | Sequence[str | Path] | None
Value = TypeVar("Value")

_TRIED = 8  # images on which an imported module is held against its file
_ALIKE = 0.999  # cosine of their embeddings: TF32 costs 1e-5


@dataclass(frozen=True)
class Scaled(InputPreset):
    """A preset for a net that takes images of another size, ``(height, width)``: bilinear, with antialiasing."""

    size: tuple[int, int] = (112, 112)

    def __call__(self, images: Tensor) -> Tensor:
        return super().__call__(self._scaled(images))

    def prepare(self, images: Tensor) -> Tensor:
        return self(images) if images.dtype == torch.uint8 else self._scaled(images)

    def _scaled(self, images: Tensor) -> Tensor:
        return F.interpolate(images.float(), self.size, mode="bilinear", antialias=True)


@dataclass(frozen=True)
class OpenedTeacher:
    """A net that is learnt from, under its input preset.

    Attributes:
        model: as it was given: the path of an ONNX file, or a module.
        name: what messages call it.
        embed: runs it.
    """

    model: Path | nn.Module
    name: str
    embed: Embedder

    @property
    def identity(self) -> str:
        """sha256 of what it computes."""
        return model_identity(self.model)


def open_teachers(
    teachers: Teacher | Sequence[Teacher],
    weights: Weights,
    views: Views,
    config: TSMRConfig,
    device: torch.device,
) -> tuple[OpenedTeacher, ...]:
    """Open each teacher on ``device`` and try it on two images, hours before the first of several has embedded all.

    Args:
        teachers: paths of ONNX files, modules, and ``package.module:factory``.
        weights: of the factories, in their order; None where these bring their own.
        views: the images.
        config: input presets and outputs.
        device: of the run.

    Raises:
        InputError: as ``rk.load`` and ``Embedder``; or there are presets, outputs or weights for another number of
            teachers.
    """
    several = [teachers] if isinstance(teachers, str | Path | nn.Module) else list(teachers)
    models = list(_loaded(several, [weights] if isinstance(weights, str | Path) else weights or ()))
    names = _for_each(models, config.teacher_inputs, "input presets")
    outputs = _for_each(models, config.teacher_outputs, "names of outputs")
    opened, maps = [], Task(config.task).maps
    for number, (model, name, output) in enumerate(zip(models, names, outputs, strict=True), start=1):
        preset = teacher_preset(model, name, views.shape)
        embedder = partial(Embedder, preset=preset, embedding=output, maps=maps)
        called = f"teacher {number}" if isinstance(model, nn.Module) else f"the teacher {model}"
        opened.append(OpenedTeacher(model, called, placed(model, embedder, views, device)))
        opened[-1].embed(views.first(2))
    return tuple(opened)


def teacher_preset(teacher: str | Path | nn.Module, name: str, shape: torch.Size) -> InputPreset:
    """Return the preset ``name``; with scaling, where the teacher's file, also that of a module which was loaded from
    one, fixes another height and width than ``shape`` has.

    Raises:
        InputError: there is no such preset.
    """
    preset = input_preset(name)
    signature = read_signature(teacher)
    if signature is None or signature.size in (None, tuple(shape[-2:])):
        return preset
    return Scaled(**vars(preset), size=signature.size)


def placed(
    model: Path | nn.Module, embedder: Callable[..., Embedder], views: Views, device: torch.device
) -> Embedder:
    """Run ``model`` on ``device``, by ``embedder``.

    A file is run by onnxruntime on CUDA where that is installed; elsewhere as the module that is imported from it, if
    that gives what the file gives; or else on the CPU, and a warning says so.
    """
    if isinstance(model, nn.Module):
        here = all(parameter.device == device for parameter in model.parameters())
        return embedder(model if here else rk.duplicate(model).to(device))
    if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        with suppress(InputError):  # it is built for CUDA, which is not there
            return embedder(model, device=device)
    embed = embedder(model)
    if device.type == "cpu":
        return embed
    imported = _imported(model, embedder, embed, views.first(_TRIED), device)
    if isinstance(imported, Embedder):
        return imported
    LOGGER.warning(
        f"the teacher {model} runs on the CPU, because {imported}; onnxruntime-gpu runs it on CUDA"
    )
    return embed


def _imported(
    model: Path, embedder: Callable[..., Embedder], file: Embedder, images: Tensor, device: torch.device
) -> Embedder | str:
    """Return the module of ``model``, where it gives what ``file`` gives of ``images``; or why it cannot take its
    place.
    """
    try:
        embed = embedder(rk.load(model).to(device))
        found = embed(images)
    except rk.ReparamError as error:
        return f"it cannot be imported as a module ({rk.first_line(error)})"
    expected = file(images)
    same = found.shape == expected.shape and (F.cosine_similarity(found, expected) > _ALIKE).all()
    return embed if same else "the module imported from it gives something else"


def _loaded(teachers: Sequence[Teacher], weights: Sequence[str | Path]) -> Iterator[Path | nn.Module]:
    """Yield each teacher as the path of a file or as a module; what is written ``package.module:factory`` is called."""
    factories = [rk.is_factory(teacher) for teacher in teachers]
    if weights and len(weights) != sum(factories):
        raise InputError(
            f"of the teachers {sum(factories)} are package.module:factory, and weights (teacher_weights, "
            f"--teacher-weights) are given for {len(weights)}: give each its own, in their order, or none; others "
            "bring theirs"
        )
    rest = iter(weights)
    for teacher, made in zip(teachers, factories, strict=True):
        if isinstance(teacher, nn.Module):
            yield teacher
        else:
            yield rk.load(teacher, weights=next(rest, None)).eval() if made else Path(teacher)


def _for_each(models: Sequence[object], values: tuple[Value, ...], what: str) -> tuple[Value, ...]:
    """Return one of ``values`` for each teacher; a single one is for all."""
    values = values * (len(models) if len(values) == 1 else 1)
    if not models or len(values) != len(models):
        raise InputError(f"{len(values)} {what} for {len(models)} teachers: give one, or one each")
    return values

"""The ingredients of a run, opened and held against each other before anything takes long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Generic, TypeVar

import torch
from torch import nn

from recipes.faces import (
    Embedder,
    Judge,
    Verdict,
    input_preset,
)
from recipes.faces.judging.reading import Judged
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.distributed import Processes
from recipes.tsmr.expansion import device_of
from recipes.tsmr.objective.loss import SECOND
from recipes.tsmr.stages import LOSSES
from recipes.tsmr.targets.streams import open_views, require_batch
from recipes.tsmr.targets.task import Task
from recipes.tsmr.targets.teachers import OpenedTeacher, Teacher, Weights, open_teachers
from recipes.tsmr.targets.views import Images, Views
from recipes.tsmr.tasks import names_labels, settle, with_maps
from recipes.tsmr.training.checks import (
    judges_of,
    require_fit,
    taught,
    tell_input,
    warn_of_import,
)
from recipes.tsmr.training.trained import choose_trained
from reparam_kit import InputError, ReparamError, open_session, save

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Ingredients(Generic[Model]):
    """All that a run is made of, opened, and held against each other.

    Attributes:
        model: the student as it was passed in.
        trained: a copy of it in which what is trained, and nothing else, requires a gradient.
        others: names of its outputs besides the embedding that depend on that too.
        teachers: on the device of the run.
        views: the training images.
        judges: the first decides which epoch is kept, the others are reported; none without validation.
        config: the choices of the run.
        processes: those that train together.
        task: why the student's output is taken for what it is.
    """

    model: Model
    trained: Model
    others: tuple[str, ...]
    teachers: tuple[OpenedTeacher, ...]
    views: Views
    judges: tuple[Judge, ...]
    config: TSMRConfig
    processes: Processes
    task: str

    @property
    def device(self) -> torch.device:
        """Where the student is trained."""
        return device_of(self.model)

    def judge(self, model: nn.Module) -> tuple[Verdict, ...]:
        """Return what each judge says of ``model``, or of the file that it will be, see ``as_file``."""
        config = self.config
        with as_file(model) as runs:
            return tuple(
                judge.judge(runs, config.student_input, config.student_output) for judge in self.judges
            )


def gather(
    model: Model,
    teacher: Teacher | Sequence[Teacher],
    teacher_weights: Weights,
    data: str | Path | Images,
    val: Judged | Sequence[Judged] | None,
    config: TSMRConfig,
    processes: Processes,
) -> Ingredients[Model]:
    """Open what ``apply_tsmr`` is given, and refuse what does not fit together, before anything takes long."""
    views = open_views(data, config, processes)
    _require_second_views(config)
    device = device_of(model)
    judges = judges_of(val, config)
    require_fit(model, views, judges, config)
    tell_input(views)
    config = with_maps(config)
    teachers = open_teachers(teacher, teacher_weights, views, config, device)
    judges = taught(judges, teachers[0])
    trained, others = choose_trained(model, views, config)
    config, task = settle(config, of_student(model, config), [each.embed for each in teachers], views, judges)
    require_batch(views, config, processes)
    warn_of_import(model, views, config.student_input)
    return Ingredients(model, trained, others, teachers, views, judges, config, processes, task)


@contextmanager
def as_file(model: nn.Module) -> Iterator[nn.Module | Path]:
    """Give the file in which ``model`` will be deployed, where it came from ONNX and is on the CPU; else ``model``.

    What runs is then what will run, and onnxruntime takes a third of the time. A file that it cannot run, or that the
    weights do not fit into, is left to torch, which says what is wrong.
    """
    if "onnx" not in getattr(model, "meta", {}) or next(model.parameters()).device.type != "cpu":
        yield model
        return
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "student.onnx"
        try:
            save(model, path)
            open_session(path)
        except ReparamError:
            runs: nn.Module | Path = model
        else:
            runs = path
        yield runs


def of_deployed(model: nn.Module, config: TSMRConfig) -> Embedder:
    """Ask the student as it is deployed: its file, where ``as_file`` gives one."""
    with as_file(model) as runs:
        return of_student(runs, config)


def logits_of_student(model: nn.Module, config: TSMRConfig, images: Images) -> int | None:
    """Return how many logits the student gives, as far as that is known before there are judges and teachers: where it
    was chosen, or the student names the labels of ``images``; None where its output is taken for something else.
    """
    config = with_maps(config)
    ask, views = of_student(model, config), Views(images)
    if config.task == "logits" or (config.task == "auto" and names_labels(ask, views)):
        return ask(views.first(1)).shape[1]
    return None


def of_student(model: nn.Module | Path, config: TSMRConfig) -> Embedder:
    """Ask the student as it is before training, or its file."""
    preset, maps = input_preset(config.student_input), Task(config.task).maps
    return Embedder(model, preset, embedding=config.student_output, maps=maps)


def _require_second_views(config: TSMRConfig) -> None:
    """Refuse a loss of two views of each image where both would be the same one."""
    varied = config.views != 1 and (config.flip or any(vars(config.augment).values()))
    asking = [name for name in config.losses if LOSSES[name].needs & SECOND]
    if asking and not varied:
        raise InputError(
            f"{', '.join(asking)} needs a second view of each image, and flip={config.flip}, "
            f"views={config.views!r} and augment make one alone: allow flip, an augmentation, or more views"
        )

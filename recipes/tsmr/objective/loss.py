"""A loss: one class that says its name, what it needs, how it starts and what it computes.

A new one, of this project or of a user, is such a class and nothing else: stages, reports, checkpoints and tests find
it by its name.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn

from recipes.tsmr.choices import TASKS
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.stages import LOSSES, Stage
from recipes.tsmr.targets.examples import Examples
from reparam_kit import InputError, suggestion


def _absent() -> Any:
    return None


@dataclass(frozen=True, eq=False, repr=False)
class Batch:
    """What the student gives of N images, and what else the losses of a stage need.

    A loss declares which of these it reads besides ``student``; what no loss of a stage needs is not made. Said here is
    what they are of embeddings. Logits and maps ``[N, C, H, W]`` are as the nets give them, neither scaled nor mapped:
    ``mapped`` is ``student``, and ``target`` is ``teacher``. Of a net that ends in a softmax, logits are the logarithms
    of what it gives.

    Attributes:
        student: as the student gives them, float32 ``[N, D]``.
        teacher: of length 1, float32 ``[N, T]``.
        mapped: the student's, scaled to length 1 and mapped to the teacher's space, float32 ``[N, T]``.
        target: the teacher's, as the student would have to give them: of length 1, float32 ``[N, D]``.
        labels: identity of each image, int64 ``[N]``; negative where it is not known.
        old: of the model as it was deployed, of length 1, float32 ``[N, D]``.
        perturbed: as ``mapped``, of adversarially changed images.
        second: as ``student``, of a second view of the same images, mirrored and changed in another way.
        second_teacher: as ``teacher``, of the second view.
        index: number of each image in the data, int64 ``[N]``.
        earlier_index, earlier_student, earlier_teacher: what was last said of other images, and of these, ``[Q]``,
            ``[Q, D]`` and ``[Q, T]``, of length 1 and without gradients; Q up to 32,768. They begin with "old", where
            a loss needs it and it is stored.
    """

    student: Tensor
    teacher: Tensor = field(default_factory=_absent)
    mapped: Tensor = field(default_factory=_absent)
    target: Tensor = field(default_factory=_absent)
    labels: Tensor = field(default_factory=_absent)
    old: Tensor = field(default_factory=_absent)
    perturbed: Tensor = field(default_factory=_absent)
    second: Tensor = field(default_factory=_absent)
    second_teacher: Tensor = field(default_factory=_absent)
    index: Tensor = field(default_factory=_absent)
    earlier_index: Tensor = field(default_factory=_absent)
    earlier_student: Tensor = field(default_factory=_absent)
    earlier_teacher: Tensor = field(default_factory=_absent)

    def __post_init__(self) -> None:
        for name in [name for name, value in vars(self).items() if value is None]:
            del vars(self)[name]  # so that to ask for it is an error, and its type is a tensor

    def __getattr__(self, name: str) -> NoReturn:
        if name in NEEDS:
            raise InputError(
                f"a loss reads batch.{name}, and none of its stage needs it: write it in needs=, as in "
                f'class Mine(Loss, name="mine", needs={{"{name}"}})'
            )
        raise AttributeError(f"a batch has no {name!r}")

    def detach(self) -> Batch:
        """Return the same without gradients."""
        return Batch(**{name: rows.detach() for name, rows in vars(self).items()})


NEEDS = frozenset(part.name for part in fields(Batch)) - {"student"}
SECOND = frozenset({"second", "second_teacher"})  # what asks for two views of each image


@dataclass(frozen=True)
class Start:
    """What is known before the first step.

    Attributes:
        size: D, of the student's embeddings or logits; of maps, their channels.
        teacher_size: T, of the teacher's.
        examples: the training images with what is known of them.
        config: the choices of the run.
        device: where the run trains.
        sample: "student" and "teacher" of some images, before training.
    """

    size: int
    teacher_size: int
    examples: Examples
    config: TSMRConfig
    device: torch.device
    sample: Batch


class Loss(nn.Module):
    """Base of all losses: one number for a batch, a mean over it, so that its size does not depend on N.

    ``class Mine(Loss, name="mine")`` is known as "mine" from then on: ``Stage(losses={"mine": 0.1})``. In several
    processes a batch is that of all of them, so nothing has to be gathered.

    Parameters that require a gradient after ``start`` train with the student, by the optimizer of the run; with
    buffers, which may grow, they are kept in checkpoints. A net that ``start`` freezes and puts into eval mode stays
    so. What has an optimizer of its own is held in an object that is no module, and kept by ``get_extra_state`` and
    ``set_extra_state``, see ``recipes.tsmr.objective.adversarial``. Other attributes are lost at an interruption.

    Attributes:
        name: by which a stage asks for it; a class without one is a base of others.
        title: what reports call it; the first sentence of the docstring unless given.
        needs: of ``Batch``, what it reads besides ``student``.
        paired: whether half of each batch is to be pairs of images that are hard to tell, see
            ``recipes.tsmr.targets.partners``.
        task: what its rows are: "embeddings", "logits" or "maps" ``[N, C, H, W]``; None: rows ``[N, D]`` of any kind.

    Raises:
        InputError: the class has a name that is taken, or needs what there is not, or is for no task.

    >>> class Near(Loss, name="near", title="angle to the next image"):
    ...     def forward(self, batch: Batch) -> Tensor:
    ...         return (1 - torch.cosine_similarity(batch.student, batch.student.roll(1, 0))).mean()
    >>> round(float(Near()(Batch(student=torch.ones(4, 8)))), 6)
    0.0
    """

    name: ClassVar[str]
    title: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    paired: ClassVar[bool] = False
    task: ClassVar[str | None] = None

    def __init_subclass__(
        cls,
        name: str | None = None,
        title: str | None = None,
        needs: set[str] | frozenset[str] | None = None,
        task: str | None = None,
    ) -> None:
        super().__init_subclass__()
        cls.task = task or cls.task
        if cls.task not in (None, *TASKS[1:]):
            raise InputError(
                f"{cls.__qualname__} is for {cls.task!r}: {suggestion(str(cls.task), TASKS[1:], 'tasks')}"
            )
        if isinstance(needs, str):
            raise InputError(f"{cls.__qualname__} needs {needs!r}, which is no set: write {{{needs!r}}}")
        if needs is not None:
            cls.needs = frozenset(needs)
        for need in sorted(cls.needs - NEEDS, key=str):
            known = suggestion(str(need), sorted(NEEDS), "parts")
            raise InputError(f"{cls.__qualname__} needs {need!r}, which no batch has: {known}")
        if name is None:
            return
        if not isinstance(name, str):
            raise InputError(f"name={name!r} of {cls.__qualname__} is no name: use letters, digits and _")
        if hasattr(Stage, name) or name in Stage.__dataclass_fields__ or hasattr(nn.ModuleDict(), name):
            raise InputError(f"name={name!r} of {cls.__qualname__} has another meaning: give another name")
        LOSSES.add(name, cls)
        cls.name = name
        cls.title = title or _first_sentence(cls.__doc__) or name

    def start(self, start: Start) -> None:
        """Make parameters and memory, once, before training; the run moves them to its device."""

    def begin(self) -> None:
        """Be told that a stage begins that has this loss."""

    def seed(self, seed: int) -> None:
        """Decide what is drawn at random from here on: once an epoch, the same in every process."""

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss of a batch, a number."""
        raise InputError(f"the loss {self.name!r} has no forward(self, batch), which computes it")

    def after_step(self, batch: Batch) -> None:
        """Follow a batch, without gradients, after that of its loss was taken: a queue, or an adversary."""

    def weight(self, done: float) -> float | Tensor:
        """Factor on the weight of the loss when the share ``done`` of the stage is over."""
        return 1.0

    def figures(self) -> dict[str, float]:
        """Return what else to show along the run, by name."""
        return {}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take buffers of a checkpoint in whatever shape they have grown to."""
        for name, buffer in self._buffers.items():
            saved = state_dict.get(f"{prefix}{name}")
            if saved is not None and (buffer is None or buffer.shape != saved.shape):
                self._buffers[name] = torch.empty_like(
                    saved, device=None if buffer is None else buffer.device
                )
        super()._load_from_state_dict(state_dict, prefix, *args)


def _first_sentence(docstring: str | None) -> str:
    return " ".join((docstring or "").split()).partition(". ")[0].removesuffix(".")

"""What the student's output is: found out before training from the judges, the labels, the losses and the nets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from recipes.faces import ClassesJudge, Judge
from recipes.tsmr.choices import TaskName
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.progress import LOGGER
from recipes.tsmr.stages import LOSSES
from recipes.tsmr.targets.examples import identity_labels, unnamed_logits
from recipes.tsmr.targets.task import are_probabilities
from recipes.tsmr.targets.views import Views
from reparam_kit import InputError

Asked = Callable[[Tensor], Tensor]  # a net: images to its output

_SHOWN = 128  # images on which nets are asked what they name
_CHANCE = 1e-6  # probability below which an agreement is no chance
_ONE_LENGTH = 1e-3  # spread of lengths, over their mean, below which rows are unit vectors


def with_maps(config: TSMRConfig) -> TSMRConfig:
    """Return ``config`` for maps, where all losses that were chosen take maps: what a net is asked for depends on that.

    Raises:
        InputError: maps are asked for, and no losses: there are no usual ones; or images are moved whose maps are
            stored.
    """
    tasks = {LOSSES[name].task for name in config.losses}
    if config.task == "auto" and tasks == {"maps"}:
        config = replace(config, task="maps")
    if config.task != "maps":
        return config
    if not tasks:
        raise InputError("no losses are usual for maps (task='maps'): give stages whose losses take maps")
    moved = [name for name in ("mirror", "affine") if getattr(config.augment, name)]
    if moved and config.views == "original":
        raise InputError(
            f"augment={moved[0]} moves an image and not the map that the teacher gave of it: take views='live' "
            "(--views live), with which the teacher sees the moved image"
        )
    return config


def settle(
    config: TSMRConfig, student: Asked, teachers: Sequence[Asked], views: Views, judges: Sequence[Judge]
) -> tuple[TSMRConfig, str]:
    """Make every choice that depends on what the student's output is; and why it is taken for that.

    What the choices say holds; else what a judge knows; else the labels, where a net names them far more often than by
    chance; else the losses that were chosen; else whether student and teacher name the same of as many numbers.

    Raises:
        InputError: a loss is for another task, or the student's logits are not as many as a teacher's.
    """
    few = torch.stack([views[number, False][0] for number in range(min(2, len(views)))])
    size, *sizes = (net(few).shape[1] for net in (student, *teachers))
    task, reason = _said(config, judges, size)
    seen = None
    if task in ("auto", "logits") and set(sizes) == {size}:
        seen = _Seen.of(student, teachers, views)
    elif task == "auto" and config.stages is None and names_labels(student, views):
        task, reason = "logits", "the labels of the images are the largest of them"
    if task == "auto":
        task, reason = _shown(config, seen, size)
    if task == "logits" and seen is None:
        raise InputError(
            f"the student gives {size} logits ({reason}) and the teachers {', '.join(map(str, sizes))} numbers: they "
            "have to be of the same classes; name the outputs that are (student_output, teacher_output), or train "
            "them as embeddings (task='embeddings')"
        )
    labelled = task == "logits" and seen is not None and bool(seen.labelled)
    settled = config.settled(task, labelled)
    _refuse_others(settled, task, reason)
    if task == "logits" and "labels" in settled.losses and (unnamed := unnamed_logits(views.images, size)):
        raise InputError(f"the loss 'labels' is of classes: {unnamed}")
    LOGGER.info(line := f"the student's output is taken for {task}: {reason}")
    if task == "logits" and seen is not None:
        seen.warn("labels" in settled.losses, unnamed_logits(views.images, size))
        for judge in judges:
            if isinstance(judge, ClassesJudge) and judge.outputs(size) is None:
                LOGGER.warning(
                    f"the judge {judge.name!r} has other classes than the student's {size} logits, and judges by the "
                    "mean output of each class instead: give it images of every class"
                )
    return settled, line


def names_labels(student: Asked, views: Views) -> bool:
    """Return whether the largest of the student's numbers is the label of images far more often than by chance."""
    return bool(_Seen.of(student, (), views).labelled)


def _said(config: TSMRConfig, judges: Sequence[Judge], size: int) -> tuple[TaskName, str]:
    if config.task != "auto":
        return config.task, f"task={config.task!r} was chosen"
    for judge in judges:
        known = judge.outputs(size)
        if known is not None:
            return (
                known,
                f"the judge {judge.name or type(judge).__name__!r} takes its {size} numbers for that",
            )
    return "auto", ""


def _shown(config: TSMRConfig, seen: _Seen | None, size: int) -> tuple[TaskName, str]:
    if seen is not None and seen.labelled:
        return (
            "logits",
            f"{seen.labelled} of {seen.known} labels are the largest of its {size} numbers or the teacher's",
        )
    tasks = {LOSSES[name].task: name for name in config.losses if config.stages is not None}
    for task in ("embeddings", "logits"):
        if task in tasks:
            return task, f"the loss {tasks[task]!r} was chosen, which is for {task}"
    if seen is not None and seen.agreeing:
        same = f"{seen.agreeing} of {len(seen.ours)} images"
        return "logits", f"the largest of its {size} numbers is the teacher's for {same}"
    return "embeddings", "nothing says that it is logits"


def _refuse_others(config: TSMRConfig, task: TaskName, reason: str) -> None:
    for name in config.losses:
        if _fits(name, task):
            continue
        fitting = [other for other in LOSSES if _fits(other, task)]
        raise InputError(
            f"the loss {name!r} is for {LOSSES[name].task or 'rows [N, D]'}, and the student's output is taken for "
            f"{task} ({reason}): choose losses of {task} ({', '.join(fitting) or 'your own'}), or say by task= (--task)"
            " what it is"
        )


def _fits(loss: str, task: TaskName) -> bool:
    its = LOSSES[loss].task
    return its == task or (its is None and task != "maps")


@dataclass(frozen=True)
class _Seen:
    """What nets with as many numbers each give of some images, ``[N, D]``, and the labels of these ``[N]``.

    ``labelled`` and ``agreeing`` count the images whose label is the largest number of a net, and those on which the
    nets agree; 0 where that may be chance, or where the rows are unit vectors.
    """

    ours: Tensor
    theirs: Tensor
    labels: Tensor

    @classmethod
    def of(cls, student: Asked, teachers: Sequence[Asked], views: Views) -> _Seen:
        """Ask them, of images from all over the set."""
        chosen = np.linspace(0, len(views) - 1, min(len(views), _SHOWN)).astype(int).tolist()
        images = torch.stack([views[number, False][0] for number in chosen])
        try:
            labels = torch.from_numpy(identity_labels(Subset(views.images, chosen)))
        except InputError as error:  # boxes, captions, maps: only a loss that asks for labels minds
            if teachers:
                LOGGER.warning(f"the labels of the images are left out, unless a loss asks for them: {error}")
            labels = torch.full((len(chosen),), -1)
        if unnamed_logits(views.images, student(views.first(1)).shape[1]):
            labels = torch.full_like(labels, -1)
        ours, *theirs = (net(images).float() for net in (student, *teachers))
        return cls(ours, torch.stack(theirs or [ours]).mean(dim=0), labels)

    @property
    def known(self) -> int:
        return int((self.labels >= 0).sum())

    @property
    def labelled(self) -> int:
        if int(self.labels.max()) >= self.ours.shape[1] or self._unit:
            return 0
        known = self.labels >= 0
        return max(_hits(rows[known].argmax(dim=1), self.labels[known]) for rows in (self.ours, self.theirs))

    @property
    def agreeing(self) -> int:
        if self._unit or int(self.labels.max()) >= self.ours.shape[1]:  # which are people, and more
            return 0
        return _hits(self.ours.argmax(dim=1), self.theirs.argmax(dim=1))

    @property
    def _unit(self) -> bool:
        lengths = [rows.norm(dim=1) for rows in (self.ours, self.theirs) if not are_probabilities(rows).all()]
        return any(bool(length.std() <= _ONE_LENGTH * length.mean()) for length in lengths)

    def warn(self, asked: bool, unnamed: str) -> None:
        """Warn of what is unusual about the logits; labels are ``asked`` for or not, or ``unnamed`` for a reason."""
        if unnamed:
            LOGGER.warning(f"the loss 'labels' is left out: {unnamed}")
        for who, rows in (("student", self.ours), ("teacher", self.theirs)):
            if are_probabilities(rows).all():
                LOGGER.info(
                    f"the {who} ends in a softmax: the logarithm of its probabilities is taken for logits"
                )
            elif bool(((rows >= 0) & (rows <= 1)).all()):
                LOGGER.warning(
                    f"the {who}'s numbers lie in 0..1 and do not sum to 1, as sigmoids give them: they are taken for "
                    "logits, of which one class is right; name an output before the sigmoid"
                )
        if self.known and not self.labelled:
            LOGGER.warning(
                "student and teacher name the labels of the images no more often than by chance: the classes of the "
                "data may be others, or in another order"
                + ("" if asked else "; the loss 'labels' is left out")
            )


def _hits(first: Tensor, second: Tensor) -> int:
    """Return how many of two lists of classes agree; 0 where they may by chance, as often as each names a class."""
    if not len(first):
        return 0
    hits, count = int((first == second).sum()), len(first)
    classes = int(max(first.max(), second.max())) + 1
    shares = (torch.bincount(rows, minlength=classes).double() / count for rows in (first, second))
    chance = float(torch.stack(list(shares)).prod(dim=0).sum())
    return hits if _tail(hits, count, chance) < _CHANCE else 0


def _tail(hits: int, count: int, chance: float) -> float:
    """Return the probability of ``hits`` or more of ``count`` draws that succeed with probability ``chance``."""
    return sum(math.comb(count, k) * chance**k * (1 - chance) ** (count - k) for k in range(hits, count + 1))

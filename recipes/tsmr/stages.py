"""A stage of a run: how long, how fast, and the losses that it minimises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from recipes.tsmr.choices import ChoiceError, Choices, Count, Positive, Unit, Weight, made_items
from reparam_kit import InputError, Registry, suggestion

LOSSES: Registry[Any] = Registry("loss", "recipes.tsmr.objective", "reparam_kit.losses")
"""Every loss by its name, see ``recipes.tsmr.objective.loss``. Only a name that is looked up imports them."""

BROUGHT = (
    "cosine", "mse", "relational", "hard", "hard_pairs", "perturbed", "gallery", "margin", "centres", "pairs",
    "adversarial", "kl", "dist", "labels",
)  # fmt: skip
"""The losses of this project, known without a look-up, which would import torch."""


@dataclass(frozen=True, init=False)
class Stage(Choices):
    """One stretch of training: how long, how fast, and what is minimised.

    A loss is given by its name, in ``losses`` or as a keyword: ``Stage(5, losses={"cosine": 1.0, "hard": 0.5})`` is
    ``Stage(5, cosine=1.0, hard=0.5)``. The names are those of the classes of ``recipes.tsmr.Loss``; the page
    "Faces and TSMR" has a table of those that are there. One whose weight is 0 is not computed.

    Attributes:
        epochs: passes over the images.
        rate: peak learning rate, as a multiple of ``TSMRConfig.lr``.
        losses: the weight of each loss by its name; of those alone that are minimised.

    >>> Stage(epochs=5, rate=0.5, cosine=1.0).losses
    {'cosine': 1.0}
    """

    epochs: Annotated[Count, Unit("epochs")] = 5
    rate: Positive = 1.0
    losses: dict[str, Weight] = field(default_factory=dict, hash=False)

    def __init__(
        self,
        epochs: int = 5,
        rate: float = 1.0,
        losses: Mapping[str, float] | None = None,
        **weights: float,
    ) -> None:
        for name, value in {
            "epochs": epochs,
            "rate": rate,
            "losses": {} if losses is None else losses,
        }.items():
            object.__setattr__(self, name, value)
        super().__post_init__()
        self.refuse_unknown(weights)
        for name in self.losses.keys() - set(BROUGHT):
            try:
                _ = LOSSES[name]
            except InputError as error:
                raise ChoiceError(str(error), "losses", unknown=name) from error
        given = self.losses | made_items(Weight, weights)
        object.__setattr__(self, "losses", {name: weight for name, weight in given.items() if weight})
        if not self.losses:
            raise ChoiceError(f"a stage minimises nothing: give a weight to one of {', '.join(LOSSES)}")

    @classmethod
    def refuse_unknown(cls, values: Mapping[str, Any]) -> None:
        """Raise :class:`ChoiceError` for a name that is neither a choice nor a loss."""
        choices = [field.name for field in fields(cls)]
        for name in values:
            if name not in {*choices, *BROUGHT} and name not in (known := list(LOSSES)):
                raise ChoiceError(
                    f"Stage has no choice or loss {name!r} (a loss of one's own is known once its module is imported): "
                    f"{suggestion(str(name), [*choices, *known], 'names')}",
                    unknown=str(name),
                )


DISTIL = Stage(epochs=3, pairs=0.1, gallery=0.3)
REFINE = Stage(epochs=1, rate=0.5, losses=DISTIL.losses | {"adversarial": 0.005})
CLASSIFY = Stage(epochs=10, kl=1.0, labels=1.0)


@dataclass(frozen=True)
class Plan:
    """The choices that depend on what the student's output is.

    Attributes:
        stages: what is trained for, in this order.
        lr: peak learning rate.
        batch_size: images a step and process.
        share: of the way to the trained weights that is returned where nothing judges.
    """

    stages: tuple[Stage, ...]
    lr: float
    batch_size: int
    share: float


USUAL: dict[str, Plan] = {
    "embeddings": Plan((DISTIL,), 2e-4, 128, 0.5),
    "logits": Plan((CLASSIFY,), 4e-3, 64, 1.0),
    "maps": Plan((), 1e-3, 64, 1.0),
}
"""What a run does unless told otherwise, by its task.

A half cosine from 4e-3 goes twice as far as a constant 1e-3, and ends at rest (``benchmarks/results/digits.md``).
What is measured of embeddings is in ``benchmarks/results/faces.md``.
"""

"""The parts of a run's choices: margin, discriminator, adversarial images, augmentation, controls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from recipes.tsmr.choices import (
    Angle,
    Choices,
    Count,
    Limit,
    MarginKind,
    Part,
    Positive,
    Rates,
    Saturation,
    Seeds,
    Unit,
    Width,
)


@dataclass(frozen=True)
class Margin(Choices):
    """The margin softmax of the losses "margin" and "centres".

    Attributes:
        kind: which of the published ones.
        size: the margin m; radians for "arcface", a cosine for "cosface".
        scale: the factor s on all cosines.
        classes: people that take part in a step, at most. Those in the batch do, and others drawn at random (Partial
            FC). None, or 0: all.

    >>> TSMRConfig(margin=Margin("arcface", size=0.5)).margin.kind
    'arcface'
    """

    kind: MarginKind = "cosface"
    size: Annotated[Angle, Unit("radians or cosine")] = 0.35
    scale: Positive = 32.0
    classes: Annotated[Limit, Unit("people")] = None

    def __post_init__(self) -> None:
        if type(self.classes) is int and not self.classes:
            object.__setattr__(self, "classes", None)
        super().__post_init__()


@dataclass(frozen=True)
class Adversary(Choices):
    """The discriminator of the loss "adversarial".

    Attributes:
        hidden: width of its two hidden layers.
        lr: learning rate of its Adam.
        warmup: part of the stage over which the loss's weight rises from 0, while the discriminator learns.
        saturation: accuracy above which the discriminator is not trained on, and the loss's weight falls. It is 0 at
            an accuracy of 1: what the discriminator says of embeddings that it cannot mistake teaches nothing.

    >>> TSMRConfig(adversary=Adversary(hidden=128)).adversary.hidden
    128
    """

    hidden: Width = 256
    lr: Positive = 1e-3
    warmup: Annotated[Part, Unit("of the stage")] = 0.3
    saturation: Saturation = 0.85


@dataclass(frozen=True)
class Attack(Choices):
    """The change of images of the loss "perturbed".

    Attributes:
        radius: largest change of a pixel.
        steps: gradient steps: 1 is FGSM, more is PGD.

    >>> TSMRConfig(attack=Attack(radius=4.0, steps=3)).attack.steps
    3
    """

    radius: Annotated[Positive, Unit("of 0..255")] = 2.0
    steps: Annotated[Count, Unit("steps")] = 1


Share = Annotated[Part, Unit("of the images")]


@dataclass(frozen=True)
class Augment(Choices):
    """How often each change is made to an image before the student sees it, see ``recipes.faces.Augmentation``.

    Which embedding the teacher has for it, ``TSMRConfig.views`` says.

    Attributes:
        mirror: mirror it, learnt with what the teacher says of the image as it is. Right for faces, which are the same
            person either way; what tells left from right is for ``TSMRConfig.flip``.
        affine: shift, turn and scale it a little, learnt likewise.
        crop: show a part of the image.
        colour: change brightness, contrast and saturation.
        low_resolution: scale it down, and up again.
        occlusion: cover a part of it.
        mix: blend it with another one, after all other changes.

    >>> TSMRConfig(augment=Augment(crop=0.2, occlusion=0.1)).augment.crop
    0.2
    """

    mirror: Share = 0.0
    affine: Share = 0.0
    crop: Share = 0.0
    colour: Share = 0.0
    low_resolution: Share = 0.0
    occlusion: Share = 0.0
    mix: Share = 0.0


@dataclass(frozen=True)
class Ablation(Choices):
    """What the controls of a run are trained with, see ``compare``.

    Attributes:
        seeds: of the runs of each arm.
        rates: learning rates, of which each arm takes its best. None: a third of that of the run, itself, and three
            times it.

    Raises:
        InputError: a value cannot be used.

    >>> Ablation(seeds=(0, 1), rates=(1e-4, 3e-4)).seeds
    (0, 1)
    """

    seeds: Seeds = (0, 1, 2)
    rates: Rates = None

"""The parts of a run's choices: margin, discriminator, adversarial images, augmentation."""

from __future__ import annotations

from dataclasses import dataclass

from recipes.tsmr.choices import (
    Angle,
    Choices,
    Count,
    Limit,
    MarginKind,
    Part,
    Positive,
    Saturation,
    Width,
)


@dataclass(frozen=True)
class Margin(Choices):
    """The margin softmax of the losses "margin" and "centres".

    Attributes:
        kind: "arcface", "cosface" or "adaface".
        size: the margin m; radians for "arcface", a cosine for "cosface".
        scale: the factor s on all cosines.
        classes: take part in a step, at most; the people in the batch do, and others drawn at random (Partial
            FC). None: all.

    >>> TSMRConfig(margin=Margin("arcface", size=0.5)).margin.kind
    'arcface'
    """

    kind: MarginKind = "cosface"
    size: Angle = 0.35
    scale: Positive = 32.0
    classes: Limit = None


@dataclass(frozen=True)
class Adversary(Choices):
    """The discriminator of the loss "adversarial".

    Attributes:
        hidden: width of its two hidden layers.
        lr: learning rate of its Adam.
        warmup: part of the stage over which the loss's weight rises from 0, while the discriminator learns.
        saturation: accuracy, from 0.5 to 1, above which the discriminator is not trained on and the loss's weight
            falls, to 0 at an accuracy of 1: what it says of embeddings that it cannot mistake teaches nothing.

    >>> TSMRConfig(adversary=Adversary(hidden=128)).adversary.hidden
    128
    """

    hidden: Width = 256
    lr: Positive = 1e-3
    warmup: Part = 0.3
    saturation: Saturation = 0.85


@dataclass(frozen=True)
class Attack(Choices):
    """The change of images of the loss "perturbed".

    Attributes:
        radius: largest change of a pixel, in 0..255 units.
        steps: gradient steps: 1 is FGSM, more is PGD.

    >>> TSMRConfig(attack=Attack(radius=4.0, steps=3)).attack.steps
    3
    """

    radius: Positive = 2.0
    steps: Count = 1


@dataclass(frozen=True)
class Augment(Choices):
    """How often each change is made to an image before the student sees it, see ``recipes.faces.Augmentation``.

    Which embedding the teacher has for it, ``TSMRConfig.views`` says. ``mix`` blends an image with another one, after
    all other changes.

    >>> TSMRConfig(augment=Augment(crop=0.2, occlusion=0.1)).augment.crop
    0.2
    """

    crop: Part = 0.0
    colour: Part = 0.0
    low_resolution: Part = 0.0
    occlusion: Part = 0.0
    mix: Part = 0.0

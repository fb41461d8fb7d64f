"""Everything that can be chosen about a run, in one frozen object that is stored with what the run gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, get_args

from recipes.faces import input_preset
from reparam_kit import InputError, suggestion

MarginKind = Literal["arcface", "cosface", "adaface"]
MARGINS: tuple[MarginKind, ...] = get_args(MarginKind)
Combine = Literal["concat", "mean"]
COMBINES: tuple[Combine, ...] = get_args(Combine)


def _choose(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{name}={value!r}: {suggestion(value, known, 'values')}")


def _check(choices: object, **rules: tuple[bool, str]) -> None:
    for name, (holds, rule) in rules.items():
        if not holds:
            raise InputError(f"{name}={getattr(choices, name)} must be {rule}")


@dataclass(frozen=True)
class Stage:
    """One stretch of training: how long, how fast, and what is minimised.

    A term whose weight is 0 is not computed. See ``recipes.tsmr.losses`` for what each is.

    Attributes:
        epochs: passes over the images.
        rate: peak learning rate, as a multiple of ``TSMRConfig.lr``.
        cosine: angle between mapped student embedding and teacher embedding.
        mse: squared distance of the two.
        relational: pairwise similarities of the student against those of the teacher.
        hard: the angle again, over the quarter of a batch that is fitted worst.
        hard_pairs: pairwise similarities again, over the tenth of the pairs that is fitted worst.
        margin: margin softmax on identities, with centres that are learnt.
        centres: margin softmax on identities, with centres that follow the teacher's embeddings.
        adversarial: what it takes to pass as the teacher before a discriminator.
        perturbed: the teacher's embedding also for adversarially changed images.
    """

    epochs: int = 5
    rate: float = 1.0
    cosine: float = 0.0
    mse: float = 0.0
    relational: float = 0.0
    hard: float = 0.0
    hard_pairs: float = 0.0
    margin: float = 0.0
    centres: float = 0.0
    adversarial: float = 0.0
    perturbed: float = 0.0

    def __post_init__(self) -> None:
        _check(self, epochs=(self.epochs >= 1, "at least 1"), rate=(self.rate > 0, "positive"))
        _check(self, **{name: (weight >= 0, "zero or positive") for name, weight in self.terms.items()})
        if not any(self.terms.values()):
            raise InputError(f"a stage minimises nothing: give a weight to one of {', '.join(TERMS)}")

    @property
    def terms(self) -> dict[str, float]:
        """The weight of every term by name."""
        return {name: getattr(self, name) for name in TERMS}


TERMS = tuple(field.name for field in fields(Stage) if field.name not in ("epochs", "rate"))
LABELLED = ("margin", "centres")  # the terms that learn from identities

DISTIL = Stage(epochs=5, cosine=1.0)
REFINE = Stage(epochs=2, rate=0.5, cosine=1.0, adversarial=0.005)


@dataclass(frozen=True)
class Margin:
    """The margin softmax of the terms "margin" and "centres".

    Attributes:
        kind: "arcface", "cosface" or "adaface".
        size: the margin m; radians for "arcface", a cosine for "cosface".
        scale: the factor s on all cosines.
        classes: take part in a step, at most; the people in the batch do, and others drawn at random (Partial
            FC). None: all.
    """

    kind: MarginKind = "cosface"
    size: float = 0.35
    scale: float = 32.0
    classes: int | None = None

    def __post_init__(self) -> None:
        _choose("margin.kind", self.kind, MARGINS)
        _check(
            self,
            size=(0 <= self.size < 1.5, "at least 0 and below 1.5"),
            scale=(self.scale > 0, "positive"),
            classes=(self.classes is None or self.classes >= 2, "at least 2"),
        )


@dataclass(frozen=True)
class Adversary:
    """The discriminator of the term "adversarial".

    Attributes:
        hidden: width of its two hidden layers.
        lr: learning rate of its Adam.
        warmup: part of the stage over which the term's weight rises from 0, while the discriminator learns.
        saturation: accuracy, from 0.5 to 1, above which the discriminator is not trained on and the term's weight
            falls, to 0 at an accuracy of 1: what it says of embeddings that it cannot mistake teaches nothing.
    """

    hidden: int = 256
    lr: float = 1e-3
    warmup: float = 0.3
    saturation: float = 0.85

    def __post_init__(self) -> None:
        _check(
            self,
            hidden=(self.hidden >= 1, "at least 1"),
            lr=(self.lr > 0, "positive"),
            warmup=(0 <= self.warmup <= 1, "between 0 and 1"),
            saturation=(0.5 < self.saturation < 1, "above 0.5 and below 1"),
        )


@dataclass(frozen=True)
class Attack:
    """The change of images of the term "perturbed".

    Attributes:
        radius: largest change of a pixel, in 0..255 units.
        steps: gradient steps: 1 is FGSM, more is PGD.
    """

    radius: float = 2.0
    steps: int = 1

    def __post_init__(self) -> None:
        _check(self, radius=(self.radius > 0, "positive"), steps=(self.steps >= 1, "at least 1"))


@dataclass(frozen=True)
class Augment:
    """How often each change is made to an image before the student sees it, see ``recipes.faces.Augmentation``.

    The teacher's embedding stays that of the unchanged image.
    """

    crop: float = 0.0
    colour: float = 0.0
    low_resolution: float = 0.0
    occlusion: float = 0.0

    def __post_init__(self) -> None:
        _check(self, **{name: (0 <= share <= 1, "between 0 and 1") for name, share in vars(self).items()})


@dataclass(frozen=True)
class TSMRConfig:
    """The choices of a run.

    Attributes:
        block: what each convolution is expanded to, as in ``rk.expand``; None trains the net as it is, the
            control that any gain from a block has to be compared with.
        norm: what each branch passes before the sum, as in ``rk.expand``.
        restore_bn: train with a BatchNorm behind the convolutions whose own was folded away (``rk.restore_bn``).
        student_input: input preset of the student (``recipes.faces.input_preset``). A wrong one fails nowhere
            and costs accuracy, so the command line has no default for it.
        teacher_input: input preset of the teacher; a tuple gives one to each of several teachers.
        combine: what several teachers become: "concat", one long embedding whose similarities are the mean of
            theirs, or "mean", the average after each is turned onto the first.
        stages: what is trained for, in this order.
        margin: the margin softmax.
        adversary: the discriminator.
        attack: the adversarial images.
        augment: random changes of the images; none unless asked for.
        keep_gallery: weight, in every stage, of staying comparable to embeddings of the model as it was; 0 lets
            them go.
        batch_size: images a step and process. The images left over at the end of an epoch are not used in it.
        accumulate: batches whose gradients are averaged for one step.
        lr: peak learning rate of AdamW.
        weight_decay: decoupled weight decay of kernels; scales, biases, norms and PReLU slopes have none.
        warmup: part of a stage's steps over which the rate rises linearly from 0; after it, it falls to 0 as a
            half cosine.
        clip: largest norm of the gradient of all parameters together.
        ema: decay of the running average of the weights that is judged and returned; 0 takes the weights
            themselves.
        bf16: run the student in bfloat16 where autocast does; embeddings and losses stay float32.
        compile: run the student through ``torch.compile``.
        flip: show half of the images mirrored, each with the teacher's embedding of the mirrored image.
        seed: decides the start of the branches, the order of the images and which of them are mirrored.
        workers: processes that decode images; 0 decodes in the training process. Does not change the result.

    Raises:
        InputError: a value cannot be used.
    """

    VERSION: ClassVar[int] = 2

    block: str | None = "dbb"
    norm: Literal["scale", "batch", "none"] = "scale"
    restore_bn: bool = False
    student_input: str = "insightface"
    teacher_input: str | tuple[str, ...] = "insightface"
    combine: Combine = "concat"
    stages: tuple[Stage, ...] = (DISTIL, REFINE)
    margin: Margin = Margin()
    adversary: Adversary = Adversary()
    attack: Attack = Attack()
    augment: Augment = Augment()
    keep_gallery: float = 0.0
    batch_size: int = 64
    accumulate: int = 1
    lr: float = 1e-4
    weight_decay: float = 0.05
    warmup: float = 0.1
    clip: float = 5.0
    ema: float = 0.0
    bf16: bool = False
    compile: bool = False
    flip: bool = True
    seed: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        for preset in (self.student_input, *self.teacher_inputs):
            input_preset(preset)
        _choose("combine", self.combine, COMBINES)
        _check(
            self,
            stages=(len(self.stages) >= 1, "one stage at least"),
            keep_gallery=(self.keep_gallery >= 0, "zero or positive"),
            batch_size=(self.batch_size >= 2, "at least 2"),
            accumulate=(self.accumulate >= 1, "at least 1"),
            lr=(self.lr > 0, "positive"),
            weight_decay=(self.weight_decay >= 0, "zero or positive"),
            warmup=(0 <= self.warmup < 1, "at least 0 and below 1"),
            clip=(self.clip > 0, "positive"),
            ema=(0 <= self.ema < 1, "at least 0 and below 1"),
            workers=(self.workers >= 0, "zero or positive"),
        )

    @property
    def teacher_inputs(self) -> tuple[str, ...]:
        """The teachers' presets; one stands for all of them."""
        return (self.teacher_input,) if isinstance(self.teacher_input, str) else self.teacher_input

    @property
    def epochs(self) -> int:
        """Of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    def place(self, epoch: int) -> tuple[int, int]:
        """Stage of ``epoch`` (from 1), and which of its epochs this is; both from 0."""
        rest = epoch - 1
        for number, stage in enumerate(self.stages):
            if rest < stage.epochs:
                return number, rest
            rest -= stage.epochs
        raise IndexError(f"there is no epoch {epoch} of {self.epochs}")

    def uses(self, *terms: str) -> bool:
        """Whether a stage has one of ``terms``."""
        return any(stage.terms[term] > 0 for stage in self.stages for term in terms)

    def to_json(self) -> dict[str, Any]:
        """Every choice by name, with the version of this class as ``version``."""
        return {"version": self.VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TSMRConfig:
        """The choices that ``to_json`` gave, after JSON or not; what is left out has its default.

        Raises:
            InputError: another version, an unknown name, or a value that cannot be used.
        """
        values = dict(values)
        version = values.pop("version", cls.VERSION)
        if version != cls.VERSION:
            raise InputError(f"choices of version {version}; this is version {cls.VERSION}")
        if "stages" in values:
            values["stages"] = tuple(_made(Stage, stage) for stage in values["stages"])
        if isinstance(values.get("teacher_input"), list):
            values["teacher_input"] = tuple(values["teacher_input"])
        for part in (Margin, Adversary, Attack, Augment):
            name = part.__name__.lower()
            if name in values:
                values[name] = _made(part, values[name])
        config: TSMRConfig = _made(cls, values)
        return config


def _made(kind: type[Any], values: Any) -> Any:
    if not isinstance(values, Mapping):
        raise InputError(f"{kind.__name__} is written as {{name: value}}, not as {values!r}")
    known = [field.name for field in fields(kind)]
    for name in values:
        if name not in known:
            raise InputError(
                f"{kind.__name__} has no choice {name!r}: {suggestion(str(name), known, 'choices')}"
            )
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(f"{kind.__name__}: {error}") from error

"""Everything that can be chosen about a run, in one frozen object that is stored with what the run gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, ClassVar

from recipes.faces import InputPreset, input_preset
from recipes.faces.embedding.inputs import all_presets
from recipes.tsmr.choices import (
    Block,
    ChoiceError,
    Choices,
    Combine,
    Count,
    Deciding,
    Flag,
    Limit,
    Maybe,
    Minutes,
    Name,
    Names,
    Norm,
    Output,
    Outputs,
    PartBelowOne,
    Passes,
    Patterns,
    Positive,
    Rate,
    Seed,
    Share,
    Shares,
    Steps,
    TaskName,
    Taught,
    Unit,
    Weight,
    Workers,
)
from recipes.tsmr.parts import Adversary, Attack, Augment, Margin
from recipes.tsmr.stages import LOSSES, USUAL, Plan, Stage
from reparam_kit import InputError

_GALLERY = "gallery"
_PLAIN = "plain"  # no block, in a file or on a command line, which may have no word for None


@dataclass(frozen=True)
class TSMRConfig(Choices):
    """The choices of a run.

    Attributes:
        task: what the student's output is: found out, and said, unless given. "embeddings", of which angles count;
            "logits", a number for each class; or "maps" ``[N, C, H, W]``.
        block: what each convolution is expanded to: a preset or an expression, as in ``rk.expand``. None, or
            "plain": the net is trained as it is, the control that any gain from a block has to be compared with.
        norm: norm of the branches, which each passes before the sum, as in ``rk.expand``.
        restore_bn: train with a BatchNorm behind the convolutions whose own was folded away (``rk.restore_bn``); try
            higher rates with it.
        include: train and expand only the layers or weights that these patterns match (as in fnmatch). They match the
            name of a parameter, of its layer, or of its tensor in the ONNX file. What is not chosen stays as it is: it
            is not expanded, and the statistics of a BatchNorm do not move. None: all.
        exclude: leave the layers or weights that these patterns match as they are.
        student_input: input preset of the student, by name or formula, see ``recipes.faces.input_preset``. An
            ``InputPreset`` may be given, of which the formula is kept. A wrong one raises no error and costs
            accuracy, so the command line has no default for it.
        teacher_input: input preset of the teacher, or a list with one for each of several teachers.
        student_output: output of the student to train, where several could be it. See ``embedding`` of
            ``recipes.faces.Embedder``. None: one alone can be it.
        teacher_output: output of the teacher to learn from, or a list with one for each of several teachers. None: one
            alone can be it.
        combine: what several teachers' embeddings become. "concat": one long embedding whose similarities are the mean
            of theirs; "mean": the average after each is turned onto the first. Logits and maps are averaged.
        stages: what is trained for, in this order. None: the usual stages of the task, see ``recipes.tsmr.stages``.
        epochs: passes over the images in the first of the usual stages. None: as many as ``budget`` has room for, or
            as ``stages`` say.
        budget: minutes that the whole run may take. They decide how long the first stage is and on how many of the
            images is trained, see ``recipes.tsmr.search``. None: 60 for embeddings, where neither ``epochs`` nor
            ``steps`` nor ``stages`` are given; else the stages are as long as they say.
        auto: look for learning rate, restored BatchNorms and the usual losses by short runs, of which a judge takes the
            best, in a quarter of ``budget``. None: where there is a judge and nothing of these, nor the length, is
            chosen.
        temperature: that of the losses "kl" and "dist", by which all logits are divided.
        margin: the margin softmax of the losses "margin" and "centres".
        adversary: the discriminator of the loss "adversarial".
        attack: the adversarial images of the loss "perturbed".
        augment: random changes of the images; none unless asked for, or by a choice of the search (``auto``).
        views: what the teacher sees: the unchanged image, each image as the student sees it, or K stored views of each.
            "original": the image and its mirror image, of which its answers are stored; "live": each image as the
            student sees it, at the cost of running the teacher in every step; a number K: the views of the first K
            epochs, of which its answers are stored, and which later epochs show again.
        keep_gallery: weight of staying comparable with embeddings of the model as it was. It is that of the loss
            "gallery" in every stage that gives it none; 0 lets them go.
        batch_size: images in a step of one process. The images left over at the end of an epoch are not used in
            it. None: the usual number of the task.
        accumulate: batches whose gradients are averaged for one step.
        steps: length of an epoch. None: one pass over the images; of a stream (an ``IterableDataset``), as many as its
            length has.
        images: train on so many of them, at most, drawn at random by ``seed``. None: all, or as many as
            ``budget`` has time for.
        lr: peak learning rate of AdamW. None: the usual one of the task.
        weight_decay: decoupled weight decay of kernels; scales, biases, norms and PReLU slopes have none.
        warmup: part of a stage's steps over which the rate rises linearly from 0. After it, it falls to 0 as a
            half cosine.
        clip: largest norm of the gradient of all parameters together.
        shares: parts of the way from the deployed weights to the trained ones that are judged beside both ends. See
            ``recipes.tsmr.averaging``; ``()``: only the ends.
        share: part of that way that is gone where nothing judges. None: the usual one of the task; 1 where stages or
            a rate are chosen.
        ema: decay of a running average of the weights, which is judged and returned; 0: none.
        bf16: run the student in bfloat16 where autocast does; embeddings and losses stay float32.
        compile: run the student through ``torch.compile``.
        flip: show half of the images mirrored. Each is learnt with what the teacher says of the mirrored image: another
            pass of the teacher.
        decides: figure of the first judge by which the best epoch is told. None: the judge's own.
        seed: decides the start of the branches, the order of the images and which of them are mirrored.
        workers: processes that decode images; 0: the training process does, about 2,000 images of 112x112 a second,
            which a GPU waits for: 4 there. Does not change the result.

    Raises:
        InputError: a value cannot be used.

    >>> config = TSMRConfig(block="repvgg", stages=(Stage(epochs=10, cosine=1.0),), batch_size=128)
    >>> TSMRConfig.from_json(config.to_json()) == config
    True
    """

    VERSION: ClassVar[int] = 2

    task: TaskName = "auto"
    block: Block = "dbb"
    norm: Norm = "scale"
    restore_bn: Flag = False
    include: Patterns = None
    exclude: Patterns = None
    student_input: Name = "insightface"
    teacher_input: Names = "insightface"
    student_output: Output = None
    teacher_output: Outputs = None
    combine: Combine = "concat"
    stages: tuple[Stage, ...] | None = None
    epochs: Passes = None
    budget: Minutes = None
    auto: Maybe = None
    temperature: Positive = 4.0
    margin: Margin = Margin()
    adversary: Adversary = Adversary()
    attack: Attack = Attack()
    augment: Augment = Augment()
    views: Taught = "original"
    keep_gallery: Weight = 0.0
    batch_size: Annotated[Limit, Unit("images")] = None
    accumulate: Annotated[Count, Unit("batches")] = 1
    steps: Steps = None
    images: Annotated[Passes, Unit("images")] = None
    lr: Rate = None
    weight_decay: Weight = 0.05
    warmup: Annotated[PartBelowOne, Unit("of the stage")] = 0.1
    clip: Positive = 5.0
    shares: Shares = (0.3, 0.5, 0.7)
    share: Share = None
    ema: PartBelowOne = 0.0
    bf16: Flag = False
    compile: Flag = False
    flip: Flag = False
    decides: Deciding = None
    seed: Seed = 0
    workers: Workers = 0

    def __post_init__(self) -> None:
        if self.block == _PLAIN:
            object.__setattr__(self, "block", None)
        object.__setattr__(self, "student_input", _as_text(self.student_input))
        object.__setattr__(self, "teacher_input", _as_text(self.teacher_input))
        super().__post_init__()
        if self.stages == ():
            raise ChoiceError("must be one stage at least", "stages", "()")
        if self.augment.mix and self.views == "original":
            raise ChoiceError(
                "blends images, of which no stored embedding is right: give views='live' or a number (--views)",
                "augment.mix",
                str(self.augment.mix),
            )
        if self.stages and self.epochs:
            raise ChoiceError("is of the usual stages, and stages are given: each says its own", "epochs")
        if self.budget is not None and not self.epochs is self.steps is None:
            raise ChoiceError("decides how long is trained, and epochs or steps are given too", "budget")
        if self.auto and not self.open:
            raise ChoiceError("looks for lr and restore_bn, and one of them is given", "auto")
        for name, presets in {
            "student_input": (self.student_input,),
            "teacher_input": self.teacher_inputs,
        }.items():
            try:
                for preset in presets:
                    input_preset(preset)
            except InputError as error:
                raise ChoiceError(str(error), name) from error

    @property
    def teacher_inputs(self) -> tuple[str, ...]:
        """The teachers' presets; one stands for all of them."""
        return (self.teacher_input,) if isinstance(self.teacher_input, str) else self.teacher_input

    @property
    def teacher_outputs(self) -> tuple[str | None, ...]:
        """The names of the teachers' embeddings; one stands for all of them."""
        given = self.teacher_output
        return given if isinstance(given, tuple) else (given,)

    @property
    def timed(self) -> bool:
        """Whether the choices say how long is trained."""
        return any(value is not None for value in (self.stages, self.epochs, self.steps))

    @property
    def open(self) -> bool:
        """Whether the choices leave to a search what it looks for."""
        return self.lr is None and not self.restore_bn

    @property
    def plan(self) -> Plan:
        """What depends on the task: as chosen, or as usual; the task is taken for embeddings until it is known."""
        usual = USUAL["embeddings" if self.task == "auto" else self.task]
        stages = usual.stages if self.stages is None else self.stages
        if self.epochs is not None and stages:
            stages = (replace(stages[0], epochs=self.epochs), *stages[1:])
        share = 1.0 if self.stages is not None or self.lr is not None else usual.share
        return Plan(
            stages,
            usual.lr if self.lr is None else self.lr,
            usual.batch_size if self.batch_size is None else self.batch_size,
            share if self.share is None else self.share,
        )

    def images_of_step(self, processes: int) -> int:
        """Return how many images an optimizer step takes, of all ``processes`` together."""
        return self.plan.batch_size * self.accumulate * processes

    def settled(self, task: TaskName, labelled: bool) -> TSMRConfig:
        """Make every choice that depends on the task; of what was not chosen, the loss "labels" is left
        out unless the images are ``labelled``.
        """
        plan = replace(self, task=task).plan
        stages = plan.stages
        if self.stages is None and not labelled:
            stages = tuple(Stage(s.epochs, s.rate, s.losses | {"labels": 0.0}) for s in stages)
        return replace(
            self,
            task=task,
            budget=None,
            auto=None,
            stages=stages,
            epochs=None,
            lr=plan.lr,
            batch_size=plan.batch_size,
            share=plan.share,
        )

    @property
    def total_epochs(self) -> int:
        """Of all stages together."""
        return sum(stage.epochs for stage in self.plan.stages)

    def place(self, epoch: int) -> tuple[int, int]:
        """Return the stage of ``epoch`` (from 1), and which of its epochs this is; both from 0."""
        rest = epoch - 1
        for number, stage in enumerate(self.plan.stages):
            if rest < stage.epochs:
                return number, rest
            rest -= stage.epochs
        raise IndexError(f"there is no epoch {epoch} of {self.total_epochs}")

    def weights(self, stage: Stage) -> dict[str, float]:
        """Return the weight of each loss of a stage of this run by its name."""
        kept = {_GALLERY: self.keep_gallery} if self.keep_gallery else {}
        return kept | stage.losses

    @property
    def losses(self) -> tuple[str, ...]:
        """The names of the losses of all stages, those of this project first."""
        used = {name for stage in self.plan.stages for name in self.weights(stage)}
        return tuple(name for name in LOSSES if name in used)

    def to_json(self) -> dict[str, Any]:
        """Return every choice by name, with the version of this class as ``version``. What is None is left open."""
        return {"version": self.VERSION, **asdict(self), "block": self.block or _PLAIN}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TSMRConfig:
        """Read the choices that ``to_json`` gave, after JSON or not; what is left out has its default.

        Raises:
            InputError: another version, an unknown name, or a value that cannot be used.
        """
        if not isinstance(values, Mapping):
            raise ChoiceError(f"choices are written as {{name: value}}, not as {type(values).__name__}")
        values = dict(values)
        version = values.pop("version", cls.VERSION)
        if version != cls.VERSION:
            raise ChoiceError(
                f"choices of version {version!r}; this is version {cls.VERSION}", unknown="version"
            )
        cls.refuse_unknown(values)
        return cls(**values)


def _as_text(preset: Any) -> Any:
    """Return an ``InputPreset`` as the name or formula that JSON and the command line have for it; all else as
    it is.
    """
    if isinstance(preset, list | tuple):
        return tuple(map(_as_text, preset))
    if not isinstance(preset, InputPreset):
        return preset
    return preset.name if preset in all_presets() else preset.formula

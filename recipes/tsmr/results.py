"""What a run did and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean, stdev
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from recipes.faces import Comparison, Evaluation, FoundInput, Verdict
from recipes.tsmr.candidates import Hyperparameters
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.sides import Sides
from reparam_kit import IntegerCount

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Point:
    """A stretch of steps, for curves.

    Attributes:
        step: the last of them, counted from the start of the run.
        stage: number of the stage, from 1.
        lr: learning rate of that step.
        losses: mean of each loss over the stretch, without its weight.
        figures: what losses show besides, as "loss/figure", see ``recipes.tsmr.Loss.figures``.
    """

    step: int
    stage: int
    lr: float
    losses: dict[str, float]
    figures: dict[str, float]


@dataclass(frozen=True)
class StepReport:
    """One step.

    Attributes:
        epoch: its epoch, from 1, through all stages.
        step: its number in the epoch, from 1, of ``steps``.
        images: trained on in it, by all processes together.
        seconds: since the epoch began.
        lr: its learning rate.
        losses: each loss, without its weight, on the device: to read one waits for the step's end.
        point: what the curve got after it; None after most.
    """

    epoch: int
    step: int
    steps: int
    images: int
    seconds: float
    lr: float
    losses: dict[str, Tensor]
    point: Point | None


@dataclass(frozen=True)
class EpochReport:
    """One epoch.

    Attributes:
        epoch: its number, from 1, through all stages.
        stage: number of the stage, from 1.
        losses: mean of each loss over the epoch, without its weight.
        images_per_second: training alone, without validation.
        validation: what each judge says of the folded student after the epoch, the one that decides first.
    """

    epoch: int
    stage: int
    losses: dict[str, float]
    images_per_second: float
    validation: tuple[Verdict, ...] = ()


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (over n - 1; 0 of a single value) of a figure over seeds."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(mean(values), stdev(values) if len(values) > 1 else 0.0)


@dataclass(frozen=True)
class Arm:
    """One row of an ablation: a way of training, at its own learning rate, over several seeds.

    Attributes:
        name: which, see ``recipes.tsmr.ablation``.
        rates: what decides, on held-out training people, at each learning rate that was tried; None where it
            diverged.
        lr: the best of them.
        images: how many images each run was shown.
        verdicts: the last epoch by the judge that decides, a seed each.
    """

    name: str
    rates: dict[float, float | None]
    lr: float
    images: int
    verdicts: tuple[Verdict, ...]

    @property
    def spreads(self) -> dict[str, Spread]:
        """Each figure by its name; those that the data cannot show are left out."""
        measured = [figure.name for figure in self.verdicts[0].figures if figure.value is not None]
        values = {name: [verdict[name].value for verdict in self.verdicts] for name in measured}
        return {name: Spread.of([v for v in found if v is not None]) for name, found in values.items()}

    @property
    def deciding(self) -> Spread:
        """The figure that decides."""
        return self.spreads[self.verdicts[0].decides]

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, with mean and deviation of each figure."""
        return {
            "name": self.name,
            "rates": {f"{rate:g}": value for rate, value in self.rates.items()},
            "lr": self.lr,
            "images": self.images,
            "decides": self.verdicts[0].decides,
            "spreads": {name: asdict(spread) for name, spread in self.spreads.items()},
            "verdicts": [verdict.to_json() for verdict in self.verdicts],
        }


@dataclass(frozen=True)
class Trial:
    """A short run with other choices, see ``recipes.tsmr.search``.

    Attributes:
        choices: what was tried.
        steps: that it took.
        share: of the way from the deployed weights to its own, at which it is judged.
        value: what the judge that decides says of it on some examples, by the figure that decides; None where it
            diverged.
        surely: by how many standard errors it is better than the deployed model, the mean over all figures of that
            judge, by which trials are ranked; None where these are not known, and the figure that decides does.
        rate: images a second.
        shown: the figure as text.
    """

    choices: Hyperparameters
    steps: int
    share: float
    value: float | None = None
    surely: float | None = None
    rate: float = 0.0
    shown: str = "diverged"

    @property
    def told(self) -> str:
        """The trial in one line."""
        surely = "" if self.surely is None else f", all figures {self.surely:+.2f} standard errors"
        return f"{self.choices.told}, {self.steps} steps, {self.share:g} of the way: {self.shown}{surely}"


@dataclass(frozen=True)
class TSMRReport:
    """A run.

    Attributes:
        config: the choices made, those included that depend on the task.
        task: why the student's output was taken for what it is, ``config.task``.
        student: sha256 of the model that was passed in (structure and weights).
        teachers: sha256 of each teacher's file, or of its structure and weights.
        data: sha256 of what identifies the training images, see ``recipes.tsmr.targets.identity.data_identity``.
        images: number of training images.
        epochs: each epoch.
        curve: losses, rate and figures of losses along the steps.
        inputs: how the model as it was passed in does under each input preset, on a few examples of the judge that
            decides; None without one, or where that takes no quick look.
        teacher_scores: what the judge that decides says of each teacher.
        before: what each judge says of the model as it was passed in, the one that decides first; empty without any.
        after: the same of the model that is returned. Since it was chosen by the first, its figures are optimistic:
            judge on other data.
        comparisons: of ``after`` with ``before``, a judge each.
        kept: the epoch that the weights which are returned are on the way to; 0 where none beat the model that was
            passed in, whose weights these are.
        share: of that way, see ``recipes.tsmr.averaging``: 1 is the epoch itself.
        shares: what the judge that decides says of each share; empty without one.
        held_back: the shares that were not taken, each with the figures that got worse by more than chance,
            of several judges each with the place of its judge.
        gallery: "old-old", "new-new" and "new-old" (new embeddings against stored ones of the old model) on the
            validation pairs; empty without any.
        weight_change: of each weight that is returned, ``|new - old| / |old|``.
        integers: of a student whose weights its file quantises, how many changed, and how many were clipped.
        other_outputs: by name, outputs besides the embedding that depend on weights that were trained: ``|new - old| /
            |old|`` on the first images of the validation set, or of the training images without one.
        own_losses: sha256 of the code of each loss that is not this project's, by name.
        imported: sha256 of each file of the user's that was run (``--import``), by name.
        trials: the short runs by which open choices were made, those of the last round first, the best of each round
            first; empty where none were.
        ablation: the arms that this run was compared with; empty unless asked for.
    """

    config: TSMRConfig
    student: str
    teachers: tuple[str, ...]
    data: str
    images: int
    epochs: tuple[EpochReport, ...]
    curve: tuple[Point, ...]
    inputs: FoundInput | None
    teacher_scores: tuple[Verdict, ...]
    before: tuple[Verdict, ...]
    after: tuple[Verdict, ...]
    kept: int
    gallery: dict[str, Evaluation]
    weight_change: dict[str, float]
    task: str = ""
    integers: IntegerCount | None = None
    other_outputs: dict[str, float] = field(default_factory=dict)
    own_losses: dict[str, str] = field(default_factory=dict)
    imported: dict[str, str] = field(default_factory=dict)
    ablation: tuple[Arm, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    share: float = 1.0
    shares: dict[float, Verdict] = field(default_factory=dict)
    held_back: dict[float, tuple[str, ...]] = field(default_factory=dict)
    trials: tuple[Trial, ...] = ()

    @property
    def digests(self) -> dict[str, str]:
        """Those of what the run was made from, by the names that a file of a run has for it."""
        return {"student": self.student, "teacher": ",".join(self.teachers), "data": self.data}

    @property
    def way(self) -> str:
        """How far the weights went, for a sentence about the epoch; empty where it is all the way."""
        return "" if self.share == 1 else f"{self.share:g} of the way to it from the deployed weights, "

    @property
    def told(self) -> str:
        """What came of the run, in words."""
        if not self.before:
            return "not judged: nothing says whether it is better"
        if not self.kept:
            return "no epoch beat the deployed model, whose weights are returned"
        return self.comparisons[0].told

    @property
    def advice(self) -> str:
        """What would help a model that is returned and not shown to be better; empty where it is, where it is the one
        that was passed in, or where nothing was tested.
        """
        if not self.kept or not self.comparisons or self.comparisons[0].deciding.interval is None:
            return ""
        first = self.comparisons[0]
        if first.deciding.significant() == "better":
            return ""
        return f"more {first.examples} to judge by, other images to train on or a better teacher would help"

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, the fields by their names."""

        def plain(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
            return [verdict.to_json() for verdict in verdicts]

        return {
            **vars(self),
            "config": self.config.to_json(),
            "epochs": [{**vars(epoch), "validation": plain(epoch.validation)} for epoch in self.epochs],
            "curve": [vars(point) for point in self.curve],
            "inputs": self.inputs and self.inputs.to_json(),
            "integers": None if self.integers is None else asdict(self.integers),
            "held_back": {f"{share:g}": list(names) for share, names in self.held_back.items()},
            "shares": {f"{share:g}": verdict.to_json() for share, verdict in self.shares.items()},
            "teacher_scores": plain(self.teacher_scores),
            "before": plain(self.before),
            "after": plain(self.after),
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
            "gallery": {name: evaluation.to_json() for name, evaluation in self.gallery.items()},
            "ablation": [arm.to_json() for arm in self.ablation],
            "trials": [asdict(trial) for trial in self.trials],
        }


@dataclass(frozen=True)
class TSMRResult(Generic[Model]):
    """The model with its new weights, of the same class and with the same state_dict keys, and what the run did.

    Attributes:
        images: a few of those that it was trained on, as it takes them: float32 ``[N, C, H, W]``, on the CPU.
        sides: the examples that changed sides, of each judge that has some to show; None: they were not asked for.
    """

    model: Model
    report: TSMRReport
    images: Tensor
    sides: tuple[Sides, ...] | None = None

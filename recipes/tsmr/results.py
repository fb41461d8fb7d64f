"""What a run did and what came of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor, nn

from recipes.faces import Evaluation
from recipes.tsmr.config import TSMRConfig

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
        validation: the folded student after the epoch; None without a validation set.
    """

    epoch: int
    stage: int
    losses: dict[str, float]
    images_per_second: float
    validation: Evaluation | None


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
        rates: accuracy on held-out training people at each learning rate that was tried; None where it diverged.
        lr: the best of them.
        images: how many images each run was shown.
        evaluations: the last epoch on the validation set, a seed each.
    """

    name: str
    rates: dict[float, float | None]
    lr: float
    images: int
    evaluations: tuple[Evaluation, ...]

    @property
    def accuracy(self) -> Spread:
        return Spread.of([evaluation.accuracy for evaluation in self.evaluations])

    @property
    def tar_at_far(self) -> dict[float, Spread]:
        """By false accept rate; those that the set is too small to measure are left out."""
        fars = self.evaluations[0].tar_at_far
        rates = {far: [e.tar_at_far[far] for e in self.evaluations] for far in fars}
        return {
            far: Spread.of([v for v in tars if v is not None])
            for far, tars in rates.items()
            if tars[0] is not None
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, with mean and deviation of each figure."""
        return {
            "name": self.name,
            "rates": {f"{rate:g}": accuracy for rate, accuracy in self.rates.items()},
            "lr": self.lr,
            "images": self.images,
            "accuracy": asdict(self.accuracy),
            "tar_at_far": {f"{far:g}": asdict(spread) for far, spread in self.tar_at_far.items()},
            "evaluations": [evaluation.to_json() for evaluation in self.evaluations],
        }


@dataclass(frozen=True)
class TSMRReport:
    """A run.

    Attributes:
        config: the choices made.
        student: sha256 of the model that was passed in (structure and weights).
        teachers: sha256 of each teacher's file, or of its structure and weights.
        data: sha256 of what identifies the training images, see ``recipes.tsmr.targets.identity.data_identity``.
        images: number of training images.
        epochs: each epoch.
        curve: losses, rate and figures of losses along the steps.
        inputs: the model as it was passed in under each input preset, the best first, on the first pairs of the
            validation set; empty without one.
        teacher_scores: each teacher on the same pairs.
        before: the model as it was passed in; None without a validation set.
        after: the model that is returned. Since it was chosen on this set, the figure is optimistic: judge on
            another one.
        kept: the epoch whose weights are returned; 0 where none beat the model that was passed in, whose
            weights these are.
        gallery: "old-old", "new-new" and "new-old" (new embeddings against stored ones of the old model) on the
            validation set; empty without one.
        weight_change: of each weight that is returned, ``|new - old| / |old|``.
        other_outputs: by name, outputs besides the embedding that hang on weights that were trained: ``|new - old| /
            |old|`` on the first images of the validation set, or of the training images without one.
        own_losses: sha256 of the code of each loss that is not this project's, by name.
        imported: sha256 of each file of the user's that was run (``--import``), by name.
        ablation: the arms that this run was compared with; empty unless asked for.
    """

    config: TSMRConfig
    student: str
    teachers: tuple[str, ...]
    data: str
    images: int
    epochs: tuple[EpochReport, ...]
    curve: tuple[Point, ...]
    inputs: dict[str, Evaluation]
    teacher_scores: tuple[Evaluation, ...]
    before: Evaluation | None
    after: Evaluation | None
    kept: int
    gallery: dict[str, Evaluation]
    weight_change: dict[str, float]
    other_outputs: dict[str, float] = field(default_factory=dict)
    own_losses: dict[str, str] = field(default_factory=dict)
    imported: dict[str, str] = field(default_factory=dict)
    ablation: tuple[Arm, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, the fields by their names."""

        def plain(evaluation: Evaluation | None) -> dict[str, Any] | None:
            return None if evaluation is None else evaluation.to_json()

        return {
            **vars(self),
            "config": self.config.to_json(),
            "epochs": [{**vars(epoch), "validation": plain(epoch.validation)} for epoch in self.epochs],
            "curve": [vars(point) for point in self.curve],
            "inputs": {name: plain(evaluation) for name, evaluation in self.inputs.items()},
            "teacher_scores": [plain(evaluation) for evaluation in self.teacher_scores],
            "before": plain(self.before),
            "after": plain(self.after),
            "gallery": {name: plain(evaluation) for name, evaluation in self.gallery.items()},
            "ablation": [arm.to_json() for arm in self.ablation],
        }


@dataclass(frozen=True)
class TSMRResult(Generic[Model]):
    """The model with its new weights, of the same class and with the same state_dict keys, and what the run did."""

    model: Model
    report: TSMRReport


class Verification(Protocol):
    """What ``rk.verify`` gives."""

    @property
    def structure(self) -> Any: ...

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Improved:
    """A better file.

    Attributes:
        output: the file.
        page: of the run.
        model: what is in the file, on the device that it was trained on.
        report: the run.
        verification: ``rk.verify`` of the old file and the new one; None where they are not both ONNX files.
    """

    output: Path
    page: Path
    model: nn.Module
    report: TSMRReport
    verification: Verification | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON: those of the report, the files, and the verification."""
        verification = self.verification and self.verification.to_json()
        written = {"output": str(self.output), "page": str(self.page), "verification": verification}
        return {**written, **self.report.to_json()}

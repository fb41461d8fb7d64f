"""A whole run of files: what it reads and writes and its choices, in one object, which is what a file of it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from recipes.tsmr.choices import Choices, Flag, Name, Scales
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.parts import Ablation
from recipes.tsmr.settings import write_settings
from reparam_kit import InputError

File = Annotated[str, Meta(min_length=1, description="a path")]
MaybeFile = Annotated[File | None, Meta(description="a path, or none")]
Files = Annotated[tuple[File, ...], Meta(description="a list of paths")]
Sources = Annotated[
    File | Annotated[tuple[File, ...], Meta(min_length=1)], Meta(description="a path, or a list of paths")
]
Names = Annotated[tuple[Name, ...], Meta(description="a list of names")]

_KEPT = ("*.npy", "images-*.txt", "search.json")
HOLDS = {"cache": _KEPT, "work": (*_KEPT, "checkpoint.pt", "arms")}
"""Patterns of what is written into the folders of a run."""


@dataclass(frozen=True)
class Run(Choices):
    """A run from files to a file, as ``reparam-kit tsmr`` does it.

    Attributes:
        student: the deployed model: a .onnx file, a .pt file, or package.module:factory with ``weights``.
        teacher: stronger model (.onnx, or package.module:factory), or a list of them.
        data: training images: .rec, folder (of people, or of images alone), list, or shards (.tar).
        output: file to write: .onnx, .pt, .pth or .safetensors.
        config: all choices about the training. In a file they stand beside the others, not within.
        val: verification sets, people:FACES, classes:FOLDER or retrieval:QUERY,GALLERY: the best epoch by the first one
            is kept; "auto" holds some of ``data`` out.
        val_people: labelled faces, as ``val`` people:FACES before all others: TAR over all pairs, rank-1 and TPIR.
        impostors: faces of many others for ``val_people``: TAR at thresholds that their pairs set, which then decides.
        weights: state dict for a student that is package.module:factory or a .onnx: .safetensors, .pt or .pth.
        teacher_weights: state dict for each teacher that is package.module:factory.
        outputs: train an .onnx student up to these values within it, whatever lies behind.
        float: float file (.onnx) that the student was quantised from: integers start where they were before they were
            rounded.
        scales: of a quantised .onnx student: kept, or wider ones for weights that grow beyond the last level.
        report: HTML page to write of the run. None: OUTPUT.html.
        work: folder of the checkpoint and the teacher's embeddings; the same run again goes on from there. None:
            OUTPUT.work.
        log_to: log the run to tensorboard (FOLDER, or OUTPUT.logs), csv (a table, or OUTPUT.csv), wandb (PROJECT) or
            mlflow (URI), each as NAME:PLACE.
        latency: measure how long either file takes, run in turn.
        show_images: show on the page the images of ``val`` that changed sides; only where they are yours to show.
        device: where to train: auto (CUDA, else MPS, else the CPU), or one such as cuda:1.
        compare: train the controls too (fine-tuning, distillation with and without branches) and print the ablation.
        imports: Python files of yours to run first, which define losses or judges; they can do anything.
        unsafe_load: unpickle a .pt file, which can run code that it carries.
        sha256: digests of student, teacher and data, which a run leaves in its file; where that is given back, another
            one is warned of.

    Raises:
        InputError: a value cannot be used.

    >>> run = Run("deployed.onnx", "teacher.onnx", "train.rec", "better.onnx", config=TSMRConfig(seed=3))
    >>> run.save("run.yaml")
    >>> read_run("run.yaml") == run
    True
    """

    student: File
    teacher: Sources
    data: File
    output: File
    config: TSMRConfig = field(default_factory=TSMRConfig)
    val: Files = ()
    val_people: MaybeFile = None
    impostors: MaybeFile = None
    weights: MaybeFile = None
    teacher_weights: Files = ()
    outputs: Names = ()
    float: MaybeFile = None
    scales: Scales = "kept"
    report: MaybeFile = None
    work: MaybeFile = None
    log_to: Names = ()
    latency: Flag = False
    show_images: Flag = False
    device: Name = "auto"
    compare: Ablation | None = None
    imports: Files = ()
    unsafe_load: Flag = False
    sha256: dict[str, Name] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for one in fields(self):
            object.__setattr__(self, one.name, _text(getattr(self, one.name)))
        super().__post_init__()

    @property
    def judges(self) -> list[str]:
        """What judges the run, the first deciding: ``val_people``, then ``val``; the impostors are for the people among
        them.

        Raises:
            InputError: there are impostors, and no people.
        """
        named = [f"people:{self.val_people}"] * (self.val_people is not None) + list(self.val)
        if self.impostors is None:
            return named
        of_people = [name for name in named if name.startswith("people:")]
        if not of_people:
            raise InputError("--impostors sets thresholds for the faces of --val-people, which is not given")
        return [f"{name},{self.impostors}" if name in of_people else name for name in named]

    @property
    def arguments(self) -> dict[str, Any]:
        """Those of :func:`improve`, by name."""
        same = (
            "student",
            "data",
            "output",
            "config",
            "work",
            "report",
            "log_to",
            "latency",
            "show_images",
            "weights",
            "float",
            "scales",
            "device",
        )
        return {name: getattr(self, name) for name in same} | {
            "teachers": self.teacher,
            "teacher_weights": self.teacher_weights or None,
            "val": self.judges or None,
            "outputs": self.outputs or None,
            "unsafe": self.unsafe_load,
            "ablation": self.compare,
        }

    def to_json(self) -> dict[str, Any]:
        """Return what a file says of it: plain values by name, without what is left open."""
        usual = {one.name: one.default for one in fields(self)}
        own = {name: value for name, value in vars(self).items() if value != usual[name] and name != "config"}
        if self.compare is not None:
            own["compare"] = asdict(self.compare)
        return said(own, self.config)

    def save(self, path: str | Path) -> None:
        """Write it to a file, from which :func:`read_run` and ``--config`` have it again.

        Raises:
            InputError: the file cannot be written.
        """
        write_settings(Path(path), self.to_json(), f"reparam-kit tsmr --config {Path(path).name}")


OWN = tuple(one.name for one in fields(Run) if one.name != "config")
"""What a file says of a run besides its choices."""


def said(own: Mapping[str, Any], config: TSMRConfig) -> dict[str, Any]:
    """Return what a file says of a run: the version of its choices, ``own`` of ``OWN``, and all choices made."""
    version, *choices = config.to_json().items()
    values: dict[str, Any] = plain(dict([version, *own.items(), *choices]))
    return values


def plain(value: Any) -> Any:
    """Return ``value`` in lists, without what is None or empty."""
    if isinstance(value, Mapping):
        made = {name: plain(item) for name, item in value.items()}
        return {name: item for name, item in made.items() if item is not None and item != {}}
    return list(map(plain, value)) if isinstance(value, list | tuple) else value


def _text(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_text, value))
    return str(value) if isinstance(value, Path) else value

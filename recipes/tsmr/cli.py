"""``reparam-kit tsmr``: the recipe on files, resumable, with a table or JSON at the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

import reparam_kit as rk
from recipes.faces.embedding.inputs import CHOICES
from recipes.tsmr.choices import COMBINES, MARGINS, TASKS
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.options import ablation, chosen, judged, minutes
from recipes.tsmr.parts import Margin
from recipes.tsmr.stages import CLASSIFY, LOSSES, REFINE, USUAL

_FILE = click.Path(path_type=Path)
_USUAL = TSMRConfig()

Command = TypeVar("Command", bound=Callable[..., Any] | click.Command)


def _choice(*names: str, usual: Any = None, **options: Any) -> Callable[[Command], Command]:
    """Return an option that is None unless given, with the usual value in the help."""
    field = names[0].removeprefix("--").replace("-", "_")
    usual = getattr(_USUAL, field) if usual is None else usual
    return click.option(*names, default=None, show_default=str(usual), **options)


def _beside(ending: str) -> Callable[[click.Context, click.Parameter, Path | None], Path | None]:
    """Return what is written beside the output, which is read before, where nothing else is said."""

    def named(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
        output: Path | None = ctx.params.get("output")
        return output.with_name(output.name + ending) if value is None and output is not None else value

    return named


class _Losses(click.Option):
    """An option whose help names all losses, when it is shown: that imports them."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        return record and (record[0], f"{record[1]} Names: {', '.join(LOSSES)}.")


@click.command()
@click.argument("student", type=click.Path())
@click.option(
    "--teacher",
    "teachers",
    required=True,
    multiple=True,
    type=click.Path(),  # as text: the arguments of a factory are no path
    help="Stronger model (.onnx, or package.module:factory); again for more.",
)
@click.option(
    "--teacher-weights",
    multiple=True,
    type=_FILE,
    metavar="FILE",
    help="State dict for a teacher that is package.module:factory; again for more.",
)
@click.option(
    "--data",
    required=True,
    type=_FILE,
    help="Training images: .rec, folder (of people, or of images alone), list, or shards (.tar).",
)
@click.option(
    "--val",
    multiple=True,
    type=_FILE,
    metavar="SET",
    help="Verification set, people:FACES, classes:FOLDER or retrieval:QUERY,GALLERY: the best epoch by the first one "
    "is kept. 'auto' holds some of --data out.",
)
@click.option(
    "--val-people",
    "people",
    type=_FILE,
    help="Labelled faces, as --val people:FACES before all others: TAR over all pairs, rank-1 and TPIR.",
)
@click.option(
    "--impostors",
    type=_FILE,
    help="Faces of many others for --val-people: TAR at thresholds that their pairs set, which then decides.",
)
@_choice(
    "--decides",
    usual="by the set",
    metavar="FIGURE",
    help="Figure of the first set by which the best epoch is told.",
)
@click.option(
    "-o",
    "--output",
    required=True,
    is_eager=True,
    type=rk.OutputPath(".onnx", ".pt", ".pth", ".safetensors"),
    help="File to write.",
)
@_choice(
    "--task",
    type=click.Choice(TASKS),
    help="What the student's output is: found out, and said, unless given.",
)
@click.option("--student-input", metavar="PRESET", help=f"What the student expects, required: {CHOICES}.")
@click.option(
    "--teacher-input",
    "teacher_inputs",
    metavar="PRESET",
    multiple=True,
    help="What the teacher expects, required; again for more.",
)
@click.option(
    "--student-output",
    metavar="NAME",
    help="Output of the student to train, where several could be it.",
)
@click.option(
    "--teacher-output",
    "teacher_outputs",
    metavar="NAME",
    multiple=True,
    help="That of the teacher; again for more.",
)
@click.option(
    "--include",
    metavar="PATTERN",
    multiple=True,
    help="Train and expand only these layers or weights; may be repeated.",
)
@click.option(
    "--exclude",
    metavar="PATTERN",
    multiple=True,
    help="Leave these layers or weights as they are; may be repeated.",
)
@click.option(
    "--config",
    "choices_file",
    type=_FILE,
    help="JSON of choices, as --json prints them. An option that is given wins; the rest stays as the file has it.",
)
@_choice(
    "--block",
    help="What a convolution is expanded to: a preset, an expression, or 'plain' to train it as it is.",
)
@_choice("--norm", help="Norm of the branches.")
@click.option(
    "--restore-bn",
    is_flag=True,
    default=None,
    help="Train with a BatchNorm behind the convolutions whose own was folded away; try higher rates with it.",
)
@_choice("--combine", type=click.Choice(COMBINES), help="What several teachers become.")
@click.option(
    "--loss",
    "losses",
    metavar="NAME=WEIGHT",
    multiple=True,
    show_default="pairs=0.1, neighbours=0.1, gallery=1, of logits kl=1 and labels=1",
    cls=_Losses,
    help="What is minimised in all stages; again for more. Losses that --config names stay.",
)
@click.option(
    "--import",
    "imports",
    metavar="FILE",
    type=_FILE,
    multiple=True,
    help="Run a Python file of yours first, which defines losses or judges; it can do anything.",
)
@_choice(
    "--epochs",
    usual=f"what --budget allows, of logits {CLASSIFY.epochs}",
    type=int,
    help="Passes over the images in the first stage, distillation.",
)
@_choice("--steps", usual="one pass over the images", type=int, help="Steps in an epoch.")
@_choice(
    "--budget",
    usual="60m, unless --epochs or --config say how long",
    metavar="TIME",
    callback=lambda ctx, param, value: None if value is None else minutes(value),
    help="Time for the whole run, such as 90s, 45m or 8h.",
)
@click.option(
    "--auto/--no-auto",
    default=None,
    help="Look for rate, restored BatchNorms and losses by short runs that --val judges, in a quarter of --budget. "
    "[default: where there is a --val, and none of them is given]",
)
@_choice(
    "--refine-epochs",
    usual="no second stage",
    type=int,
    help="Passes of a second stage, adversarial refinement.",
)
@_choice(
    "--adversarial",
    usual=REFINE.losses["adversarial"],
    type=float,
    help="Weight of the discriminator in the second stage.",
)
@_choice(
    "--margin",
    usual=Margin.kind,
    type=click.Choice(MARGINS),
    help="Margin of the losses 'margin' and 'centres'.",
)
@click.option(
    "--keep-gallery",
    type=float,
    is_flag=False,
    flag_value=1.0,
    help="Keep new embeddings comparable with stored ones of STUDENT; a weight, 1 if none is given.",
)
@click.option(
    "--augment",
    "augmented",
    is_flag=True,
    help="Show some images cropped, in other colours, in low resolution or partly covered.",
)
@_choice(
    "--views",
    metavar="original|live|K",
    help="What the teacher sees: the unchanged image, each image as the student sees it, or K stored views of each.",
)
@_choice(
    "--batch-size",
    usual=", of logits ".join(f"{USUAL[task].batch_size}" for task in ("embeddings", "logits")),
    type=int,
    help="Images a step.",
)
@_choice("--accumulate", type=int, help="Batches a step.")
@_choice(
    "--lr",
    usual=", of logits ".join(f"{USUAL[task].lr:g}" for task in ("embeddings", "logits")),
    type=float,
    help="Peak learning rate.",
)
@_choice("--ema", type=float, help="Decay of a running average of the weights; 0 for none.")
@click.option("--bf16", is_flag=True, default=None, help="Run the student in bfloat16.")
@click.option(
    "--compile", "compiled", is_flag=True, default=None, help="Run the student through torch.compile."
)
@_choice("--seed", type=int, help="Decides all that is random.")
@_choice("--workers", type=int, help="Processes that decode images.")
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="Where to train: auto (CUDA, else MPS, else the CPU), cuda:1, ...",
)
@click.option(
    "--work",
    type=rk.OutputPath(holds=("checkpoint.pt", "*.npy", "images-*.txt", "search.json", "arms")),
    callback=_beside(".work"),
    help="Folder of the checkpoint and the teacher's embeddings; the same command again goes on from there. "
    "[default: OUTPUT.work]",
)
@click.option(
    "--log-to",
    metavar="NAME[:PLACE]",
    multiple=True,
    help="Log the run to tensorboard (FOLDER, or OUTPUT.logs), csv (a table, or OUTPUT.csv), wandb (PROJECT) or mlflow "
    "(URI); again for more.",
)
@click.option(
    "--report",
    "page",
    type=rk.OutputPath(".html", ".htm"),
    callback=_beside(".html"),
    help="HTML page to write of the run. [default: OUTPUT.html]",
)
@click.option("--latency", is_flag=True, help="Measure how long either file takes, run in turn.")
@click.option(
    "--show-images",
    is_flag=True,
    help="Show on the page the images of --val that changed sides; only where they are yours to show.",
)
@click.option(
    "--compare",
    "compared",
    is_flag=True,
    help="Also train the controls (fine-tuning, distillation with and without branches) and print the ablation.",
)
@click.option(
    "--seeds", show_default="3", type=click.IntRange(1, 1000), help="Runs of each arm of --compare."
)
@click.option(
    "--rate",
    "rates",
    type=float,
    multiple=True,
    help="Learning rates of --compare to choose from; again for more. [default: --lr over 3, --lr, --lr times 3]",
)
@click.option(
    "--weights",
    type=_FILE,
    help="State dict for package.module:factory or a .onnx: .safetensors, .pt or .pth.",
)
@click.option(
    "--outputs",
    multiple=True,
    metavar="NAME",
    help="Train STUDENT, an .onnx file, up to this value within it, whatever lies behind; again for more.",
)
@click.option(
    "--float",
    type=_FILE,
    metavar="FILE.onnx",
    help="The float file that STUDENT was quantised from: integers start where they were before they were rounded.",
)
@click.option("--unsafe-load", is_flag=True, help="Unpickle a .pt file, which can run code that it carries.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def tsmr(
    student: str,
    teachers: tuple[str, ...],
    teacher_weights: tuple[Path, ...],
    data: Path,
    val: tuple[Path, ...],
    people: Path | None,
    impostors: Path | None,
    output: Path,
    device: str,
    work: Path,
    log_to: tuple[str, ...],
    page: Path,
    latency: bool,
    show_images: bool,
    compared: bool,
    seeds: int | None,
    rates: tuple[float, ...],
    weights: Path | None,
    unsafe_load: bool,
    outputs: tuple[str, ...],
    float: Path | None,
    as_json: bool,
    **choices: Any,
) -> None:
    """Train STUDENT, expanded, to give the embeddings of a stronger teacher, and fold it back.

    STUDENT is a .onnx file, a .pt file, or package.module:factory with --weights FILE. What is written has
    the graph of STUDENT and new weights. If no epoch beats STUDENT on --val, it has the weights of STUDENT.

    Started by torchrun, the processes share the images of each step: --batch-size is that of one of them.
    """
    config = chosen(**choices)
    arms = ablation(compared, seeds, rates)
    from recipes.tsmr.distributed import Processes, launched
    from recipes.tsmr.improvement import improve
    from recipes.tsmr.progress import warnings_shown
    from recipes.tsmr.rendering.show import show

    with launched(device) as place:
        first = Processes.current().rank == 0
        with warnings_shown(first):
            improved = improve(
                student, teachers, data, output, val=judged(val, people, impostors), config=config, work=work,
                report=page, log_to=log_to, weights=weights, unsafe=unsafe_load, outputs=outputs,
                float=float, teacher_weights=teacher_weights, device=place, latency=latency, show_images=show_images,
                ablation=arms, progress=True,
            )  # fmt: skip
    if as_json and first:
        click.echo(json.dumps(improved.to_json(), indent=2))
    elif first:
        show(improved, student)

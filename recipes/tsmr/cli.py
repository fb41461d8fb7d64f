"""``reparam-kit tsmr``: the recipe on files, resumable, with a table or JSON at the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import MISSING, replace
from pathlib import Path
from typing import Any, TypeVar

import click

import reparam_kit as rk
from recipes.faces.embedding.inputs import CHOICES
from recipes.tsmr.catalogue import keys
from recipes.tsmr.choices import COMBINES, MARGINS, SCALES, TASKS
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.options import ablation, chosen, one_or_all
from recipes.tsmr.parts import Ablation
from recipes.tsmr.progress import LOGGER
from recipes.tsmr.run import HOLDS, OWN, Run
from recipes.tsmr.schema import minutes
from recipes.tsmr.stages import BROUGHT, CLASSIFY, DISTIL, REFINE, USUAL, Stage
from recipes.tsmr.told import Told

_FILE = click.Path(path_type=Path)
_KEYS = {key.place: key for key in keys()}

Command = TypeVar("Command", bound=Callable[..., Any] | click.Command)


class _Filed(click.Command):
    """A command that a file may give what it is told, ``--config``, and ``--set``; its other options win."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        told = Told()
        if not given.get("help"):
            told = Told(given.get("config_file"), given.get("changes", ()), bool(given.get("trusted")))
        own = told.own()
        ctx.default_map = {
            name: _listed(self, name, value) for name, value in own.items() if name != "compare"
        }
        ctx.params["told"] = told
        return super().parse_args(ctx, args)


def _listed(command: click.Command, name: str, value: Any) -> Any:
    """Return a value of a file as click takes it: in a list where the option may be given again."""
    several = any(one.name == name and getattr(one, "multiple", False) for one in command.params)
    return [value] if several and isinstance(value, str) else value


def _option(*names: str, place: str = "", usual: str = "", **options: Any) -> Callable[[Command], Command]:
    """Return an option for what stands at ``place`` in a file, which says what it means; None unless given."""
    long = next(name for name in names if name.startswith("--"))
    key = _KEYS[place or long.partition("/")[0].removeprefix("--").replace("-", "_")]
    if "help" not in options:
        again = " Again for more." if options.get("multiple") else ""
        options["help"] = f"{key.meaning[:1].upper()}{key.meaning[1:]}.{again}"
    if not key.required and not usual and key.default not in (None, [], False, MISSING, {}):
        usual = str(key.default)
    return click.option(
        *names, key.place.replace(".", "_"), default=None, show_default=usual or False, **options
    )


def _weighed(stage: Stage) -> str:
    """Return the losses of a stage as ``--loss`` has them."""
    return ", ".join(f"{name}={weight:g}" for name, weight in stage.losses.items())


def _beside(ending: str) -> Callable[[click.Context, click.Parameter, Path | None], Path | None]:
    """Return what is written beside the output, which is read before, where nothing else is said."""

    def named(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
        output: Path | None = ctx.params.get("output")
        return output.with_name(output.name + ending) if value is None and output is not None else value

    return named


@click.command(cls=_Filed)
@click.argument("student", type=click.Path())
@_option("--teacher", multiple=True, required=True, type=click.Path())  # arguments of a factory are no path
@_option("--teacher-weights", multiple=True, type=_FILE, metavar="FILE")
@_option("--data", required=True, type=_FILE)
@_option("--val", multiple=True, type=_FILE, metavar="SET")
@_option("--val-people", type=_FILE)
@_option("--impostors", type=_FILE)
@_option("--decides", usual="by the set", metavar="FIGURE")
@_option(
    "-o", "--output", required=True, is_eager=True, type=rk.OutputPath(".onnx", ".pt", ".pth", ".safetensors")
)
@_option("--task", type=click.Choice(TASKS))
@_option("--student-input", metavar="PRESET", help=f"What the student expects, required: {CHOICES}.")
@_option(
    "--teacher-input",
    metavar="PRESET",
    multiple=True,
    help="What the teacher expects, required; again for more.",
)
@_option("--student-output", metavar="NAME")
@_option("--teacher-output", metavar="NAME", multiple=True)
@_option("--include", metavar="PATTERN", multiple=True)
@_option("--exclude", metavar="PATTERN", multiple=True)
@click.option(
    "--config",
    "config_file",
    type=_FILE,
    help="YAML or JSON file of what is not given here: any of these options by name, and all that 'reparam-kit config' "
    "lists. An option that is given wins, key by key.",
)
@click.option(
    "--set",
    "changes",
    metavar="KEY=VALUE",
    multiple=True,
    help="Change one key of what --config says, such as adversary.lr=1e-3 or stages.0.losses.pairs=0.2; again for "
    "more.",
)
@click.option(
    "--save-config",
    type=rk.OutputPath(".yaml", ".yml", ".json"),
    help="File to write, first of all, from which --config has this run again.",
)
@click.option(
    "--trust-config",
    "trusted",
    is_flag=True,
    help="Let --config name code that is run: factories, files to import, a .pt to unpickle.",
)
@_option(
    "--block",
    help="What a convolution is expanded to: a preset, an expression, or 'plain' to train it as it is.",
)
@_option("--norm")
@_option("--restore-bn/--no-restore-bn")
@_option("--combine", type=click.Choice(COMBINES))
@click.option(
    "--loss",
    "losses",
    metavar="NAME=WEIGHT",
    multiple=True,
    show_default=f"{_weighed(DISTIL)}, of logits {_weighed(CLASSIFY)}",
    help="What is minimised in all stages; again for more. Losses that --config names stay. Names: "
    f"{', '.join(BROUGHT)}, and those of your own or of other packages.",
)
@_option("--import", place="imports", metavar="FILE", type=_FILE, multiple=True)
@_option("--epochs", usual=f"what --budget allows, of logits {CLASSIFY.epochs}", type=int)
@_option("--steps", usual="one pass over the images", type=int)
@_option("--images", type=int)
@_option(
    "--budget",
    usual="60m, unless --epochs or --config say how long",
    metavar="TIME",
    callback=lambda ctx, param, value: value and minutes(value),
    help="Time for the whole run, such as 90s, 45m or 8h.",
)
@_option(
    "--auto/--no-auto",
    help="Look for rate, restored BatchNorms and losses by short runs that --val judges, in a quarter of --budget. "
    "[default: where there is a --val, and none of them is given]",
)
@click.option(
    "--refine-epochs",
    show_default="no second stage",
    type=int,
    help="Passes of a second stage, adversarial refinement.",
)
@click.option(
    "--adversarial",
    show_default=str(REFINE.losses["adversarial"]),
    type=float,
    help="Weight of the discriminator in the second stage.",
)
@_option(
    "--margin",
    place="margin.kind",
    type=click.Choice(MARGINS),
    help="Margin of the losses 'margin' and 'centres'.",
)
@_option("--keep-gallery", type=float, is_flag=False, flag_value=1.0)
@click.option(
    "--augment/--no-augment",
    "augmented",
    default=None,
    help="Show some images cropped, in other colours, in low resolution or partly covered.",
)
@_option("--views", metavar="original|live|K")
@_option(
    "--batch-size",
    usual=", of logits ".join(f"{USUAL[task].batch_size}" for task in ("embeddings", "logits")),
    type=int,
)
@_option("--accumulate", type=int)
@_option(
    "--lr", usual=", of logits ".join(f"{USUAL[task].lr:g}" for task in ("embeddings", "logits")), type=float
)
@_option("--ema", type=float)
@_option("--bf16/--no-bf16")
@_option("--compile/--no-compile")
@_option("--seed", type=int)
@_option("--workers", type=int)
@_option("--device")
@_option(
    "--work",
    type=rk.OutputPath(holds=HOLDS["work"]),
    callback=_beside(".work"),
    usual="OUTPUT.work",
)
@_option("--log-to", metavar="NAME[:PLACE]", multiple=True)
@_option("--report", type=rk.OutputPath(".html", ".htm"), callback=_beside(".html"), usual="OUTPUT.html")
@_option("--latency/--no-latency")
@_option("--show-images/--no-show-images")
@_option("--compare/--no-compare")
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
@_option("--weights", type=_FILE)
@_option("--outputs", multiple=True, metavar="NAME")
@_option("--float", type=_FILE, metavar="FILE.onnx")
@_option("--scales", type=click.Choice(SCALES))
@_option("--unsafe-load", is_flag=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def tsmr(
    told: Told,
    config_file: Path | None,
    changes: tuple[str, ...],
    trusted: bool,
    save_config: Path | None,
    compare: bool | None,
    seeds: int | None,
    rates: tuple[float, ...],
    as_json: bool,
    **given: Any,
) -> None:
    """Train STUDENT, expanded, to give the embeddings of a stronger teacher, and fold it back.

    STUDENT is a .onnx file, a .pt file, or package.module:factory with --weights FILE. What is written has
    the graph of STUDENT and new weights. If no epoch beats STUDENT on --val, it has the weights of STUDENT.

    Started by torchrun, the processes share the images of each step: --batch-size is that of one of them.
    """
    own = {name: given.pop(name) for name in OWN if name in given}
    for path in own["imports"]:
        rk.import_file(path)
    filed = told.own()
    run = _run(own, chosen(told, **given), ablation(filed.get("compare"), compare, seeds, rates))
    from recipes.tsmr.distributed import Processes, launched
    from recipes.tsmr.improvement import improve
    from recipes.tsmr.progress import warnings_shown
    from recipes.tsmr.rendering.show import show

    with launched(run.device) as place:
        first = Processes.current().rank == 0
        with warnings_shown(first):
            if save_config is not None and first:
                run.save(save_config)
            improved = improve(**{**run.arguments, "device": place}, progress=True)
            _warn_of_others(run, filed, improved.report.digests)
        if run.imports and first:  # of which improve knows nothing
            kept = improved.output.with_name(f"{improved.output.name}.yaml")
            replace(run, config=improved.report.config, sha256=improved.report.digests).save(kept)
    if as_json and first:
        click.echo(json.dumps(improved.to_json(), indent=2))
    elif first:
        show(improved, run.student)


def _warn_of_others(run: Run, filed: dict[str, Any], digests: dict[str, str]) -> None:
    """Warn of what is another than it was when the file was written that a run is repeated by."""
    for name, digest in filed.get("sha256", {}).items():
        if getattr(run, name, None) == filed.get(name) and digests.get(name, digest) != digest:
            LOGGER.warning(
                f"{name} is another than it was when --config was written, by its sha256: so is the result"
            )


def _run(own: dict[str, Any], config: TSMRConfig, arms: Ablation | None) -> Run:
    """Return the run, of which what is written beside the output unless said otherwise is left open."""
    output = own["output"]
    for name, ending in (("work", ".work"), ("report", ".html")):
        if own[name] == output.with_name(output.name + ending):
            own[name] = None
    given = {name: value for name, value in own.items() if value is not None}
    return Run(**{**given, "teacher": one_or_all(own["teacher"])}, config=config, compare=arms)

"""The command line. No logic here: each command calls a public function (of its name; ``inspect`` calls ``plan``) and
prints what it returns.

Results go to standard output (``--json``: for machines), everything else to standard error. Exit status: 0 good,
1 a verification failed, 2 wrong usage or input, 3 nothing to do, 128 + n ended by signal n.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reparam_kit import __version__
from reparam_kit.cli import values
from reparam_kit.cli.group import TRACEBACK, Group
from reparam_kit.cli.paths import OutputPath
from reparam_kit.cli.quiet import with_verbose
from reparam_kit.errors import printable
from reparam_kit.kinds import TORCH, refuse_others

if TYPE_CHECKING:
    from torch import nn

    from reparam_kit.onnx.scales import Scales


def _versions(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    """Say what a report of a fault has to say."""
    if asked:
        click.echo(f"reparam-kit {__version__}")
        for package in ("torch", "onnx", "onnxruntime"):
            click.echo(f"{package} {version(package)}")
        ctx.exit()


def _traced(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    ctx.meta[TRACEBACK] = asked or bool(os.environ.get("REPARAM_TRACEBACK"))


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_versions,
    help="Show versions and exit.",
)
@click.option(
    "--traceback", is_flag=True, expose_value=False, callback=_traced, help="Show where errors are raised."
)
def main() -> None:
    """Better weights for the CNN you have deployed: same graph, same operators, same file layout.

    MODEL is a .onnx file, a .pt file, or package.module:factory with --weights FILE, in quotes with arguments:
    'package.module:factory(depth=18)'.
    """


with_verbose(main)

_Command = Callable[..., None]


def _model_options(command: _Command) -> _Command:
    for option in (
        click.option(
            "--unsafe-load", is_flag=True, help="Unpickle a .pt; this runs code that the file carries."
        ),
        click.option(
            "--weights",
            type=click.Path(),
            metavar="FILE",
            help="State_dict for package.module:factory or a .onnx: .safetensors, .pt or .pth.",
        ),
    ):
        command = option(command)
    return command


def _block_options(command: _Command) -> _Command:
    """Return the arguments of ``plan`` and ``expand``, under their names there."""
    for option in (
        click.option(
            "--budget",
            type=float,
            metavar="RATIO",
            help="Bound on the cost of a training step, such as 1.3 times the plain one: the cheapest sites are taken. "
            "Needs --input-shape.",
        ),
        click.option(
            "--input-shape",
            "example_inputs",
            multiple=True,
            metavar="SHAPE",
            callback=values.examples,
            help="Run the model once on random input of this shape, such as 16x3x224x224, to tell costs and to follow "
            "a model that cannot be traced; once for each input.",
        ),
        values.patterns("--exclude", "Leave these layers alone; may be repeated."),
        values.patterns("--include", "Only these layers (linear ones only so); may be repeated."),
        click.option(
            "--norm", metavar="NAME", help="scale, batch or none.  [default: the preset's own, mostly scale]"
        ),
        click.option(
            "--import",
            type=click.Path(),
            multiple=True,
            metavar="FILE.py",
            expose_value=False,
            is_eager=True,
            callback=values.import_files,
            help="Run this first; it may define factors of your own. May be repeated.",
        ),
        click.option("--block", default="dbb", show_default=True, help="A preset, or an expression."),
    ):
        command = option(command)
    return command


def _file(name: str) -> Callable[[_Command], _Command]:
    """Return an argument that can only be an ONNX file."""

    def check(ctx: click.Context, param: click.Parameter, value: str) -> str:
        if not value.endswith(".onnx"):
            if Path(value).is_file():
                refuse_others(Path(value), TORCH)
            raise click.BadParameter(
                f"{value} is no .onnx file; to compare two modules, call reparam_kit.verify", ctx, param
            )
        return value

    return click.argument(name, type=click.Path(), callback=check)


def _output(*suffixes: str) -> Callable[[_Command], _Command]:
    kind = OutputPath(*suffixes)
    return click.option("-o", "--output", required=True, type=kind, metavar="OUT", help="File to write.")


def _shapes(help: str) -> Callable[[_Command], _Command]:
    return click.option(
        "--shape", "shapes", multiple=True, metavar="NAME=SIZES", callback=values.shapes, help=help
    )


_json = click.option("--json", "as_json", is_flag=True, help="Machine-readable result on standard output.")


_outputs = click.option(
    "--outputs",
    multiple=True,
    metavar="NAME",
    help="End at this value within an .onnx file, whatever lies behind it; may be repeated.",
)


def _scales_option(help: str) -> Callable[[_Command], _Command]:
    kinds = click.Choice(["kept", "weights"])
    return click.option("--scales", type=kinds, default="kept", show_default=True, help=help)


_scales = _scales_option(
    "Of a quantised .onnx file, give weights wider scales where they grow beyond the last level."
)
_free_scales = _scales_option(
    "Whether scales of quantised weights may differ, as what was trained with --scales weights has them."
)


def _load(
    model: str,
    weights: str | None,
    unsafe_load: bool,
    outputs: tuple[str, ...] = (),
    float: str | None = None,
    scales: Scales = "kept",
) -> nn.Module:
    from reparam_kit.formats import load

    return load(model, weights=weights, unsafe=unsafe_load, outputs=outputs, float=float, scales=scales)


@main.command()
@click.argument("model", type=click.Path())
@_block_options
@_model_options
@_outputs
@_scales
@_json
def inspect(
    model: str,
    weights: str | None,
    unsafe_load: bool,
    outputs: tuple[str, ...],
    scales: Scales,
    as_json: bool,
    **choice: Any,
) -> None:
    """List every convolution and linear layer: what a block adds to it, or why it cannot be expanded."""
    from reparam_kit.cli.listing import show
    from reparam_kit.planning import plan

    plans = plan(_load(model, weights, unsafe_load, outputs, scales=scales), **choice)
    if as_json:
        click.echo(json.dumps([item.to_json() for item in plans], indent=2))
    else:
        show(plans)


@main.command()
@click.argument("model", type=click.Path())
@_output(".onnx", ".pt", ".pth", ".safetensors")
@_block_options
@_model_options
@_outputs
@_scales
@click.option(
    "--float",
    type=click.Path(),
    metavar="FILE.onnx",
    help="The float file that MODEL was quantised from: integers start where they were before they were rounded.",
)
def expand(
    model: str,
    output: Path,
    weights: str | None,
    unsafe_load: bool,
    outputs: tuple[str, ...],
    float: str | None,
    scales: Scales,
    **choice: Any,
) -> None:
    """Write MODEL with its convolutions as sums of branches, ready to train; the function is unchanged."""
    from reparam_kit import surgery
    from reparam_kit.formats import save

    save(surgery.expand(_load(model, weights, unsafe_load, outputs, float, scales), **choice), output)
    click.echo(printable(f"expanded model in {output}"), err=True)


@main.command()
@click.argument("expanded", type=click.Path())
@_output(".onnx", ".pt", ".pth", ".safetensors")
@_model_options
@_scales
def fold(expanded: str, output: Path, weights: str | None, unsafe_load: bool, scales: Scales) -> None:
    """Multiply the branches of EXPANDED out into the original convolutions."""
    from reparam_kit import surgery
    from reparam_kit.formats import save

    count = save(surgery.fold(_load(expanded, weights, unsafe_load, scales=scales)), output)
    integers = "" if count is None else f": {count}"
    click.echo(printable(f"folded model in {output}{integers}"), err=True)


@main.command()
@_file("a")
@_file("b")
@click.option(
    "--inputs",
    type=click.Path(),
    metavar="FILE.npz",
    help="Run on these: an array for each input.  [default: noise]",
)
@_shapes(
    "Sizes of an input for the noise, such as x=1,3,24,94, where A leaves them open; may be repeated.  "
    "[default: found by trying]"
)
@click.option(
    "--calibration",
    type=click.Path(),
    metavar="IMAGES",
    help="Make INT8 copies of both by onnxruntime's quantiser, calibrated on these, and run them: a .npz as for "
    "--inputs, or a folder, list or .rec of images.",
)
@click.option(
    "--input",
    "preset",
    metavar="PRESET",
    help="What A expects of the images of --calibration: imagenet, insightface, a formula, ... as for evaluate.",
)
@_free_scales
@click.option("--retrained", is_flag=True, help="Values may differ: judge the graph, report the numbers.")
@click.option("--latency", is_flag=True, help="Measure the latency of both, interleaved.")
@_json
def verify(
    a: str,
    b: str,
    inputs: str | None,
    shapes: dict[str, tuple[int, ...]],
    calibration: str | None,
    preset: str | None,
    scales: Scales,
    retrained: bool,
    latency: bool,
    as_json: bool,
) -> None:
    """Compare two .onnx files: the same graph, and the same function. Exit status 1 if not."""
    from reparam_kit.cli.calibration import read_calibration
    from reparam_kit.onnx.run import read_inputs
    from reparam_kit.verification import verify as compare

    examples = read_inputs(inputs, a) if inputs else None
    seen = read_calibration(calibration, preset, a)
    report = compare(
        a, b, examples,
        same_function=not retrained, latency=latency, shapes=shapes, calibration=seen, scales=scales,
    )  # fmt: skip
    click.echo(json.dumps(report.to_json(), indent=2) if as_json else str(report))
    if not report.ok:
        click.get_current_context().exit(1)


@main.command()
@_file("a")
@_file("b")
@_free_scales
@_json
def diff(a: str, b: str, scales: Scales, as_json: bool) -> None:
    """Say how two .onnx files differ, weights apart. Exit status 1 if their graphs do."""
    from reparam_kit.onnx import diff as compare

    difference = compare(a, b, scales=scales)
    click.echo(json.dumps(difference.to_json(), indent=2) if as_json else str(difference))
    if not difference.same_graph:
        click.get_current_context().exit(1)


@main.command()
@click.argument("model", type=click.Path())
@_output(".onnx")
@click.option(
    "--like",
    type=click.Path(),
    metavar="ORIGINAL",
    help="The .onnx that this architecture was exported to: write that with the weights of MODEL.",
)
@_shapes(
    "Name and sizes of an input, such as x=1,3,112,112; once for each, in order.  [default: those of the file "
    "that MODEL came from, or what it says of itself]"
)
@click.option(
    "--dynamic",
    multiple=True,
    metavar="NAME",
    callback=values.dynamic,
    help="Leave the first dimension of every input free, and call it NAME; or a dimension of an input, such as "
    "x:2=height, once for each.",
)
@click.option("--opset", type=click.IntRange(min=7), help="Of the new file.  [default: torch's]")
@click.option(
    "--output-name",
    "output_names",
    multiple=True,
    metavar="NAME",
    callback=lambda ctx, param, value: value or None,
    help="What an output is called in the new file; once for each, in order.",
)
@click.option(
    "--inputs",
    type=click.Path(),
    metavar="FILE.npz",
    help="What to trace on, in place of noise: an array for each input, by its name.",
)
@click.option(
    "--simplify",
    is_flag=True,
    help="Simplify by onnxsim; with --like compare through it, for what it or another exporter wrote.",
)
@_model_options
def export(
    model: str,
    output: Path,
    like: str | None,
    inputs: str | None,
    simplify: bool,
    weights: str | None,
    unsafe_load: bool,
    **choice: Any,
) -> None:
    """Write MODEL as a new .onnx, checked against it in onnxruntime; or, with --like, ORIGINAL with its weights.

    What is expanded is folded first. Exit status 1 where ORIGINAL has another graph, or the new file computes something
    else.
    """
    from reparam_kit.exporting import export_onnx
    from reparam_kit.onnx.run import read_arrays, read_inputs

    net = _load(model, weights, unsafe_load)
    examples = None if inputs is None else read_inputs(inputs, like) if like else read_arrays(inputs)
    done = export_onnx(net, output, like=like, example_inputs=examples, simplify=simplify, **choice)
    if done.folded:
        click.echo(f"folded first: {done.folded} expanded layers or restored BatchNorms", err=True)
    form = f"{like} as onnxsim simplifies it" if done.simplified else like
    wrote = f"{form}, with the weights of {model}, in {output}" if like else f"{output}: {done}"
    click.echo(printable(wrote), err=True)

"""Known architectures through both exporters of torch at several opsets, into the importer and back into the file.

For every net, exporter and opset four things must hold:

- import: what the file is imported as computes what onnxruntime makes of the file;
- identity: writing the import back, unchanged, gives the same bytes;
- retrained: expanded, every parameter moved, folded and written back, the file differs in payloads only, and
  onnxruntime gives what the expanded net gives;
- export: the torch net with other weights, exported like the file, gives the file with other payloads, and
  onnxruntime gives what the net gives.

    python -m benchmarks.onnx_zoo [--net NAME ...]

needs torchvision, timm and reparam-kit[export]. Without ``--net`` it writes benchmarks/results/onnx_zoo.md. Exit
status 1 if anything fails. Weights are random; BatchNorm statistics are those of made-up images, so that activations
have the scale that they have in a trained net. How far outputs may differ is said at ``onnx_checks.error``.
"""

from __future__ import annotations

import contextlib
import io
import logging
import time
import warnings
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import onnx
import timm
import torch
import torchvision
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import reparam_kit as rk
from benchmarks.onnx_checks import disturb, error, round_trip, rounding, same_graph

RESULTS = Path(__file__).parent / "results" / "onnx_zoo.md"
OPSETS = (20, 18, 17, 13, 11)
SIZE = 64
SIZES = {"inception_v3": 96, "alexnet": 224}  # alexnet pools to 6x6, which torch exports of 6x6 alone
TORCHVISION = (
    "resnet18",
    "mobilenet_v2",
    "alexnet",
    "squeezenet1_1",
    "mnasnet0_5",
    "shufflenet_v2_x0_5",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "googlenet",
    "efficientnet_b0",
    "densenet121",
    "inception_v3",
)
TIMM = (
    "resnet10t",
    "convnext_atto",
    "convnextv2_atto",
    "dla46_c",
    "efficientvit_b0",
    "ese_vovnet19b_slim_dw",
    "ghostnet_050",
    "hgnetv2_b0",
    "legacy_seresnet18",
    "mixnet_s",
    "mobilenetv4_conv_small_050",
    "mobileone_s0",
    "regnetx_002",
    "repvgg_a0",
    "repvit_m0_9",
    "rexnet_100",
    "selecsls42b",
    "skresnet18",
    "starnet_s1",
    "tinynet_e",
    "edgenext_xx_small",
    "fasternet_t0",
    "gernet_s",
    "resnest14d",
    "dpn48b",
    "cspresnet50",
    "res2net50_14w_8s",
    "hrnet_w18_small",
)


@dataclass(frozen=True)
class Result:
    """What came of one net, exporter and opset: the largest errors relative to the output's scale, or a failure."""

    net: str
    exporter: str
    opset: int
    errors: tuple[float, ...] = ()
    failure: str = ""

    def __str__(self) -> str:
        return self.failure or " ".join(f"{error:.0e}" for error in self.errors)


def build(name: str) -> nn.Module:
    """The net in eval mode, with no parameter or statistic at 0 or 1 as an initialisation leaves them."""
    torch.manual_seed(0)
    if name in TIMM:
        net = timm.create_model(name, num_classes=100, exportable=True)
    elif name in ("googlenet", "inception_v3"):
        net = torchvision.models.get_model(name, num_classes=100, aux_logits=False, init_weights=False)
    else:
        net = torchvision.models.get_model(name, num_classes=100)
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() == 1 or parameter.unique().numel() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average
        net.train()
        for _ in range(2):
            net(images(16, size(name)))
    return net.eval()


def images(count: int, size: int) -> torch.Tensor:
    """Coloured blobs under noise: noise alone looks alike everywhere, and BatchNorm would then magnify rounding."""
    blobs = nn.functional.interpolate(torch.randn(count, 3, 4, 4), (size, size), mode="bilinear")
    return 1.5 * blobs + 0.3 * torch.randn(count, 3, size, size)


def size(name: str) -> int:
    """Height and width of its images."""
    return SIZES.get(name, SIZE)


def export(net: nn.Module, path: Path, exporter: str, opset: int, image: int) -> bool:
    """Export as a user does; whether the file has the opset that was asked for.

    The batch is free, but for the dynamo exporter at opsets other than 18, so that there is some of both.
    """
    settings = {"input_names": ["image"], "output_names": ["logits"], "opset_version": opset, "dynamo": False}
    if exporter == "dynamo":
        settings |= {"dynamo": True, "external_data": False}
        if opset == 18:
            settings["dynamic_shapes"] = ({0: torch.export.Dim("n")},)
    else:
        settings["dynamic_axes"] = {"image": {0: "n"}, "logits": {0: "n"}}
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            torch.onnx.export(net, (torch.randn(2, 3, image, image),), path, **settings)
    finally:
        logging.disable(logging.NOTSET)
    return onnx.load(path, load_external_data=False).opset_import[0].version == opset


def check(net: nn.Module, path: Path, inputs: torch.Tensor) -> tuple[float, ...]:
    """The errors of import, retrained and export, where everything holds."""
    errors = round_trip(rk.load(path), path, (inputs,))
    new = path.with_name("new.onnx")
    other = disturb(deepcopy(net))
    rk.export_onnx(other, new, like=path)
    exported = error("export", other, new, (inputs,))
    same_graph("export", path, new)
    return (*errors, exported)


def trial(net: nn.Module, name: str, exporter: str, opset: int) -> Result | None:
    """None where torch does not write such a file."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        try:
            if not export(net, path, exporter, opset, size(name)):
                return None
            return Result(name, exporter, opset, check(net, path, images(2, size(name))))
        except Exception as problem:  # whatever goes wrong is a line of the table
            text = " ".join(str(problem).split()).replace(folder, "")
            return Result(name, exporter, opset, failure=f"{type(problem).__name__}: {text}"[:400])


def table(results: list[Result], own: dict[str, float]) -> str:
    """Markdown; ``own`` holds the net's :func:`rounding`."""
    columns = [(exporter, opset) for exporter in ("torchscript", "dynamo") for opset in reversed(OPSETS)]
    cells = {(result.net, result.exporter, result.opset): result for result in results}
    failed = [result for result in results if result.failure]
    lines = [
        "# ONNX: known architectures, both exporters, five opsets",
        "",
        "Made by `python -m benchmarks.onnx_zoo`, which says what is checked "
        f"(torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}, "
        f"onnx {onnx.__version__}).",
        "",
        f"{len(results) - len(failed)} of {len(results)} files of {len(own)} nets pass all four checks: import, "
        "identity (same bytes), retrained (expand, move, fold, write back: only payloads differ), export "
        "(`export_onnx(like=)` of other weights: only payloads differ).",
        "",
        "A cell holds the largest errors of import, retrained and export, relative to the scale of the output, in "
        "units of 1e-6; `own` is how far torch is from itself in float64. An error may be 10 or, where the random net "
        "magnifies rounding, 4 times what the float32 run of the model compared is away from its float64 run. `-`: "
        "torch does not write this file: its dynamo exporter writes opset 18 and newer, and where it cannot convert to "
        "an older one, the file keeps 18.",
        "",
        "| net | own | " + " | ".join(f"{exporter} {opset}" for exporter, opset in columns) + " |",
        "|---|---|" + "---|" * len(columns),
    ]
    for name, own_error in own.items():
        row = [cell(cells.get((name, exporter, opset))) for exporter, opset in columns]
        lines.append(f"| {name} | {own_error * 1e6:.1f} | " + " | ".join(row) + " |")
    if failed:
        lines += ["", "Failures:", ""]
        lines += [f"- {result.net}, {result.exporter} {result.opset}: {result.failure}" for result in failed]
    return "\n".join(lines) + "\n"


def cell(result: Result | None) -> str:
    """One file in the table."""
    if result is None:
        return "-"
    return "FAILED" if result.failure else " ".join(f"{error * 1e6:.1f}" for error in result.errors)


@click.command()
@click.option("--net", "nets", multiple=True, type=click.Choice((*TORCHVISION, *TIMM)), help="Only these.")
def main(nets: tuple[str, ...]) -> None:
    """Run the nets through both exporters at all opsets."""
    results: list[Result] = []
    own: dict[str, float] = {}
    for name in nets or (*TORCHVISION, *TIMM):
        net = build(name)
        own[name] = rounding(net, (images(16, size(name)),))
        for exporter in ("torchscript", "dynamo"):
            for opset in OPSETS:
                start = time.perf_counter()
                result = trial(net, name, exporter, opset)
                if result is None:  # conversion goes down step by step, so there is no older one either
                    break
                results.append(result)
                seconds = time.perf_counter() - start
                click.echo(f"{name} {exporter} {opset} ({seconds:.0f} s): {result}", err=True)
        if not nets:
            RESULTS.write_text(table(results, own))
    if nets:
        click.echo(table(results, own))
    if any(result.failure for result in results):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

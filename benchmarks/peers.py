"""The way from a deployed file to one with trained weights, by this package and by others, on the same files.

    python -m benchmarks.peers [-o FILE]

Each way makes a trainable net of the ONNX file of MobileFaceNet or ResNet-18 (BatchNorms folded away, opset 16, which
is the newest that onnx2torch reads), takes a step of SGD with it, and writes an ONNX file. Said of it: how far the
net's outputs are from those of the file before, how many of its tensors train, and whether what it writes is the
deployed file but for weights. onnx2torch and onnx2pytorch, which need torchvision, write by ``torch.onnx.export``,
with the options that the file was exported with.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import click
import onnx
import torch
from torch import Tensor, nn

import reparam_kit as rk
from benchmarks.nets import NETS
from reparam_kit.errors import first_line

_NETS = ("mobilefacenet", "resnet18")
Read = Callable[[Path], nn.Module]
Write = Callable[[nn.Module, Path, Tensor], object]


class Way(NamedTuple):
    """How a tool reads a file and writes one."""

    package: str
    read: Read
    write: Write


def _onnx2torch(path: Path) -> nn.Module:
    import onnx2torch

    net: nn.Module = onnx2torch.convert(onnx.load(path))
    return net


def _onnx2pytorch(path: Path) -> nn.Module:
    from onnx2pytorch import ConvertModel

    net: nn.Module = ConvertModel(onnx.load(path))
    return net


def export(net: nn.Module, path: Path, images: Tensor) -> None:
    """Write ``net`` as the deployed file was written."""
    names = {"image": {0: "n"}, "out": {0: "n"}}
    torch.onnx.export(
        net.eval(), (images[:1],), path, dynamo=False, opset_version=16,
        input_names=["image"], output_names=["out"], dynamic_axes=names,
    )  # fmt: skip


def _expanded(path: Path) -> nn.Module:
    return rk.expand(rk.load(path), block="dbb")


WAYS = {
    "reparam-kit": Way("reparam-kit", rk.load, lambda net, path, _: rk.save(net, path)),
    "reparam-kit, expanded with dbb": Way(
        "reparam-kit", _expanded, lambda net, path, _: rk.save(rk.fold(net), path)
    ),
    "onnx2torch": Way("onnx2torch", _onnx2torch, export),
    "onnx2pytorch": Way("onnx2pytorch", _onnx2pytorch, export),
}


def tried(way: Way, deployed: Path, better: Path) -> str:
    """The cells of a row."""
    weights = sum(bool(tensor.dims) for tensor in onnx.load(deployed).graph.initializer)
    images = torch.randn(4, *_shape(deployed), generator=torch.Generator().manual_seed(0))
    truth = torch.from_numpy(rk.open_session(deployed).run(None, {"image": images.numpy()})[0])
    net = way.read(deployed).eval()
    with torch.no_grad():
        distance = ((net(images) - truth).norm() / truth.norm()).item()
    trained = sum(parameter.requires_grad for parameter in net.parameters())
    optimizer = torch.optim.SGD((p for p in net.parameters() if p.requires_grad), lr=1e-4)
    net.train()(images).square().mean().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    way.write(net, better, images)
    same = "the deployed file but for weights" if rk.diff(deployed, better).same_graph else "another graph"
    nodes = " → ".join(str(len(onnx.load(path).graph.node)) for path in (deployed, better))
    return f"{distance:.1e} | {trained} ({weights}) | {same} | {nodes}"


def _shape(path: Path) -> tuple[int, ...]:
    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    return tuple(dim.dim_value for dim in dims[1:])


def rows(name: str) -> list[str]:
    """A row for each way, for the net of that name."""
    torch.manual_seed(0)
    net, shape = NETS[name]()
    # As in a trained net no two biases are alike: torch would write these once, for both.
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    made = []
    with TemporaryDirectory() as folder:
        deployed = Path(folder, "deployed.onnx")
        export(net, deployed, torch.zeros(1, *shape))
        for label, way in WAYS.items():
            try:
                cells = tried(way, deployed, Path(folder, "better.onnx"))
            except ImportError:
                cells = "not installed | | |"
            except Exception as error:  # others raise errors of many kinds
                cells = f"{type(error).__name__}: {first_line(error)} | | |"
            made.append(f"| {name} | {label} | {cells} |")
    return made


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} not installed"


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write besides.")
def main(output: Path | None) -> None:
    """Print the table, and the versions that it is of."""
    logging.disable()
    warnings.simplefilter("ignore")
    packages = ("torch", "onnx", *dict.fromkeys(way.package for way in WAYS.values()))
    lines = [
        "# From a file to a trained file, by this and by other tools", "", "`python -m benchmarks.peers`", "",
        ", ".join(map(_version, packages)) + ", CPU.", "",
        "`distance`: of the net's outputs from those of the file in onnxruntime, before training, relative. `trains`:",
        "parameters, and in brackets the tensors that the file stores. `writes`: by `rk.diff`, which compares all but",
        "weights.", "",
        "| net | tool | distance | trains | writes | nodes |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    with contextlib.redirect_stderr(io.StringIO()):  # where exporters talk
        lines += [row for name in _NETS for row in rows(name)]
    click.echo("\n".join(lines))
    if output is not None:
        with rk.atomic_file(output) as file:
            file.write(("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    main()

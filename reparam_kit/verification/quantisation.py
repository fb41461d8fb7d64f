"""What INT8 would cost: a kernel that trained well may still be one that eight bits cannot hold.

A quantiser that has one scale for a whole tensor sets it by the largest weight, so a few outliers, or a few channels
that are far wider than the rest, leave the others few levels. Folding makes such kernels: an identity branch behind a
BatchNorm of small variance adds a large number to one tap of each channel. After post-training quantisation RepVGG
is left with 52.2 % top-1, where the same net without such kernels has 70.4 % (X. Chu, L. Li, B. Zhang, "Make RepVGG
Greater Again: A Quantization-aware Approach", AAAI 2024).

Weights alone are quantised here, symmetrically: ``Q(w) = s * round(w / s)`` with ``s = max|w| / 127``. A deployed INT8
net rounds its activations too, and as a rule loses more: with images to calibrate on, :mod:`.int8` finds out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from onnx import NodeProto, TensorProto
from torch import Tensor, nn

from reparam_kit.algebra import LAYERS, Layer, to_kernel
from reparam_kit.onnx.weights import OnnxFile, weights

Pair = tuple[float, float]
Kernels = Mapping[str, Callable[[], Tensor]]
"""Name -> what computes the kernel, ``[O, M]`` in float64, a row for each output channel."""

_LEVELS = 127
# An error that doubles costs one bit of the eight.
_FACTOR = 2.0
_SHOWN = 3
_OPERATORS = {"Conv", "ConvTranspose", "FusedConv", "FusedGemm", "FusedMatMul", "Gemm", "MatMul"}


@dataclass(frozen=True)
class KernelRisk:
    """What eight bits would do to one kernel. Pairs are of ``a`` and ``b``.

    ``growth`` is, for each output channel, the largest absolute weight of ``b`` in units of that of ``a``. ``peak`` is
    the largest absolute weight over the root mean square: what the error of a tensor is proportional to. ``spread``
    is the range of the widest channel over that of the median one. ``error`` is ``||W - Q(W)|| / ||W||``,
    ``channel_error`` the same for each channel by itself, root mean square over the channels, which a few wide
    channels cannot hide; ``weakest_snr`` that of the worst channel as signal to noise, in dB. Channels of zeros are
    left out.
    """

    name: str
    growth: tuple[float, ...]
    peak: Pair
    spread: Pair
    error: Pair
    channel_error: Pair
    weakest_snr: Pair

    @property
    def worsening(self) -> float:
        """The error of ``b`` in units of that of ``a``: per tensor or per channel, whichever is worse."""
        return max(_ratio(b, a) for a, b in (self.error, self.channel_error))

    def __str__(self) -> str:
        return (
            f"{self.name}: INT8 error {self.error[0]:.2%} -> {self.error[1]:.2%}, of a channel alone "
            f"{self.channel_error[0]:.2%} -> {self.channel_error[1]:.2%}, weakest channel {self.weakest_snr[0]:.0f} -> "
            f"{self.weakest_snr[1]:.0f} dB, range of a channel up to {max(self.growth):.1f}x"
        )


@dataclass(frozen=True)
class OutputRisk:
    """How far one output moves when the weights are quantised. Pairs are of ``a`` and ``b``, each against itself.

    ``error`` is the largest, in units of the output's largest value; ``cosine`` the lowest similarity of a sample.
    """

    name: str
    error: Pair
    cosine: Pair

    def __str__(self) -> str:
        return (
            f"{self.name}: error {self.error[0]:.2%} in a, {self.error[1]:.2%} in b, "
            f"cosine {self.cosine[0]:.5f} and {self.cosine[1]:.5f}"
        )


@dataclass(frozen=True)
class QuantisedRun:
    """What came of copies in INT8 by onnxruntime's quantiser, weights and activations, and of the files themselves.

    ``by_channel``: each channel of a kernel has a scale of its own, not the kernel one. ``calibrated`` images set the
    ranges, ``run`` others were run.
    """

    by_channel: bool
    calibrated: int
    run: int
    outputs: tuple[OutputRisk, ...]

    def lines(self) -> list[str]:
        """Return a line for each output."""
        scales = "channel" if self.by_channel else "tensor"
        images = f"{self.calibrated} images calibrated, {self.run} run"
        return [
            f"in INT8 by onnxruntime, per {scales} ({images}): output {output}" for output in self.outputs
        ]


@dataclass(frozen=True)
class Quantisation:
    """The kernels that both models have, in the order of ``a``, and the outputs if the models were run: with weights
    quantised here, and in ``runs`` by onnxruntime's quantiser, where there were images to calibrate it with.
    """

    kernels: tuple[KernelRisk, ...]
    outputs: tuple[OutputRisk, ...] = ()
    runs: tuple[QuantisedRun, ...] = ()

    @property
    def at_risk(self) -> tuple[KernelRisk, ...]:
        """Those whose error in ``b`` is more than twice that in ``a``, which costs a bit; the worst first."""
        worst = sorted(self.kernels, key=lambda kernel: -kernel.worsening)
        return tuple(kernel for kernel in worst if kernel.worsening > _FACTOR)

    def to_json(self) -> dict[str, Any]:
        """Return the fields, and the names of the kernels at risk."""
        return {**asdict(self), "at_risk": [kernel.name for kernel in self.at_risk]}

    def lines(self) -> list[str]:
        """Return a summary: the outputs, the three worst kernels among those that differ, and a warning if any is at
        risk.
        """
        lines = [line for run in self.runs for line in run.lines()]
        lines += [f"with INT8 weights, simulated: output {output}" for output in self.outputs]
        worst = sorted(self.kernels, key=lambda kernel: -kernel.worsening)
        lines += [f"  {kernel}" for kernel in worst[:_SHOWN] if kernel.worsening != 1]
        if self.at_risk:
            lines.append(
                f"warning: INT8 with one scale per tensor would hurt b more than a: in {len(self.at_risk)} of "
                f"{len(self.kernels)} kernels the error is over {_FACTOR:g} times as large. Quantise per channel, or "
                "train with quantisation in view, before shipping"
            )
        return lines


def compare_module_kernels(a: nn.Module, b: nn.Module) -> tuple[KernelRisk, ...]:
    """Return the convolutions and linear layers that have one name and size in both modules."""
    return _compare(*({name: partial(_rows_of_layer, layer) for name, layer in layers(m)} for m in (a, b)))


def compare_file_kernels(a: OnnxFile, b: OnnxFile) -> tuple[KernelRisk, ...]:
    """Return the stored weights of Conv, ConvTranspose, Gemm and MatMul nodes that have one name and size in both
    files.
    """
    return _compare(
        *(
            {name: partial(_rows_of_node, file, *of) for name, of in stored_kernels(file).items()}
            for file in (a, b)
        )
    )


def layers(model: nn.Module) -> Iterator[tuple[str, Layer]]:
    """Yield the layers that hold a floating-point weight, and its name in the state_dict."""
    for name, module in model.named_modules():
        if (
            isinstance(module, LAYERS)
            and "weight" in module._parameters
            and module.weight.is_floating_point()
        ):
            yield f"{name}.weight".removeprefix("."), module


def _rows_of_layer(layer: Layer) -> Tensor:
    return to_kernel(layer, layer.weight.detach().double().cpu()).weight.flatten(1)


def stored_kernels(file: OnnxFile) -> dict[str, tuple[NodeProto, TensorProto]]:
    """Find the stored kernels of the main graph: what each is called, its operator and its weight."""
    stored = {key.name: (key, tensor) for key, tensor in weights(file.model).items() if not key.scope}
    return {
        str(key): (node, tensor)
        for node in file.model.graph.node
        if node.op_type in _OPERATORS
        for name in node.input[1:2]
        if name in stored
        for key, tensor in [stored[name]]
        if len(tensor.dims) > 1
    }


def _rows_of_node(file: OnnxFile, node: NodeProto, tensor: TensorProto) -> Tensor:
    weight = torch.from_numpy(file.read(tensor).astype(np.float64))
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    if node.op_type in ("Conv", "FusedConv") or attributes.get("transB"):
        return weight.flatten(1)
    if node.op_type == "ConvTranspose":
        first, second, *taps = weight.shape
        groups = attributes.get("group", 1)
        return weight.reshape(groups, first // groups, second, *taps).transpose(1, 2).flatten(0, 1).flatten(1)
    return weight.movedim(-1, 0).flatten(1)


def _compare(a: Kernels, b: Kernels) -> tuple[KernelRisk, ...]:
    return tuple(
        _risk(name, rows, others)
        for name in a
        if name in b and (rows := a[name]()).shape == (others := b[name]()).shape
    )


def _risk(name: str, a: Tensor, b: Tensor) -> KernelRisk:
    growth = tuple(map(_ratio, b.abs().amax(1).tolist(), a.abs().amax(1).tolist()))
    peak, spread, error, channel_error, snr = zip(_measure(a), _measure(b), strict=True)
    return KernelRisk(name, growth, peak, spread, error, channel_error, snr)


def _measure(rows: Tensor) -> tuple[float, float, float, float, float]:
    """Peak, spread, error, error by channel, and weakest signal to noise of one kernel."""
    rows = rows[rows.any(1)]
    if not rows.numel():
        return 1.0, 1.0, 0.0, 0.0, math.inf
    ranges, sizes = rows.abs().amax(1), rows.norm(dim=1)
    noise = (rows - quantise(rows)).norm(dim=1)
    # Rounding a weight to zero is the worst it can do, so more than 1 is an error of the last place.
    relative = (noise / sizes).clamp_max(1)
    return (
        float(ranges.max() / rows.square().mean().sqrt()),
        float(ranges.max() / ranges.median()),
        float(noise.norm() / sizes.norm()),
        float(relative.square().mean().sqrt()),
        float(20 * relative.max().reciprocal().log10()),
    )


def quantise(weight: Tensor) -> Tensor:
    """Return the nearest tensor that INT8 with one scale can hold."""
    scale = weight.abs().max() / _LEVELS
    return (weight / scale).round() * scale if scale else weight


def _ratio(new: float, old: float) -> float:
    if old:
        return new / old
    return math.inf if new else 1.0
